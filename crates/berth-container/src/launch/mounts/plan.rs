//! From the mounts of a configuration to steps, in their order: computed before anything is done.

use std::cell::OnceCell;
use std::path::Path;

use rustix::mount::MountFlags;

use super::path::Target;
use super::*;

/// Computes the steps of a configuration, in order. `bundle` is what relative sources start from.
pub fn plan(spec: &Spec, bundle: Option<&Path>) -> Result<MountPlan> {
    let has_user = super::super::has(spec, NamespaceKind::User);
    let mut steps = Vec::with_capacity(spec.mounts.len() + 16);
    let private_dev = !spec.mounts.iter().any(|m| m.is_bind() && m.destination == Path::new("/dev"));
    let dev_mount = spec.mounts.iter().position(|m| m.destination == Path::new("/dev"));
    if private_dev && dev_mount.is_none() {
        devices::plan(spec, true, has_user, &mut steps)?;
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        steps.push(step(mount, spec, bundle, || format!("mounts[{index}]"))?);
        if private_dev && dev_mount == Some(index) {
            devices::plan(spec, true, has_user, &mut steps)?;
        }
    }
    devices::plan(spec, false, has_user, &mut steps)?;
    let linux = spec.linux.as_ref();
    for path in linux.map_or(&[][..], |linux| &linux.readonly_paths) {
        let target = Target::new(path, || "linux.readonlyPaths".to_owned())?;
        let changes = vec![(true, MountAttr { set: attr::RDONLY, ..MountAttr::default() })];
        steps.push(Step { changes, optional: true, ..Step::new(Source::Itself, target) });
    }
    for path in linux.map_or(&[][..], |linux| &linux.masked_paths) {
        let target = Target::new(path, || "linux.maskedPaths".to_owned())?;
        steps.push(Step { optional: true, ..Step::new(Source::Mask, target) });
    }
    Ok(MountPlan { steps, early: OnceCell::new() })
}

fn step(mount: &Mount, spec: &Spec, bundle: Option<&Path>, field: impl Fn() -> String) -> Result<Step> {
    let target = Target::new(&mount.destination, || format!("{}.destination", field()))?;
    let mut options = Options::parse(&mount.options);
    if mount.is_bind() {
        // An engine's own words reach its runtime sometimes; those who typed a word themselves want to know.
        if let Some(word) = options.data.first().filter(|_| bundle.is_none()) {
            return Err(Error::bad_spec(
                format!("{}.options", field()),
                format!("`{word}` is no option of a bind mount"),
            ));
        }
        let Some(source) = &mount.source else {
            return Err(Error::bad_spec(field(), "a bind mount needs a source"));
        };
        let source = match bundle {
            Some(bundle) if !source.is_absolute() => bundle.join(source),
            _ if !source.is_absolute() => {
                return Err(Error::bad_spec(
                    format!("{}.source", field()),
                    format!("`{}` is not absolute", source.display()),
                ));
            }
            _ => source.clone(),
        };
        let path = super::super::c_string(source.as_os_str(), || format!("{}.source", field()))?;
        let source = Source::Tree { path, recursive: options.bind.unwrap_or(true) };
        let id_map = id_mapped(mount, &options, spec.linux.as_ref(), &field)?;
        return Ok(Step { changes: options.changes(), id_map, ..Step::new(source, target) });
    }
    if options.id_mapped.is_some() || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(Error::bad_spec(field(), "only bind mounts can be id-mapped"));
    }
    let Some(kind) = mount.kind.as_deref().filter(|kind| !kind.is_empty()) else {
        return Err(Error::bad_spec(field(), "neither a bind mount nor a file system type"));
    };
    if target.0.as_c_str() == c"proc" && kind != "proc" {
        return Err(Error::bad_spec(
            field(),
            format!("`{kind}` cannot be mounted on /proc: it must be a proc file system"),
        ));
    }
    let has = |kind| super::super::has(spec, kind);
    let strict = matches!(kind, "proc" | "sysfs");
    // Without its own namespace each of these shows the host's, and a user namespace may not even mount it: then the
    // host's mount it is.
    let (own, host) = match kind {
        "sysfs" => (has(NamespaceKind::Network), Some(c"/sys")),
        "mqueue" => (has(NamespaceKind::Ipc), Some(c"/dev/mqueue")),
        "proc" => (has(NamespaceKind::Pid), Some(c"/proc")),
        _ => (true, None),
    };
    if let Some(path) = host.filter(|_| !own && has(NamespaceKind::User)) {
        let source = Source::Tree { path: path.to_owned(), recursive: true };
        let optional = kind != "proc";
        return Ok(Step { changes: options.changes(), optional, strict, ..Step::new(source, target) });
    }
    let flags = MountFlags::from_bits_retain(options.flags as u32);
    if matches!(kind, "cgroup" | "cgroup2") {
        let cgroups = cgroup::Cgroups {
            own: has(NamespaceKind::Cgroup),
            flags: flags - MountFlags::RDONLY,
            readonly: flags.contains(MountFlags::RDONLY),
        };
        return Ok(Step { optional: true, ..Step::new(Source::Cgroups(cgroups), target) });
    }
    let tmpfs = kind == "tmpfs";
    // mount(2) takes the attributes of the mount itself.
    let changes = Options { here: 0, not_here: 0, ..options.clone() }.changes();
    if let Some(label) = spec.linux.as_ref().and_then(|linux| linux.mount_label.as_deref()).filter(|l| !l.is_empty()) {
        // The others have labels of their own.
        if !matches!(kind, "proc" | "sysfs" | "mqueue") && selinux_is_on() {
            options.data.push(format!("context=\"{label}\""));
        }
    }
    let text = |text: &str| super::super::c_string(text.as_ref(), || format!("{}.options", field()));
    let name = mount.source.as_ref().map_or(kind.as_ref(), |source| source.as_os_str());
    let source = Source::Fs(FileSystem {
        kind: text(kind)?,
        name: super::super::c_string(name, || format!("{}.source", field()))?,
        // Mount points may have to be made in it.
        flags: if tmpfs { flags - MountFlags::RDONLY } else { flags },
        data: text(&options.data.join(","))?,
        instead: host.filter(|_| kind != "proc" || !own),
        copy_up: tmpfs && options.copy_up,
        mode: tmpfs && !options.data.iter().any(|word| word.starts_with("mode=")),
        readonly: tmpfs && flags.contains(MountFlags::RDONLY),
    });
    Ok(Step { changes, strict, ..Step::new(source, target) })
}

/// The map of an id-mapped mount: its own, or the container's.
fn id_mapped(
    mount: &Mount,
    options: &Options,
    linux: Option<&Linux>,
    field: impl Fn() -> String,
) -> Result<Option<Box<IdMapped>>> {
    let own = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if options.id_mapped.is_none() && !own {
        return Ok(None);
    }
    let (uids, gids) = match linux {
        _ if own => (&mount.uid_mappings, &mount.gid_mappings),
        Some(linux) => (&linux.uid_mappings, &linux.gid_mappings),
        None => (&mount.uid_mappings, &mount.gid_mappings),
    };
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::bad_spec(
            field(),
            "an id-mapped mount needs uidMappings and gidMappings, or a user namespace",
        ));
    }
    let recursive = options.id_mapped == Some(true);
    Ok(Some(Box::new(IdMapped { recursive, uids: uids.clone(), gids: gids.clone() })))
}

fn selinux_is_on() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}
