//! Users and groups: `passwd` and `group` texts, of the host and of the image.
//!
//! Programs ask these files who they are (`whoami`, `ssh`, Python's `getpass`), so the container's have an entry of the user. They
//! are made from the image's texts and live in a layer of their own (see [`crate::etc`]); the image is never written.
//!
//! The texts of an image are hostile: a line that isn't an entry, or is longer than any real one, is not there for
//! lookups. All ids are those of the container's user namespace.
#![allow(unsafe_code)] // getpwuid_r(3), getgrgid_r(3): the only way to users of LDAP, SSSD and the like.

use std::ffi::CStr;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

/// Longest line that is looked at, and longest text that is taken over. Sites with 100 000 users have 8 MB.
const MAX_LINE: usize = 64 << 10;
const MAX_TEXT: usize = 32 << 20;

/// The highest id; the one above is "no id" in every system call.
const MAX_ID: u32 = u32::MAX - 1;

/// An entry of `passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Full name and other comments.
    pub gecos: String,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// An entry of `group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Names of the users that are in it although it isn't their primary group.
    pub members: Vec<String>,
}

impl User {
    /// A user that no database knows: `user12345`, so that programs which insist on a name find one.
    pub fn unnamed(uid: u32, gid: u32, home: &str) -> User {
        let (gecos, shell) = (String::new(), "/bin/sh".to_owned());
        User { name: format!("user{uid}"), uid, gid, gecos, home: home.to_owned(), shell }
    }
}

/// The entries of a `passwd` text.
pub fn users(text: &[u8]) -> impl Iterator<Item = User> {
    lines(text).filter_map(|line| {
        let [name, _password, uid, gid, gecos, home, shell] = fields(line)?;
        let (uid, gid) = (parse_id(uid)?, parse_id(gid)?);
        let text = |field: &str| field.to_owned();
        Some(User { name: valid_name(name)?, uid, gid, gecos: text(gecos), home: text(home), shell: text(shell) })
    })
}

/// The entries of a `group` text.
pub fn groups(text: &[u8]) -> impl Iterator<Item = Group> {
    lines(text).filter_map(|line| {
        let [name, _password, gid, members] = fields(line)?;
        let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
        Some(Group { name: valid_name(name)?, gid: parse_id(gid)?, members })
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = &text[..text.len().min(MAX_TEXT)];
    text.split(|&byte| byte == b'\n').filter(|line| line.len() <= MAX_LINE)
}

/// Exactly `N` fields between colons; nothing for a line that isn't UTF-8 or has control characters.
fn fields<const N: usize>(line: &[u8]) -> Option<[&str; N]> {
    let line = std::str::from_utf8(line).ok().filter(|line| !line.contains(char::is_control))?;
    let mut parts = line.split(':');
    let mut fields = [""; N];
    for field in &mut fields {
        *field = parts.next()?;
    }
    parts.next().is_none().then_some(fields)
}

/// Not empty, not a NIS entry (`+name`), not a comment.
fn valid_name(name: &str) -> Option<String> {
    (!name.is_empty() && !name.starts_with(['+', '-', '#']) && !name.contains(' ')).then(|| name.to_owned())
}

/// Digits only: no sign, no blanks, at most [`MAX_ID`].
fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id <= MAX_ID)
}

/// Who a process is to be, from the image's point of view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, ascending.
    pub groups: Vec<u32>,
    /// Name, if the image has one for the id.
    pub name: Option<String>,
    /// Home directory; `/` for a user without an entry.
    pub home: String,
    /// Login shell; empty for a user without an entry.
    pub shell: String,
}

/// A user or group that the image does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // Each variant is its message.
pub enum IdentityError {
    #[error("user `{0}`: the image's /etc/passwd has no such name")]
    NoSuchUser(String),
    #[error("group `{0}`: the image's /etc/group has no such name")]
    NoSuchGroup(String),
    #[error("`{0}`: not an id; ids go from 0 to 4294967294")]
    IdTooLarge(String),
}

impl IdentityError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            IdentityError::IdTooLarge(_) => "give a smaller number",
            _ => "give a number, which needs no entry, or a name that the image knows",
        }
    }
}

/// Resolves `USER[:GROUP]` against the texts of an image as docker does.
///
/// Names come before numbers (a user may be named `1000`); a number needs no entry, and has group 0 then. An empty user is
/// root. The supplementary groups are those that list the user, and none when a group is named.
///
/// # Errors
/// [`IdentityError`] for a name that isn't there, and a number that is no id.
pub fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, IdentityError> {
    let (user, wanted_group) = spec.split_once(':').unwrap_or((spec, ""));
    let user = if user.is_empty() { "0" } else { user };
    let entry = users(passwd)
        .find(|entry| entry.name == user)
        .or_else(|| users(passwd).find(|entry| parse_id(user) == Some(entry.uid)));
    let mut identity = match entry {
        Some(User { name, uid, gid, home, shell, .. }) => {
            let home = if home.is_empty() { "/".to_owned() } else { home };
            Identity { uid, gid, groups: Vec::new(), name: Some(name), home, shell }
        }
        None => {
            let uid = number(user, IdentityError::NoSuchUser)?;
            Identity { uid, gid: 0, groups: Vec::new(), name: None, home: "/".to_owned(), shell: String::new() }
        }
    };
    if wanted_group.is_empty() {
        if let Some(name) = &identity.name {
            identity.groups =
                groups(group).filter(|group| group.members.contains(name)).map(|group| group.gid).collect();
            identity.groups.sort_unstable();
            identity.groups.dedup();
        }
        return Ok(identity);
    }
    let entry = groups(group)
        .find(|entry| entry.name == wanted_group)
        .or_else(|| groups(group).find(|entry| parse_id(wanted_group) == Some(entry.gid)));
    identity.gid = match entry {
        Some(entry) => entry.gid,
        None => number(wanted_group, IdentityError::NoSuchGroup)?,
    };
    Ok(identity)
}

fn number(text: &str, otherwise: fn(String) -> IdentityError) -> Result<u32, IdentityError> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        parse_id(text).ok_or_else(|| IdentityError::IdTooLarge(text.to_owned()))
    } else {
        Err(otherwise(text.to_owned()))
    }
}

/// Whom the container's files are made for.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'a> {
    /// The invoking user with the own ids, and the groups that the user is in.
    Invoker {
        /// The user's entry.
        user: &'a User,
        /// Primary and supplementary groups; members are not used.
        groups: &'a [Group],
    },
    /// Root inside (`--remap-root`, or real root), with this home, or the image's.
    Root {
        /// Home directory.
        home: Option<&'a str>,
    },
}

/// The container's `passwd`: root, the owner, then the image's other entries as they are. An entry of the image with the
/// owner's name is replaced; one with the owner's id stays behind the owner's, so that its name still resolves.
///
/// `shell_exists` is asked once, whether the image has the owner's shell; `/bin/sh` is put in its place if not.
pub fn compose_passwd(image: &[u8], owner: Owner<'_>, shell_exists: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut root = users(image).find(|user| user.name == "root").unwrap_or_else(|| User {
        name: "root".to_owned(),
        uid: 0,
        gid: 0,
        gecos: "root".to_owned(),
        home: "/root".to_owned(),
        shell: "/bin/sh".to_owned(),
    });
    let mut text = String::with_capacity(256);
    let mut replaced = vec!["root"];
    match owner {
        Owner::Root { home } => {
            if let Some(home) = home {
                home.clone_into(&mut root.home);
            }
            push_user(&mut text, &root, &root.shell);
        }
        Owner::Invoker { user, .. } if user.uid == 0 => push_user(&mut text, &root, &root.shell),
        Owner::Invoker { user, .. } => {
            push_user(&mut text, &root, &root.shell);
            let known = !user.shell.is_empty() && shell_exists(&user.shell);
            // A user of the name `root` without its id would make root unreachable by name.
            if user.name != "root" {
                push_user(&mut text, user, if known { &user.shell } else { "/bin/sh" });
                replaced.push(&user.name);
            }
        }
    }
    with_rest(text, image, &replaced)
}

/// The container's `group`: root, the owner's groups by their names on the host, then the image's other entries. An entry of the
/// image with the name of one of the owner's groups is replaced: the owner's files and devices have the host's ids.
pub fn compose_group(image: &[u8], owner: Owner<'_>) -> Vec<u8> {
    let mut text = String::with_capacity(256);
    let mut replaced = vec!["root"];
    match groups(image).find(|group| group.name == "root") {
        Some(root) => push_group(&mut text, "root", root.gid, &root.members.join(",")),
        None => push_group(&mut text, "root", 0, ""),
    }
    if let Owner::Invoker { user, groups } = owner {
        for group in groups.iter().filter(|group| group.gid != 0) {
            if !replaced.contains(&group.name.as_str()) {
                let member = if group.gid == user.gid { "" } else { user.name.as_str() };
                push_group(&mut text, &group.name, group.gid, member);
                replaced.push(&group.name);
            }
        }
    }
    with_rest(text, image, &replaced)
}

fn push_user(text: &mut String, user: &User, shell: &str) {
    let User { name, uid, gid, gecos, home, .. } = user;
    let (name, gecos, home, shell) = (field(name), field(gecos), field(home), field(shell));
    // Writing to a string does not fail.
    let _ = writeln!(text, "{name}:x:{uid}:{gid}:{gecos}:{home}:{shell}");
}

fn push_group(text: &mut String, name: &str, gid: u32, member: &str) {
    let _ = writeln!(text, "{}:x:{gid}:{}", field(name), field(member));
}

/// A field that cannot end early or start a line, whatever a name service delivered.
fn field(text: &str) -> std::borrow::Cow<'_, str> {
    let breaks = |character: char| character == ':' || character.is_control();
    if text.contains(breaks) { text.replace(breaks, " ").into() } else { text.into() }
}

/// Appends the image's lines whose name isn't `replaced`, unchanged.
fn with_rest(text: String, image: &[u8], replaced: &[&str]) -> Vec<u8> {
    let mut text = text.into_bytes();
    text.reserve(image.len().min(MAX_TEXT) + 1);
    for line in lines(image) {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        if !line.is_empty() && !replaced.iter().any(|replaced| replaced.as_bytes() == name) {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
    text
}

/// The host's entry for a user id: from `/etc/passwd`, or else from the name services (LDAP, SSSD, …), which may load code and ask
/// the network; `None` if nobody knows it.
///
/// Must run before a namespace is entered.
pub fn host_user(uid: u32) -> Option<User> {
    let text = read_bounded(Path::new("/etc/passwd"));
    users(&text).find(|user| user.uid == uid).or_else(|| nss_user(uid))
}

/// The host's entries for group ids, each looked up as in [`host_user`]; ids without a name are left out.
pub fn host_groups(gids: &[u32]) -> Vec<Group> {
    let text = read_bounded(Path::new("/etc/group"));
    let mut found: Vec<Group> = groups(&text).filter(|group| gids.contains(&group.gid)).collect();
    let unknown = gids.iter().filter(|gid| !found.iter().any(|group| group.gid == **gid));
    let from_services: Vec<Group> = unknown.filter_map(|&gid| nss_group(gid)).collect();
    found.extend(from_services);
    found
}

/// A file up to [`MAX_TEXT`]; nothing if it cannot be read, as the name services may know more.
fn read_bounded(path: &Path) -> Vec<u8> {
    // Room for a usual file: one read instead of many.
    let mut text = Vec::with_capacity(8 << 10);
    if let Ok(file) = std::fs::File::open(path) {
        // What was read before an error is still good.
        let _ = file.take(MAX_TEXT as u64).read_to_end(&mut text);
    }
    text
}

/// First and largest buffer for the strings of an entry; groups with thousands of members exist.
const NSS_BUFFER: usize = 16 << 10;
const NSS_BUFFER_MAX: usize = 16 << 20;

fn nss_user(uid: u32) -> Option<User> {
    with_growing_buffer(|buffer| {
        // SAFETY: all-zero is a valid `passwd`: integers and null pointers.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are to live variables, and the length is the buffer's.
        let error = unsafe { libc::getpwuid_r(uid, &mut entry, buffer.as_mut_ptr().cast(), buffer.len(), &mut found) };
        if error != 0 || found.is_null() {
            return Err(error);
        }
        // SAFETY: on success the members point to strings inside the buffer, which is still borrowed.
        let text = |pointer| unsafe { string(pointer) };
        Ok(User {
            name: text(entry.pw_name),
            uid: entry.pw_uid,
            gid: entry.pw_gid,
            gecos: text(entry.pw_gecos),
            home: text(entry.pw_dir),
            shell: text(entry.pw_shell),
        })
    })
}

fn nss_group(gid: u32) -> Option<Group> {
    with_growing_buffer(|buffer| {
        // SAFETY: all-zero is a valid `group`: integers and null pointers.
        let mut entry: libc::group = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are to live variables, and the length is the buffer's.
        let error = unsafe { libc::getgrgid_r(gid, &mut entry, buffer.as_mut_ptr().cast(), buffer.len(), &mut found) };
        if error != 0 || found.is_null() {
            return Err(error);
        }
        // SAFETY: on success the name points to a string inside the buffer, which is still borrowed.
        let name = unsafe { string(entry.gr_name) };
        Ok(Group { name, gid: entry.gr_gid, members: Vec::new() })
    })
}

/// Calls `ask` with larger buffers as long as it answers `ERANGE`.
fn with_growing_buffer<T>(mut ask: impl FnMut(&mut [u8]) -> Result<T, i32>) -> Option<T> {
    let mut size = NSS_BUFFER;
    while size <= NSS_BUFFER_MAX {
        match ask(&mut vec![0; size]) {
            Ok(entry) => return Some(entry),
            Err(libc::ERANGE) => size *= 4,
            Err(libc::EINTR) => {}
            Err(_) => return None,
        }
    }
    None
}

/// # Safety
/// `pointer` is null or points to a string that ends in NUL and lives until this returns.
unsafe fn string(pointer: *const libc::c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/bash\ndaemon:*:1:1::/usr/sbin:\nubuntu:x:1000:1000:U:/home/ubuntu:/bin/bash\n\
        7:x:70:71::/home/seven:/bin/sh\nnohome:x:5:5:::\n";
    const GROUP: &[u8] = b"root:x:0:\nvideo:x:44:ubuntu,daemon\nusers:x:100:daemon,ubuntu\nubuntu:x:1000:\n9:x:90:\n";

    fn me() -> User {
        User {
            name: "me".into(),
            uid: 1000,
            gid: 500,
            gecos: "M. E.".into(),
            home: "/home/me".into(),
            shell: "/usr/bin/fish".into(),
        }
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn users_resolve_as_in_docker() {
        type Case = (&'static str, u32, u32, &'static [u32], Option<&'static str>, &'static str);
        let cases: &[Case] = &[
            ("", 0, 0, &[], Some("root"), "/root"),
            ("root", 0, 0, &[], Some("root"), "/root"),
            ("ubuntu", 1000, 1000, &[44, 100], Some("ubuntu"), "/home/ubuntu"),
            ("1000", 1000, 1000, &[44, 100], Some("ubuntu"), "/home/ubuntu"),
            ("1000:", 1000, 1000, &[44, 100], Some("ubuntu"), "/home/ubuntu"),
            ("ubuntu:video", 1000, 44, &[], Some("ubuntu"), "/home/ubuntu"),
            ("ubuntu:4711", 1000, 4711, &[], Some("ubuntu"), "/home/ubuntu"),
            (":users", 0, 100, &[], Some("root"), "/root"),
            ("7", 70, 71, &[], Some("7"), "/home/seven"), // A name of digits comes before the id.
            ("0:9", 0, 90, &[], Some("root"), "/root"),
            ("4711", 4711, 0, &[], None, "/"),
            ("4294967294", 4294967294, 0, &[], None, "/"),
            ("nohome", 5, 5, &[], Some("nohome"), "/"),
        ];
        for (spec, uid, gid, groups, name, home) in cases {
            let identity = resolve(spec, PASSWD, GROUP).expect(spec);
            assert_eq!((identity.uid, identity.gid, identity.groups.as_slice()), (*uid, *gid, *groups), "{spec}");
            assert_eq!((identity.name.as_deref(), identity.home.as_str()), (*name, *home), "{spec}");
        }
        assert_eq!(resolve("0", b"", b"").unwrap().home, "/");
    }

    #[test]
    fn unknown_names_and_numbers_that_are_no_ids_are_refused() {
        for (spec, reason) in [
            ("nobody", "no such name"),
            ("-1", "no such name"),
            ("+1", "no such name"),
            ("4294967295", "not an id"),
            ("99999999999999999999", "not an id"),
            ("root:wheel", "/etc/group has no such"),
            ("root:4294967295", "not an id"),
        ] {
            let error = resolve(spec, PASSWD, GROUP).expect_err(spec);
            assert!(error.to_string().contains(reason), "{error}");
            assert!(!error.hint().is_empty());
        }
    }

    #[test]
    fn lines_that_are_no_entries_are_skipped() {
        let mut passwd =
            b"+nis::::::\n#c:x:1:1:::\n:x:2:2:::\na:x:-3:3:::\nb:x:4294967295:0:::\nc:x:1:1::\nd:x:1:1::::\n\
            e\0:x:1:1:::\nf\xff:x:1:1:::\ng h:x:1:1:::\n"
                .to_vec();
        passwd.extend(b"long:x:1:1:");
        passwd.extend(std::iter::repeat_n(b'x', MAX_LINE));
        passwd.extend(b"::\nlast:x:6:7::/:/bin/sh"); // No newline at the end.
        let names: Vec<_> = users(&passwd).map(|user| user.name).collect();
        assert_eq!(names, ["last"]);
        assert_eq!(groups(b"+\nx:x:y:\nok:x:3:,a,,b\nno:x:3").collect::<Vec<_>>().len(), 1);
    }

    #[test]
    fn the_invoker_is_added_behind_root_and_the_image_stays() {
        let own = [
            Group { name: "staff".into(), gid: 500, members: vec![] },
            Group { name: "video".into(), gid: 39, members: vec!["other".into()] },
        ];
        let user = me();
        let owner = Owner::Invoker { user: &user, groups: &own };

        let passwd = text(compose_passwd(PASSWD, owner, |shell| shell != "/usr/bin/fish"));
        let lines: Vec<_> = passwd.lines().collect();
        assert_eq!(lines[0], "root:x:0:0:root:/root:/bin/bash");
        assert_eq!(lines[1], "me:x:1000:500:M. E.:/home/me:/bin/sh");
        assert!(lines.contains(&"ubuntu:x:1000:1000:U:/home/ubuntu:/bin/bash"));
        assert!(lines.contains(&"daemon:*:1:1::/usr/sbin:"));
        assert_eq!(lines.len(), 6);

        let group = text(compose_group(GROUP, owner));
        let lines: Vec<_> = group.lines().collect();
        assert_eq!(
            lines,
            ["root:x:0:", "staff:x:500:", "video:x:39:me", "users:x:100:daemon,ubuntu", "ubuntu:x:1000:", "9:x:90:"]
        );
    }

    #[test]
    fn an_entry_of_the_same_name_is_replaced() {
        let mut user = me();
        user.name = "ubuntu".into();
        let passwd = text(compose_passwd(PASSWD, Owner::Invoker { user: &user, groups: &[] }, |_| true));
        assert_eq!(passwd.lines().filter(|line| line.starts_with("ubuntu:")).count(), 1);
        assert!(passwd.contains("ubuntu:x:1000:500:M. E.:/home/me:/usr/bin/fish\n"));
    }

    #[test]
    fn an_image_without_files_gets_root_and_the_user() {
        let user = User::unnamed(12345, 12345, "/");
        let owner = Owner::Invoker { user: &user, groups: &[] };
        assert_eq!(
            text(compose_passwd(b"", owner, |_| true)),
            "root:x:0:0:root:/root:/bin/sh\nuser12345:x:12345:12345::/:/bin/sh\n"
        );
        assert_eq!(text(compose_group(b"", owner)), "root:x:0:\n");
    }

    #[test]
    fn root_gets_the_home_that_is_wanted_and_keeps_the_shell() {
        let wanted = compose_passwd(PASSWD, Owner::Root { home: Some("/home/me") }, |_| false);
        assert!(text(wanted).starts_with("root:x:0:0:root:/home/me:/bin/bash\ndaemon:"));
        let same = compose_passwd(PASSWD, Owner::Root { home: None }, |_| false);
        assert_eq!(same, PASSWD);
        let user = User { uid: 0, ..me() };
        assert_eq!(compose_passwd(PASSWD, Owner::Invoker { user: &user, groups: &[] }, |_| true), PASSWD);
    }

    #[test]
    fn a_name_service_cannot_smuggle_in_an_entry() {
        let user = User { gecos: "x\nevil:x:0:0::/:/bin/sh".into(), home: "/a:b".into(), ..me() };
        let passwd = text(compose_passwd(b"", Owner::Invoker { user: &user, groups: &[] }, |_| true));
        assert_eq!(passwd.lines().count(), 2);
        assert_eq!(users(passwd.as_bytes()).count(), 2);
    }

    #[test]
    fn the_host_knows_root_by_file_and_nobody_unknown() {
        assert_eq!(host_user(0).unwrap().name, "root");
        assert_eq!(nss_user(0).unwrap().name, "root");
        assert_eq!(nss_group(0).unwrap().name, "root");
        assert_eq!(host_user(4_000_111_222), None);
        assert_eq!(host_groups(&[0, 4_000_111_222]).len(), 1);
    }

    proptest! {
        #[test]
        fn composed_files_keep_owner_and_root_whatever_the_image_has(
            image in proptest::collection::vec(prop_oneof![Just(b':'), Just(b'\n'), Just(b'0'), any::<u8>()], 0..80)
        ) {
            let user = me();
            let own = [Group { name: "staff".into(), gid: 500, members: vec![] }];
            let owner = Owner::Invoker { user: &user, groups: &own };
            let passwd = compose_passwd(&image, owner, |_| true);
            prop_assert_eq!(users(&passwd).find(|entry| entry.name == "me"), Some(user.clone()));
            prop_assert!(users(&passwd).any(|entry| entry.name == "root"));
            let group = compose_group(&image, owner);
            prop_assert_eq!(groups(&group).filter(|entry| entry.name == "staff").count(), 1);
        }

        #[test]
        fn any_user_text_resolves_or_is_refused(spec in "[a-z0-9:+-]{0,12}") {
            let _ = resolve(&spec, PASSWD, GROUP);
        }
    }
}
