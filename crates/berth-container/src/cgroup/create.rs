//! Making the groups of a container, and limiting them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::host::{Hierarchy, Host, Kind, Wanted, own_group, read_bounded};
use super::limits::{Write, v1_writes, v2_unified, v2_writes};
use super::{Cgroup, Place, Request, cannot_put, devices, files, systemd};
use crate::error::{Error, Result};
use crate::launch::sys::is_root_of_the_host;
use crate::oci::Resources;

/// A group whose making failed halfway is removed again.
struct Unfinished(Cgroup);

impl Drop for Unfinished {
    fn drop(&mut self) {
        for place in self.0.places.iter().filter(|place| place.made) {
            let _ = files::remove(&place.directory);
        }
        if let Some(unit) = self.0.unit.take() {
            let _ = systemd::stop(&unit);
        }
    }
}

impl Unfinished {
    fn finish(mut self) -> Cgroup {
        std::mem::take(&mut self.0)
    }
}

pub(super) fn by_hand(request: &Request<'_>, pid: u32) -> Result<Cgroup> {
    let host = Host::read()?;
    let wanted = Wanted::new(request.path, request.id)?;
    let nothing = Resources::default();
    let resources = request.resources.unwrap_or(&nothing);
    let limited = resources.has_limits();
    let pure_v2 = host.is_pure_v2();
    let mut unfinished = Unfinished(Cgroup { pure_v2, init: pid, ..Cgroup::default() });
    let cgroup = &mut unfinished.0;
    let privileged = is_root_of_the_host();
    let mut refused = None;
    for hierarchy in &host.hierarchies {
        // Nobody delegates cgroup v1 safely: where a user may write, a batch system may have forgotten to think of it.
        if hierarchy.kind != Kind::V2 && (!privileged || is_how_slurm_finds_processes(hierarchy)) {
            continue;
        }
        let Some(directory) = wanted.in_hierarchy(hierarchy, pure_v2 && limited) else { continue };
        let controllers = limited || matches!(wanted, Wanted::FromRoot(_));
        match join(cgroup, hierarchy, &directory, controllers) {
            Ok(()) => {}
            Err(error) if files::is_refused(&error) => refused = Some((directory, error)),
            Err(source) => return Err(Error::io("make the control group", directory, source)),
        }
    }
    if let Some((directory, source)) = refused {
        if privileged {
            // A read-only mount in a container is no reason to refuse one that asks for nothing.
            if limited || source.raw_os_error() != Some(libc::EROFS) {
                return Err(Error::io("make the control group", directory, source));
            }
        } else if limited && cgroup.places.is_empty() {
            let reason = format!("you may not make the control group {}: {source}", directory.display());
            cgroup.warnings.push(format!("resource limits are not in force: {reason}"));
            return Ok(unfinished.finish());
        }
    }
    if cgroup.places.is_empty() {
        if limited {
            let reason = match host.hierarchies.is_empty() {
                true => "no control groups are mounted",
                false => "an ordinary user may make groups in cgroup v2 only, which is not mounted",
            };
            cgroup.warnings.push(format!("resource limits are not in force: {reason}"));
        }
        return Ok(unfinished.finish());
    }
    // A group that was there before, and empty, is the container's as much as one that was made for it.
    let taken = |place: &&Place| {
        !place.made && files::processes(&place.directory).is_ok_and(|all| all.iter().any(|&it| it != pid))
    };
    if let Some(place) = cgroup.places.iter().find(taken) {
        if limited || !resources.devices.is_empty() {
            let reason = format!("{} has other processes, which would be limited too", place.directory.display());
            return Err(Error::bad_spec("linux.cgroupsPath", reason));
        }
        cgroup.shared = true;
    }
    // There the container would stop in the middle of being made, and whoever makes it would wait for ever.
    if cgroup.places.iter().any(|place| !place.made) && cgroup.is_frozen() {
        let place = cgroup.freezer().map(|place| place.directory.display().to_string()).unwrap_or_default();
        return Err(Error::bad_spec("linux.cgroupsPath", format!("{place} is frozen: let it go on first")));
    }
    limit_and_warn(cgroup, resources)?;
    put_into_all(cgroup, pid)?;
    Ok(unfinished.finish())
}

pub(super) fn by_systemd(request: &Request<'_>, pid: u32) -> Result<Cgroup> {
    let host = Host::read()?;
    let nothing = Resources::default();
    let resources = request.resources.unwrap_or(&nothing);
    let pure_v2 = host.is_pure_v2();
    let privileged = is_root_of_the_host();
    let name = systemd::Name::new(request.path, request.id, privileged)?;
    let unit = systemd::start(&name, request.id, pid, resources, pure_v2, privileged)?;
    let mut unfinished = Unfinished(Cgroup { pure_v2, init: pid, unit: Some(unit), ..Cgroup::default() });
    let cgroup = &mut unfinished.0;
    // systemd has put the process where it is to be; the controllers that it does not care for follow.
    let groups = read_bounded(format!("/proc/{pid}/cgroup"))?;
    let named = Kind::V1(vec!["name=systemd".to_owned()]);
    let scope = [Kind::V2, named].iter().find_map(|kind| {
        let group = own_group(&groups, kind)?;
        group.ends_with(&name.unit).then_some(group)
    });
    let Some(scope) = scope else {
        return Err(Error::System {
            action: format!("find the control group of {}", name.unit),
            source: io::Error::new(io::ErrorKind::NotFound, "systemd has not put the process into it"),
            hint: Some("use --cgroup-manager=cgroupfs".to_owned()),
        });
    };
    let wanted = Wanted::new(Some(&scope), request.id)?;
    for hierarchy in &host.hierarchies {
        let Some(directory) = wanted.in_hierarchy(hierarchy, false) else { continue };
        match join(cgroup, hierarchy, &directory, true) {
            Ok(()) => {}
            Err(error) if files::is_refused(&error) && !privileged => {}
            Err(source) => return Err(Error::io("make the control group", directory, source)),
        }
    }
    limit_and_warn(cgroup, resources)?;
    put_into_all(cgroup, pid)?;
    Ok(unfinished.finish())
}

/// Whether Slurm knows the processes of a step by this hierarchy, and this is one of them. It sees those of the step's own
/// group only: what is in a group below outlives the job. (22.05 even gives the group to the step's user.)
fn is_how_slurm_finds_processes(hierarchy: &Hierarchy) -> bool {
    let is_of_slurm = |own: &Path| {
        let has = |start: &str| own.iter().any(|name| name.to_str().is_some_and(|name| name.starts_with(start)));
        has("uid_") && has("job_") && has("step_")
    };
    hierarchy.kind.has("freezer") && hierarchy.own.as_deref().is_some_and(is_of_slurm)
}

/// Makes the group in one hierarchy.
fn join(cgroup: &mut Cgroup, hierarchy: &Hierarchy, directory: &Path, controllers: bool) -> io::Result<()> {
    if files::check_is_cgroup(&hierarchy.mount_point).is_err() {
        return Ok(());
    }
    let is_cpuset = hierarchy.kind.has("cpuset");
    let mut made = |made: &Path| if is_cpuset { inherit_cpuset(&hierarchy.mount_point, made) } else { Ok(()) };
    let made = files::make(&hierarchy.mount_point, directory, &mut made)?;
    cgroup.places.push(Place { kind: hierarchy.kind.clone(), directory: directory.to_owned(), made });
    if is_cpuset {
        inherit_cpuset(&hierarchy.mount_point, directory)?;
    }
    if hierarchy.kind == Kind::V2 && controllers {
        enable_controllers(&hierarchy.mount_point, directory);
    }
    Ok(())
}

/// In cgroup v1 a new group has no processor and no memory, and takes no process, until it is given some. The groups above
/// may have been made by somebody who has given them none.
fn inherit_cpuset(mount_point: &Path, directory: &Path) -> io::Result<()> {
    let Ok(relative) = directory.strip_prefix(mount_point) else { return Ok(()) };
    let mut parent = mount_point.to_owned();
    for name in relative {
        let group = parent.join(name);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if files::read(&group, file)?.trim().is_empty() {
                files::write(&group, file, files::read(&parent, file)?.trim())?;
            }
        }
        parent = group;
    }
    Ok(())
}

/// Hands all controllers down from the mount point to a group. One that cannot be handed down is missed only by a limit that
/// needs it, which says so then.
fn enable_controllers(mount_point: &Path, directory: &Path) {
    let Ok(relative) = directory.strip_prefix(mount_point) else { return };
    let mut at = mount_point.to_owned();
    for name in relative {
        let available = files::read(&at, "cgroup.controllers").unwrap_or_default();
        let enabled = files::read(&at, "cgroup.subtree_control").unwrap_or_default();
        let enabled: Vec<&str> = enabled.split_whitespace().collect();
        let missing: Vec<String> =
            available.split_whitespace().filter(|it| !enabled.contains(it)).map(|it| format!("+{it}")).collect();
        if !missing.is_empty() && files::write(&at, "cgroup.subtree_control", &missing.join(" ")).is_err() {
            for controller in &missing {
                let _ = files::write(&at, "cgroup.subtree_control", controller);
            }
        }
        at.push(name);
    }
}

/// Puts a process into a group. One below a threaded group has to become one of threads as well.
pub(super) fn put(pid: u32, directory: &Path) -> io::Result<()> {
    let pid = pid.to_string();
    match files::write(directory, "cgroup.procs", &pid) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            files::write(directory, "cgroup.type", "threaded").map_err(|_| error)?;
            files::write(directory, "cgroup.procs", &pid)
        }
        done => done,
    }
}

/// Puts the first process into all groups. Where an ordinary user may make a group but not move a process into it, the group
/// is given up.
fn put_into_all(cgroup: &mut Cgroup, pid: u32) -> Result<()> {
    let mut index = 0;
    while let Some(place) = cgroup.places.get(index) {
        match put(pid, &place.directory) {
            Ok(()) => index += 1,
            Err(error) if files::is_refused(&error) && !is_root_of_the_host() => {
                let place = cgroup.places.remove(index);
                if place.made {
                    let _ = files::remove_once(&place.directory);
                }
                let place = place.directory.display();
                cgroup
                    .warnings
                    .push(format!("the limits of {place} are not in force: you may not move processes there"));
            }
            Err(source) => return Err(cannot_put(&place.directory, source)),
        }
    }
    Ok(())
}

/// Limits the group; what an ordinary user may not set becomes a warning.
fn limit_and_warn(cgroup: &mut Cgroup, resources: &Resources) -> Result<()> {
    let mut warnings = Vec::new();
    limit(cgroup, resources, &mut |error| {
        let excusable = match &error {
            Error::System { source, .. } => {
                files::is_refused(source)
                    || matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported)
            }
            _ => false,
        };
        if !excusable || is_root_of_the_host() {
            return Err(error);
        }
        warnings.push(format!("a resource limit is not in force: {error}"));
        Ok(())
    })?;
    cgroup.warnings.append(&mut warnings);
    Ok(())
}

/// Sets limits and rules for devices; `failed` decides what becomes of a limit that cannot be set.
pub(super) fn limit(cgroup: &Cgroup, resources: &Resources, failed: &mut dyn FnMut(Error) -> Result<()>) -> Result<()> {
    let place_of = |controller: &str| {
        cgroup
            .places
            .iter()
            .find(|place| if cgroup.pure_v2 { place.kind == Kind::V2 } else { place.kind.has(controller) })
    };
    let current = |controller: &str, file: &str| files::read(&place_of(controller)?.directory, file).ok();
    let writes = if cgroup.pure_v2 { v2_writes(resources, &current)? } else { v1_writes(resources, &current)? };
    // Two limits that bind each other cannot be set in every order; the second time the other one is there.
    let mut again = Vec::new();
    for write in &writes {
        if !set(place_of(&write.controller), write, false, failed)? {
            again.push(write);
        }
    }
    for write in again {
        set(place_of(&write.controller), write, true, failed)?;
    }
    if !cgroup.pure_v2 {
        let v2 = cgroup.places.iter().find(|place| place.kind == Kind::V2);
        for write in &v2_unified(&resources.unified)? {
            set(v2, write, true, failed)?;
        }
    }
    restrict_devices(cgroup, resources)
}

/// Sets one limit; false where it is to be tried again.
fn set(place: Option<&Place>, write: &Write, last: bool, failed: &mut dyn FnMut(Error) -> Result<()>) -> Result<bool> {
    let Write { controller, file, value, optional } = write;
    // What is not there does not limit.
    let optional = *optional || matches!(value.as_str(), "max" | "-1");
    let Some(place) = place else {
        if !optional {
            failed(not_available(controller, file, value))?;
        }
        return Ok(true);
    };
    match files::write(&place.directory, file, value) {
        Ok(()) => Ok(true),
        Err(error) if !last && error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) if optional && (files::is_gone(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP)) => {
            Ok(true)
        }
        // cgroupfs makes no files, and says so by refusing even root.
        Err(_) if !place.directory.join(file).exists() => {
            if !optional {
                failed(not_available(controller, file, value))?;
            }
            Ok(true)
        }
        Err(source) => {
            let hint = match (source.raw_os_error(), controller.as_str()) {
                (Some(libc::EBUSY), "memory") => Some("the container uses more than that; choose more".to_owned()),
                (Some(libc::EINVAL | libc::ERANGE | libc::ENODEV | libc::ENOSPC), _) => {
                    Some(format!("linux.resources asks for what {file} does not take here"))
                }
                _ => None,
            };
            let action = format!("set {file} to {value} in {}", place.directory.display());
            failed(Error::System { action, source, hint })?;
            Ok(true)
        }
    }
}

fn not_available(controller: &str, file: &str, value: &str) -> Error {
    Error::System {
        action: format!("set {file} to {value}"),
        source: io::Error::new(
            io::ErrorKind::Unsupported,
            format!("no {controller} controller there with such a file"),
        ),
        hint: Some(format!(
            "ask whoever runs this host to delegate the {controller} controller to you, or leave that limit out"
        )),
    }
}

fn restrict_devices(cgroup: &Cgroup, resources: &Resources) -> Result<()> {
    let rules = devices::rules(&resources.devices)?;
    if rules.is_empty() {
        return Ok(());
    }
    if let Some(place) = cgroup.places.iter().find(|place| place.kind.has("devices")) {
        for rule in rules {
            let (file, lines) = rule.v1();
            for line in lines {
                match files::write(&place.directory, file, &line) {
                    Ok(()) => {}
                    // Nobody is allowed more than the group above, and an ordinary user changes nothing.
                    Err(error) if files::is_refused(&error) && (rule.allow || !is_root_of_the_host()) => {}
                    Err(source) => {
                        let action = format!("write {line:?} to {}", place.directory.join(file).display());
                        return Err(Error::system(action, source));
                    }
                }
            }
        }
        return Ok(());
    }
    let Some(place) = cgroup.places.iter().find(|place| place.kind == Kind::V2) else { return Ok(()) };
    let attached = File::open(&place.directory).and_then(|group| devices::bpf::attach(group.as_fd(), &rules));
    match attached {
        Err(error) if !files::is_refused(&error) || is_root_of_the_host() => {
            Err(Error::system(format!("restrict the devices of {}", place.directory.display()), error))
        }
        _ => Ok(()),
    }
}
