//! What slurmd runs before and after jobs, and the devices that it hands out.

use std::fs::File;
use std::io::Read;

use super::Fix;
use super::Host;
use super::Notes;
use crate::slurm::gres;
use crate::slurm::hostlist;

/// Keys of slurm.conf that name scripts, and whether root runs them.
const SCRIPTS: [(&str, bool); 8] = [
    ("Prolog", true),
    ("Epilog", true),
    ("PrologSlurmctld", true),
    ("EpilogSlurmctld", true),
    ("TaskProlog", false),
    ("TaskEpilog", false),
    ("SrunProlog", false),
    ("SrunEpilog", false),
];

/// Prolog, epilog and their like.
pub fn check(host: &Host, notes: &mut Notes) {
    let Some(site) = host.slurm() else { return };
    let mut fine = Vec::new();
    for (key, roots) in SCRIPTS {
        // Those of the controller are on the controller.
        if key.ends_with("Slurmctld") && host.program("slurmctld").is_none() {
            continue;
        }
        for pattern in site.value(key).into_iter().flat_map(|text| text.split(',')).filter(|text| text.starts_with('/'))
        {
            let files = host.glob(pattern);
            let breaks = if roots { "slurmd drains the node when it cannot run it" } else { "every step of every job" };
            if files.is_empty() && !pattern.contains('*') {
                notes
                    .fault("script-missing", format!("slurm.conf has {key}={pattern}, which is not there"))
                    .breaks(breaks)
                    .mend(format!(
                        "scp CONTROLLER:{pattern} {pattern}    # or take it out of slurm.conf; scontrol reconfigure"
                    ));
            }
            for file in files {
                let Some(stat) = host.stat(&file) else { continue };
                if stat.mode & 0o111 == 0 {
                    notes
                        .fault("script-mode", format!("the {key} {file} cannot be executed (mode {:04o})", stat.mode))
                        .breaks(breaks)
                        .fix(Fix::Mode { path: file.clone(), mode: stat.mode | 0o111 });
                } else if let Some(who) = host.changed_by(&file).filter(|_| roots) {
                    notes
                        .fault("script-open", format!("the {key} {file} can be changed by {who}"))
                        .breaks("root runs it: who can change it is root on the nodes")
                        .mend(format!("chown root:root {file} && chmod 0755 {file}"))
                        .fix(Fix::Mode { path: file.clone(), mode: stat.mode & 0o7755 });
                } else if let Some(reason) = no_interpreter(host, &file) {
                    notes
                        .fault("script-interpreter", format!("the {key} {file} {reason}"))
                        .breaks(breaks)
                        .mend(format!("head -n 1 {file} | cat -A    # `#!/bin/sh$` is a right first line"));
                } else {
                    fine.push(key);
                }
            }
        }
    }
    if notes.findings.is_empty() {
        notes.fine(if fine.is_empty() {
            "no prolog and no epilog".to_owned()
        } else {
            format!("{} can be run", fine.join(", "))
        });
    }
}

/// Why the kernel cannot start a file that it may execute: Slurm does not fall back to a shell, as people's shells do.
fn no_interpreter(host: &Host, file: &str) -> Option<String> {
    let mut start = [0; 256];
    let length = File::open(host.path(file)).and_then(|mut file| file.read(&mut start)).ok()?;
    let start = &start[..length];
    if start.starts_with(b"\x7fELF") {
        return None;
    }
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(words) = line.strip_prefix(b"#!") else {
        return Some("begins with no `#!`, so that it cannot be started".to_owned());
    };
    let text = String::from_utf8_lossy(words);
    let program = text.trim_start_matches([' ', '\t']).split([' ', '\t']).next().unwrap_or_default();
    (!host.exists(program)).then(|| format!("asks for {}, which is not there", program.escape_default()))
}

/// Devices in gres.conf.
pub fn gres(host: &Host, notes: &mut Notes) {
    let Some(site) = host.slurm() else { return };
    let text = host.read(&site.file("gres.conf")).unwrap_or_default();
    let wants = site.conf.iter().find(|entry| entry.key.eq_ignore_ascii_case("Gres"));
    if text.is_empty() {
        if let Some(wants) = wants.filter(|_| host.program("slurmd").is_some()) {
            notes
                .fault("gres-missing", format!("slurm.conf promises {} and there is no gres.conf", wants.value))
                .breaks("slurmd drains the node: it does not find its devices")
                .mend("berth setup slurm --write    # writes gres.conf for the GPUs that are there");
        }
        return;
    }
    // A file for all nodes names devices of others, too.
    let node = gres::node_name(host, site);
    for entry in gres::of_node(&text, &node) {
        let word = entry.value.to_ascii_lowercase();
        if entry.key.eq_ignore_ascii_case("AutoDetect") && word != "off" && !gres::detects(host, site, &word) {
            let have = ["nvml", "nvidia", "rsmi"].into_iter().find(|word| gres::detects(host, site, word));
            let mend = match have {
                Some(have) => format!("sed -i '{}s/{}/{have}/' {}", entry.line, entry.value, site.file("gres.conf")),
                None => format!("sed -i {}d {} && berth setup slurm --write", entry.line, site.file("gres.conf")),
            };
            notes
                .fault(
                    "gres-autodetect",
                    format!("gres.conf has AutoDetect={}, for which this Slurm has no plugin", entry.value),
                )
                .breaks("slurmd finds no GPU, and the controller drains the node: \"gres/gpu count reported lower\"")
                .mend(mend);
        }
        if !entry.key.eq_ignore_ascii_case("File") {
            continue;
        }
        let missing: Vec<String> =
            hostlist::expand(&entry.value).into_iter().filter(|path| !host.exists(path)).collect();
        if let Some(first) = missing.first() {
            notes
                .fault("gres-device", format!("gres.conf names {first}, which is not there ({} in all)", missing.len()))
                .breaks("jobs with --gres on this node, and --gpus")
                .mend(format!(
                    "ls {}    # load the driver: nvidia-modprobe -u -c=0",
                    first.trim_end_matches(char::is_numeric).to_owned() + "*"
                ));
        }
    }
    if notes.findings.is_empty() {
        notes.fine("the devices of gres.conf are there");
    }
}
