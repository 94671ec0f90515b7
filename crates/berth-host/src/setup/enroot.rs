//! From enroot and pyxis: what their files say, in berth's words.

use super::Change;
use super::Error;
use super::Plan;
use super::Wishes;
use super::file;
use super::line;
use crate::doctor::Host;
use crate::slurm::oci::Line;
use crate::slurm::plugstack;

/// The site's configuration of berth.
const TARGET: &str = "/etc/berth/berth.toml";

/// berth.toml from enroot.conf, and a plugin stack without pyxis.
///
/// # Errors
/// [`Error::Unfit`] where there is no enroot, or berth.toml is there already.
pub fn enroot(host: &Host, _: &Wishes) -> Result<Plan, Error> {
    let Ok(text) = host.read("/etc/enroot/enroot.conf") else {
        return Err(Error::Unfit("there is no /etc/enroot/enroot.conf here".to_owned()));
    };
    let mut plan = Plan { name: "enroot-migration", ..Plan::default() };
    let settings: Vec<(&str, &str)> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(key, value)| (key, value.trim()))
        .collect();
    let value = |key: &str| settings.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| *value);
    let place = |key: &str| value(key).map(folder).filter(|path| path.starts_with('/'));
    let mut lines = vec![line("# Written by `berth setup enroot-migration` from /etc/enroot.", "")];
    if let Some(dir) = place("ENROOT_CACHE_PATH") {
        lines.push(line(
            format!("store = \"{dir}/berth-$USER\""),
            "where enroot kept what it fetched (ENROOT_CACHE_PATH): images, unpacked once",
        ));
    }
    if let Some(dir) = place("ENROOT_DATA_PATH") {
        lines.push(line(
            format!("containers = \"{dir}/berth-$USER\""),
            "where enroot kept its containers (ENROOT_DATA_PATH): those with a name",
        ));
    }
    lines.extend([line("", ""), line("[run]", "")]);
    if let Some(home) = value("ENROOT_MOUNT_HOME") {
        let home = ["y", "yes", "true", "1"].contains(&home.to_ascii_lowercase().as_str());
        lines.push(line(format!("home = {home}"), "as ENROOT_MOUNT_HOME"));
    }
    lines.extend(list("mounts", mounts(host), "from /etc/enroot/mounts.d"));
    lines.extend(list("env", environment(host), "from /etc/enroot/environ.d"));
    let change = file(TARGET, lines);
    let there = host.read(TARGET).ok();
    if there.is_some_and(|text| text != change.content) {
        return Err(Error::Unfit(format!("{TARGET} is there already; to be added to it:\n{}", change.content)));
    }
    plan.changes.push(change);
    if let Some(credentials) = value("ENROOT_CONFIG_PATH") {
        plan.notes.push(format!(
            "logins of enroot are in {credentials}/.credentials; berth has those of podman: podman login REGISTRY"
        ));
    }
    if value("ENROOT_REMAP_ROOT").is_some_and(|value| value.starts_with('y')) {
        plan.notes.push(
            "users were root inside (ENROOT_REMAP_ROOT): berth run --remap-root, srun --container-remap-root"
                .to_owned(),
        );
    }
    without_pyxis(host, &mut plan);
    Ok(plan)
}

/// What comes before the first part that depends on the person.
fn folder(path: &str) -> String {
    let Some(at) = path.find('$') else { return path.to_owned() };
    path[..at].rsplit_once('/').map_or_else(String::new, |(dir, _)| dir.to_owned())
}

fn list(key: &str, values: Vec<String>, why: &'static str) -> Option<Line> {
    let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    (!quoted.is_empty()).then(|| line(format!("{key} = [{}]", quoted.join(", ")), why))
}

/// Binds in files of the form of fstab.
fn mounts(host: &Host) -> Vec<String> {
    let mut found = Vec::new();
    for name in host.list("/etc/enroot/mounts.d").into_iter().filter(|name| name.ends_with(".fstab")) {
        for line in host.read(&format!("/etc/enroot/mounts.d/{name}")).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            let [from, to, more @ ..] = &words[..] else { continue };
            let bind = more.iter().any(|word| word.split(',').any(|option| option == "bind" || option == "rbind"));
            if !bind || !from.starts_with('/') {
                continue;
            }
            let read_only = more.iter().any(|word| word.split(',').any(|option| option == "ro"));
            found.push(format!("{from}:{to}{}", if read_only { ":ro" } else { "" }));
        }
    }
    found
}

/// Variables that are the same for everybody.
fn environment(host: &Host) -> Vec<String> {
    let mut found = Vec::new();
    for name in host.list("/etc/enroot/environ.d").into_iter().filter(|name| name.ends_with(".env")) {
        for line in host.read(&format!("/etc/enroot/environ.d/{name}")).unwrap_or_default().lines() {
            let plain =
                |text: &&str| !text.starts_with('#') && text.contains('=') && !text.contains(['$', '`', '"', '\'']);
            found.extend(Some(line.trim()).filter(plain).map(str::to_owned));
        }
    }
    found
}

/// Takes pyxis out of the plugin stack: it has the options that berth's plugin has.
fn without_pyxis(host: &Host, plan: &mut Plan) {
    let Some(site) = host.slurm() else { return };
    let stack = plugstack::read(host, &site.file("plugstack.conf"));
    for plugin in stack.plugins.iter().filter(|plugin| plugin.object.contains("pyxis")) {
        let before = host.read(&plugin.file).unwrap_or_default();
        let mut ours = String::new();
        let lines: Vec<String> = before
            .lines()
            .enumerate()
            .map(|(index, text)| {
                if index + 1 != plugin.line {
                    return text.to_owned();
                }
                ours = format!("# {text}");
                ours.clone()
            })
            .collect();
        let why = "pyxis has the options that berth's plugin has: one of them only";
        plan.changes.push(Change {
            path: plugin.file.clone(),
            content: lines.join("\n") + "\n",
            mode: 0o644,
            lines: vec![line(ours, why)],
        });
        plan.notes.push("berth setup slurm --write loads berth's plugin in the place of pyxis".to_owned());
    }
}
