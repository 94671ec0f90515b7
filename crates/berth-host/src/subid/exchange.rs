//! Ranges as a document, for nodes that cannot ask the directory.
//!
//! ```json
//! {"format": "berth-subids/1",
//!  "users": {"alice": {"uid": "1001", "gid": "100", "gids": ["100"], "home": "/home/alice",
//!                      "subids": {"first": 65601536, "count": 65536}}},
//!  "gids": {"100": "users"}}
//! ```
//!
//! `users` and `gids` have the shape, ids as text included, that clusters on AWS give their nodes as `users_groups.json`, so that
//! what reads that reads this, too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::subid::files::Wanted;
use crate::subid::plan::Planned;
use crate::subid::users::Group;
use crate::subid::{Range, last};

/// The only format so far.
const FORMAT: &str = "berth-subids/1";

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub struct Document {
    format: String,
    users: BTreeMap<String, Entry>,
    #[serde(default)]
    gids: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    uid: String,
    gid: String,
    #[serde(default)]
    gids: Vec<String>,
    #[serde(default)]
    home: String,
    subids: Subids,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Subids {
    first: u32,
    count: u32,
}

/// Why a document is not taken.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each variant is its message.
pub enum ImportError {
    #[error("is no document of ranges: {0}")]
    Syntax(serde_json::Error),
    #[error("has the format {0:?}; this version knows {FORMAT:?}")]
    Format(String),
    #[error("has no uid for {0}")]
    Uid(String),
    #[error("has a name that is none: {0:?}")]
    Name(String),
    #[error("has a range for {0} that does not fit into 32 bits")]
    Range(String),
    #[error("has ranges of {0} and {1} that overlap")]
    Overlap(String, String),
    #[error("has a range for {0} with the uid of {1} in it")]
    Account(String, String),
}

impl Document {
    /// Of these users, with their groups.
    pub fn new(plan: &[Planned<'_>], groups: &[Group]) -> Document {
        let mut memberships: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for group in groups {
            for member in &group.members {
                memberships.entry(member).or_default().push(group.gid);
            }
        }
        let entry = |planned: &Planned<'_>| {
            let user = planned.user;
            let mut gids = memberships.get(user.name.as_str()).cloned().unwrap_or_default();
            gids.push(user.gid);
            gids.sort_unstable();
            gids.dedup();
            let entry = Entry {
                uid: user.uid.to_string(),
                gid: user.gid.to_string(),
                gids: gids.iter().map(u32::to_string).collect(),
                home: user.home.clone(),
                subids: Subids { first: planned.range.first, count: planned.range.count },
            };
            (user.name.clone(), entry)
        };
        let users: BTreeMap<String, Entry> = plan.iter().map(entry).collect();
        let used: std::collections::HashSet<&str> =
            users.values().flat_map(|entry| entry.gids.iter().map(String::as_str)).collect();
        let gids = groups.iter().map(|group| (group.gid.to_string(), group.name.clone()));
        Document {
            format: FORMAT.to_owned(),
            gids: gids.filter(|(gid, _)| used.contains(gid.as_str())).collect(),
            users,
        }
    }

    /// Understands a document, and sees to it that it harms nobody.
    ///
    /// # Errors
    /// It is none, or its ranges meet each other or accounts.
    pub fn parse(text: &str) -> Result<Document, ImportError> {
        let document: Document = serde_json::from_str(text).map_err(ImportError::Syntax)?;
        if document.format != FORMAT {
            return Err(ImportError::Format(document.format));
        }
        let wanted = document.wanted()?;
        let mut sorted: Vec<&Wanted<'_>> = wanted.iter().collect();
        sorted.sort_unstable_by_key(|wanted| wanted.range.first);
        if let Some([one, two]) = sorted
            .windows(2)
            .find_map(|pair| (last(pair[0].range) >= pair[1].range.first).then_some([pair[0], pair[1]]))
        {
            return Err(ImportError::Overlap(one.name.to_owned(), two.name.to_owned()));
        }
        for account in &wanted {
            let at = sorted.partition_point(|wanted| last(wanted.range) < account.uid);
            if let Some(holder) = sorted.get(at).filter(|holder| holder.range.first <= account.uid) {
                return Err(ImportError::Account(holder.name.to_owned(), account.name.to_owned()));
            }
        }
        Ok(document)
    }

    /// The entries for the two files.
    ///
    /// # Errors
    /// A name, a uid or a range is none.
    pub fn wanted(&self) -> Result<Vec<Wanted<'_>>, ImportError> {
        let wanted = |(name, entry): (&'_ String, &Entry)| {
            if name.is_empty() || name.starts_with('#') || name.contains([':', '\n', '\r', '\0']) {
                return Err(ImportError::Name(name.clone()));
            }
            let uid = entry.uid.parse().map_err(|_| ImportError::Uid(name.clone()))?;
            let Subids { first, count } = entry.subids;
            if count == 0 || first.checked_add(count).is_none() {
                return Err(ImportError::Range(name.clone()));
            }
            Ok((uid, Range { first, count }))
        };
        self.users.iter().map(|pair| wanted(pair).map(|(uid, range)| Wanted { name: pair.0, uid, range })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subid::plan::plan;
    use crate::subid::rule::Rule;
    use crate::subid::users::{groups, passwd};

    #[test]
    fn what_is_exported_is_imported() {
        let users = passwd("alice:x:1001:100::/home/alice\nbob:x:1002:100\nroot:x:0:0\n");
        let plan = plan(&Rule::default(), &users);
        let document = Document::new(&plan.ranges, &groups("users:x:100:\nstaff:x:500:alice\nother:x:7:\n"));
        let text = serde_json::to_string(&document).unwrap();
        assert!(
            text.contains(r#""alice":{"uid":"1001","gid":"100","gids":["100","500"],"home":"/home/alice""#),
            "{text}"
        );
        assert!(text.contains(r#""gids":{"100":"users","500":"staff"}"#), "{text}");
        let document = Document::parse(&text).unwrap();
        let names: Vec<_> = document.wanted().unwrap().iter().map(|wanted| (wanted.name, wanted.range.first)).collect();
        assert_eq!(names, [("alice", 65_601_536), ("bob", 65_667_072)]);
    }

    #[test]
    fn a_document_that_would_harm_is_refused() {
        let document = |users: &str| format!(r#"{{"format": "berth-subids/1", "users": {{{users}}}}}"#);
        let user = |name: &str, uid: u32, first: u32, count: u32| {
            format!(r#""{name}": {{"uid": "{uid}", "gid": "1", "subids": {{"first": {first}, "count": {count}}}}}"#)
        };
        let (alice, bob) = (user("alice", 1, 100_000, 65_536), user("bob", 2, 165_535, 10));
        for (text, reason) in [
            ("{}".to_owned(), "is no document of ranges"),
            (document("").replace("/1", "/2"), "this version knows \"berth-subids/1\""),
            (document(&format!("{alice}, {bob}")), "has ranges of alice and bob that overlap"),
            (document(&user("a", 1, 4_294_967_295, 1)), "does not fit into 32 bits"),
            (
                document(&format!("{alice}, {}", user("eve", 100_005, 5, 1))),
                "a range for alice with the uid of eve in it",
            ),
            (document(&user("root:0", 1, 100_000, 1)), "a name that is none"),
        ] {
            let error = Document::parse(&text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
