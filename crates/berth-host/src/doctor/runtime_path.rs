//! What a site wrote behind the plugin's path in plugstack.conf, and the folder of named containers that it names.
//!
//! The rules are the plugin's: it makes the folder itself if there is one to make it in, and refuses to use one that others than root
//! could change.

use std::fs;

use berth_slurm::settings::Settings;

use super::Fix;
use super::Host;
use super::Notes;
use super::Role;
use super::host::is_network;
use super::store::LITTLE;
use crate::slurm::plugstack;

/// What does not work where the folder is of no use.
const NAMED: &str = "srun --container-name, and with it every container that a job keeps";

/// The plugin's settings, and its folder.
pub fn check(host: &Host, notes: &mut Notes) {
    let Some(site) = host.slurm() else { return };
    let stack = plugstack::read(host, &site.plugin_stack());
    let Some(plugin) = stack.plugins.iter().find(|plugin| plugin.object.ends_with(super::slurm::PLUGIN)) else {
        notes.fine("no named containers of Slurm without berth's plugin");
        return;
    };
    let settings = match Settings::parse(plugin.words.iter().map(String::as_str)) {
        Ok(settings) => settings,
        Err(reason) => {
            notes
                .fault("plugin-setting", format!("line {} of {}: {reason}", plugin.line, plugin.file))
                .breaks("the plugin, which refuses to be loaded; where it is required, slurmd and every command of Slurm, too")
                .mend(format!("sed -n {}p {}    # docs/slurm.md lists the settings", plugin.line, plugin.file));
            return;
        }
    };
    // People submit from hosts that have no such folder.
    if host.role == Role::Login || host.program("slurmd").is_none() {
        notes.fine("the plugin's settings are right");
        return;
    }
    folder(host, &settings.runtime_path.to_string_lossy(), notes);
}

/// The folder, or the place where slurmd is going to make it.
fn folder(host: &Host, path: &str, notes: &mut Notes) {
    let parent = path.rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent });
    let there = fs::symlink_metadata(host.path(path)).ok();
    let Some(stat) = host.stat(path) else {
        if there.is_some() || !host.exists(parent) {
            let what =
                if there.is_some() { "is a link to nowhere" } else { "cannot be made: there is no folder for it" };
            notes
                .fault("runtime-path-missing", format!("the plugin's runtime_path {path} {what}"))
                .breaks(NAMED)
                .fix(Fix::Directory { path: path.to_owned(), mode: 0o755, owner: None });
            return;
        }
        place(host, path, notes);
        return;
    };
    if there.is_some_and(|meta| !meta.is_dir()) {
        notes
            .fault("runtime-path-kind", format!("the plugin's runtime_path {path} is no folder; a link is none"))
            .breaks(NAMED)
            .mend(format!("ls -ld {path}    # let runtime_path name the folder itself"));
    } else if stat.uid != 0 {
        notes
            .fault(
                "runtime-path-owner",
                format!("the plugin's runtime_path {path} belongs to {}, not to root", stat.uid),
            )
            .breaks(NAMED)
            .mend(format!("chown root:root {path}"));
    } else if stat.mode & 0o022 != 0 {
        notes
            .fault(
                "runtime-path-open",
                format!("others than root can write to the plugin's runtime_path {path} (mode {:04o})", stat.mode),
            )
            .breaks(NAMED)
            .fix(Fix::Mode { path: path.to_owned(), mode: 0o755 });
    } else if stat.mode & 0o001 == 0 {
        notes
            .fault(
                "runtime-path-closed",
                format!("users cannot enter the plugin's runtime_path {path} (mode {:04o})", stat.mode),
            )
            .breaks(NAMED)
            .fix(Fix::Mode { path: path.to_owned(), mode: 0o755 });
    }
    place(host, path, notes);
}

/// The file system that it is on.
fn place(host: &Host, path: &str, notes: &mut Notes) {
    let (kind, options) = host.file_system(path).unwrap_or_default();
    let mend = "sed -i 's|spank_berth.so|& runtime_path=/local/berth|' PLUGSTACK    # a local ext4 or xfs, with room";
    let mend = mend.replace("PLUGSTACK", &host.slurm().map(crate::slurm::Site::plugin_stack).unwrap_or_default());
    if is_network(&kind) {
        notes
            .fault(
                "runtime-path-network",
                format!("the plugin's runtime_path {path} is on {kind}, a network file system"),
            )
            .breaks("named containers: overlays do not work on it, and nodes would use each other's")
            .mend(&mend);
    } else if options.split(',').any(|option| option == "ro") {
        notes
            .fault(
                "runtime-path-read-only",
                format!("the file system of the plugin's runtime_path {path} is read-only"),
            )
            .breaks(NAMED)
            .mend(&mend);
    } else if let Some(space) = host.tries.space(&host.nearest_path(path)).filter(|space| space.free < LITTLE) {
        notes
            .fault(
                "runtime-path-full",
                format!("only {} MiB are free where the plugin's runtime_path {path} is", space.free >> 20),
            )
            .breaks("what jobs change in named containers: \"No space left on device\"")
            .mend(format!("du -xsh {path}/*    # quota=SIZE in plugstack.conf bounds what each user takes"));
    }
    if notes.findings.is_empty() {
        notes.fine(format!("named containers of jobs in {path} ({kind})"));
    }
}
