//! Who the command runs as, and which ids of the host stand behind the ids inside.
//!
//! | who asks | how | inside | outside |
//! |---|---|---|---|
//! | anybody | – | the own ids | the own ids |
//! | anybody | `--user U[:G]`, `--user image` | U and G | the own ids |
//! | anybody | `--remap-root` | root | the own ids; owner-changing calls answered as done |
//! | anybody | `--subid` | the image's user, or `--user` | root is the person, the others are subordinate ids |
//! | root | – | root | root; all ids exist |
//! | root | `--user U[:G]` | U and G | U and G |

use berth_container::accounts::{self, Identity, Owner, User};
use berth_container::oci::IdMap;

use crate::command_error::CommandError;
use crate::lower::host::Host;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// `--user`.
    pub user: Option<&'a str>,
    /// `--remap-root`.
    pub remap_root: bool,
    /// `--subid`, with the maps of user and group ids that the host's ranges give.
    pub subid: Option<(&'a [IdMap], &'a [IdMap])>,
}

/// What an image says of users.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageAccounts<'a> {
    /// `User` of its configuration.
    pub user: &'a str,
    /// Its `/etc/passwd`.
    pub passwd: &'a [u8],
    /// Its `/etc/group`.
    pub group: &'a [u8],
}

/// Who the command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Supplementary groups inside; those that the person has stay where this is empty.
    pub groups: Vec<u32>,
    /// Name inside, if there is one.
    pub name: Option<String>,
    /// Home directory inside.
    pub home: String,
    /// Whether it is the person under the own name or as root, rather than some user of the image: then the person's home
    /// is the home.
    pub is_person: bool,
    /// Ids of the user namespace.
    pub uid_map: Vec<IdMap>,
    /// Likewise for groups.
    pub gid_map: Vec<IdMap>,
    /// Answer owner-changing system calls as done.
    pub fake_ownership: bool,
    /// No program may gain privileges: true where no other user could be gained anyway.
    pub no_new_privileges: bool,
}

/// Decides.
pub fn decide(wish: Wish<'_>, image: ImageAccounts<'_>, host: &Host) -> Result<Ids, CommandError> {
    if wish.remap_root && wish.user.is_some() && wish.subid.is_none() && !host.is_root() {
        return Err(CommandError::usage(
            "--remap-root and --user contradict each other: one id can be mapped, to one user",
        )
        .with_hint("with --subid the container has further users"));
    }
    let one = |inside: u32, outside: u32| vec![IdMap { container_id: inside, host_id: outside, size: 1 }];
    let (own_uid, own_gid) = (host.user.uid, host.user.gid);
    let many = host.is_root() || wish.subid.is_some();
    let wanted = match wish.user {
        Some("image") => Some(image.user),
        Some(user) => Some(user),
        None if wish.subid.is_some() && !wish.remap_root && !host.is_root() => Some(image.user),
        None => None,
    };
    let (uid_map, gid_map) = match wish.subid {
        _ if host.is_root() => (host.uid_map.clone(), host.gid_map.clone()),
        Some((uids, gids)) => (uids.to_vec(), gids.to_vec()),
        None => (Vec::new(), Vec::new()),
    };
    let ids = match wanted {
        Some(spec) => {
            let Identity { uid, gid, groups, name, home, .. } = resolve(spec, image)?;
            Ids { uid, gid, groups, name, home, is_person: false, ..empty() }
        }
        None if wish.remap_root || host.is_root() || wish.subid.is_some() => {
            let home = host_home(host);
            let gid = if host.is_root() && !wish.remap_root { own_gid } else { 0 };
            Ids { uid: 0, gid, name: Some("root".to_owned()), home, is_person: true, ..empty() }
        }
        None => {
            let (name, home) = (Some(host.user.name.clone()), host_home(host));
            Ids { uid: own_uid, gid: own_gid, name, home, is_person: true, ..empty() }
        }
    };
    Ok(Ids {
        uid_map: if many { uid_map } else { one(ids.uid, own_uid) },
        gid_map: if many { gid_map } else { one(ids.gid, own_gid) },
        // Where many ids are mapped, changes of owner are real.
        fake_ownership: wish.remap_root && !many,
        no_new_privileges: !many,
        // The kernel lets nobody choose groups that are not mapped.
        groups: if many { ids.groups } else { Vec::new() },
        ..ids
    })
}

impl Ids {
    /// Whom `/etc/passwd` and `/etc/group` are made for. `stranger` is who it is if no entry of the image says it.
    pub fn owner<'a>(&'a self, image: ImageAccounts<'_>, host: &'a Host, stranger: &'a User) -> Owner<'a> {
        if self.uid == 0 {
            Owner::Root { home: Some(self.home.as_str()).filter(|_| self.is_person) }
        } else if self.is_person {
            Owner::Invoker { user: &host.user, groups: &host.groups }
        } else if accounts::users(image.passwd).any(|user| user.uid == self.uid) {
            Owner::Root { home: None }
        } else {
            Owner::Invoker { user: stranger, groups: &[] }
        }
    }

    /// A user of these ids that nobody knows.
    pub fn stranger(&self) -> User {
        User::unnamed(self.uid, self.gid, &self.home)
    }
}

fn empty() -> Ids {
    Ids {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        name: None,
        home: String::new(),
        is_person: false,
        uid_map: Vec::new(),
        gid_map: Vec::new(),
        fake_ownership: false,
        no_new_privileges: false,
    }
}

fn resolve(spec: &str, image: ImageAccounts<'_>) -> Result<Identity, CommandError> {
    accounts::resolve(spec, image.passwd, image.group)
        .map_err(|e| CommandError::usage(format!("--user {spec}: {e}")).with_hint(e.hint()))
}

fn host_home(host: &Host) -> String {
    match &host.home {
        // A home that is no text cannot be written into passwd.
        Some(home) => home.to_str().unwrap_or("/").to_owned(),
        None => host.user.home.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_container::accounts::Group;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv/web:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:\nweb:x:34:\nlog:x:40:web\n";

    fn host(uid: u32) -> Host {
        let user = User { name: "me".to_owned(), home: "/home/me".to_owned(), ..User::unnamed(uid, uid, "") };
        let all = IdMap { container_id: 0, host_id: 0, size: u32::MAX };
        let map = if uid == 0 { vec![all] } else { Vec::new() };
        Host {
            user,
            groups: vec![Group { name: "team".to_owned(), gid: 500, members: Vec::new() }],
            home: Some("/home/me".into()),
            cwd: None,
            environment: Vec::new(),
            uid_map: map.clone(),
            gid_map: map,
        }
    }

    fn decided(uid: u32, wish: Wish<'_>) -> Ids {
        let image = ImageAccounts { user: "web", passwd: PASSWD, group: GROUP };
        decide(wish, image, &host(uid)).unwrap()
    }

    /// `inside>outside+size` for each row.
    fn map(rows: &[IdMap]) -> String {
        let row = |r: &IdMap| format!("{}>{}+{}", r.container_id, r.host_id, r.size);
        rows.iter().map(row).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_table_of_the_module_holds() {
        let row = |inside, outside, size| IdMap { container_id: inside, host_id: outside, size };
        let uids = [row(0, 1000, 1), row(1, 100_000, 65_536)];
        let gids = [row(0, 1000, 1), row(1, 200_000, 65_536)];
        let none = Wish::default();
        let user = |user| Wish { user: Some(user), ..none };
        let subid = Wish { subid: Some((&uids, &gids)), ..none };
        for (who, wish, inside, uids, gids) in [
            (1000, none, "1000:1000 me", "1000>1000+1", "1000>1000+1"),
            (1000, user("image"), "33:34 web", "33>1000+1", "34>1000+1"),
            (1000, user("7:8"), "7:8 -", "7>1000+1", "8>1000+1"),
            (1000, user("root"), "0:0 root", "0>1000+1", "0>1000+1"),
            (1000, Wish { remap_root: true, ..none }, "0:0 root", "0>1000+1", "0>1000+1"),
            (1000, subid, "33:34 web", "0>1000+1 1>100000+65536", "0>1000+1 1>200000+65536"),
            (
                1000,
                Wish { remap_root: true, ..subid },
                "0:0 root",
                "0>1000+1 1>100000+65536",
                "0>1000+1 1>200000+65536",
            ),
            (0, none, "0:0 root", "0>0+4294967295", "0>0+4294967295"),
            (0, user("web"), "33:34 web", "0>0+4294967295", "0>0+4294967295"),
        ] {
            let ids = decided(who, wish);
            let text = format!("{}:{} {}", ids.uid, ids.gid, ids.name.as_deref().unwrap_or("-"));
            assert_eq!(
                (text.as_str(), map(&ids.uid_map).as_str(), map(&ids.gid_map).as_str()),
                (inside, uids, gids),
                "{wish:?}"
            );
        }
    }

    #[test]
    fn ownership_is_faked_only_where_it_cannot_be_real() {
        let map =
            [IdMap { container_id: 0, host_id: 1000, size: 1 }, IdMap { container_id: 1, host_id: 100_000, size: 9 }];
        let remap = Wish { remap_root: true, ..Wish::default() };
        assert!(decided(1000, remap).fake_ownership);
        assert!(!decided(1000, Wish { subid: Some((&map, &map)), ..remap }).fake_ownership);
        assert!(!decided(0, remap).fake_ownership);
        assert!(!decided(1000, Wish::default()).fake_ownership);
    }

    #[test]
    fn supplementary_groups_come_from_the_image_only_where_ids_are_real() {
        let web = Wish { user: Some("web"), ..Wish::default() };
        assert_eq!(decided(0, web).groups, [40]);
        assert_eq!(decided(1000, web).groups, Vec::<u32>::new());
    }

    #[test]
    fn two_users_for_one_id_are_refused() {
        let wish = Wish { remap_root: true, user: Some("web"), subid: None };
        assert!(decide(wish, ImageAccounts::default(), &host(1000)).is_err());
    }

    #[test]
    fn the_user_has_an_entry_whoever_it_is() {
        let image = ImageAccounts { user: "", passwd: PASSWD, group: GROUP };
        for (who, user, expected) in [
            (1000, None, "me:x:1000:1000::/home/me:"),
            (1000, Some("4711"), "user4711:x:4711:0::/:"),
            (1000, Some("web"), "web:x:33:34:web:/srv/web:"),
            (0, None, "root:x:0:0:root:/home/me:"),
        ] {
            let host = host(who);
            let ids = decide(Wish { user, ..Wish::default() }, image, &host).unwrap();
            let stranger = ids.stranger();
            let owner = ids.owner(image, &host, &stranger);
            let passwd = String::from_utf8(accounts::compose_passwd(PASSWD, owner, |_| true)).unwrap();
            assert!(passwd.lines().any(|line| line.starts_with(expected)), "{expected} in\n{passwd}");
        }
    }
}
