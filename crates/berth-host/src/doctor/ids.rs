//! Sub-ids and what hands them out, and the folder of a login.

use std::path::Path;

use super::Attempt;
use super::Fix;
use super::Host;
use super::Notes;

/// What works with one id only.
const ONE_ID: &str = "berth run --subid, podman and buildah, which need many ids; berth run and --remap-root work without";

/// A line of /etc/subuid or /etc/subgid.
struct Range {
    owner: String,
    start: u64,
    count: u64,
}

fn ranges(text: &str) -> Vec<Range> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .filter_map(|line| {
            let [owner, start, count] = line.split(':').collect::<Vec<_>>()[..] else { return None };
            Some(Range { owner: owner.to_owned(), start: start.parse().ok()?, count: count.parse().ok()? })
        })
        .collect()
}

/// The files, the two programs, and whether they hand out what is in the files.
pub fn check(host: &Host, notes: &mut Notes) {
    programs(host, notes);
    for file in ["/etc/subuid", "/etc/subgid"] {
        if let Some(who) = host.changed_by(file) {
            notes
                .fault("subid-open", format!("{file} can be changed by {who}"))
                .breaks("the walls between users: who can write it can take anybody's ids")
                .mend(format!("chown root:root {file} && chmod 0644 {file}"))
                .fix(Fix::Mode { path: file.to_owned(), mode: 0o644 });
        }
        let text = host.read(file).unwrap_or_default();
        overlaps(file, &text, notes);
        let person = &host.person;
        let number = person.uid.to_string();
        let mine = ranges(&text).into_iter().any(|range| range.owner == person.name || range.owner == number);
        // With `subid:` in nsswitch.conf, the files do not count.
        let module = host.read("/etc/nsswitch.conf").is_ok_and(|text| {
            text.lines().any(|line| line.trim_start().strip_prefix("subid:").is_some_and(|to| to.trim() != "files"))
        });
        if person.named && person.uid != 0 && !mine && !module {
            notes
                .advice("subid-missing", format!("{} has no range in {file}", person.name))
                .breaks(ONE_ID)
                .mend("berth subid write    # ranges for all users that never meet");
        }
    }
    let missing = notes.findings.iter().any(|finding| finding.kind != "subid-overlap");
    if host.person.named && host.person.uid != 0 && !missing {
        match host.tries.attempt(Attempt::ManyIds, Path::new("/")) {
            Ok(()) => notes.fine(format!("a container with many ids was started as {}", host.person.name)),
            Err(reason) => {
                notes
                    .fault("subid-fails", format!("no container with many ids can be started as {}: {reason}", host.person.name))
                    .breaks(ONE_ID)
                    .mend("berth subid check");
            }
        }
    } else if notes.findings.is_empty() {
        notes.fine("newuidmap and newgidmap have what they need; nobody's range meets another's");
    }
}

/// Two users in one range.
fn overlaps(file: &str, text: &str, notes: &mut Notes) {
    let mut ranges = ranges(text);
    ranges.sort_by_key(|range| (range.start, range.count));
    let meet = |pair: &[Range]| pair[0].start + pair[0].count > pair[1].start && pair[0].owner != pair[1].owner;
    let pairs: Vec<&[Range]> = ranges.windows(2).filter(|pair| meet(pair)).collect();
    if let Some(first) = pairs.first() {
        let more = if pairs.len() > 1 { format!(", and {} more pairs do", pairs.len() - 1) } else { String::new() };
        let what = format!("the ranges of {} and {} in {file} overlap{more}", first[0].owner, first[1].owner);
        notes
            .fault("subid-overlap", what)
            .breaks("the walls between users: one reads and changes the files of the other's containers")
            .mend("berth subid check; berth subid migrate");
    }
}

fn programs(host: &Host, notes: &mut Notes) {
    for name in ["newuidmap", "newgidmap"] {
        let Some(path) = host.program(name) else {
            notes
                .advice("newuidmap-missing", format!("there is no {name}"))
                .breaks(ONE_ID)
                .mend("apt-get install uidmap    # dnf install shadow-utils");
            continue;
        };
        let Some(stat) = host.stat(&path) else { continue };
        if stat.mode & 0o4000 == 0 && !host.tries.capable(&host.path(&path)) {
            notes
                .fault("newuidmap-powerless", format!("{path} has neither the set-user-id bit nor file capabilities"))
                .breaks(ONE_ID)
                .fix(Fix::Mode { path, mode: 0o4755 });
            continue;
        }
        if host.file_system(&path).is_some_and(|(_, options)| options.split(',').any(|word| word == "nosuid")) {
            notes
                .fault("newuidmap-nosuid", format!("{path} is on a file system that is mounted nosuid"))
                .breaks(ONE_ID)
                .mend(format!("mount -o remount,suid \"$(findmnt -n -o TARGET -T {path})\""));
        }
    }
}

/// /run/user/UID, which runc, crun and podman keep their state in.
pub fn run_user(host: &Host, notes: &mut Notes) {
    let uid = host.person.uid;
    let dir = format!("/run/user/{uid}");
    if uid == 0 || !host.person.named {
        notes.fine("berth needs no login session");
        return;
    }
    match host.stat(&dir) {
        None => {
            let wanted = host.slurm().and_then(|site| host.read(&site.file("oci.conf")).ok());
            if wanted.is_some_and(|text| crate::slurm::oci::needs_run_user(&text)) {
                notes
                    .fault("run-user-missing", format!("there is no {dir}, where oci.conf lets the runtime keep its state"))
                    .breaks("steps with --container on nodes where the user is not logged in")
                    .mend(format!("loginctl enable-linger {}    # or berth as the runtime: berth setup slurm --write", host.person.name));
            } else if host.program("podman").is_some() {
                notes
                    .advice("run-user-missing", format!("there is no {dir}: {} has no login session here", host.person.name))
                    .breaks("podman and rootless docker in jobs; berth does without")
                    .mend(format!("loginctl enable-linger {}", host.person.name));
            } else {
                notes.fine(format!("no {dir}; berth does without"));
            }
        }
        Some(stat) if stat.uid != uid => {
            notes
                .fault("run-user-owner", format!("{dir} belongs to {}, not to {}", stat.uid, host.person.name))
                .breaks("podman, crun and runc: \"permission denied\"")
                .mend(format!("chown {uid} {dir}"));
        }
        Some(stat) if stat.mode & 0o077 != 0 => {
            notes
                .fault("run-user-open", format!("{dir} has the mode {:04o}: others get in", stat.mode))
                .breaks("podman and systemd refuse it; others can change the state of the user's containers")
                .fix(Fix::Mode { path: dir, mode: 0o700 });
        }
        Some(_) => notes.fine(format!("{dir} is there")),
    }
}
