//! Which devices a container may use.
//!
//! Of the rules that match, the last counts; what none matches is refused. The devices that every container has are allowed
//! at the end, whatever the rules say, as runc and crun do. Without any rule nothing is refused.

pub(super) mod bpf;

use crate::error::{Error, Result};
use crate::oci::resources::DeviceRule;

/// More rules than this are no configuration but an attack.
const MAX_RULES: usize = 1024;

pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
pub(super) const ALL: u8 = MKNOD | READ | WRITE;

/// A rule, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    /// `a`, `b` or `c`.
    pub(super) kind: char,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    /// Of [`MKNOD`], [`READ`] and [`WRITE`].
    pub(super) access: u8,
}

/// What every container may use: all nodes may be made, and null, zero, full, random, urandom, tty, ptmx and pts/* used.
const ALWAYS: &[Rule] = &[
    Rule { allow: true, kind: 'c', major: None, minor: None, access: MKNOD },
    Rule { allow: true, kind: 'b', major: None, minor: None, access: MKNOD },
    character(1, Some(3)),
    character(1, Some(5)),
    character(1, Some(7)),
    character(1, Some(8)),
    character(1, Some(9)),
    character(5, Some(0)),
    character(5, Some(2)),
    character(136, None),
];

const fn character(major: u32, minor: Option<u32>) -> Rule {
    Rule { allow: true, kind: 'c', major: Some(major), minor, access: ALL }
}

/// Checks the rules and adds what is always allowed; empty where there are none. What comes before the last rule on all
/// devices is left out, because it no longer counts.
pub(super) fn rules(given: &[DeviceRule]) -> Result<Vec<Rule>> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    if given.len() > MAX_RULES {
        return Err(Error::bad_spec("linux.resources.devices", format!("more than {MAX_RULES} rules")));
    }
    let mut rules = vec![Rule { allow: false, kind: 'a', major: None, minor: None, access: ALL }];
    for (index, rule) in given.iter().enumerate() {
        let rule = check(rule).map_err(|why| Error::bad_spec(format!("linux.resources.devices[{index}]"), why))?;
        if rule.is_on_all() {
            rules.clear();
        }
        rules.push(rule);
    }
    rules.extend_from_slice(ALWAYS);
    Ok(rules)
}

fn check(rule: &DeviceRule) -> Result<Rule, String> {
    let number = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => match u32::try_from(value).ok().filter(|&value| i32::try_from(value).is_ok()) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("{value} is no device number")),
        },
    };
    let kind = match rule.kind.as_deref().unwrap_or("a") {
        "a" | "" => 'a',
        "b" => 'b',
        "c" | "u" => 'c',
        other => return Err(format!("unknown type {other:?}: use `a`, `b` or `c`")),
    };
    let mut access = 0;
    for letter in rule.access.as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(format!("unknown access {letter:?}: use letters of `rwm`")),
        };
    }
    let access = if access == 0 { ALL } else { access };
    let (major, minor) = (number(rule.major)?, number(rule.minor)?);
    // The kernel's own reading of `a`: numbers and access do not matter.
    Ok(match kind {
        'a' if major.is_none() && minor.is_none() => Rule { allow: rule.allow, kind, major, minor, access: ALL },
        _ => Rule { allow: rule.allow, kind, major, minor, access },
    })
}

impl Rule {
    fn is_on_all(self) -> bool {
        self.kind == 'a' && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }

    /// File of cgroup v1, and the lines for it.
    pub(super) fn v1(self) -> (&'static str, Vec<String>) {
        let file = if self.allow { "devices.allow" } else { "devices.deny" };
        if self.is_on_all() {
            return (file, vec!["a".to_owned()]);
        }
        let number = |value: Option<u32>| value.map_or("*".to_owned(), |value| value.to_string());
        let mut access = String::new();
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if self.access & bit != 0 {
                access.push(letter);
            }
        }
        // The kernel takes an `a` for all devices, whatever follows.
        let kinds: &[char] = if self.kind == 'a' { &['b', 'c'] } else { &[self.kind] };
        let line = |kind: &char| format!("{kind} {}:{} {access}", number(self.major), number(self.minor));
        (file, kinds.iter().map(line).collect())
    }
}

#[cfg(test)]
mod tests;
