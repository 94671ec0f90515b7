//! What is wrong with entries that are there, whoever wrote them, and what it lets whom do.

use std::collections::{HashMap, HashSet};

use berth_container::subid::{Entry, entries};
use serde::Serialize;

use crate::subid::IdKind;
use crate::subid::scheme::{Scheme, recognize};
use crate::subid::users::{Accounts, Index, User};

/// Fewer ids than this, and images with the user `nobody` do not work.
const ENOUGH: u64 = 65_536;
/// One more than the last id.
const END: u64 = 1 << 32;
/// More pairs than this are counted only: thousands of users on one range have millions.
pub(super) const MAX_PAIRS: usize = 1000;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // Said by the message of each finding.
pub enum Kind {
    Overlap,
    Account,
    Wraps,
    Duplicate,
    UnknownUser,
    GroupKey,
    Unpaired,
    TooSmall,
    Malformed,
    Sequential,
    Inherited,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// Of user ids or of group ids.
    #[serde(serialize_with = "file_name")]
    pub file: IdKind,
    /// Lines of the file.
    pub lines: Vec<usize>,
    /// First and last id that it is about, where there are any.
    pub ids: Option<(u64, u64)>,
    /// Names of the users that it is about, or whatever stands in a name's place.
    pub who: Vec<String>,
    /// In words.
    pub message: String,
    /// Who can reach whose files through it.
    pub reach: Option<String>,
}

fn file_name<S: serde::Serializer>(kind: &IdKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *kind == IdKind::User { "subuid" } else { "subgid" })
}

/// An entry and whose it is.
#[derive(Clone, Copy)]
struct Owned<'a> {
    entry: Entry<'a>,
    user: Option<&'a User>,
}

impl<'a> Owned<'a> {
    fn end(&self) -> u64 {
        self.entry.first.saturating_add(self.entry.count)
    }

    /// The name that a person knows.
    fn name(&self) -> &'a str {
        self.user.map_or(self.entry.owner, |user| &user.name)
    }

    fn is_of(&self, other: &Owned<'_>) -> bool {
        self.name() == other.name()
    }
}

/// Looks at the texts of both files.
pub fn check(texts: [&str; 2], accounts: &Accounts) -> Vec<Finding> {
    let index = Index::new(&accounts.users);
    let mut findings = Vec::new();
    let mut all = Vec::new();
    for (kind, text) in [IdKind::User, IdKind::Group].into_iter().zip(texts) {
        let owned = read(kind, text, &index, &mut findings);
        single(kind, &owned, accounts, &mut findings);
        overlaps(kind, &owned, &mut findings);
        meets_accounts(kind, &owned, accounts, &mut findings);
        all.push(owned);
    }
    unpaired(&all, &mut findings);
    findings.extend(moving(texts[0], accounts));
    findings
}

/// Ranges that will move, as far as the file shows it: those of the past show what did ([`past`](crate::subid::past)).
fn moving(text: &str, accounts: &Accounts) -> Option<Finding> {
    (recognize(text, &accounts.users) == Some(Scheme::Sequential)).then(|| Finding {
        kind: Kind::Sequential,
        file: IdKind::User,
        lines: Vec::new(),
        ids: None,
        who: Vec::new(),
        message: "the ranges are numbered one after the other from 65536 on: they move when somebody leaves".to_owned(),
        reach: Some(
            "everybody behind one who leaves gets the range of the user before, and with it the files of that user's \
             containers"
                .to_owned(),
        ),
    })
}

/// Owners of entries whom nobody of these accounts is: name services may know them without listing them.
pub fn unknown_owners<'a>(texts: [&'a str; 2], accounts: &Accounts) -> Vec<&'a str> {
    let index = Index::new(&accounts.users);
    let owners: HashSet<&str> = texts.into_iter().flat_map(entries).flatten().map(|entry| entry.owner).collect();
    owners.into_iter().filter(|owner| index.owner(owner).is_none()).collect()
}

fn read<'a>(kind: IdKind, text: &'a str, index: &Index<'a>, findings: &mut Vec<Finding>) -> Vec<Owned<'a>> {
    let mut owned = Vec::new();
    for line in entries(text) {
        match line {
            Ok(entry) => owned.push(Owned { entry, user: index.owner(entry.owner) }),
            Err(line) => findings.push(Finding {
                kind: Kind::Malformed,
                file: kind,
                lines: vec![line],
                ids: None,
                who: Vec::new(),
                message: "is no entry: NAME-OR-UID:FIRST:COUNT is wanted".to_owned(),
                reach: None,
            }),
        }
    }
    owned
}

/// What an entry has wrong by itself.
fn single(kind: IdKind, owned: &[Owned<'_>], accounts: &Accounts, findings: &mut Vec<Finding>) {
    let groups: HashSet<&str> = accounts.groups.iter().map(|group| group.name.as_str()).collect();
    let gids: HashSet<u32> =
        accounts.groups.iter().map(|group| group.gid).chain(accounts.users.iter().map(|user| user.gid)).collect();
    let mut total: HashMap<&str, (u64, usize)> = HashMap::new();
    for one in owned {
        let Entry { line, owner, first, count } = one.entry;
        let mut found = |kind_of, ids, message: String, reach| {
            let who = vec![one.name().to_owned()];
            findings.push(Finding { kind: kind_of, file: kind, lines: vec![line], ids, who, message, reach });
        };
        let ids = Some((first, one.end().saturating_sub(1)));
        if one.end() >= END {
            let reach = Some(format!(
                "the kernel maps nothing of it; a tool that computes with 32 bits takes it for {}",
                first % END
            ));
            found(Kind::Wraps, ids, format!("{}'s range ends above 2^32 - 2, the last id", one.name()), reach);
        }
        if one.user.is_none() {
            let is_group = groups.contains(owner) || owner.parse().is_ok_and(|gid| gids.contains(&gid));
            if kind == IdKind::Group && is_group {
                let message = format!("{owner} is a group: both files name users, so that nobody has this range");
                found(Kind::GroupKey, ids, message, None);
            } else {
                let reach = format!("whoever is called {owner} next gets the range, and the files in it");
                found(Kind::UnknownUser, ids, format!("no user is called {owner}"), Some(reach));
            }
        }
        let sum = total.entry(one.name()).or_insert((0, line));
        sum.0 = sum.0.saturating_add(count);
    }
    for (name, (count, line)) in total {
        if count < ENOUGH {
            findings.push(Finding {
                kind: Kind::TooSmall,
                file: kind,
                lines: vec![line],
                ids: None,
                who: vec![name.to_owned()],
                message: format!("{name} has {count} ids: images are made for {ENOUGH}"),
                reach: None,
            });
        }
    }
}

/// Ranges that two users have, or one twice.
fn overlaps(kind: IdKind, owned: &[Owned<'_>], findings: &mut Vec<Finding>) {
    let mut sorted: Vec<Owned<'_>> = owned.iter().filter(|one| one.entry.count > 0).copied().collect();
    sorted.sort_by_key(|one| (one.entry.first, one.entry.line));
    let mut open: Vec<Owned<'_>> = Vec::new();
    let (mut told, mut more) = (0, 0usize);
    for two in sorted {
        open.retain(|one| one.end() > two.entry.first);
        for one in &open {
            if told == MAX_PAIRS {
                more += 1;
                continue;
            }
            told += 1;
            findings.push(pair(kind, one, &two));
        }
        open.push(two);
    }
    if more > 0 {
        findings.push(Finding {
            kind: Kind::Overlap,
            file: kind,
            lines: Vec::new(),
            ids: None,
            who: Vec::new(),
            message: format!("{more} further pairs of entries overlap"),
            reach: None,
        });
    }
}

fn pair(kind: IdKind, one: &Owned<'_>, two: &Owned<'_>) -> Finding {
    let (first, end) = (two.entry.first, one.end().min(two.end()));
    let lines = vec![one.entry.line.min(two.entry.line), one.entry.line.max(two.entry.line)];
    let ids = Some((first, end - 1));
    let (a, b) = (one.name(), two.name());
    if one.is_of(two) {
        let message = format!("{a} has {} ids twice", end - first);
        return Finding {
            kind: Kind::Duplicate,
            file: kind,
            lines,
            ids,
            who: vec![a.to_owned()],
            message,
            reach: None,
        };
    }
    // Inside, root is the user and the range begins with 1: the layout of podman, docker and berth.
    let inside = |of: &Owned<'_>| format!("{}-{}", first - of.entry.first + 1, end - of.entry.first);
    let what = if kind == IdKind::User { "user" } else { "group" };
    Finding {
        kind: Kind::Overlap,
        file: kind,
        lines,
        ids,
        who: vec![a.to_owned(), b.to_owned()],
        message: format!("{a} and {b} share {} {what} ids", end - first),
        reach: Some(format!(
            "{a} can read and change what {b}'s containers keep as ids {}, and {b} what {a}'s keep as ids {}",
            inside(two),
            inside(one)
        )),
    }
}

/// Ranges with real accounts in them.
fn meets_accounts(kind: IdKind, owned: &[Owned<'_>], accounts: &Accounts, findings: &mut Vec<Finding>) {
    let mut real: Vec<(u32, &str)> = match kind {
        IdKind::User => accounts.users.iter().map(|user| (user.uid, user.name.as_str())).collect(),
        IdKind::Group => accounts.groups.iter().map(|group| (group.gid, group.name.as_str())).collect(),
    };
    real.sort_unstable();
    let what = if kind == IdKind::User { "user" } else { "group" };
    for one in owned {
        let from = real.partition_point(|(id, _)| u64::from(*id) < one.entry.first);
        let to = real.partition_point(|(id, _)| u64::from(*id) < one.end());
        let met: Vec<_> = real[from..to.max(from)].iter().filter(|(_, name)| *name != one.name()).collect();
        let (Some((first, name)), Some((last, _))) = (met.first(), met.last()) else { continue };
        let others = if met.len() > 1 { format!(" and {} more", met.len() - 1) } else { String::new() };
        findings.push(Finding {
            kind: Kind::Account,
            file: kind,
            lines: vec![one.entry.line],
            ids: Some((u64::from(*first), u64::from(*last))),
            who: vec![one.name().to_owned(), (*name).to_owned()],
            message: format!("{}'s range holds the {what} {name} ({first}){others}", one.name()),
            reach: Some(format!(
                "{} can be {name} in a container, and read and change all of {name}'s files",
                one.name()
            )),
        });
    }
}

/// Users in one file and not in the other.
fn unpaired(all: &[Vec<Owned<'_>>], findings: &mut Vec<Finding>) {
    for (kind, here, there, lacks) in [
        (IdKind::User, 0, 1, "no group ids, so that newgidmap refuses"),
        (IdKind::Group, 1, 0, "no user ids, so that newuidmap refuses"),
    ] {
        let other: HashSet<&str> = all[there].iter().map(Owned::name).collect();
        let mut told = HashSet::new();
        for one in &all[here] {
            if one.user.is_some() && !other.contains(one.name()) && told.insert(one.name()) {
                findings.push(Finding {
                    kind: Kind::Unpaired,
                    file: kind,
                    lines: vec![one.entry.line],
                    ids: None,
                    who: vec![one.name().to_owned()],
                    message: format!("{} has {lacks}", one.name()),
                    reach: None,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subid::users::{groups, passwd};

    fn accounts() -> Accounts {
        Accounts {
            users: passwd("alice:x:1001:100\nbob:x:1002:100\ncarol:x:1003:500\ndave:x:70000:100\n"),
            groups: groups("users:x:100:\nstaff:x:500:carol\nbig:x:80000:\n"),
        }
    }

    fn told(subuid: &str, subgid: &str) -> Vec<(Kind, Vec<usize>, String)> {
        let findings = check([subuid, subgid], &accounts());
        findings.into_iter().map(|found| (found.kind, found.lines, found.message)).collect()
    }

    const GOOD: &str = "alice:65601536:65536\n1002:65667072:65536\n";

    #[test]
    fn what_is_right_is_not_told() {
        assert_eq!(told(GOOD, GOOD), []);
        assert_eq!(told("# a comment\n\n", ""), []);
    }

    #[test]
    fn the_scheme_of_uid_times_ten_thousand_shares_ids_between_neighbours() {
        let text = "alice:10010001:65536\nbob:10020001:65536\n";
        let findings = check([text, text], &accounts());
        assert_eq!(findings.len(), 2, "{findings:?}");
        let found = &findings[0];
        assert_eq!((found.kind, found.ids), (Kind::Overlap, Some((10_020_001, 10_075_536))));
        assert_eq!(found.message, "alice and bob share 55536 user ids");
        assert_eq!(found.who, ["alice", "bob"]);
        assert_eq!(
            found.reach.as_deref().unwrap(),
            "alice can read and change what bob's containers keep as ids 1-55536, and bob what alice's keep as ids 10001-65536"
        );
        assert_eq!(findings[1].message, "alice and bob share 55536 group ids");
    }

    #[test]
    fn the_sequential_scheme_meets_real_accounts() {
        let findings = check(["alice:65536:65536\n", "alice:65536:65536\n"], &accounts());
        assert_eq!(findings[0].message, "alice's range holds the user dave (70000)");
        assert!(findings[0].reach.as_deref().unwrap().starts_with("alice can be dave"));
        assert_eq!(findings[1].message, "alice's range holds the group big (80000)");
        assert_eq!(findings.len(), 2, "one entry is no numbering");
    }

    #[test]
    fn ranges_that_will_move_are_told() {
        let text = "bob:65536:65536\nalice:131072:65536\n1003:196608:65536\n";
        let found: Vec<_> = told(text, text).into_iter().filter(|(kind, ..)| *kind == Kind::Sequential).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].2.contains("they move when somebody leaves"));
    }

    #[test]
    fn every_other_mistake_is_told_with_its_line() {
        let good = |more: &str| format!("{GOOD}{more}");
        for (subuid, subgid, kind, line, message) in [
            (good("alice\n"), GOOD.to_owned(), Kind::Malformed, 3, "is no entry: NAME-OR-UID:FIRST:COUNT is wanted"),
            (
                good("alice:4294950000:65536\n"),
                GOOD.to_owned(),
                Kind::Wraps,
                3,
                "alice's range ends above 2^32 - 2, the last id",
            ),
            (good("gone:3000000000:65536\n"), GOOD.to_owned(), Kind::UnknownUser, 3, "no user is called gone"),
            (
                GOOD.to_owned(),
                good("staff:3000000000:65536\n"),
                Kind::GroupKey,
                3,
                "staff is a group: both files name users, so that nobody has this range",
            ),
            (
                GOOD.to_owned(),
                good("500:3000000000:65536\n"),
                Kind::GroupKey,
                3,
                "500 is a group: both files name users, so that nobody has this range",
            ),
            (
                good("carol:3000000000:65536\n"),
                GOOD.to_owned(),
                Kind::Unpaired,
                3,
                "carol has no group ids, so that newgidmap refuses",
            ),
        ] {
            assert_eq!(told(&subuid, &subgid), [(kind, vec![line], message.to_owned())]);
        }
        let twice = "alice:65601536:65536\n1001:65601536:65536\n";
        assert_eq!(told(twice, twice)[0], (Kind::Duplicate, vec![1, 2], "alice has 65536 ids twice".to_owned()));
        let small = "alice:65601536:1000\n";
        assert_eq!(told(small, small)[0].2, "alice has 1000 ids: images are made for 65536");
    }

    #[test]
    fn a_crowd_on_one_range_is_counted_and_not_listed() {
        let text: String = (0..100).map(|at| format!("{}:1000000:65536\n", 2000 + at)).collect();
        let findings = check([&text, ""], &Accounts::default());
        let overlaps: Vec<_> = findings.iter().filter(|found| found.kind == Kind::Overlap).collect();
        assert_eq!(overlaps.len(), MAX_PAIRS + 1);
        assert_eq!(overlaps[MAX_PAIRS].message, "3950 further pairs of entries overlap");
        assert_eq!(unknown_owners([&text, ""], &accounts()).len(), 100);
    }
}
