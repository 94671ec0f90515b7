//! Everybody's range, and who has none.

use serde::Serialize;

use crate::subid::rule::{Refused, Rule};
use crate::subid::users::User;
use crate::subid::{FIRST_PERSON, Range};

/// A user and the range that the rule gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned<'a> {
    /// Who.
    pub user: &'a User,
    /// What, in both files.
    pub range: Range,
}

/// What the rule says of users.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// In the order of the users.
    pub ranges: Vec<Planned<'a>>,
    /// People without a range, and why.
    pub refused: Vec<(&'a User, Refused)>,
}

/// What is left of 32 bits under a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Uids that the bands have room for.
    pub users: u64,
    /// Ids in all ranges.
    pub ids: u64,
}

/// Asks the rule for each user. Accounts of the system want no range and are left out.
pub fn plan<'a>(rule: &Rule, users: impl IntoIterator<Item = &'a User>) -> Plan<'a> {
    let mut plan = Plan::default();
    for user in users {
        match rule.range(user.uid) {
            Ok(range) => plan.ranges.push(Planned { user, range }),
            Err(Refused::NotAPerson(_)) => {}
            Err(reason) => plan.refused.push((user, reason)),
        }
    }
    plan
}

/// How much a rule takes.
pub fn room(rule: &Rule) -> Room {
    rule.bands().iter().fold(Room { users: 0, ids: 0 }, |room, band| {
        let users = u64::from(band.uids.last - band.uids.first) + 1;
        Room { users: room.users + users, ids: room.ids + users * u64::from(band.count) }
    })
}

/// A site file that serves all these users with 65536 ids each, if 32 bits have room for it: uids that are near each other share a
/// band, with room for those who come.
pub fn propose(users: &[User]) -> Option<String> {
    const NEAR: u32 = 20_000;
    const COUNT: u64 = 65_536;
    let mut uids: Vec<u32> = users.iter().map(|user| user.uid).filter(|uid| is_person(*uid)).collect();
    uids.sort_unstable();
    let mut bands: Vec<(u32, u32)> = Vec::new();
    for uid in uids {
        match bands.last_mut() {
            Some((_, last)) if uid - *last < NEAR => *last = uid,
            _ => bands.push((uid, uid)),
        }
    }
    // Whole thousands: bounds that people can remember, and some room at both ends.
    let bands: Vec<(u32, u32)> =
        bands.iter().map(|&(first, last)| (first / 1000 * 1000, (last / 1000 * 1000).saturating_add(1999))).collect();
    let mut base: u64 = COUNT;
    let mut text = String::new();
    for &(first, last) in &bands {
        let ids = u64::from(last - first + 1) * COUNT;
        // Past every account that is in the way; each lies in one band only, so that one look from below suffices.
        for &(first, last) in &bands {
            if base <= u64::from(last) && u64::from(first) < base + ids {
                base = (u64::from(last) / COUNT + 1) * COUNT;
            }
        }
        text.push_str(&format!("[[bands]]\nuids = \"{first}-{last}\"\nbase = {base}\n"));
        base += ids;
    }
    Rule::parse(&text).is_ok().then_some(text)
}

/// Whether a uid can be a person's.
pub fn is_person(uid: u32) -> bool {
    (FIRST_PERSON..u32::MAX - 1).contains(&uid) && uid != 65_534 && uid != 65_535
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn users(uids: &[u32]) -> Vec<User> {
        let user = |&uid| User { name: format!("u{uid}"), uid, gid: 100, home: String::new() };
        uids.iter().map(user).collect()
    }

    #[test]
    fn people_are_planned_or_refused_and_the_system_is_left_out() {
        let users = users(&[0, 33, 1000, 65_534, 70_000]);
        let plan = plan(&Rule::default(), &users);
        assert_eq!(plan.ranges, [Planned { user: &users[2], range: Range { first: 65_536_000, count: 65_536 } }]);
        assert_eq!(plan.refused.len(), 1);
        assert_eq!(plan.refused[0].0.uid, 70_000);
    }

    #[test]
    fn a_million_users_have_ranges_that_never_meet() {
        let uids: Vec<u32> = (1_000_000..2_000_000).collect();
        let users = users(&uids);
        let rule = Rule::parse("[[bands]]\nuids = '1000000-1999999'\nbase = 100000000\ncount = 4096\n").unwrap();
        let plan = plan(&rule, &users);
        assert_eq!((plan.ranges.len(), plan.refused.len()), (1_000_000, 0));
        let apart = |pair: &[Planned<'_>]| crate::subid::last(pair[0].range) < pair[1].range.first;
        assert!(plan.ranges.windows(2).all(apart));
    }

    #[test]
    fn a_proposal_serves_everybody_where_there_is_room() {
        let users = users(&[1000, 1500, 100_123, 110_000, 2_000_100_000, 4_000_000_000]);
        let text = propose(&users).unwrap();
        let rule = Rule::parse(&text).unwrap();
        assert_eq!(plan(&rule, &users).ranges.len(), users.len(), "{text}");
        let scattered: Vec<u32> = (0..200).map(|at| 100_000 + at * 19_000).collect();
        assert_eq!(propose(&self::users(&scattered)), None);
    }

    #[test]
    fn what_the_built_in_rule_takes_is_nearly_everything() {
        assert_eq!(room(&Rule::default()), Room { users: 64_534, ids: 64_534 * 65_536 });
    }

    proptest! {
        #[test]
        fn nobodys_range_moves_when_others_come_and_go(
            all in proptest::collection::btree_set(1000u32..=65_533, 2..60), keep in any::<u64>(),
        ) {
            let all: Vec<u32> = all.into_iter().collect();
            let some: Vec<u32> =
                all.iter().rev().enumerate().filter(|(at, _)| keep >> (at % 64) & 1 == 1).map(|(_, uid)| *uid).collect();
            let (all, some) = (users(&all), users(&some));
            let (before, after) = (plan(&Rule::default(), &all), plan(&Rule::default(), &some));
            for planned in &after.ranges {
                prop_assert!(before.ranges.iter().any(|other| other == planned));
            }
            prop_assert_eq!(after.ranges.len(), some.len());
        }
    }
}
