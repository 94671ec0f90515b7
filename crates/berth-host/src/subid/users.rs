//! Users and groups, from wherever a site has them: the name services (`getent`), a file like `/etc/passwd`, or a dump of the
//! directory as LDIF or JSON.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Main group.
    pub gid: u32,
    /// Home directory; may be empty.
    pub home: String,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Names of those who have it beside their main group.
    pub members: Vec<String>,
}

/// Everybody.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// Users, each name once.
    pub users: Vec<User>,
    /// Groups.
    pub groups: Vec<Group>,
}

/// Where users come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// The name services, asked by getent(1).
    #[default]
    Getent,
    /// A file: passwd lines, LDIF or JSON, told apart by what is in it.
    File(PathBuf),
}

/// Why there are no users.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each variant is its message.
pub enum UsersError {
    #[error("cannot read the users in {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot ask getent for users: {0}")]
    Getent(io::Error),
    #[error("getent {database} ended with {status}: {message}")]
    GetentFailed { database: &'static str, status: std::process::ExitStatus, message: String },
    #[error("{}: {reason}", path.display())]
    Syntax { path: PathBuf, reason: String },
}

impl Source {
    /// `getent` or a path.
    pub fn parse(text: &str) -> Result<Source, std::convert::Infallible> {
        Ok(if text == "getent" { Source::Getent } else { Source::File(PathBuf::from(text)) })
    }

    /// Reads everybody.
    ///
    /// # Errors
    /// The file or the service cannot be read or understood.
    pub fn accounts(&self) -> Result<Accounts, UsersError> {
        let accounts = match self {
            Source::Getent => {
                Accounts { users: passwd(&getent("passwd", &[])?), groups: groups(&getent("group", &[])?) }
            }
            Source::File(path) => {
                let text = fs::read(path).map_err(|source| UsersError::Read { path: path.clone(), source })?;
                from_text(&String::from_utf8_lossy(&text))
                    .map_err(|reason| UsersError::Syntax { path: path.clone(), reason })?
            }
        };
        Ok(accounts.unique())
    }

    /// Those users only. Name services know more accounts than they list.
    ///
    /// # Errors
    /// As [`Source::accounts`]; a name that nobody has is no error.
    pub fn named(&self, names: &[&str]) -> Result<Vec<User>, UsersError> {
        match self {
            Source::Getent => {
                let mut users = Vec::new();
                for some in names.chunks(500) {
                    users.extend(passwd(&getent("passwd", some)?));
                }
                Ok(users)
            }
            Source::File(_) => {
                let mut users = self.accounts()?.users;
                users.retain(|user| names.iter().any(|name| *name == user.name || *name == user.uid.to_string()));
                Ok(users)
            }
        }
    }
}

impl Accounts {
    /// Each name once: name services may give the same account from two sources.
    fn unique(mut self) -> Accounts {
        let mut seen = HashMap::with_capacity(self.users.len());
        self.users.retain(|user| seen.insert(user.name.clone(), ()).is_none());
        self
    }
}

fn getent(database: &'static str, keys: &[&str]) -> Result<String, UsersError> {
    let output = Command::new("getent")
        .arg(database)
        .args(keys)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(UsersError::Getent)?;
    // 2: one of the keys was not found, which the caller sees.
    if !output.status.success() && output.status.code() != Some(2) {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(UsersError::GetentFailed { database, status: output.status, message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Users from lines like those of `/etc/passwd`; other lines are left out.
pub fn passwd(text: &str) -> Vec<User> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or_default();
        let no_account = name.is_empty() || name.starts_with(['#', '+', '-']);
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (!no_account).then(|| User { name: name.to_owned(), uid, gid, home: home.to_owned() })
    };
    text.lines().filter_map(user).collect()
}

/// Groups from lines like those of `/etc/group`; other lines are left out.
pub fn groups(text: &str) -> Vec<Group> {
    let group = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        let members = fields.next().unwrap_or_default().split(',').filter(|name| !name.is_empty());
        let gid = gid.parse().ok()?;
        Some(Group { name: name.to_owned(), gid, members: members.map(str::to_owned).collect() })
    };
    text.lines().filter_map(group).collect()
}

/// Users and groups of a file, of whichever kind it is.
fn from_text(text: &str) -> Result<Accounts, String> {
    let start = text.trim_start();
    if start.starts_with(['{', '[']) {
        return json(text).map_err(|error| error.to_string());
    }
    let is_ldif = |line: &str| line.starts_with("dn:") || line.starts_with("version:") && !line.contains(":x:");
    if text.lines().find(|line| !line.starts_with('#') && !line.trim().is_empty()).is_some_and(is_ldif) {
        return Ok(ldif(text));
    }
    let users = passwd(text);
    if users.is_empty() && !start.is_empty() {
        return Err("neither passwd lines, nor LDIF, nor JSON".to_owned());
    }
    Ok(Accounts { users, groups: Vec::new() })
}

/// Entries of a directory as ldapsearch(1) prints them. Attributes of RFC 2307: a user has `uid` and `uidNumber`, a group `cn` and
/// `gidNumber`; Active Directory's name of a user is `sAMAccountName`.
fn ldif(text: &str) -> Accounts {
    // A line that begins with a blank goes on with the one before.
    let text = text.replace("\r\n", "\n").replace("\n ", "");
    let mut accounts = Accounts::default();
    for entry in text.split("\n\n") {
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        for line in entry.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = match value.strip_prefix(':') {
                Some(encoded) => base64(encoded.trim()),
                None => Some(value.trim().to_owned()),
            };
            values.entry(name.to_ascii_lowercase()).or_default().extend(value);
        }
        let first = |name: &str| values.get(name).and_then(|values| values.first());
        let number = |name: &str| first(name).and_then(|value| value.parse::<u32>().ok());
        let name = first("uid").or_else(|| first("samaccountname"));
        match (name, number("uidnumber"), first("cn"), number("gidnumber")) {
            (Some(name), Some(uid), _, gid) => accounts.users.push(User {
                name: name.clone(),
                uid,
                gid: gid.unwrap_or(uid),
                home: first("homedirectory").or_else(|| first("unixhomedirectory")).cloned().unwrap_or_default(),
            }),
            (_, None, Some(name), Some(gid)) => {
                let members = values.get("memberuid").cloned().unwrap_or_default();
                accounts.groups.push(Group { name: name.clone(), gid, members });
            }
            _ => {}
        }
    }
    accounts
}

/// Text in base64, which LDIF uses for what is not plain.
fn base64(text: &str) -> Option<String> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::new();
    let (mut bits, mut have) = (0u32, 0);
    for byte in text.bytes().take_while(|byte| *byte != b'=') {
        bits = bits << 6 | u32::from(digit(byte)?);
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
        }
    }
    String::from_utf8(bytes).ok()
}

/// A number, which some programs write as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u32),
    Text(String),
}

impl Number {
    fn value(&self) -> Result<u32, String> {
        match self {
            Number::Number(number) => Ok(*number),
            Number::Text(text) => text.parse().map_err(|_| format!("\"{text}\" is no id")),
        }
    }
}

#[derive(Deserialize)]
struct JsonUser {
    #[serde(default)]
    name: String,
    uid: Number,
    gid: Option<Number>,
    #[serde(default)]
    home: String,
}

/// The two shapes in use: `{"users": {NAME: {"uid", "gid", "home"}}, "gids": {GID: NAME}}`, and a list of users.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Map {
        users: HashMap<String, JsonUser>,
        #[serde(default)]
        gids: HashMap<String, String>,
    },
    List(Vec<JsonUser>),
}

fn json(text: &str) -> Result<Accounts, String> {
    let document = serde_json::from_str(text)
        .map_err(|error| format!("neither a list of users nor an object with `users`: {error}"))?;
    let user = |name: String, user: &JsonUser| {
        let uid = user.uid.value()?;
        let gid = user.gid.as_ref().map_or(Ok(uid), Number::value)?;
        Ok::<_, String>(User { name, uid, gid, home: user.home.clone() })
    };
    let mut accounts = Accounts::default();
    match document {
        Document::Map { users, gids } => {
            for (name, entry) in users {
                accounts.users.push(user(name, &entry)?);
            }
            for (gid, name) in gids {
                let gid = Number::Text(gid).value()?;
                accounts.groups.push(Group { name, gid, members: Vec::new() });
            }
            // Of a map there is no order: that of the uids is as good as any, and the same each time.
            accounts.users.sort_by_key(|user| user.uid);
            accounts.groups.sort_by_key(|group| group.gid);
        }
        Document::List(users) => {
            for entry in users {
                if entry.name.is_empty() {
                    return Err("a user without a name".to_owned());
                }
                accounts.users.push(user(entry.name.clone(), &entry)?);
            }
        }
    }
    Ok(accounts)
}

/// Looks accounts up by either key of the two files.
#[derive(Debug)]
pub struct Index<'a> {
    by_name: HashMap<&'a str, &'a User>,
    by_uid: HashMap<u32, &'a User>,
}

impl<'a> Index<'a> {
    /// Of these users.
    pub fn new(users: &'a [User]) -> Index<'a> {
        Index {
            by_name: users.iter().map(|user| (user.name.as_str(), user)).collect(),
            by_uid: users.iter().rev().map(|user| (user.uid, user)).collect(),
        }
    }

    /// The user that an entry's first field names.
    pub fn owner(&self, text: &str) -> Option<&'a User> {
        self.by_name.get(text).copied().or_else(|| self.uid(text.parse().ok()?))
    }

    /// The first user with that uid.
    pub fn uid(&self, uid: u32) -> Option<&'a User> {
        self.by_uid.get(&uid).copied()
    }
}

/// Reads a small file of a path for its text; nothing if it is not there.
///
/// # Errors
/// It is there and cannot be read.
pub fn text_of(path: &Path) -> io::Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, uid: u32, gid: u32, home: &str) -> User {
        User { name: name.to_owned(), uid, gid, home: home.to_owned() }
    }

    #[test]
    fn the_kinds_of_files_are_told_apart() {
        let lines =
            "# all\nalice:x:1001:100:Alice:/home/alice:/bin/sh\n+::::::\nshort:x:1\nbob:*:1002:100::/home/bob:\n";
        let dump = "version: 1\n\ndn: uid=alice,dc=x\nuid: alice\nuidNumber: 1001\ngidNumber: 100\nhomeDirectory: /home/al\n ice\n\n\
            dn: cn=bob\nsAMAccountName:: Ym9i\nuidNumber: 1002\ngidNumber: 100\nunixHomeDirectory: /home/bob\n\n\
            dn: cn=users\ncn: users\ngidNumber: 100\nmemberUid: alice\n";
        let map = r#"{"gids": {"100": "users"}, "users": {"bob": {"uid": "1002", "gid": "100", "gids": ["100"], "home": "/home/bob"},
            "alice": {"uid": 1001, "gid": 100, "home": "/home/alice"}}}"#;
        let list = r#"[{"name": "alice", "uid": 1001, "gid": 100, "home": "/home/alice"},
            {"name": "bob", "uid": 1002, "gid": 100, "home": "/home/bob"}]"#;
        let expected = [user("alice", 1001, 100, "/home/alice"), user("bob", 1002, 100, "/home/bob")];
        for text in [lines, dump, map, list] {
            assert_eq!(from_text(text).unwrap().users, expected, "{text}");
        }
        assert_eq!(from_text(dump).unwrap().groups[0].members, ["alice"]);
        assert_eq!(from_text(map).unwrap().groups[0].gid, 100);
    }

    #[test]
    fn a_file_of_no_kind_is_refused() {
        for text in ["hello", "{\"people\": 1}", "[{\"uid\": 1}]", "{\"users\": {\"a\": {\"uid\": \"x\"}}}"] {
            assert!(from_text(text).is_err(), "{text}");
        }
        assert_eq!(from_text("").unwrap().users, []);
    }

    #[test]
    fn an_owner_is_a_name_before_it_is_a_uid() {
        let users = [user("1002", 1001, 1, ""), user("bob", 1002, 1, "")];
        let index = Index::new(&users);
        assert_eq!(index.owner("1002").unwrap().uid, 1001);
        assert_eq!(index.owner("bob"), index.uid(1002));
        assert_eq!(index.owner("carol"), None);
    }

    #[test]
    fn the_name_services_know_root() {
        let root = Source::Getent.named(&["root", "no-such-user-at-all"]).unwrap();
        assert_eq!(root[0].uid, 0);
        assert!(Source::Getent.accounts().unwrap().users.contains(&root[0]));
    }
}
