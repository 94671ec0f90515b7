//! What `exec` makes of a running container: a process like one that is there, with what the person wants changed.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use berth_container::accounts;
use berth_container::environment::{Environment, Setting};
use berth_container::oci::{Process, User};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::CommandError;

/// The largest file of a process or a container that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What the person wants.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The command and its arguments.
    pub command: &'a [OsString],
    /// Of `--env`.
    pub settings: &'a [Setting],
    /// Where to start.
    pub workdir: Option<&'a str>,
    /// Who to be.
    pub user: Option<&'a str>,
    /// Whether the command gets a terminal.
    pub pty: bool,
}

/// A process of the container `pid`, `like` one that runs there.
pub fn process(like: Process, wish: &Wish<'_>, pid: u32) -> Result<Process, CommandError> {
    let args = wish.command.iter().map(|word| {
        let text = word.to_str().map(str::to_owned);
        text.ok_or_else(|| CommandError::usage(format!("the argument `{}` is not valid UTF-8", word.display())))
    });
    let cwd = match wish.workdir {
        None => like.cwd,
        Some(directory) if directory.starts_with('/') => PathBuf::from(directory),
        Some(other) => {
            return Err(CommandError::usage(format!("--workdir {other}: not an absolute path of the container")));
        }
    };
    let user = match wish.user {
        None => like.user,
        Some(spec) => {
            let (passwd, group) = (file_of(pid, "etc/passwd"), file_of(pid, "etc/group"));
            let identity = accounts::resolve(spec, &passwd, &group)
                .map_err(|e| CommandError::usage(format!("--user {spec}: {e}")).with_hint(e.hint()))?;
            User { uid: identity.uid, gid: identity.gid, additional_gids: identity.groups, ..like.user }
        }
    };
    let host: Vec<(OsString, OsString)> = env::vars_os().collect();
    let mut environment = Environment::default();
    for (name, value) in like.env.iter().filter_map(|entry| entry.split_once('=')) {
        environment.set(OsStr::new(name), OsStr::new(value));
    }
    if wish.pty && environment.get("TERM").is_none() {
        environment.set(OsStr::new("TERM"), &env::var_os("TERM").unwrap_or_else(|| "xterm".into()));
    }
    for setting in wish.settings {
        environment.apply(setting, &host);
    }
    Ok(Process {
        args: args.collect::<Result<_, _>>()?,
        env: environment.into_entries().into_iter().filter_map(|entry| entry.into_string().ok()).collect(),
        cwd,
        user,
        terminal: wish.pty,
        ..like
    })
}

/// What is known of a process that was started without a name.
#[derive(Clone, Debug)]
pub struct Like {
    /// Its environment, directory and ids, as they are inside.
    pub process: Process,
    /// Whether its ownership calls are answered as done.
    pub fake_ownership: bool,
}

/// Looks at a process.
pub fn like_process(pid: u32) -> Result<Like, CommandError> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        let mut content = Vec::new();
        let opened = File::open(&path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut content));
        opened.map(|_| content).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => CommandError::failure(format!("there is no process {pid}"))
                .with_hint("`berth ps` lists the named containers"),
            std::io::ErrorKind::PermissionDenied => {
                CommandError::failure(format!("process {pid} belongs to somebody else"))
                    .with_hint("a container can be joined by the user who started it")
            }
            _ => CommandError::io("read", &path, e),
        })
    };
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let environment = read("environ")?;
    let entries = environment.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
    let ids = [("Uid:", "uid_map"), ("Gid:", "gid_map")].map(|(field, map)| {
        let outside = number(&status, field).unwrap_or(0);
        read(map).map(|map| inside(&String::from_utf8_lossy(&map), outside).unwrap_or(outside))
    });
    let [uid, gid] = ids;
    let uid = uid?;
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_else(|_| PathBuf::from("/"));
    Ok(Like {
        // The filter is the only one that berth installs.
        fake_ownership: uid == 0 && number(&status, "Seccomp:") == Some(2),
        process: Process {
            user: User { uid, gid: gid?, ..User::default() },
            env: entries.filter_map(|entry| OsString::from_vec(entry.to_vec()).into_string().ok()).collect(),
            // The link's text is the path as seen from here; what is outside of what is seen has none.
            cwd: if cwd.is_absolute() { cwd } else { PathBuf::from("/") },
            no_new_privileges: number(&status, "NoNewPrivs:") == Some(1),
            ..Process::default()
        },
    })
}

/// The first number of a line of `/proc/PID/status`.
fn number(status: &str, field: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

/// The id inside of a map for an id outside.
fn inside(map: &str, outside: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().ok());
        let (first, start, size) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let offset = outside.checked_sub(start)?;
        (offset < size).then(|| first + offset)
    })
}

/// A small file of the container, by way of one of its processes; empty where there is none.
fn file_of(pid: u32, path: &str) -> Vec<u8> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty()) else { return Vec::new() };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut content = Vec::new();
    if let Ok(file) = rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
        // What was read before an error is still good.
        let _ = File::from(file).take(MAX_FILE).read_to_end(&mut content);
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like() -> Process {
        Process { env: vec!["A=1".to_owned(), "B=2".to_owned()], cwd: "/there".into(), ..Process::default() }
    }

    #[test]
    fn the_process_is_like_the_running_one_but_for_what_is_wanted() {
        let command = [OsString::from("ls"), OsString::from("-l")];
        let settings = [Setting::Set("B".into(), "3".into())];
        let wish = Wish { command: &command, settings: &settings, workdir: None, user: None, pty: false };
        let made = process(like(), &wish, 0).unwrap();
        assert_eq!(made.args, ["ls", "-l"]);
        assert_eq!(made.env, ["A=1", "B=3"]);
        assert_eq!(made.cwd, std::path::Path::new("/there"));
        let moved = process(like(), &Wish { workdir: Some("/x"), user: Some("7:8"), pty: true, ..wish }, 0).unwrap();
        assert_eq!((moved.user.uid, moved.user.gid), (7, 8));
        assert_eq!(moved.cwd, std::path::Path::new("/x"));
        assert!(moved.terminal && moved.env.iter().any(|entry| entry.starts_with("TERM=")));
        assert!(process(like(), &Wish { workdir: Some("x"), ..wish }, 0).is_err());
    }

    #[test]
    fn ids_outside_are_found_in_maps() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(inside(map, 1000), Some(0));
        assert_eq!(inside(map, 100_005), Some(6));
        assert_eq!(inside(map, 7), None);
    }

    #[test]
    fn this_process_is_seen_as_it_is() {
        let like = like_process(std::process::id()).unwrap();
        assert_eq!(like.process.cwd, env::current_dir().unwrap());
        assert!(!like.process.env.is_empty());
        assert!(like_process(u32::MAX).is_err());
    }
}
