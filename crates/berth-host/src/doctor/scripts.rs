//! What slurmd runs before and after jobs, and the devices that it hands out.

use super::Fix;
use super::Host;
use super::Notes;

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
                .mend(format!(
                    "echo 'Name=gpu File=/dev/nvidia[0-7]' >{}    # or AutoDetect=nvml",
                    site.file("gres.conf")
                ));
        }
        return;
    }
    // A file for all nodes names devices of others, too: only lines for every node can be judged.
    let lines = text.lines().filter(|line| !line.to_ascii_lowercase().contains("nodename="));
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    for entry in crate::slurm::conf::parse(&lines).0.iter().filter(|entry| entry.key.eq_ignore_ascii_case("File")) {
        let missing: Vec<String> = expand(&entry.value).into_iter().filter(|path| !host.exists(path)).collect();
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

/// `/dev/x[0-3]` and `/dev/x[0,2]`, written out.
fn expand(pattern: &str) -> Vec<String> {
    let parts = pattern.split_once('[').and_then(|(before, rest)| Some((before, rest.split_once(']')?)));
    let Some((before, (list, after))) = parts else { return vec![pattern.to_owned()] };
    let mut paths = Vec::new();
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>()) {
            paths.extend((from..=to.min(from + 1023)).map(|number| format!("{before}{number}{after}")));
        }
    }
    paths
}
