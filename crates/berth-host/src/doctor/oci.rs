//! oci.conf, by the rules of the release that reads it.

use super::Finding;
use super::Fix;
use super::Host;
use super::Notes;
use super::Role;
use super::slurm::PLUGIN;
use crate::slurm::oci;
use crate::slurm::plugstack;

/// Checks the file.
pub fn check(host: &Host, notes: &mut Notes) {
    let Some(site) = host.slurm() else { return };
    let path = site.file("oci.conf");
    let Ok(text) = host.read(&path) else {
        let stack = plugstack::read(host, &site.file("plugstack.conf"));
        if stack.plugins.iter().any(|plugin| plugin.object.ends_with(PLUGIN))
            && oci::advised(site.version, true).is_none()
        {
            notes.fine(format!("no oci.conf: on Slurm {} the plugin serves --container", site.version));
            return;
        }
        if host.role == Role::Login || host.program("slurmd").is_none() {
            notes.fine("no oci.conf: only nodes need one");
            return;
        }
        notes
            .fault("oci-missing", format!("there is no {path}"))
            .breaks("srun --container: Slurm runs the command on the host, with no container and no word about it")
            .mend("berth setup slurm --write");
        return;
    };
    for fault in oci::check(&text, site.version, &mut oci::include(host, &site.dir)) {
        let finding: &mut Finding =
            if fault.serious { notes.fault(fault.kind, fault.what) } else { notes.advice(fault.kind, fault.what) };
        finding.breaks(fault.breaks).mend("berth setup slurm --write    # replaces oci.conf; --undo brings it back");
    }
    for program in oci::programs(&text) {
        if host.program(&program).is_none() {
            notes
                .fault("oci-runtime", format!("oci.conf calls {program}, which is not there or cannot be executed"))
                .breaks("every step with --container")
                .mend(if program.ends_with("berth-runtime") {
                    "ln -s berth /usr/bin/berth-runtime".to_owned()
                } else {
                    format!("apt-get install {program}    # or: berth setup slurm --write")
                });
        }
    }
    let stack = plugstack::read(host, &site.file("plugstack.conf"));
    if oci::needs_plugin(&text) && !stack.plugins.iter().any(|plugin| plugin.object.ends_with(PLUGIN)) {
        notes
            .fault("oci-plugin", "oci.conf calls berth oci-step, and plugstack.conf does not name berth's plugin")
            .breaks("every step with --container: berth does not know the command, which the plugin hands over")
            .mend("berth setup slurm --write");
    }
    if let Some(who) = host.changed_by(&path) {
        notes
            .fault("oci-open", format!("{path} can be changed by {who}"))
            .breaks("its lines are run by root's shell: who can change them is root on the nodes")
            .mend(format!("chown root:root {path} && chmod 0644 {path}"))
            .fix(Fix::Mode { path: path.clone(), mode: 0o644 });
    }
    if notes.findings.is_empty() {
        notes.fine(format!("{path} fits Slurm {}", site.version));
    }
}
