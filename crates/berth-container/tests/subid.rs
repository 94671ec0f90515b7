//! newuidmap and newgidmap on a real process, as far as this machine gives the tester ranges; refusals otherwise.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use berth_container::accounts;
use berth_container::oci::IdMap;
use berth_container::subid::{self, Layout, Request, SubidError};

/// A process in a user namespace of its own that has no maps yet. Ends when its standard input does.
struct Unmapped(Child);

impl Unmapped {
    fn start() -> Unmapped {
        let mut child = Command::new("unshare")
            .args(["--user", "sh", "-c", "echo ready; read end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "no user namespaces for this user");
        Unmapped(child)
    }

    fn map(&self, file: &str) -> Vec<IdMap> {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap();
        text.lines()
            .map(|line| {
                let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap());
                let mut next = || numbers.next().unwrap();
                IdMap { container_id: next(), host_id: next(), size: next() }
            })
            .collect()
    }
}

impl Drop for Unmapped {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn the_ranges_of_the_tester_are_mapped_or_their_absence_is_explained() {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let user = accounts::host_user(uid);
    let name = user.as_ref().map(|user| user.name.as_str());
    let text = |file| std::fs::read_to_string(file).unwrap_or_default();
    let (subuid, subgid) = (text("/etc/subuid"), text("/etc/subgid"));
    let request = Request { name, uid, gid, layout: Layout::Root, highest: 1 };
    let (uids, gids) = match subid::maps(&request, &subuid, &subgid) {
        Ok(maps) => maps,
        Err(error) => {
            assert!(matches!(error, SubidError::NoRange { .. }), "{error}");
            assert!(subid::ranges(&subuid, name, uid).is_empty() || subid::ranges(&subgid, name, uid).is_empty());
            return;
        }
    };
    let process = Unmapped::start();
    subid::write_maps(process.0.id(), &uids, &gids).unwrap();
    assert_eq!((process.map("uid_map"), process.map("gid_map")), (uids, gids));
}

#[test]
fn ids_of_somebody_else_are_refused_with_the_programs_words() {
    let process = Unmapped::start();
    let stolen = [IdMap { container_id: 0, host_id: 3_999_000_000, size: 10 }];
    let error = subid::write_maps(process.0.id(), &stolen, &stolen).unwrap_err();
    match &error {
        SubidError::Refused { message, .. } => assert!(message.contains("not allowed"), "{message}"),
        // Where the programs are missing, or this process may not use them.
        other => assert!(!other.hint().is_empty(), "{other}"),
    }
    assert_eq!(process.map("uid_map"), []);
}
