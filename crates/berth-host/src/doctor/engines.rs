//! podman, docker, apptainer and enroot, as far as nodes are prepared for them.

use super::Fix;
use super::Host;
use super::Notes;
use super::host::is_network;

/// Files of one engine, the weakest first: the system's, then the person's.
fn files(host: &Host, system: &[&str], own: &str) -> Vec<String> {
    let config = host.person.home.as_ref().map(|home| format!("{home}/.config/{own}"));
    let all = system.iter().map(|&path| path.to_owned()).chain(config);
    all.filter(|path| host.exists(path)).collect()
}

/// A file of TOML, or a finding.
fn toml(host: &Host, path: &str, kind: &str, notes: &mut Notes) -> Option<toml::Table> {
    match host
        .read(path)
        .map_err(|error| error.to_string())
        .and_then(|text| text.parse::<toml::Table>().map_err(|error| error.message().replace('\n', ", ")))
    {
        Ok(table) => Some(table),
        Err(reason) => {
            notes
                .fault(kind, format!("{path} cannot be read: {reason}"))
                .breaks("podman, buildah and skopeo, and berth where it is registries.conf")
                .mend(format!("vi {path}"));
            None
        }
    }
}

/// A text in a table of tables.
fn text<'a>(table: &'a toml::Table, keys: &[&str]) -> Option<&'a str> {
    let (last, tables) = keys.split_last()?;
    let inner = tables.iter().try_fold(table, |table, key| table.get(*key)?.as_table())?;
    inner.get(*last)?.as_str()
}

/// A path with the variables that podman knows.
fn expanded(host: &Host, path: &str) -> String {
    let person = &host.person;
    let home = person.home.as_deref().unwrap_or("/");
    let path = path.replace("${USER}", &person.name).replace("$USER", &person.name);
    path.replace("${UID}", &person.uid.to_string()).replace("$UID", &person.uid.to_string()).replace("$HOME", home)
}

/// storage.conf, containers.conf and registries.conf.
pub fn podman(host: &Host, notes: &mut Notes) {
    let storage =
        files(host, &["/usr/share/containers/storage.conf", "/etc/containers/storage.conf"], "containers/storage.conf");
    // The last one replaces those before it.
    let table = storage.last().and_then(|path| toml(host, path, "podman-storage-conf", notes)).unwrap_or_default();
    if host.program("podman").is_some() {
        let named = if host.person.uid == 0 { None } else { text(&table, &["storage", "rootless_storage_path"]) };
        let default = host.person.home.as_ref().map(|home| format!("{home}/.local/share/containers/storage"));
        let place =
            named.map(|path| expanded(host, path)).or(default.filter(|_| host.person.named)).unwrap_or_default();
        let (kind, _) = host.file_system(&place).unwrap_or_default();
        let fuse = text(&table, &["storage", "options", "overlay", "mount_program"]).is_some();
        if is_network(&kind) && host.person.uid != 0 && !fuse {
            notes
                .fault(
                    "podman-storage-network",
                    format!("podman keeps {}'s images on a network file system: {place} ({kind})", host.person.name),
                )
                .breaks("podman run and podman build: \"a network file system with user namespaces is not supported\"")
                .mend("berth setup podman --storage /local --write    # a local file system of each host");
        }
        if let Some(path) = named {
            let fixed = path.split("/$").next().unwrap_or(path);
            match host.stat(fixed) {
                None => {
                    notes
                        .fault(
                            "podman-storage-missing",
                            format!("podman is to keep images in {path}, and there is no {fixed}"),
                        )
                        .breaks("podman of ordinary users, who cannot make it")
                        .fix(Fix::Directory { path: fixed.to_owned(), mode: 0o1777, owner: None });
                }
                Some(stat) if stat.mode & 0o1002 == 0o0002 => {
                    notes
                        .fault(
                            "podman-storage-open",
                            format!(
                                "{fixed} of podman's images has the mode {:04o}: users can remove each other's",
                                stat.mode
                            ),
                        )
                        .breaks("the walls between users")
                        .fix(Fix::Mode { path: fixed.to_owned(), mode: 0o1777 });
                }
                Some(stat)
                    if stat.mode & 0o002 == 0 && path != fixed && !host.exists(&place) && host.person.uid != 0 =>
                {
                    notes
                        .fault(
                            "podman-storage-closed",
                            format!("{} cannot make {place}: {fixed} has the mode {:04o}", host.person.name, stat.mode),
                        )
                        .breaks("podman of ordinary users")
                        .fix(Fix::Mode { path: fixed.to_owned(), mode: 0o1777 });
                }
                Some(_) => {}
            }
        }
    }
    let system = "/etc/containers/storage.conf";
    let roots = host.read(system).ok().and_then(|text| text.parse::<toml::Table>().ok());
    let missing = |key: &&&str| roots.as_ref().is_some_and(|table| text(table, &["storage", key]).is_none());
    let missing: Vec<&str> = ["runroot", "graphroot"].iter().filter(missing).copied().collect();
    if !missing.is_empty() {
        notes
            .fault("podman-storage-roots", format!("{system} has no {}", missing.join(" and no ")))
            .breaks(format!("podman of root: \"{} must be set\"", missing[0]))
            .mend(format!(
                "sed -i '/^\\[storage\\]/a runroot = \"/run/containers/storage\"\\ngraphroot = \"/var/lib/containers/storage\"' {system}"
            ));
    }
    runtimes(host, notes);
    registries(host, notes);
    if notes.findings.is_empty() {
        notes.fine(if host.program("podman").is_some() {
            "podman's files can be read, and name what is there"
        } else {
            "no podman here"
        });
    }
}

fn runtimes(host: &Host, notes: &mut Notes) {
    let mut paths = files(
        host,
        &["/usr/share/containers/containers.conf", "/etc/containers/containers.conf"],
        "containers/containers.conf",
    );
    for dir in ["/usr/share/containers/containers.conf.d", "/etc/containers/containers.conf.d"] {
        paths.extend(
            host.list(dir).into_iter().filter(|name| name.ends_with(".conf")).map(|name| format!("{dir}/{name}")),
        );
    }
    let tables: Vec<_> =
        paths.iter().filter_map(|path| Some((path, toml(host, path, "podman-containers-conf", notes)?))).collect();
    let named = tables.iter().rev().find_map(|(path, table)| Some((*path, text(table, &["engine", "runtime"])?)));
    if let Some((path, name)) = named {
        let listed =
            tables.iter().rev().find_map(|(_, table)| table.get("engine")?.get("runtimes")?.get(name)?.as_array());
        let places: Vec<&str> = listed.into_iter().flatten().filter_map(toml::Value::as_str).collect();
        let there = if places.is_empty() {
            host.program(name).is_some()
        } else {
            places.iter().any(|place| host.program(place).is_some())
        };
        if !there {
            notes
                .fault(
                    "podman-runtime",
                    format!("{path} names the runtime {name}, which is in none of its places ({})", places.join(", ")),
                )
                .breaks("podman run")
                .mend(if name == "berth" {
                    "ln -s berth /usr/bin/berth-runtime; berth setup podman --write".to_owned()
                } else {
                    format!("apt-get install {name}")
                });
        }
    }
    let systemd = host.exists("/run/systemd/system");
    let manager =
        tables.iter().rev().find_map(|(path, table)| Some((*path, text(table, &["engine", "cgroup_manager"])?)));
    if let Some((path, "systemd")) = manager.filter(|_| !systemd) {
        notes
            .fault(
                "podman-cgroup-manager",
                format!("{path} has cgroup_manager = \"systemd\", and systemd does not run here"),
            )
            .breaks("podman run")
            .mend(format!("sed -i 's/^cgroup_manager.*/cgroup_manager = \"cgroupfs\"/' {path}"));
    }
}

/// Files of registries, which berth reads, too.
pub fn registry_tables(host: &Host, notes: &mut Notes) -> Vec<toml::Table> {
    let mut paths: Vec<String> = files(
        host,
        &["/usr/share/containers/registries.conf", "/etc/containers/registries.conf"],
        "containers/registries.conf",
    );
    paths.drain(..paths.len().saturating_sub(1));
    let dir = "/etc/containers/registries.conf.d";
    paths.extend(host.list(dir).into_iter().filter(|name| name.ends_with(".conf")).map(|name| format!("{dir}/{name}")));
    paths.iter().filter_map(|path| toml(host, path, "registries-conf", notes)).collect()
}

fn registries(host: &Host, notes: &mut Notes) {
    for table in registry_tables(host, notes) {
        for entry in table.get("registry").and_then(toml::Value::as_array).into_iter().flatten() {
            let word = |key: &str| entry.get(key).and_then(toml::Value::as_str);
            let location = word("location").or(word("prefix")).unwrap_or_default().to_owned();
            let insecure = entry.get("insecure").and_then(toml::Value::as_bool) == Some(true);
            let local = ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| location.starts_with(name));
            if insecure && !local {
                notes
                    .advice("registry-insecure", format!("registries.conf takes images of {location} without TLS"))
                    .breaks("trust in them: whoever is between can put something else in their place")
                    .mend(format!("install -D -m 0644 CA.crt /etc/containers/certs.d/{location}/ca.crt    # and take `insecure` out"));
            }
        }
    }
}

/// daemon.json of the system's daemon and of the person's.
pub fn docker(host: &Host, notes: &mut Notes) {
    let all = files(host, &["/etc/docker/daemon.json"], "docker/daemon.json");
    for path in &all {
        let text = host.read(path).unwrap_or_default();
        let value: serde_json::Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => {
                notes
                    .fault("docker-json", format!("{path} cannot be read: {error}"))
                    .breaks("dockerd, which does not start")
                    .mend(format!("python3 -m json.tool {path}"));
                continue;
            }
        };
        let root = value["data-root"].as_str().unwrap_or_default();
        if root.contains(['$', '~']) {
            notes
                .fault("docker-variable", format!("{path} has data-root {root}, and docker expands nothing there"))
                .breaks("the place of images: a folder of that very name, or none")
                .mend(format!(
                    "sed -i 's|\"{root}\"|\"/var/tmp/{}/docker\"|' {path}    # written out",
                    host.person.name
                ));
        } else if let Some((kind, _)) = host.file_system(root).filter(|(kind, _)| is_network(kind)) {
            notes
                .fault("docker-network", format!("{path} keeps images on a network file system: {root} ({kind})"))
                .breaks("dockerd: overlays do not work there")
                .mend("berth setup docker --storage /local --write");
        }
        let runtimes = value["runtimes"].as_object();
        for (name, runtime) in runtimes.into_iter().flatten() {
            let Some(program) = runtime["path"].as_str() else { continue };
            if host.program(program).is_none() {
                notes
                    .fault(
                        "docker-runtime",
                        format!("{path} names the runtime {name} at {program}, which is not there"),
                    )
                    .breaks(format!("docker run --runtime {name}"))
                    .mend(if name == "berth" {
                        format!("ln -s berth {program}")
                    } else {
                        "berth setup docker --write".to_owned()
                    });
            }
        }
        let default = value["default-runtime"].as_str().unwrap_or("runc");
        if default != "runc"
            && !default.starts_with("io.containerd")
            && runtimes.is_none_or(|all| !all.contains_key(default))
        {
            notes
                .fault(
                    "docker-default",
                    format!("{path} has the default runtime {default}, which is not among its runtimes"),
                )
                .breaks("dockerd, which does not start")
                .mend("berth setup docker --write");
        }
    }
    if notes.findings.is_empty() {
        notes.fine(if all.is_empty() {
            "docker is not configured"
        } else {
            "docker's files can be read, and name what is there"
        });
    }
}

/// apptainer.conf, and the program that has root's rights.
pub fn apptainer(host: &Host, notes: &mut Notes) {
    let Some(program) = host.program("apptainer").or_else(|| host.program("singularity")) else {
        notes.fine("no apptainer here");
        return;
    };
    let starter = [
        "/usr/libexec/apptainer/bin/starter-suid",
        "/usr/lib/x86_64-linux-gnu/apptainer/bin/starter-suid",
        "/usr/local/libexec/apptainer/bin/starter-suid",
    ];
    let found = starter.into_iter().find_map(|path| Some((path, host.stat(path)?)));
    if let Some((path, stat)) = found.filter(|(_, stat)| stat.mode & 0o4000 == 0 || stat.uid != 0) {
        notes
            .fault(
                "apptainer-starter",
                format!(
                    "{path} is installed and is not root's with the set-user-id bit (mode {:04o}, owner {})",
                    stat.mode, stat.uid
                ),
            )
            .breaks("apptainer run with image files: it refuses to start")
            .mend(format!("chown root:root {path} && chmod 4755 {path}    # or remove it: user namespaces are enough"));
        return;
    }
    notes.fine(format!("{program} is there"));
}

/// enroot.conf.
pub fn enroot(host: &Host, notes: &mut Notes) {
    let Ok(text) = host.read("/etc/enroot/enroot.conf") else {
        notes.fine("no enroot here");
        return;
    };
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((key, path)) = line.split_once(char::is_whitespace).map(|(key, path)| (key, path.trim())) else {
            continue;
        };
        if !["ENROOT_RUNTIME_PATH", "ENROOT_CACHE_PATH", "ENROOT_DATA_PATH"].contains(&key) || !path.starts_with('/') {
            continue;
        }
        // What comes before the first part that depends on the person.
        let fixed = path.split('$').next().unwrap_or(path);
        let fixed = if fixed == path { path } else { fixed.rsplit_once('/').map_or("/", |(dir, _)| dir) };
        match host.stat(fixed) {
            None => {
                notes
                    .fault("enroot-missing", format!("enroot.conf has {key} {path}, and there is no {fixed}"))
                    .breaks("enroot and pyxis for ordinary users, who cannot make it")
                    .fix(Fix::Directory { path: fixed.to_owned(), mode: 0o1777, owner: None });
            }
            Some(stat) if stat.mode & 0o002 == 0 && fixed != path => {
                notes
                    .fault(
                        "enroot-closed",
                        format!(
                            "enroot.conf has {key} {path}, and users cannot write to {fixed} (mode {:04o})",
                            stat.mode
                        ),
                    )
                    .breaks("enroot and pyxis for ordinary users")
                    .fix(Fix::Mode { path: fixed.to_owned(), mode: 0o1777 });
            }
            Some(_) => {}
        }
        let memory = host.file_system(fixed).is_some_and(|(kind, _)| kind == "tmpfs" || kind == "ramfs");
        if key == "ENROOT_DATA_PATH" && memory {
            notes
                .advice("enroot-memory", format!("enroot unpacks images into memory: {key} {path} is on a tmpfs"))
                .breaks("jobs with large images: their memory is the images'")
                .mend("berth setup enroot-migration    # berth shares unpacked layers on disk between jobs");
        }
    }
    if notes.findings.is_empty() {
        notes.fine("enroot.conf names what is there");
    }
}
