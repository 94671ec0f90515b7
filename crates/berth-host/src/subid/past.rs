//! Entries of today beside those of before: who has got whose ids since, and with them the files that containers keep.

use berth_container::subid::entries;

use crate::subid::IdKind;
use crate::subid::check::{Finding, Kind, MAX_PAIRS};
use crate::subid::users::{Accounts, Index};

/// A range, whose it is or was.
struct Held<'a> {
    name: &'a str,
    line: usize,
    first: u64,
    end: u64,
    past: bool,
}

/// Ids that somebody else had before, by the texts of both files then and now.
pub fn inherited(past: [&str; 2], now: [&str; 2], accounts: &Accounts) -> Vec<Finding> {
    let index = Index::new(&accounts.users);
    let mut findings = Vec::new();
    for (at, kind) in [IdKind::User, IdKind::Group].into_iter().enumerate() {
        let mut all: Vec<Held<'_>> = Vec::new();
        for (text, past) in [(past[at], true), (now[at], false)] {
            all.extend(entries(text).flatten().filter(|entry| entry.count > 0).map(|entry| Held {
                name: index.owner(entry.owner).map_or(entry.owner, |user| &user.name),
                line: entry.line,
                first: entry.first,
                end: entry.first.saturating_add(entry.count),
                past,
            }));
        }
        all.sort_by_key(|held| (held.first, !held.past));
        pairs(kind, all, &mut findings);
    }
    findings
}

fn pairs(kind: IdKind, all: Vec<Held<'_>>, findings: &mut Vec<Finding>) {
    let what = if kind == IdKind::User { "user" } else { "group" };
    let mut open: Vec<Held<'_>> = Vec::new();
    let mut told = 0;
    for two in all {
        open.retain(|one| one.end > two.first);
        for one in &open {
            let (then, now) = if one.past { (one, &two) } else { (&two, one) };
            if one.past == two.past || one.name == two.name || told == MAX_PAIRS {
                continue;
            }
            told += 1;
            let end = one.end.min(two.end);
            findings.push(Finding {
                kind: Kind::Inherited,
                file: kind,
                lines: vec![now.line],
                ids: Some((two.first, end - 1)),
                who: vec![now.name.to_owned(), then.name.to_owned()],
                message: format!("{} has {} {what} ids that {} had before", now.name, end - two.first, then.name),
                reach: Some(format!(
                    "{} can read and change what {}'s containers kept in that time",
                    now.name, then.name
                )),
            });
        }
        open.push(two);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subid::users::passwd;

    #[test]
    fn who_comes_after_somebody_who_left_has_the_ids_of_the_one_before() {
        let accounts = Accounts { users: passwd("alice:x:1001:100\nbob:x:1002:100\n"), groups: Vec::new() };
        let past = "999:65536:65536\n1001:131072:65536\n1002:196608:65536\n";
        let now = "1001:65536:65536\nbob:131072:65536\n";
        let found = inherited([past, past], [now, now], &accounts);
        let told: Vec<_> = found.iter().map(|found| (found.lines[0], found.ids, found.message.as_str())).collect();
        assert_eq!(
            told,
            [
                (1, Some((65_536, 131_071)), "alice has 65536 user ids that 999 had before"),
                (2, Some((131_072, 196_607)), "bob has 65536 user ids that alice had before"),
                (1, Some((65_536, 131_071)), "alice has 65536 group ids that 999 had before"),
                (2, Some((131_072, 196_607)), "bob has 65536 group ids that alice had before"),
            ]
        );
        assert_eq!(
            found[1].reach.as_deref().unwrap(),
            "bob can read and change what alice's containers kept in that time"
        );
        assert_eq!(inherited([past, ""], [past, now], &accounts), []);
        // A part of a range counts, too.
        let part = inherited(["alice:1000000:65536\n", ""], ["bob:1065000:65536\n", ""], &accounts);
        assert_eq!(part[0].ids, Some((1_065_000, 1_065_535)));
    }
}
