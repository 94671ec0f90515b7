//! The schemes that are widely published: what they gave to users, and how a file of theirs is recognized.
//!
//! | scheme | user ids | group ids |
//! |---|---|---|
//! | hourly, on each host | `uid × 10000 + 1` | `gid × 10000 + 1` |
//! | copied to nodes at boot | from 65536 on, in the order of the users | from 65536 on, in the order of the groups |
//!
//! Both write the *number of a group* where the file of group ids wants a user. Whoever has that number as uid gets the range.

use berth_container::subid::{Entry, entries};

use crate::subid::plan::is_person;
use crate::subid::users::{Accounts, Index, User};

/// Ids of each range.
const COUNT: u64 = 65_536;
/// Where sequential numbering begins.
const FIRST: u64 = 65_536;

/// A scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `uid × 10000 + 1`, 65536 ids each: neighbours overlap.
    TimesTenThousand,
    /// From 65536 on, one after the other in the order of the users: ranges move when somebody leaves.
    Sequential,
}

/// What users had, as the two files that gave it.
pub fn texts(scheme: Scheme, accounts: &Accounts) -> [String; 2] {
    let mut gids: Vec<u32> = if accounts.groups.is_empty() {
        accounts.users.iter().map(|user| user.gid).collect()
    } else {
        accounts.groups.iter().map(|group| group.gid).collect()
    };
    // A list of users names a group with each of its members.
    let mut seen = std::collections::HashSet::new();
    gids.retain(|gid| seen.insert(*gid));
    let uids = accounts.users.iter().map(|user| user.uid).collect();
    [uids, gids].map(|ids: Vec<u32>| {
        let people = ids.into_iter().filter(|id| is_person(*id)).enumerate();
        let line = |(at, id): (usize, u32)| {
            let first = match scheme {
                Scheme::TimesTenThousand => u64::from(id) * 10_000 + 1,
                Scheme::Sequential => FIRST + COUNT * at as u64,
            };
            format!("{id}:{first}:{COUNT}\n")
        };
        people.map(line).collect()
    })
}

/// Which scheme a file of user ids follows, if one of these.
pub fn recognize(text: &str, users: &[User]) -> Option<Scheme> {
    let index = Index::new(users);
    let all: Vec<_> = entries(text).flatten().collect();
    let times = |entry: &&Entry<'_>| {
        index.owner(entry.owner).is_some_and(|user| entry.first.abs_diff(u64::from(user.uid) * 10_000) <= 1)
    };
    let mut firsts: Vec<u64> = all.iter().map(|entry| entry.first).collect();
    firsts.sort_unstable();
    let in_a_row = || firsts.windows(2).all(|pair| pair[1] - pair[0] == COUNT);
    if all.iter().filter(times).count() * 2 > all.len() {
        Some(Scheme::TimesTenThousand)
    } else if firsts.len() > 1 && firsts[0] == FIRST && in_a_row() {
        Some(Scheme::Sequential)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subid::users::{groups, passwd};

    fn accounts() -> Accounts {
        Accounts {
            users: passwd("root:x:0:0\nalice:x:1001:100\nbob:x:1002:1002\ncarol:x:1003:5000\n"),
            groups: groups("root:x:0:\nusers:x:100:\nstaff:x:5000:\nbob:x:1002:\n"),
        }
    }

    #[test]
    fn the_published_schemes_are_recognized_in_what_they_write() {
        let accounts = accounts();
        for scheme in [Scheme::TimesTenThousand, Scheme::Sequential] {
            assert_eq!(recognize(&texts(scheme, &accounts)[0], &accounts.users), Some(scheme));
        }
        assert_eq!(recognize("alice:65601536:65536\nbob:65667072:65536\n", &accounts.users), None);
        // What useradd gives begins elsewhere, and does not move.
        assert_eq!(recognize("alice:100000:65536\nbob:165536:65536\n", &accounts.users), None);
    }

    #[test]
    fn users_and_groups_are_numbered_each_by_themselves() {
        let expected =
            ["1001:65536:65536\n1002:131072:65536\n1003:196608:65536\n", "5000:65536:65536\n1002:131072:65536\n"];
        assert_eq!(texts(Scheme::Sequential, &accounts()), expected);
        let expected = [
            "1001:10010001:65536\n1002:10020001:65536\n1003:10030001:65536\n",
            "5000:50000001:65536\n1002:10020001:65536\n",
        ];
        assert_eq!(texts(Scheme::TimesTenThousand, &accounts()), expected);
        let only_users = Accounts { groups: Vec::new(), ..accounts() };
        assert_eq!(texts(Scheme::Sequential, &only_users)[1], "1002:65536:65536\n5000:131072:65536\n");
    }
}
