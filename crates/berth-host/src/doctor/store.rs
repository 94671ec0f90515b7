//! Where images and named containers are kept.

use std::path::Path;

use super::Attempt;
use super::Fix;
use super::Host;
use super::Notes;
use super::host::is_network;

/// Less than this is used up by one image.
pub const LITTLE: u64 = 2 << 30;

/// Fewer files than this are used up by one image.
const FEW_FILES: u64 = 50_000;

/// The store, the stores below it, and the place of named containers.
pub fn check(host: &Host, notes: &mut Notes) {
    if let Some(mistake) = &host.places.mistake {
        notes
            .fault("config-broken", format!("berth's configuration cannot be used: {mistake}"))
            .breaks("every verb of berth")
            .mend("vi /etc/berth/berth.toml    # or the file that the message names");
        return;
    }
    match &host.places.store {
        _ if !host.person.named => notes.fine("whose store is good depends on the person: berth doctor --user NAME"),
        Ok(store) => own(host, &store.to_string_lossy(), notes),
        Err(reason) => {
            notes
                .fault("store-unknown", format!("there is no place for images: {reason}"))
                .breaks("berth pull, and every container from an image")
                .mend("echo 'store = \"/scratch/$USER/berth\"' >>/etc/berth/berth.toml");
        }
    }
    for below in &host.places.below {
        let below = below.to_string_lossy();
        match host.stat(&below) {
            Some(stat) if stat.dir && stat.mode & 0o002 != 0 => {
                notes
                    .fault(
                        "store-open",
                        format!("everybody can write to the shared store {below} (mode {:04o})", stat.mode),
                    )
                    .breaks("trust in its images: anybody can put something else in their place")
                    .fix(Fix::Mode { path: below.into_owned(), mode: stat.mode & 0o7775 & !0o002 });
            }
            Some(stat) if stat.dir => notes.fine(format!("the shared store {below} is there")),
            _ => {
                notes
                    .advice(
                        "store-below-missing",
                        format!("the shared store {below} of the configuration is not there"),
                    )
                    .breaks("its images are fetched again by everybody")
                    .mend(format!(
                        "mount {below}; ls {below}    # or take it out of `stores` in /etc/berth/berth.toml"
                    ));
            }
        }
    }
    if let Some(containers) = host.places.containers.as_ref().filter(|_| host.person.named) {
        named(host, &containers.to_string_lossy(), notes);
    }
}

/// The person's own store.
fn own(host: &Host, store: &str, notes: &mut Notes) {
    let person = &host.person;
    let before = notes.findings.len();
    let nearest = host.nearest(Path::new(store));
    let nearest = nearest.to_string_lossy();
    if let Some(stat) = host.stat(&nearest) {
        let (bits, others) = (stat.mode, stat.mode & 0o002 != 0);
        let may = person.uid == 0 || others || (stat.uid == person.uid && bits & 0o200 != 0);
        if !may && nearest != store {
            notes
                .fault(
                    "store-parent",
                    format!("{store} is not there, and {} may not make it in {nearest}", person.name),
                )
                .breaks("berth pull, and every container from an image")
                .fix(Fix::Directory { path: store.to_owned(), mode: 0o700, owner: Some((person.uid, person.gid)) });
        } else if !may {
            notes
                .fault(
                    "store-unwritable",
                    format!(
                        "{} may not write to the store {store} (owner {}, mode {:04o})",
                        person.name, stat.uid, bits
                    ),
                )
                .breaks("berth pull, and every container from an image")
                .mend(format!("chown {} {store} && chmod u+rwx {store}", person.name));
        }
        if stat.uid == person.uid && nearest == store && others && bits & 0o1000 == 0 {
            notes
                .fault("store-open", format!("everybody can write to the store {store} (mode {bits:04o})"))
                .breaks("trust in its images: anybody can put something else in their place")
                .fix(Fix::Mode { path: store.to_owned(), mode: bits & 0o7775 & !0o002 });
        }
    }
    let (kind, options) = host.file_system(&nearest).unwrap_or_default();
    let has = |word: &str| options.split(',').any(|option| option == word);
    if has("ro") {
        notes
            .fault("store-read-only", format!("the file system of the store {store} is mounted read-only"))
            .breaks("berth pull")
            .mend(format!("mount -o remount,rw \"$(findmnt -n -o TARGET -T {nearest})\""));
    }
    if has("noexec") {
        notes
            .fault("store-noexec", format!("the file system of the store {store} is mounted noexec"))
            .breaks("every program of every image: \"Permission denied\"")
            .mend(format!(
                "mount -o remount,exec \"$(findmnt -n -o TARGET -T {nearest})\"    # or another `store` in berth.toml"
            ));
    }
    if is_network(&kind) && (has("nolock") || has("localflock") || has("local_lock=all")) {
        notes
            .fault("store-locks", format!("{nearest} ({kind}) is mounted with locks that other hosts do not see"))
            .breaks("the store where two hosts use it at once")
            .mend("umount and mount again without nolock, local_lock and localflock; Lustre: with flock");
    } else if let Err(reason) = host.tries.attempt(Attempt::Locks, &host.path(&nearest)) {
        notes
            .fault("store-locks", format!("files in {nearest} cannot be locked: {reason}"))
            .breaks("the store where two processes use it at once")
            .mend("mount it with locks (NFS: without nolock, rpc-statd running; Lustre: flock)");
    }
    room(host, "store", &nearest, notes);
    if notes.findings.len() == before {
        notes.fine(format!("the store {store} ({kind}) can be written and locked"));
    }
}

/// The place of named containers, whose changes the kernel must be able to lay over an image.
fn named(host: &Host, dir: &str, notes: &mut Notes) {
    let nearest = host.nearest(Path::new(dir));
    let nearest = nearest.to_string_lossy();
    let (kind, _) = host.file_system(&nearest).unwrap_or_default();
    let breaks = "berth run --name: the kernel cannot keep a container's changes there";
    if is_network(&kind) {
        notes
            .advice("containers-network", format!("named containers are kept on a network file system: {dir} ({kind})"))
            .breaks(breaks)
            .mend("echo 'containers = \"/local/$USER/berth\"' >>/etc/berth/berth.toml    # a local file system");
    } else if let Err(reason) = host.tries.attempt(Attempt::Attributes, &host.path(&nearest)) {
        notes
            .advice("containers-attributes", format!("{nearest} ({kind}) takes no extended attributes of users: {reason}"))
            .breaks(breaks)
            .mend("echo 'containers = \"/local/$USER/berth\"' >>/etc/berth/berth.toml    # ext4, xfs, btrfs, or tmpfs of Linux 6.6");
    } else {
        notes.fine(format!("named containers in {dir} ({kind})"));
    }
}

fn room(host: &Host, what: &str, dir: &str, notes: &mut Notes) {
    let Some(space) = host.tries.space(&host.path(dir)) else { return };
    if space.free < LITTLE {
        notes
            .fault("store-full", format!("only {} MiB are free where the {what} is ({dir})", space.free >> 20))
            .breaks("berth pull: \"No space left on device\"")
            .mend("berth gc --keep-age 30d; berth gc --keep-size 20G");
    }
    if space.files.is_some_and(|files| files < FEW_FILES) {
        notes
            .fault(
                "store-files",
                format!("only {} more files can be made where the {what} is ({dir})", space.files.unwrap_or(0)),
            )
            .breaks("berth pull: \"No space left on device\" though there is room")
            .mend("berth gc --keep-age 30d; df -i");
    }
    if let Some(left) = quota(host, dir).filter(|&left| left < LITTLE) {
        notes
            .fault("store-quota", format!("{}'s quota has only {} MiB left in {dir}", host.person.name, left >> 20))
            .breaks("berth pull: \"Disk quota exceeded\"")
            .mend("quota -s; berth gc --keep-age 30d    # or `store` on a scratch file system, in berth.toml");
    }
}

/// Bytes that the person's quota leaves on the file system of a directory, where there is a quota.
fn quota(host: &Host, dir: &str) -> Option<u64> {
    let (_, _, source) = host.mounted(dir)?;
    let said = host.run(&["quota", "-w", "-p", "-u", &host.person.name]);
    let line = said.stdout.lines().find(|line| line.split_whitespace().next() == Some(&source))?;
    // What is used, then the soft and the hard limit, in KiB; a star says that one is passed.
    let mut numbers = line.split_whitespace().skip(1).map(|word| word.trim_end_matches('*').parse::<u64>().ok());
    let (used, soft, hard) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let limit = [soft, hard].into_iter().filter(|&limit| limit > 0).min()?;
    Some(limit.saturating_sub(used) << 10)
}
