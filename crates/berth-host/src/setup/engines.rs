//! podman and docker with berth as their runtime.

use serde_json::Value;
use serde_json::json;

use super::Change;
use super::Error;
use super::Plan;
use super::Wishes;
use super::file;
use super::line;
use super::slurm::added;
use crate::doctor::Host;

/// Where the runtime is.
fn runtime(host: &Host, plan: &mut Plan) -> String {
    host.program("berth-runtime").unwrap_or_else(|| {
        plan.notes.push("berth-runtime is not there: ln -s berth /usr/bin/berth-runtime".to_owned());
        "/usr/bin/berth-runtime".to_owned()
    })
}

/// The folder of configuration: the system's for root, one's own otherwise.
fn base(host: &Host, system: &str, own: &str) -> Result<String, Error> {
    if host.person.uid == 0 || !host.person.named {
        return Ok(system.to_owned());
    }
    let home = host.person.home.as_ref();
    home.map(|home| format!("{home}/.config/{own}"))
        .ok_or_else(|| Error::Unfit("there is no home directory".to_owned()))
}

/// podman's files.
///
/// # Errors
/// [`Error::Unfit`] where a file that is there cannot be kept.
pub fn podman(host: &Host, wishes: &Wishes) -> Result<Plan, Error> {
    let mut plan = Plan { name: "podman", ..Plan::default() };
    let dir = base(host, "/etc/containers", "containers")?;
    let runtime = runtime(host, &mut plan);
    plan.changes.push(file(
        format!("{dir}/containers.conf.d/50-berth.conf"),
        vec![
            line("# Written by `berth setup podman`; `berth setup podman --undo` removes it.", ""),
            line("[engine]", ""),
            line("runtime = \"berth\"", "podman and buildah start containers with berth"),
            line("runtime_supports_json = [\"crun\", \"runc\", \"berth\"]", "errors reach podman as they are"),
            line("runtime_supports_nocgroup = [\"crun\", \"berth\"]", "podman run --cgroups=disabled"),
            line("", ""),
            line("[engine.runtimes]", ""),
            line(format!("berth = [\"{runtime}\"]"), "where it is"),
        ],
    ));
    if let Some(storage) = &wishes.storage {
        self::storage(host, &dir, storage, &mut plan)?;
    }
    if !wishes.registries.is_empty() {
        let list: Vec<String> = wishes.registries.iter().map(|name| format!("\"{name}\"")).collect();
        plan.changes.push(file(
            format!("{dir}/registries.conf.d/50-berth.conf"),
            vec![line(
                format!("unqualified-search-registries = [{}]", list.join(", ")),
                "where names without a registry are looked for, in this order; by berth, too",
            )],
        ));
    }
    Ok(plan)
}

/// storage.conf: images on a local file system, as overlays do not work over NFS and Lustre.
fn storage(host: &Host, dir: &str, storage: &str, plan: &mut Plan) -> Result<(), Error> {
    let path = format!("{dir}/storage.conf");
    let system = dir.starts_with("/etc/");
    // This file stands in the place of the distribution's, whose settings would be lost.
    let vendors = || host.read("/usr/share/containers/storage.conf").ok().filter(|_| system);
    let before = host.read(&path).ok().or_else(vendors).unwrap_or_default();
    let (key, value) = if system {
        plan.folders.push((storage.to_owned(), 0o1777));
        ("rootless_storage_path", format!("{storage}/$USER/containers/storage"))
    } else {
        ("graphroot", format!("{storage}/{}/containers/storage", host.person.name))
    };
    let ours = line(format!("{key} = \"{value}\""), "a local file system: overlays do not work over NFS and Lustre");
    let table: toml::Table = before.parse().map_err(|error| Error::Unfit(format!("{path} cannot be read: {error}")))?;
    let there = table.get("storage").and_then(|table| table.get(key)).and_then(toml::Value::as_str);
    let lines: Vec<&str> = before.lines().collect();
    let content = match there {
        Some(there) if there == value => before.clone(),
        Some(_) => {
            let same = |line: &&&str| {
                line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
            };
            let old = lines.iter().find(same).copied().unwrap_or_default();
            before.replacen(old, &ours.text, 1)
        }
        None if table.contains_key("storage") && lines.iter().any(|line| line.trim() == "[storage]") => {
            let text: Vec<String> = lines
                .iter()
                .map(
                    |line| {
                        if line.trim() == "[storage]" { format!("{line}\n{}", ours.text) } else { (*line).to_owned() }
                    },
                )
                .collect();
            text.join("\n") + "\n"
        }
        None => {
            let start = added(&added(&before, "[storage]"), "driver = \"overlay\"");
            // Without these two, root's podman does not start.
            let roots = "runroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"\n";
            start + if system { roots } else { "" } + &ours.text + "\n"
        }
    };
    plan.changes.push(Change {
        path,
        content,
        mode: 0o644,
        lines: vec![ours, line("driver = \"overlay\"", "layers are laid over each other by the kernel")],
    });
    Ok(())
}

/// docker's files.
///
/// # Errors
/// [`Error::Unfit`] where daemon.json cannot be read.
pub fn docker(host: &Host, wishes: &Wishes) -> Result<Plan, Error> {
    let mut plan = Plan { name: "docker", ..Plan::default() };
    let runtime = runtime(host, &mut plan);
    let dir = base(host, "/etc/docker", "docker")?;
    let path = format!("{dir}/daemon.json");
    let before = host.read(&path).unwrap_or_default();
    let text = if before.trim().is_empty() { "{}" } else { &before };
    let mut value: Value =
        serde_json::from_str(text).map_err(|error| Error::Unfit(format!("{path} cannot be read: {error}")))?;
    let Some(table) = value.as_object_mut() else {
        return Err(Error::Unfit(format!("{path} is no object")));
    };
    table.insert("default-runtime".to_owned(), json!("berth"));
    let runtimes = table.entry("runtimes").or_insert_with(|| json!({}));
    runtimes["berth"] = json!({"path": runtime});
    if let Some(storage) = &wishes.storage {
        // Nothing is expanded in this file, so that the person's name is written out.
        let own = if dir.starts_with("/etc/") { "docker".to_owned() } else { format!("{}/docker", host.person.name) };
        table.insert("data-root".to_owned(), json!(format!("{storage}/{own}")));
    }
    let pretty = serde_json::to_string_pretty(&value).map_err(|error| Error::Unfit(error.to_string()))?;
    let lines = vec![
        line(
            "  \"default-runtime\": \"berth\",",
            "docker run starts containers with berth; --runtime=runc is still there",
        ),
        line("    \"berth\": {", "the runtime's name, and where it is"),
    ];
    plan.changes.push(Change { path, content: pretty + "\n", mode: 0o644, lines });
    if wishes.host_network {
        let dir = base(host, "/etc/systemd/user", "systemd/user")?;
        plan.changes.push(file(
            format!("{dir}/docker.service.d/50-berth.conf"),
            vec![
                line("[Service]", ""),
                line("Environment=\"DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER=none\"", "no ports are forwarded"),
                line(
                    "Environment=\"DOCKERD_ROOTLESS_ROOTLESSKIT_NET=host\"",
                    "rootless docker stays in the host's network, where Slurm can be reached",
                ),
            ],
        ));
    }
    plan.notes.push("docker reads its file when it starts: systemctl restart docker".to_owned());
    Ok(plan)
}
