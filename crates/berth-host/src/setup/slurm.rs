//! Slurm: oci.conf, the plugin stack, gres.conf, an epilog.

use super::Change;
use super::Error;
use super::Plan;
use super::Wishes;
use super::file;
use super::gres;
use super::line;
use crate::doctor::Host;
use crate::slurm::Site;
use crate::slurm::oci;
use crate::slurm::plugstack;

/// The plugin, and where it is looked for.
const PLUGIN: &str = "spank_berth.so";
const PLACES: [&str; 4] = ["/usr/lib/berth", "/usr/local/lib/berth", "/usr/lib64/berth", "/opt/berth/lib"];

/// The first line of each file that is ours alone.
pub(super) const HEAD: &str = "# Written by `berth setup slurm`; `berth setup slurm --undo` restores what was here.";

/// The files of Slurm on this host.
///
/// # Errors
/// [`Error::Unfit`] where there is no Slurm, or its files are another host's.
pub fn slurm(host: &Host, wishes: &Wishes) -> Result<Plan, Error> {
    let Some(site) = host.slurm() else {
        return Err(Error::Unfit("there is no Slurm here: scontrol cannot be run".to_owned()));
    };
    if site.dir.starts_with("/run/") {
        let reason = format!("the configuration in {} comes from the controller: set it up there", site.dir);
        return Err(Error::Unfit(reason));
    }
    let mut plan = Plan { name: "slurm", ..Plan::default() };
    let plugin = stack(host, site, wishes, &mut plan);
    match oci::advised(site.version, plugin) {
        Some(advised) => {
            let mut lines = vec![line(HEAD, "")];
            lines.extend(advised);
            plan.changes.push(file(site.file("oci.conf"), lines));
        }
        None if host.exists(&site.file("oci.conf")) => {
            let text =
                "oci.conf stays, for bundles; without it, the plugin serves --container on this release, images too";
            plan.notes.push(text.to_owned());
        }
        None => plan.notes.push("no oci.conf: on this release the plugin serves --container".to_owned()),
    }
    if wishes.epilog {
        epilog(host, site, &mut plan)?;
    }
    if host.program("berth").is_none() || host.program("berth-runtime").is_none() {
        plan.notes.push(
            "slurmd calls berth and berth-runtime, and does not find them: install them in /usr/bin or /usr/local/bin"
                .to_owned(),
        );
    }
    gres::gres(host, site, &mut plan);
    let how = if site.configless {
        "scontrol reconfigure: the controller then sends the files to the nodes"
    } else {
        "the same files on every node and every host that people submit from; slurmstepd reads them for each step"
    };
    plan.notes.push(how.to_owned());
    if plugin {
        plan.notes
            .push("restart slurmd when it suits: it loads the plugin, too, which tidies up after a boot".to_owned());
    }
    Ok(plan)
}

/// berth's plugin in the stack; gives whether it is in it then.
fn stack(host: &Host, site: &Site, wishes: &Wishes, plan: &mut Plan) -> bool {
    let path = site.plugin_stack();
    let usual = || PLACES.iter().map(|dir| format!("{dir}/{PLUGIN}")).find(|path| host.exists(path));
    let Some(plugin) = wishes.plugin.clone().or_else(usual) else {
        plan.notes.push(format!(
            "the plugin {PLUGIN} is in none of {}: srun --container-image is not set up",
            PLACES.join(", ")
        ));
        return false;
    };
    let have = plugstack::read(host, &path);
    let drop_in = site.file("plugstack.conf.d/berth.conf");
    let ours = |file: &str| file == drop_in || host.read(file).is_ok_and(|text| text.starts_with(HEAD));
    if have.plugins.iter().any(|found| found.object.ends_with(PLUGIN) && !ours(&found.file)) {
        plan.notes.push(format!("{path} names the plugin already"));
        return true;
    }
    if let Some(pyxis) = have.plugins.iter().find(|found| found.object.contains("pyxis")) {
        plan.notes
            .push(format!("{} loads pyxis, too, which has the same options: berth setup enroot-migration", pyxis.file));
    }
    let kind = if wishes.required { "required" } else { "optional" };
    let why = if wishes.required {
        "Slurm's commands and daemons fail where the plugin cannot be loaded"
    } else {
        "adds --container-image and its sisters; where the plugin cannot be loaded, Slurm goes on without"
    };
    let load = line(format!("{kind} {plugin}"), why);
    let before = host.read(&path).unwrap_or_default();
    if site.configless {
        // The controller sends this file, and none that it includes.
        let content = added(&before, &load.text);
        plan.changes.push(Change { path, content, mode: 0o644, lines: vec![load] });
        return true;
    }
    let covered = have.includes.iter().any(|pattern| pattern.starts_with(&site.file("plugstack.conf.d/*")));
    plan.changes.push(file(drop_in, vec![line(HEAD, ""), load]));
    if !covered {
        let include =
            line(format!("include {}", site.file("plugstack.conf.d/*.conf")), "a folder for plugins, a file each");
        let content = added(&before, &include.text);
        plan.changes.push(Change { path, content, mode: 0o644, lines: vec![include] });
    }
    true
}

/// A text with one more line, unless it has it.
pub(super) fn added(before: &str, line: &str) -> String {
    if before.lines().any(|have| have.trim() == line) {
        return before.to_owned();
    }
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{gap}{line}\n")
}

fn epilog(host: &Host, site: &Site, plan: &mut Plan) -> Result<(), Error> {
    let dir = site.file("epilog.d");
    let pattern = format!("{dir}/*");
    let path = format!("{dir}/90-berth");
    let lines = vec![
        line("#!/bin/sh", ""),
        line(HEAD, ""),
        line(
            "[ \"${SLURM_JOB_UID:-0}\" -gt 0 ] && rmdir \"/tmp/berth-runtime-$SLURM_JOB_UID\" 2>/dev/null",
            "the folder of the user's containers, once none is left in it",
        ),
        line("exit 0", "slurmd drains a node whose epilog fails"),
    ];
    plan.changes.push(Change { mode: 0o755, ..file(path, lines) });
    match site.value("Epilog") {
        Some(there) if there == pattern => {}
        Some(there) => {
            let reason = format!(
                "slurm.conf has the epilog {there}: make it {pattern} and move that script into the folder, \
                 or call {dir}/90-berth from it"
            );
            return Err(Error::Unfit(reason));
        }
        None => {
            let path = site.file("slurm.conf");
            let ours = line(
                format!("Epilog={pattern}"),
                "run by root after each job; the same on every host: scontrol reconfigure",
            );
            let content = added(&host.read(&path).unwrap_or_default(), &ours.text);
            plan.changes.push(Change { path, content, mode: 0o644, lines: vec![ours] });
        }
    }
    Ok(())
}
