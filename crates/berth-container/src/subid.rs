//! Subordinate ids: many ids in a container for a user who has one (`--subid`).
//!
//! `/etc/subuid` and `/etc/subgid` give ranges of ids to users, a line each: `NAME-OR-UID:FIRST:COUNT`. The kernel lets an
//! unprivileged process map only its own id, so the set-user-id programs newuidmap(1) and newgidmap(1) check the files and write
//! the maps.
//!
//! Two layouts exist:
//!
//! ```text
//! root:     inside 0        → own id          keep-id:  inside 0..N     → first N of the ranges
//!           inside 1, 2, …  → the ranges                inside N        → own id N
//!                                                       inside N+1, …   → the rest of the ranges
//! ```

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::oci::IdMap;

/// Extents that the kernel takes in one map (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_EXTENTS: usize = 340;

/// Which of the two kinds of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// User ids.
    User,
    /// Group ids.
    Group,
}

impl IdKind {
    /// The file that gives ranges to users.
    pub fn file(self) -> &'static str {
        match self {
            IdKind::User => "/etc/subuid",
            IdKind::Group => "/etc/subgid",
        }
    }

    /// The program that writes the map.
    pub fn program(self) -> &'static str {
        match self {
            IdKind::User => "newuidmap",
            IdKind::Group => "newgidmap",
        }
    }

    fn ids(self) -> &'static str {
        match self {
            IdKind::User => "user ids",
            IdKind::Group => "group ids",
        }
    }
}

/// A range of the host's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// First id.
    pub first: u32,
    /// How many, at least 1; `first + count` fits.
    pub count: u32,
}

/// How the ids are laid out inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Root inside is the user outside.
    Root,
    /// The user has the same id inside as outside.
    KeepId,
}

/// Why the ids can't be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant is its message.
pub enum SubidError {
    #[error("{} gives user {user} no {}", kind.file(), kind.ids())]
    NoRange { kind: IdKind, user: String },
    #[error("{} gives user {user} {have} {}, and the container needs {need}", kind.file(), kind.ids())]
    TooFew { kind: IdKind, user: String, have: u64, need: u64 },
    #[error("{} is not installed", kind.program())]
    NoProgram { kind: IdKind },
    #[error("{} has neither the set-user-id bit nor file capabilities", path.display())]
    NotPrivileged { path: PathBuf },
    #[error("{} is on a file system mounted with nosuid", path.display())]
    NosuidMount { path: PathBuf },
    #[error("this process may not gain privileges (no_new_privs), so {} cannot work", path.display())]
    NoNewPrivileges { path: PathBuf },
    #[error("cannot start {}: {source}", path.display())]
    Start { path: PathBuf, source: std::io::Error },
    #[error("{} refused the map ({status}): {message}", kind.program())]
    Refused { kind: IdKind, status: std::process::ExitStatus, message: String },
}

impl SubidError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            SubidError::NoRange { user, .. } | SubidError::TooFew { user, .. } => format!(
                "ask who runs this machine for `berth subid write --user {user}` (or `usermod --add-subuids` and \
                 `--add-subgids` with ranges that nobody else has); or use --remap-root, which needs none"
            ),
            SubidError::NoProgram { .. } => {
                "install the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora, RHEL); or use --remap-root, which \
                 needs none"
                    .to_owned()
            }
            SubidError::NotPrivileged { path } => {
                format!("ask who runs this machine for `chmod u+s {0}` (or `setcap cap_setuid,cap_setgid=ep {0}`)", path.display())
            }
            SubidError::NosuidMount { .. } | SubidError::NoNewPrivileges { .. } => {
                "use --remap-root, which needs no privileged program; or start from a process that may use one".to_owned()
            }
            SubidError::Start { .. } => "use --remap-root, which needs no privileged program".to_owned(),
            SubidError::Refused { kind, message, .. } if message.contains("not allowed") => format!(
                "the ranges in {} changed, or belong to somebody else; see `getsubids $USER`",
                kind.file()
            ),
            SubidError::Refused { .. } => {
                "the kernel or a security module refused it: are you in a container or a restricted user namespace already?"
                    .to_owned()
            }
        }
    }
}

impl SubidError {
    /// Which ids it is about, in words.
    pub(crate) fn ids(&self) -> &'static str {
        match self {
            SubidError::NoRange { kind, .. }
            | SubidError::TooFew { kind, .. }
            | SubidError::NoProgram { kind }
            | SubidError::Refused { kind, .. } => kind.ids(),
            _ => "subordinate ids",
        }
    }
}

impl From<SubidError> for crate::Error {
    fn from(error: SubidError) -> crate::Error {
        let ids = error.ids();
        crate::Error::IdMapping { ids, reason: error.to_string(), hint: Some(error.hint()) }
    }
}

/// What a line of `/etc/subuid` or `/etc/subgid` says, whether it makes sense or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Number of the line, from 1.
    pub line: usize,
    /// A user's name or uid.
    pub owner: &'a str,
    /// First id.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Entry<'_> {
    /// The range, if these are ids: an id of 2³² − 1 is none.
    pub fn range(&self) -> Option<Range> {
        let (first, count) = (u32::try_from(self.first).ok()?, u32::try_from(self.count).ok()?);
        (count > 0 && first.checked_add(count).is_some()).then_some(Range { first, count })
    }
}

/// The lines of the text of `/etc/subuid` or `/etc/subgid`; of those that are no entries (and not empty or comments) the number
/// only.
pub fn entries(text: &str) -> impl Iterator<Item = Result<Entry<'_>, usize>> {
    let lines = text.lines().zip(1..).filter(|(text, _)| !text.trim().is_empty() && !text.starts_with('#'));
    lines.map(|(text, line)| {
        let mut fields = text.split(':');
        let (Some(owner), Some(first), Some(count), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(line);
        };
        match (first.trim().parse(), count.trim().parse()) {
            (Ok(first), Ok(count)) if !owner.is_empty() => Ok(Entry { line, owner, first, count }),
            _ => Err(line),
        }
    })
}

/// The ranges of a user in the text of `/etc/subuid` or `/etc/subgid`, in the order of the file; both files name *users*, by
/// name or uid. Lines that are no entries say nothing.
pub fn ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<Range> {
    let uid = uid.to_string();
    let mut ranges: Vec<Range> = Vec::new();
    let own = entries(text).flatten().filter(|entry| Some(entry.owner) == name || entry.owner == uid);
    for range in own.filter_map(|entry| entry.range()) {
        // A range that overlaps an earlier one can't be mapped twice.
        let overlaps =
            |other: &Range| range.first < other.first + other.count && other.first < range.first + range.count;
        if !ranges.iter().any(overlaps) {
            ranges.push(range);
        }
    }
    ranges
}

/// The map for the own id `own` and `ranges`, first ids inside first. Ranges with the own id in them lose it.
pub fn map(own: u32, ranges: &[Range], layout: Layout) -> Vec<IdMap> {
    let mut free: Vec<Range> = Vec::with_capacity(ranges.len() + 1);
    for range in ranges {
        let end = range.first + range.count;
        if (range.first..end).contains(&own) {
            free.push(Range { first: range.first, count: own - range.first });
            free.push(Range { first: own + 1, count: end - own - 1 });
        } else {
            free.push(*range);
        }
    }
    free.retain(|range| range.count > 0);

    let own_inside = if layout == Layout::Root { 0 } else { own };
    let mut map = Vec::with_capacity(free.len() + 2);
    let mut next = 0u32;
    for Range { mut first, mut count } in free {
        while count > 0 {
            if next == own_inside {
                map.push(IdMap { container_id: next, host_id: own, size: 1 });
                next += 1;
            }
            let until_own = if next < own_inside { own_inside - next } else { u32::MAX - next };
            let size = count.min(until_own);
            if size == 0 {
                break; // All ids that exist are used.
            }
            map.push(IdMap { container_id: next, host_id: first, size });
            next += size;
            first += size;
            count -= size;
        }
    }
    if next <= own_inside {
        map.push(IdMap { container_id: own_inside, host_id: own, size: 1 });
    }
    // The own id must be among those that stay; it comes early, unless there are hundreds of ranges in front of it.
    if map.len() > MAX_EXTENTS {
        let own_at = map.iter().position(|extent| extent.host_id == own).unwrap_or(0);
        if own_at >= MAX_EXTENTS {
            map.swap(MAX_EXTENTS - 1, own_at);
        }
        map.truncate(MAX_EXTENTS);
    }
    map
}

/// What a container's ids are to be.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Login name of the user, if there is one.
    pub name: Option<&'a str>,
    /// User id: it is what both files are searched for.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Layout of the ids inside.
    pub layout: Layout,
    /// The highest id that must exist inside, for example that of the image's user.
    pub highest: u32,
}

/// The user and group maps of a container, from the texts of `/etc/subuid` and `/etc/subgid`.
///
/// # Errors
/// [`SubidError::NoRange`], and [`SubidError::TooFew`] when [`Request::highest`] is not covered.
pub fn maps(request: &Request<'_>, subuid: &str, subgid: &str) -> Result<(Vec<IdMap>, Vec<IdMap>), SubidError> {
    let one = |kind: IdKind, own: u32, text: &str| {
        let user = || request.name.map_or_else(|| request.uid.to_string(), str::to_owned);
        let ranges = ranges(text, request.name, request.uid);
        if ranges.is_empty() {
            return Err(SubidError::NoRange { kind, user: user() });
        }
        let map = map(own, &ranges, request.layout);
        let covered =
            |extent: &IdMap| (extent.container_id..extent.container_id + extent.size).contains(&request.highest);
        if !map.iter().any(covered) {
            let have = ranges.iter().map(|range| u64::from(range.count)).sum();
            return Err(SubidError::TooFew { kind, user: user(), have, need: u64::from(request.highest) });
        }
        Ok(map)
    };
    Ok((one(IdKind::User, request.uid, subuid)?, one(IdKind::Group, request.gid, subgid)?))
}

/// Writes the maps of process `pid`, which has just entered a new user namespace, by newuidmap and newgidmap at once.
///
/// # Errors
/// Every way in which the two programs can be missing, powerless or unwilling.
pub fn write_maps(pid: u32, uids: &[IdMap], gids: &[IdMap]) -> Result<(), SubidError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let running = [(IdKind::User, uids), (IdKind::Group, gids)].map(|(kind, map)| {
        let program = find_program(kind, &path)?;
        let child = Command::new(&program)
            .args(arguments(pid, map))
            .env("LC_ALL", "C") // The message is looked into for the hint.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| SubidError::Start { path: program.clone(), source })?;
        Ok((kind, program, child))
    });
    // Both are waited for, whatever became of the first, so that no process is left.
    let ended = running.map(|running| {
        let (kind, path, child) = running?;
        let output = child.wait_with_output().map_err(|source| SubidError::Start { path: path.clone(), source })?;
        if output.status.success() {
            return Ok(());
        }
        if let Some(reason) = powerless(&path) {
            return Err(reason);
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(SubidError::Refused { kind, status: output.status, message })
    });
    ended.into_iter().collect()
}

/// `PID INSIDE OUTSIDE COUNT …`
fn arguments(pid: u32, map: &[IdMap]) -> impl Iterator<Item = String> + '_ {
    let numbers = map.iter().flat_map(|extent| [extent.container_id, extent.host_id, extent.size]);
    std::iter::once(pid).chain(numbers).map(|number| number.to_string())
}

/// Looks in `PATH` and then where distributions put it: jobs often run with an odd `PATH`.
fn find_program(kind: IdKind, path: &OsStr) -> Result<PathBuf, SubidError> {
    let usual = [Path::new("/usr/bin"), Path::new("/bin"), Path::new("/usr/sbin")];
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .chain(usual.into_iter().map(Path::to_owned))
        .map(|dir| dir.join(kind.program()))
        .find(|candidate| std::fs::metadata(candidate).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0))
        .ok_or(SubidError::NoProgram { kind })
}

/// Why a program that was started can't have had any privileges. Asked only after it failed.
fn powerless(path: &Path) -> Option<SubidError> {
    if rustix::process::getuid().is_root() {
        return None;
    }
    let path = path.to_owned();
    if rustix::thread::no_new_privs().unwrap_or(false) {
        return Some(SubidError::NoNewPrivileges { path });
    }
    let nosuid = rustix::fs::statvfs(&path).is_ok_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID));
    if nosuid {
        return Some(SubidError::NosuidMount { path });
    }
    let set_user_id = std::fs::metadata(&path).is_ok_and(|file| file.mode() & 0o4000 != 0 && file.uid() == 0);
    let mut value = [0u8; 64];
    let name = OsStr::from_bytes(b"security.capability");
    let has_capabilities = rustix::fs::getxattr(&path, name, &mut value).is_ok_and(|length| length > 0);
    (!set_user_id && !has_capabilities).then_some(SubidError::NotPrivileged { path })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent(container_id: u32, host_id: u32, size: u32) -> IdMap {
        IdMap { container_id, host_id, size }
    }

    fn range(first: u32, count: u32) -> Range {
        Range { first, count }
    }

    #[test]
    fn ranges_are_found_by_name_and_by_uid_and_nonsense_is_skipped() {
        let text = "other:1:5\nme:100000:65536\n1000:300000:10\n# me:1:1\nme:200000\nme:x:1\nme:5:0\nme:4294967295:1\n\
            me:100010:5\nme:4294967290:100\nme:1:2:3\n:1:1\n1000:7:1";
        assert_eq!(ranges(text, Some("me"), 1000), [range(100000, 65536), range(300000, 10), range(7, 1)]);
        assert_eq!(ranges(text, None, 1000), [range(300000, 10), range(7, 1)]);
        assert_eq!(ranges(text, Some(""), 1), []);
    }

    #[test]
    fn root_inside_is_the_user_and_the_ranges_follow() {
        let map = map(1000, &[range(100000, 65536), range(300000, 10)], Layout::Root);
        assert_eq!(map, [extent(0, 1000, 1), extent(1, 100000, 65536), extent(65537, 300000, 10)]);
    }

    #[test]
    fn keep_id_puts_the_ranges_around_the_own_id() {
        let two = [range(100000, 600), range(200000, 1000)];
        let expected =
            [extent(0, 100000, 600), extent(600, 200000, 400), extent(1000, 1000, 1), extent(1001, 200400, 600)];
        assert_eq!(map(1000, &two, Layout::KeepId), expected);
        // Too few to reach the own id: a gap stays.
        assert_eq!(map(1000, &[range(5000, 3)], Layout::KeepId), [extent(0, 5000, 3), extent(1000, 1000, 1)]);
    }

    #[test]
    fn the_own_id_in_a_range_is_mapped_once() {
        let map = map(1000, &[range(999, 3)], Layout::Root);
        assert_eq!(map, [extent(0, 1000, 1), extent(1, 999, 1), extent(2, 1001, 1)]);
    }

    #[test]
    fn hundreds_of_ranges_stay_within_what_the_kernel_takes() {
        let many: Vec<_> = (0..500).map(|index| range(100_000 + 10 * index, 5)).collect();
        for (own, layout) in [(1000, Layout::Root), (60_000, Layout::KeepId), (2_000, Layout::KeepId)] {
            let map = map(own, &many, layout);
            assert_eq!(map.len(), MAX_EXTENTS);
            assert!(map.iter().any(|extent| extent.host_id == own));
        }
    }

    #[test]
    fn missing_and_short_ranges_are_explained() {
        let request = Request { name: Some("me"), uid: 1000, gid: 100, layout: Layout::Root, highest: 65534 };
        let error = maps(&request, "me:100000:65536", "").unwrap_err();
        assert_eq!(error.to_string(), "/etc/subgid gives user me no group ids");
        assert!(error.hint().contains("usermod --add-subuids"), "{}", error.hint());
        let error = maps(&request, "me:100000:1000", "me:100000:65536").unwrap_err();
        assert_eq!(error.to_string(), "/etc/subuid gives user me 1000 user ids, and the container needs 65534");
        let (uids, gids) = maps(&request, "me:100000:65536", "1000:100000:65536").unwrap();
        assert_eq!((uids[0], gids[0]), (extent(0, 1000, 1), extent(0, 100, 1)));
        let error = crate::Error::from(maps(&Request { name: None, ..request }, "", "").unwrap_err());
        assert_eq!(
            error.to_string(),
            "cannot map user ids into the container: /etc/subuid gives user 1000 no user ids"
        );
    }

    #[test]
    fn programs_are_found_outside_of_an_odd_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("newuidmap"), "").unwrap(); // Not executable: no candidate.
        let found = find_program(IdKind::User, dir.path().as_os_str());
        assert!(found.is_ok_and(|path| !path.starts_with(dir.path())) || !Path::new("/usr/bin/newuidmap").exists());
        assert!(arguments(7, &[extent(0, 1000, 1), extent(1, 5, 9)]).eq(["7", "0", "1000", "1", "1", "5", "9"]));
    }

    proptest! {
        #[test]
        fn maps_never_overlap_and_always_have_the_own_id(
            own in 0u32..200_000,
            starts in proptest::collection::vec((0u32..300_000, 1u32..70_000), 0..6),
            keep in any::<bool>(),
        ) {
            let text: String = starts.iter().map(|(first, count)| format!("me:{first}:{count}\n")).collect();
            let layout = if keep { Layout::KeepId } else { Layout::Root };
            let map = map(own, &ranges(&text, Some("me"), 1), layout);
            let inside = if keep { own } else { 0 };
            prop_assert!(map.contains(&extent(inside, own, 1)), "{map:?}");
            for (index, one) in map.iter().enumerate() {
                prop_assert!(one.size > 0);
                for two in &map[index + 1..] {
                    prop_assert!(one.container_id + one.size <= two.container_id, "{map:?}");
                    prop_assert!(one.host_id + one.size <= two.host_id || two.host_id + two.size <= one.host_id, "{map:?}");
                }
            }
        }
    }
}
