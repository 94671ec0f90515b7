//! From ranges of another scheme to those of the rule, files and all.
//!
//! ```text
//! 1 journal      what will be done, on disk before anything is            planned
//! 2 withdraw     the users' old entries leave both files: nobody starts   withdrawn
//!                containers with the old ids any more
//! 3 shift        user by user, tree by tree, owners go to the new range   each user's number of steps done
//! 4 entries      the new ones are written                                 the journal is renamed to JOURNAL.done
//! ```
//!
//! Killed anywhere, the same command goes on: steps 2 to 4 may each be done again. Step 3 relies on an id being either old or new.
//! Where a user's two ranges have ids in common, the owners go by a third range, which nobody has, in two steps.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use berth_container::subid::{entries, ranges};
use serde::{Deserialize, Serialize};

use crate::subid::files::{Conflict, FileError, Files, Wanted, merge, replace};
use crate::subid::lock::with_suffix;
use crate::subid::plan::Plan;
use crate::subid::shift::{Links, Move, Moves, Noted, Owners, Report, Shift, ShiftError, Sink, moves, resume};
use crate::subid::users::{Accounts, Index, User};
use crate::subid::{Range, last};

/// Where a migration under way is kept.
pub const JOURNAL: &str = "/var/lib/berth/subid-migration.json";

/// One user's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// First id and number of the new range.
    pub new: (u32, u32),
    /// What is done to the trees, one after the other.
    pub steps: Vec<Moves>,
    /// How many of them were done.
    pub done: usize,
    /// Trees that are there.
    pub trees: Vec<PathBuf>,
}

/// A user who stays as they are, and why.
pub type Left = (String, String);

/// All that is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// The two files.
    subuid: PathBuf,
    subgid: PathBuf,
    /// Everybody's part.
    pub parts: Vec<Part>,
    /// Owners of entries that give nothing to anybody: groups in the file of group ids.
    strays: Vec<String>,
    withdrawn: bool,
}

/// Why a migration stopped.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each variant is its message.
pub enum MigrateError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Shift(#[from] ShiftError),
    #[error("cannot keep the journal {}: {source}", path.display())]
    Journal { path: PathBuf, source: io::Error },
    #[error("{} is no journal of a migration: {source}", path.display())]
    Garbled { path: PathBuf, source: serde_json::Error },
    #[error("process {pid} runs with the id {id}, which is to move")]
    Busy { pid: u32, id: u32 },
}

/// Works out what is to be done. `old` are the texts by which users had ranges until now; `trees` says where a user's files may be.
pub fn prepare(
    files: &Files,
    old: [&str; 2],
    plan: &Plan<'_>,
    accounts: &Accounts,
    trees: impl Fn(&User) -> Vec<PathBuf>,
) -> (Migration, Vec<Left>) {
    let mut taken: Vec<Range> = plan.ranges.iter().map(|planned| planned.range).collect();
    taken.extend(old.iter().flat_map(|text| entries(text)).flatten().filter_map(|entry| entry.range()));
    taken.sort_unstable();
    let index = Index::new(&accounts.users);
    let is_group = |owner: &str| {
        accounts.groups.iter().any(|group| group.name == owner || group.gid.to_string() == owner)
            || accounts.users.iter().any(|user| user.gid.to_string() == owner)
    };
    let mut strays: Vec<String> = entries(old[1])
        .flatten()
        .filter(|entry| index.owner(entry.owner).is_none() && is_group(entry.owner))
        .map(|entry| entry.owner.to_owned())
        .collect();
    strays.dedup();
    let mut migration = Migration {
        subuid: files.subuid.clone(),
        subgid: files.subgid.clone(),
        parts: Vec::new(),
        strays,
        withdrawn: false,
    };
    let mut left = Vec::new();
    // One look at each file, not one for each user.
    let owned = old.map(by_owner);
    for planned in &plan.ranges {
        let user = planned.user;
        let have = [0, 1].map(|file| {
            let text: String = [user.name.clone(), user.uid.to_string()]
                .iter()
                .filter_map(|key| owned[file].get(key.as_str()))
                .flatten()
                .map(|line| format!("{line}\n"))
                .collect();
            ranges(&text, Some(&user.name), user.uid)
        });
        if have.iter().all(Vec::is_empty) || have.iter().all(|ranges| **ranges == [planned.range]) {
            continue;
        }
        let (Some(uids), Some(gids)) = (moves(&have[0], planned.range), moves(&have[1], planned.range)) else {
            left.push((user.name.clone(), format!("has more ids than the {} of the rule", planned.range.count)));
            continue;
        };
        let Some(steps) = steps(Moves { uids, gids }, &taken) else {
            left.push((
                user.name.clone(),
                "has ids of the new range already, and there is no room to go by".to_owned(),
            ));
            continue;
        };
        migration.parts.push(Part {
            name: user.name.clone(),
            uid: user.uid,
            new: (planned.range.first, planned.range.count),
            steps,
            done: 0,
            trees: trees(user).into_iter().filter(|tree| tree.is_dir()).collect(),
        });
    }
    left.extend(plan.refused.iter().map(|(user, reason)| (user.name.clone(), reason.to_string())));
    (migration, left)
}

fn by_owner(text: &str) -> std::collections::HashMap<&str, Vec<&str>> {
    let mut owned: std::collections::HashMap<&str, Vec<&str>> = std::collections::HashMap::new();
    for line in text.lines() {
        owned.entry(line.split(':').next().unwrap_or_default()).or_default().push(line);
    }
    owned
}

/// One step, or two by a range that nobody has where old ids are new ones, too.
fn steps(moves: Moves, taken: &[Range]) -> Option<Vec<Moves>> {
    let meets = |moves: &[Move]| {
        let met = |a: &Move, b: &Move| a.from < b.to + b.count && b.to < a.from + a.count;
        moves.iter().any(|a| moves.iter().any(|b| met(a, b)))
    };
    if moves.is_empty() {
        return Some(Vec::new());
    }
    if !meets(&moves.uids) && !meets(&moves.gids) {
        return Some(vec![moves]);
    }
    let total = |moves: &[Move]| moves.iter().map(|one| one.count).sum::<u32>();
    let via = free(taken, total(&moves.uids).max(total(&moves.gids)))?;
    let split = |moves: &[Move]| {
        let mut next = via;
        let both = moves.iter().map(|one| {
            let by = next;
            next += one.count;
            (Move { to: by, ..*one }, Move { from: by, ..*one })
        });
        both.unzip::<Move, Move, Vec<Move>, Vec<Move>>()
    };
    let (uids, gids) = (split(&moves.uids), split(&moves.gids));
    Some(vec![Moves { uids: uids.0, gids: gids.0 }, Moves { uids: uids.1, gids: gids.1 }])
}

/// The first id of a run of ids in no range, from above: accounts are below.
fn free(taken: &[Range], count: u32) -> Option<u32> {
    let mut top = u32::MAX - 2;
    for range in taken.iter().rev() {
        if top.checked_sub(last(*range)).is_some_and(|room| room >= count) {
            break;
        }
        top = top.min(range.first.saturating_sub(1));
    }
    top.checked_sub(count).map(|first| first + 1).filter(|first| *first > 1 << 20)
}

/// Told while a migration goes on.
pub trait Watch {
    /// A file whose owner is to change.
    fn file(&mut self, user: &str, owners: &Owners);
    /// A user's trees are done.
    fn user(&mut self, user: &str, report: &Report);
}

/// Keeps the journal's second file, of what a change of owner takes away.
struct Recorder<'a> {
    user: &'a str,
    watch: &'a mut dyn Watch,
    /// Nothing is noted where nothing changes.
    notes: Option<fs::File>,
}

impl Sink for Recorder<'_> {
    fn found(&mut self, owners: Owners) -> io::Result<()> {
        self.watch.file(self.user, &owners);
        Ok(())
    }

    fn note(&mut self, noted: &Noted) -> io::Result<()> {
        let Some(notes) = &mut self.notes else { return Ok(()) };
        // Of all notes the last whole line is what matters after an interruption.
        let text = format!("{}\n", serde_json::to_string(noted)?);
        notes.write_all(text.as_bytes())?;
        notes.sync_data()
    }
}

struct Silent;

impl Watch for Silent {
    fn file(&mut self, _: &str, _: &Owners) {}
    fn user(&mut self, _: &str, _: &Report) {}
}

impl Migration {
    /// A migration that was begun, if there is one.
    ///
    /// # Errors
    /// There is a journal that cannot be read.
    pub fn begun(journal: &Path) -> Result<Option<Migration>, MigrateError> {
        match fs::read(journal) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|source| MigrateError::Garbled { path: journal.to_owned(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(MigrateError::Journal { path: journal.to_owned(), source }),
        }
    }

    /// Tells what [`Migration::apply`] would do to files; changes nothing.
    ///
    /// # Errors
    /// A tree cannot be read.
    pub fn scan(&self, watch: &mut dyn Watch) -> Result<(), MigrateError> {
        for part in &self.parts {
            let moves = part.steps.get(part.done).cloned().unwrap_or_default();
            let mut links = Links::new();
            let report = part.walk(&moves, false, &mut links, watch, None)?;
            watch.user(&part.name, &report);
        }
        Ok(())
    }

    /// A process that runs with an id that is to move.
    pub fn busy(&self) -> Option<MigrateError> {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            let id = metadata.uid();
            let moving = |one: &Move| id >= one.from && id - one.from < one.count;
            if self.parts.iter().any(|part| part.steps.iter().any(|step| step.uids.iter().any(moving))) {
                return Some(MigrateError::Busy { pid, id });
            }
        }
        None
    }

    /// Does what is not done yet. Gives the entries that could not be written.
    ///
    /// # Errors
    /// Whatever stops it; calling it again with what [`Migration::begun`] gives goes on.
    pub fn apply(&mut self, journal: &Path, watch: &mut dyn Watch) -> Result<Vec<Conflict>, MigrateError> {
        let failed = |source| MigrateError::Journal { path: journal.to_owned(), source };
        if let Some(dir) = journal.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        let notes = with_suffix(journal, ".notes");
        if let Some(noted) = last_note(&notes) {
            resume(&noted).map_err(failed)?;
        }
        self.save(journal)?;
        let files = Files { subuid: self.subuid.clone(), subgid: self.subgid.clone() };
        if !self.withdrawn {
            files.change(|_, text| self.withdraw(text))?;
            self.withdrawn = true;
            self.save(journal)?;
        }
        for at in 0..self.parts.len() {
            let mut total = Report::default();
            while let Some(moves) = self.parts[at].steps.get(self.parts[at].done).cloned() {
                let part = &self.parts[at];
                let mut links = Links::new();
                part.walk(&moves, false, &mut links, &mut Silent, None)?;
                let file = fs::OpenOptions::new().create(true).append(true).open(&notes).map_err(failed)?;
                total = part.walk(&moves, true, &mut links, watch, Some(file))?;
                self.parts[at].done += 1;
                self.save(journal)?;
            }
            watch.user(&self.parts[at].name, &total);
        }
        let mut conflicts = Vec::new();
        let wanted: Vec<Wanted<'_>> = self.parts.iter().map(Part::wanted).collect();
        files.change(|_, text| {
            let merged = merge(text, &wanted);
            conflicts.extend(merged.conflicts);
            (merged.added > 0).then_some(merged.text)
        })?;
        fs::rename(journal, with_suffix(journal, ".done")).map_err(failed)?;
        let _ = fs::remove_file(&notes);
        Ok(conflicts)
    }

    fn save(&self, journal: &Path) -> Result<(), MigrateError> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        text.and_then(|text| replace(journal, &text))
            .map_err(|source| MigrateError::Journal { path: journal.to_owned(), source })
    }

    /// A text without the entries of those who move, and without those that give nothing to anybody.
    fn withdraw(&self, text: &str) -> Option<String> {
        let own: std::collections::HashSet<String> = self
            .parts
            .iter()
            .flat_map(|part| [part.name.clone(), part.uid.to_string()])
            .chain(self.strays.iter().cloned())
            .collect();
        let kept: String = text
            .split_inclusive('\n')
            .filter(|line| !own.contains(line.split(':').next().unwrap_or_default()))
            .collect();
        (kept != text).then_some(kept)
    }
}

impl Part {
    fn wanted(&self) -> Wanted<'_> {
        Wanted { name: &self.name, uid: self.uid, range: Range { first: self.new.0, count: self.new.1 } }
    }

    fn walk(
        &self,
        moves: &Moves,
        apply: bool,
        links: &mut Links,
        watch: &mut dyn Watch,
        notes: Option<fs::File>,
    ) -> Result<Report, ShiftError> {
        let mut report = Report::default();
        let mut sink = Recorder { user: &self.name, watch, notes };
        for tree in &self.trees {
            let mut shift = Shift { uid: self.uid, moves, apply, links, sink: &mut sink };
            match shift.walk(tree, &mut report) {
                // Told, and no reason to keep everybody else waiting.
                Err(ShiftError::NotTheirs { path, .. }) => report.not_theirs.push(path),
                // Gone since it was found: nothing to do.
                Err(ShiftError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound && !tree.exists() => {}
                other => other?,
            }
        }
        Ok(report)
    }
}

/// The last whole line of the notes.
fn last_note(path: &Path) -> Option<Noted> {
    let text = fs::read_to_string(path).ok()?;
    text.split_inclusive('\n')
        .rev()
        .filter(|line| line.ends_with('\n'))
        .find_map(|line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subid::plan::plan;
    use crate::subid::rule::Rule;
    use crate::subid::users::passwd;

    fn accounts() -> Accounts {
        Accounts {
            users: passwd("alice:x:1001:100\nbob:x:1002:100\ncarol:x:1003:500\n"),
            groups: crate::subid::users::groups("users:x:100:\nstaff:x:500:\n"),
        }
    }

    #[test]
    fn everybody_with_other_ranges_has_a_part() {
        let accounts = accounts();
        let rule = Rule::default();
        let plan = plan(&rule, &accounts.users);
        let subuid = "alice:10010001:65536\n1002:10020001:65536\ncarol:65732608:65536\n";
        let subgid = "1001:10010001:65536\n500:5:6\ncarol:65732608:65536\n";
        let (migration, left) = prepare(&Files::default(), [subuid, subgid], &plan, &accounts, |_| Vec::new());
        assert_eq!(left, []);
        assert_eq!(migration.parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);
        let to = Move { from: 10_010_001, to: 65_601_536, count: 65_536 };
        assert_eq!(migration.parts[0].steps, [Moves { uids: vec![to], gids: vec![to] }]);
        assert_eq!(migration.parts[1].steps[0].gids, []);
        assert_eq!(migration.strays, ["500"]);
        assert_eq!(migration.withdraw(subuid).unwrap(), "carol:65732608:65536\n");
        assert_eq!(migration.withdraw(subgid).unwrap(), "carol:65732608:65536\n");
    }

    #[test]
    fn ranges_with_ids_in_common_go_by_a_third() {
        let one = Move { from: 65_601_000, to: 65_601_536, count: 65_536 };
        let moves = Moves { uids: vec![one], gids: vec![one] };
        let taken =
            [Range { first: 65_601_000, count: 65_536 }, Range { first: 4_294_836_224 - 65_536, count: 65_536 }];
        let two = steps(moves, &taken).unwrap();
        let via = two[0].uids[0].to;
        assert_eq!(two[1].uids, [Move { from: via, ..one }]);
        assert!(via > 4_294_836_223 && via + 65_535 < u32::MAX - 1, "{via}");
        assert_eq!(free(&[Range { first: 65_536, count: u32::MAX - 65_536 }], 65_536), None);
    }

    #[test]
    fn a_migration_without_trees_changes_the_files_and_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { subuid: dir.path().join("subuid"), subgid: dir.path().join("subgid") };
        let accounts = accounts();
        let lines: String = accounts.users.iter().map(|u| format!("{}:{}0001:65536\n", u.name, u.uid)).collect();
        let old = format!("sys:100000:65536\n{lines}");
        fs::write(&files.subuid, &old).unwrap();
        fs::write(&files.subgid, &old).unwrap();
        let (rule, journal) = (Rule::default(), dir.path().join("state/journal"));
        let plan = plan(&rule, &accounts.users);
        let (mut migration, _) = prepare(&files, [&old, &old], &plan, &accounts, |_| Vec::new());
        assert_eq!(migration.apply(&journal, &mut Silent).unwrap(), []);
        let new = "sys:100000:65536\nalice:65601536:65536\nbob:65667072:65536\ncarol:65732608:65536\n";
        assert_eq!(files.texts().unwrap(), [new, new]);
        assert_eq!(Migration::begun(&journal).unwrap(), None);
        // Begun and interrupted after the entries were withdrawn: it goes on.
        fs::write(&files.subuid, "sys:100000:65536\n").unwrap();
        migration.withdrawn = true;
        migration.save(&journal).unwrap();
        let mut again = Migration::begun(&journal).unwrap().unwrap();
        again.apply(&journal, &mut Silent).unwrap();
        assert_eq!(files.texts().unwrap(), [new, new]);
    }
}
