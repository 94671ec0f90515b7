//! Sub-ids and what hands them out, and the folder of a login.

use std::path::Path;

use berth_container::subid::entries;

use super::Attempt;
use super::Fix;
use super::Host;
use super::Notes;
use crate::subid::IdKind;
use crate::subid::check;
use crate::subid::check::Kind;
use crate::subid::nsswitch;
use crate::subid::users;
use crate::subid::users::Accounts;

/// What works with one id only.
const ONE_ID: &str =
    "berth run --subid, podman and buildah, which need many ids; berth run and --remap-root work without";

/// The files, the two programs, and whether they hand out what is in the files.
pub fn sub_ids(host: &Host, notes: &mut Notes) {
    programs(host, notes);
    entries_of_all(host, notes);
    let person = &host.person;
    let mut without = Vec::new();
    for file in ["/etc/subuid", "/etc/subgid"] {
        if let Some(who) = host.changed_by(file) {
            notes
                .fault("subid-open", format!("{file} can be changed by {who}"))
                .breaks("the walls between users: who can write it can take anybody's ids")
                .mend(format!("chown root:root {file} && chmod 0644 {file}"))
                .fix(Fix::Mode { path: file.to_owned(), mode: 0o644 });
        }
        let text = host.read(file).unwrap_or_default();
        let number = person.uid.to_string();
        let mine = entries(&text).flatten().any(|entry| entry.owner == person.name || entry.owner == number);
        without.extend((!mine).then_some(file));
    }
    // With another service in nsswitch.conf, the files do not count.
    let module = host
        .read("/etc/nsswitch.conf")
        .is_ok_and(|text| nsswitch::service(&text).is_some_and(|service| service != "files"));
    for file in ["/etc/subuid", "/etc/subgid"].into_iter().filter(|file| module && !host.exists(file)) {
        notes
            .fault("subid-no-file", format!("there is no {file}, not even an empty one"))
            .breaks("newuidmap of shadow 4.13, which ends without a word, though it asks the module and not the file")
            .fix(Fix::File { path: file.to_owned(), content: String::new(), then: &[] });
    }
    if person.named && person.uid != 0 && !without.is_empty() && !module {
        notes
            .advice("subid-missing", format!("{} has no range in {}", person.name, without.join(" and ")))
            .breaks(ONE_ID)
            .mend("berth subid write    # ranges for all users that never meet");
    }
    let missing =
        notes.findings.iter().any(|finding| finding.kind == "subid-missing" || finding.kind.starts_with("newuidmap"));
    if host.person.named && host.person.uid != 0 && !missing {
        match host.tries.attempt(Attempt::ManyIds, Path::new("/")) {
            Ok(()) => notes.fine(format!("a container with many ids was started as {}", host.person.name)),
            Err(reason) => {
                notes
                    .fault(
                        "subid-fails",
                        format!("no container with many ids can be started as {}: {reason}", host.person.name),
                    )
                    .breaks(ONE_ID)
                    .mend("berth subid check");
            }
        }
    } else if notes.findings.is_empty() {
        notes.fine("newuidmap and newgidmap have what they need; nobody's range meets another's");
    }
}

/// What is wrong in the files, a finding for each kind. Accounts are those of the host's own files: to list those of a
/// directory takes longer than the whole check-up, and `berth subid check` does it.
fn entries_of_all(host: &Host, notes: &mut Notes) {
    let read = |path: &str| host.read(path).unwrap_or_default();
    let accounts = Accounts { users: users::passwd(&read("/etc/passwd")), groups: users::groups(&read("/etc/group")) };
    let texts = [read("/etc/subuid"), read("/etc/subgid")];
    let found = check::check([&texts[0], &texts[1]], &accounts);
    let mut kinds: Vec<Kind> = found.iter().map(|finding| finding.kind).collect();
    kinds.dedup();
    let mut told = Vec::new();
    for kind in kinds {
        let Some((name, severe)) = name(kind).filter(|_| !told.contains(&kind)) else { continue };
        told.push(kind);
        let all: Vec<&check::Finding> = found.iter().filter(|finding| finding.kind == kind).collect();
        let file = if all[0].file == IdKind::User { "/etc/subuid" } else { "/etc/subgid" };
        let lines: Vec<String> = all[0].lines.iter().map(usize::to_string).collect();
        let more = if all.len() > 1 { format!(", and {} more like it", all.len() - 1) } else { String::new() };
        let at = if lines.is_empty() { String::new() } else { format!(" line {}", lines.join(" and ")) };
        let what = format!("{file}{at}: {}{more}", all[0].message);
        let finding = if severe { notes.fault(name, what) } else { notes.advice(name, what) };
        let breaks = all[0].reach.clone().unwrap_or_else(|| ONE_ID.to_owned());
        finding.breaks(breaks).mend("berth subid check; berth subid migrate");
    }
}

/// A kind of finding in the check-up, and whether it is a fault; users of a directory are no strangers here.
fn name(kind: Kind) -> Option<(&'static str, bool)> {
    match kind {
        Kind::Overlap => Some(("subid-overlap", true)),
        Kind::Account => Some(("subid-account", true)),
        Kind::Wraps => Some(("subid-wraps", true)),
        Kind::Malformed => Some(("subid-malformed", true)),
        Kind::TooSmall => Some(("subid-small", false)),
        Kind::GroupKey => Some(("subid-group", false)),
        Kind::Sequential => Some(("subid-sequential", false)),
        Kind::Duplicate | Kind::Unpaired | Kind::UnknownUser | Kind::Inherited => None,
    }
}

fn programs(host: &Host, notes: &mut Notes) {
    const NAMES: [&str; 2] = ["newuidmap", "newgidmap"];
    let missing: Vec<&str> = NAMES.into_iter().filter(|name| host.program(name).is_none()).collect();
    if !missing.is_empty() {
        notes
            .advice("newuidmap-missing", format!("there is no {}", missing.join(" and no ")))
            .breaks(ONE_ID)
            .mend("apt-get install uidmap    # dnf install shadow-utils");
    }
    for path in NAMES.iter().filter_map(|name| host.program(name)) {
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
                    .fault(
                        "run-user-missing",
                        format!("there is no {dir}, where oci.conf lets the runtime keep its state"),
                    )
                    .breaks("steps with --container on nodes where the user is not logged in")
                    .mend(format!(
                        "loginctl enable-linger {}    # or berth as the runtime: berth setup slurm --write",
                        host.person.name
                    ));
            } else if host.program("podman").is_some() {
                notes
                    .advice(
                        "run-user-missing",
                        format!("there is no {dir}: {} has no login session here", host.person.name),
                    )
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
