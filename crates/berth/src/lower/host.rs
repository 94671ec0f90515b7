//! What this host is like, as far as a container needs to know: read once, before any namespace is entered.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use berth_container::accounts::{self, Group, User};
use berth_container::oci::IdMap;
use rustix::process::{getegid, geteuid, getgroups};

/// See the module.
#[derive(Clone, Debug)]
pub struct Host {
    /// The person's entry; made up where no database knows the id.
    pub user: User,
    /// The person's groups by name.
    pub groups: Vec<Group>,
    /// The home directory: HOME, or else the entry's, if it is a directory.
    pub home: Option<PathBuf>,
    /// The current directory, without symbolic links, if it still exists.
    pub cwd: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// For root: the ids that exist here, which are all of them unless this is a container already. Empty for others.
    pub uid_map: Vec<IdMap>,
    /// Likewise for groups.
    pub gid_map: Vec<IdMap>,
}

impl Host {
    /// Looks at the process and its surroundings.
    pub fn read() -> Host {
        let uid = geteuid().as_raw();
        let gid = getegid().as_raw();
        let home_variable = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let home_text = home_variable.as_ref().and_then(|home| home.to_str()).unwrap_or("/");
        let user = accounts::host_user(uid).unwrap_or_else(|| User::unnamed(uid, gid, home_text));
        let user = User { uid, gid, ..user };
        let mut gids: Vec<u32> = getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()).collect();
        gids.push(gid);
        gids.sort_unstable();
        gids.dedup();
        let home = home_variable.unwrap_or_else(|| PathBuf::from(&user.home));
        Host {
            groups: accounts::host_groups(&gids),
            home: home.is_dir().then_some(home),
            cwd: env::current_dir().ok(),
            environment: env::vars_os().collect(),
            uid_map: if uid == 0 { identity_map("/proc/self/uid_map") } else { Vec::new() },
            gid_map: if uid == 0 { identity_map("/proc/self/gid_map") } else { Vec::new() },
            user,
        }
    }

    /// Whether the person may map any id.
    pub fn is_root(&self) -> bool {
        self.user.uid == 0
    }
}

/// Each id that exists in this process' user namespace, mapped to itself.
fn identity_map(path: &str) -> Vec<IdMap> {
    let ranges = fs::read_to_string(path).map(|text| parse_id_map(&text)).unwrap_or_default();
    if ranges.is_empty() { vec![IdMap { container_id: 0, host_id: 0, size: u32::MAX }] } else { ranges }
}

fn parse_id_map(text: &str) -> Vec<IdMap> {
    let range = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|word| word.parse::<u32>().ok());
        let (first, _outside, size) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(IdMap { container_id: first, host_id: first, size })
    };
    text.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_map_covers_what_exists_and_no_more() {
        let map = |id, size| IdMap { container_id: id, host_id: id, size };
        assert_eq!(parse_id_map("         0          0 4294967295\n"), [map(0, u32::MAX)]);
        assert_eq!(parse_id_map("0 1000 1\n1 100000 65536\n"), [map(0, 1), map(1, 65536)]);
        assert_eq!(parse_id_map("nonsense"), []);
    }
}
