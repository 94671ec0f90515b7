//! The files that a container needs and no image can have: who the user is, which host this is, how names are resolved.
//!
//! They become a layer of their own above the image's (see [`crate::Rootfs::Overlay`]): the image is not written, no mounts
//! are needed, and a container with changes of its own can change them. A regular file here hides whatever the image has at the
//! path, a link included, so nothing is ever written through a link of the image.
//!
//! | file | content | when |
//! |---|---|---|
//! | `/etc/passwd`, `/etc/group` | the image's and the user ([`crate::accounts`]) | unless the ids are the image's own |
//! | `/etc/hosts` | the host's; localhost and the own name in a new network | always |
//! | `/etc/resolv.conf` | the host's | not in a new network, which reaches no server |
//! | `/etc/hostname` | the name | if there is one |
//! | `/etc/localtime` | the host's zone, copied | the host's environment is taken over |
//! | `/etc/apt/apt.conf.d/99berth` | apt stays root | `--remap-root` and the image has apt |
//!
//! Nothing here does I/O: texts come in, files go out.

use std::path::PathBuf;

use crate::GeneratedFile;
use crate::accounts::{Owner, compose_group, compose_passwd};

/// Largest host file that is taken over; real ones have kilobytes.
const MAX_HOST_FILE: usize = 1 << 20;

/// Largest zone file taken over. The longest of the tz database has 4 kB.
const MAX_ZONE: usize = 64 << 10;

/// apt's switch to its user `_apt` is seen through when set-user-id calls are only answered as done: it checks the result.
const APT_STAYS_ROOT: &str =
    "// With one mapped id there is no other user to switch to.\nAPT::Sandbox::User \"root\";\n";

/// What a path of the image is, without following a link at its end or on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket.
    Other,
}

/// What the image brings.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageFiles<'a> {
    /// `/etc/passwd`, empty if it is not a regular file.
    pub passwd: &'a [u8],
    /// `/etc/group`, empty if it is not a regular file.
    pub group: &'a [u8],
}

/// What the host brings. Empty texts stand for files that are not there.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFiles<'a> {
    /// `/etc/hosts`.
    pub hosts: &'a [u8],
    /// `/etc/resolv.conf`, links followed.
    pub resolv_conf: &'a [u8],
    /// `/etc/localtime`, links followed; only if the container is to have the host's time zone.
    pub localtime: &'a [u8],
}

/// What the user asked for, as far as these files depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Whom `passwd` and `group` are for; `None` leaves the image's.
    pub owner: Option<Owner<'a>>,
    /// Name of the machine inside; empty if unknown.
    pub hostname: &'a str,
    /// Whether the network is a new one, without any way out.
    pub private_network: bool,
    /// Whether ownership calls are answered as done ([`crate::fake`]).
    pub remap_root: bool,
}

/// The files for a container. `entry` tells what is at an absolute path of the image.
///
/// Empty when the image's `/etc` is a link or no directory: a directory in its place would hide where it leads.
pub fn generate(
    request: &Request<'_>,
    image: ImageFiles<'_>,
    host: HostFiles<'_>,
    entry: impl Fn(&str) -> Option<Entry>,
) -> Vec<GeneratedFile> {
    let mut files = Vec::with_capacity(8);
    if !matches!(entry("/etc"), None | Some(Entry::Directory)) {
        return files;
    }
    let mut add = |path: &str, content: Vec<u8>| {
        files.push(GeneratedFile { path: PathBuf::from(path), mode: 0o644, content });
    };
    // Programs fail in odd ways on a directory in a file's place, but it is the image's: a file here would hide a tree.
    let may_replace = |path: &str| entry(path) != Some(Entry::Directory);

    if let Some(owner) = request.owner {
        if may_replace("/etc/passwd") {
            // A link is as good as the file: most images have /bin/sh by one, and the merged /usr makes /bin one.
            let shell_exists = |shell: &str| shell.starts_with('/') && exists(shell, &entry);
            add("/etc/passwd", compose_passwd(image.passwd, owner, shell_exists));
        }
        if may_replace("/etc/group") {
            add("/etc/group", compose_group(image.group, owner));
        }
    }
    if may_replace("/etc/hosts") {
        add("/etc/hosts", hosts(request, host.hosts));
    }
    if may_replace("/etc/resolv.conf") && !request.private_network && fits(host.resolv_conf, MAX_HOST_FILE) {
        add("/etc/resolv.conf", host.resolv_conf.to_vec());
    }
    if may_replace("/etc/hostname") && is_host_name(request.hostname) {
        add("/etc/hostname", format!("{}\n", request.hostname).into_bytes());
    }
    // `TZif` begins every compiled zone; anything else would make programs fall back to UTC without a word.
    if may_replace("/etc/localtime") && host.localtime.starts_with(b"TZif") && fits(host.localtime, MAX_ZONE) {
        add("/etc/localtime", host.localtime.to_vec());
    }
    let has_apt = || ["/etc/apt", "/etc/apt/apt.conf.d"].into_iter().all(|path| entry(path) == Some(Entry::Directory));
    if request.remap_root && has_apt() {
        add("/etc/apt/apt.conf.d/99berth", APT_STAYS_ROOT.to_owned().into_bytes());
    }
    files
}

/// Whether a program seems to be there. Where a directory on the way is a link (`/bin` to `usr/bin`), the same path below `/usr` is
/// looked at instead of following it.
fn exists(path: &str, entry: impl Fn(&str) -> Option<Entry>) -> bool {
    let program = |path: &str| matches!(entry(path), Some(Entry::File | Entry::Link));
    program(path) || program(&format!("/usr{path}"))
}

fn fits(text: &[u8], limit: usize) -> bool {
    !text.is_empty() && text.len() <= limit
}

/// The host's text, which may know much about the cluster, or a minimal one; with a line for a name that it doesn't have.
fn hosts(request: &Request<'_>, host: &[u8]) -> Vec<u8> {
    const MINIMAL: &[u8] = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let known = !request.private_network && fits(host, MAX_HOST_FILE);
    let mut text = if known { host.to_vec() } else { MINIMAL.to_vec() };
    let name = request.hostname.as_bytes();
    if is_host_name(request.hostname) && !mentions(&text, name) {
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        // The address Debian gives to the own name: `localhost` stays the first name of 127.0.0.1.
        text.extend_from_slice(b"127.0.1.1\t");
        text.extend_from_slice(name);
        text.push(b'\n');
    }
    text
}

/// Whether a `hosts` text has an address for `name`.
fn mentions(hosts: &[u8], name: &[u8]) -> bool {
    hosts.split(|&byte| byte == b'\n').any(|line| {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.next().is_some() && words.any(|word| word.eq_ignore_ascii_case(name))
    })
}

/// Letters, digits, `-`, `_` and dots, at most 64 (`HOST_NAME_MAX`): what sethostname(2) is given in practice, and nothing that could
/// begin a line.
fn is_host_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::User;

    const HOST: HostFiles<'_> = HostFiles {
        hosts: b"127.0.0.1 localhost\n10.0.0.1 node1",
        resolv_conf: b"nameserver 10.0.0.9\n",
        localtime: b"TZif2...",
    };

    fn request(owner: Option<Owner<'_>>) -> Request<'_> {
        Request { owner, hostname: "node1", private_network: false, remap_root: false }
    }

    /// An image of directories and files.
    fn image(path: &str) -> Option<Entry> {
        match path {
            "/etc" | "/etc/apt" | "/etc/apt/apt.conf.d" => Some(Entry::Directory),
            "/etc/resolv.conf" | "/bin" => Some(Entry::Link),
            "/etc/passwd" | "/usr/bin/fish" => Some(Entry::File),
            _ => None,
        }
    }

    fn find<'a>(files: &'a [GeneratedFile], path: &str) -> Option<&'a str> {
        let file = files.iter().find(|file| file.path == std::path::Path::new(path))?;
        Some(std::str::from_utf8(&file.content).unwrap())
    }

    #[test]
    fn the_host_and_the_user_are_known_inside() {
        let user = User { shell: "/bin/fish".into(), ..User::unnamed(1000, 1000, "/home/me") };
        let owner = Owner::Invoker { user: &user, groups: &[] };
        let files = generate(&request(Some(owner)), ImageFiles::default(), HOST, image);
        assert!(find(&files, "/etc/passwd").unwrap().contains("user1000:x:1000:1000::/home/me:/bin/fish\n"));
        assert_eq!(find(&files, "/etc/group"), Some("root:x:0:\n"));
        assert_eq!(find(&files, "/etc/hosts"), Some("127.0.0.1 localhost\n10.0.0.1 node1"));
        assert_eq!(find(&files, "/etc/resolv.conf"), Some("nameserver 10.0.0.9\n"));
        assert_eq!(find(&files, "/etc/hostname"), Some("node1\n"));
        assert_eq!(find(&files, "/etc/localtime"), Some("TZif2..."));
        assert_eq!(find(&files, "/etc/apt/apt.conf.d/99berth"), None);
        assert!(files.iter().all(|file| file.mode == 0o644));
    }

    #[test]
    fn apt_is_told_to_stay_root_where_there_is_one() {
        let remap = Request { remap_root: true, ..request(Some(Owner::Root { home: None })) };
        let files = generate(&remap, ImageFiles::default(), HOST, image);
        assert!(find(&files, "/etc/apt/apt.conf.d/99berth").unwrap().contains("APT::Sandbox::User \"root\";"));
        let with_link = |path: &str| if path == "/etc/apt" { Some(Entry::Link) } else { image(path) };
        let files = generate(&remap, ImageFiles::default(), HOST, with_link);
        assert_eq!(find(&files, "/etc/apt/apt.conf.d/99berth"), None);
    }

    #[test]
    fn a_new_network_knows_itself_and_no_server() {
        let private = Request { private_network: true, hostname: "box", ..request(None) };
        let files = generate(&private, ImageFiles::default(), HOST, image);
        assert_eq!(
            find(&files, "/etc/hosts"),
            Some("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tbox\n")
        );
        assert_eq!(find(&files, "/etc/resolv.conf"), None);
        assert_eq!(find(&files, "/etc/passwd"), None);
    }

    #[test]
    fn a_new_host_name_gets_an_address() {
        let named = Request { hostname: "box", ..request(None) };
        let files = generate(&named, ImageFiles::default(), HOST, image);
        assert_eq!(find(&files, "/etc/hosts"), Some("127.0.0.1 localhost\n10.0.0.1 node1\n127.0.1.1\tbox\n"));
        let commented = HostFiles { hosts: b"#10.0.0.1 box\nbox alias\n", ..HOST };
        let files = generate(&named, ImageFiles::default(), commented, image);
        assert!(find(&files, "/etc/hosts").unwrap().ends_with("127.0.1.1\tbox\n"));
    }

    #[test]
    fn an_image_with_etc_elsewhere_is_left_as_it_is() {
        for odd in [Entry::Link, Entry::File, Entry::Other] {
            let entry = |path: &str| if path == "/etc" { Some(odd) } else { image(path) };
            assert_eq!(generate(&request(None), ImageFiles::default(), HOST, entry), []);
        }
        let empty = generate(&request(Some(Owner::Root { home: None })), ImageFiles::default(), HOST, |_| None);
        assert!(find(&empty, "/etc/passwd").is_some());
    }

    #[test]
    fn odd_texts_of_the_host_are_not_taken_over() {
        let long = vec![b'x'; MAX_HOST_FILE + 1];
        let odd = HostFiles { hosts: &long, resolv_conf: &long, localtime: b"#!/bin/sh" };
        let bad_name = Request { hostname: "a\nb", ..request(None) };
        let files = generate(&bad_name, ImageFiles::default(), odd, image);
        let paths: Vec<_> = files.iter().map(|file| file.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/etc/hosts"]);
        assert!(find(&files, "/etc/hosts").unwrap().len() < 100);
    }

    #[test]
    fn a_directory_in_a_files_place_is_not_hidden() {
        let entry = |path: &str| if path.starts_with("/etc") { Some(Entry::Directory) } else { None };
        let files = generate(&request(Some(Owner::Root { home: None })), ImageFiles::default(), HOST, entry);
        assert_eq!(files, []);
    }
}
