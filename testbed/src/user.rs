//! Users to run things as: oneself, or (as root) accounts made for the tests and removed after them.

#![allow(unsafe_code)] // Changing ids between fork and exec.

use std::env;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::process;

/// An account.
#[derive(Debug, Clone)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Main group.
    pub gid: u32,
    /// Home.
    pub home: PathBuf,
}

/// Accounts of the tests are called this and the number of the process that made them.
const PREFIX: &str = "berth-e2e";

impl User {
    /// Whoever runs the tests.
    pub fn current() -> User {
        let uid = rustix::process::getuid().as_raw();
        User::find(|_, id| id == uid).unwrap_or_else(|| User {
            name: uid.to_string(),
            uid,
            gid: rustix::process::getgid().as_raw(),
            home: env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from),
        })
    }

    /// The account of that name.
    pub fn named(name: &str) -> Option<User> {
        User::find(|candidate, _| candidate == name)
    }

    fn find(wanted: impl Fn(&str, u32) -> bool) -> Option<User> {
        let passwd = fs::read_to_string("/etc/passwd").ok()?;
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            wanted(name, uid).then(|| User { name: name.to_owned(), uid, gid, home: PathBuf::from(home) })
        })
    }

    /// Makes an account, with 65,536 subordinate ids or none. Needs root.
    pub fn create(tag: &str, sub_ids: bool) -> io::Result<User> {
        let name = format!("{PREFIX}-{}{tag}", std::process::id());
        let made = process::run(Command::new("useradd").args(["-m", "-s", "/bin/sh", &name]));
        if !made.status.success() {
            return Err(io::Error::other(made.report()));
        }
        // What useradd does on its own depends on /etc/login.defs: say it, whatever that was.
        let had = ["/etc/subuid", "/etc/subgid"].map(|file| {
            fs::read_to_string(file).unwrap_or_default().lines().any(|line| line.starts_with(&format!("{name}:")))
        });
        if sub_ids && had != [true, true] {
            let first = 1_000_000_000 + u64::from(std::process::id()) % 10_000 * 65_536;
            let range = format!("{first}-{}", first + 65_535);
            process::run(Command::new("usermod").args(["--add-subuids", &range, "--add-subgids", &range, &name])).ok();
        } else if !sub_ids {
            for file in ["/etc/subuid", "/etc/subgid"] {
                let text = fs::read_to_string(file).unwrap_or_default();
                for range in text.lines().filter_map(|line| line.strip_prefix(&format!("{name}:"))) {
                    let (first, count) = range.split_once(':').unwrap_or((range, "1"));
                    let (first, count): (u64, u64) = (first.parse().unwrap_or(0), count.parse().unwrap_or(1));
                    let flag = if file.ends_with("uid") { "--del-subuids" } else { "--del-subgids" };
                    let span = format!("{first}-{}", first + count - 1);
                    process::run(Command::new("usermod").args([flag, &span, &name])).ok();
                }
            }
        }
        User::named(&name).ok_or_else(|| io::Error::other("useradd made no account"))
    }

    /// Removes the account and its home.
    pub fn remove(&self) {
        assert!(self.name.starts_with(PREFIX), "removes only what create() made");
        let _ = process::run(Command::new("userdel").args(["-r", &self.name]));
    }

    /// Removes the accounts of runs that died before they could do it.
    pub fn remove_stale() {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        for name in passwd.lines().filter_map(|line| line.split(':').next()) {
            let Some(rest) = name.strip_prefix(&format!("{PREFIX}-")) else { continue };
            let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if !Path::new("/proc").join(&pid).exists()
                && let Some(user) = User::named(name)
            {
                user.remove();
            }
        }
    }

    /// A command that runs as this user with a clean environment.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", &self.home).env("USER", &self.name).env("LOGNAME", &self.name).env("LANG", "C.UTF-8");
        command.current_dir("/");
        self.apply(&mut command);
        command
    }

    /// Makes a command run with this user's ids, where they are not those of the caller.
    pub fn apply(&self, command: &mut Command) {
        if self.uid == rustix::process::getuid().as_raw() {
            return;
        }
        let name = CString::new(self.name.as_str()).expect("no NUL in a login name");
        let (uid, gid) = (self.uid, self.gid);
        // SAFETY: the calls between fork and exec take numbers and a string made before the fork. initgroups reads
        // /etc/group, which is safe as the parent's other threads hold none of the C library's locks for that file.
        unsafe {
            command.pre_exec(move || {
                if libc::initgroups(name.as_ptr(), gid) != 0
                    || libc::setresgid(gid, gid, gid) != 0
                    || libc::setresuid(uid, uid, uid) != 0
                {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
    }

    /// Gives a path to this user.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        if self.uid == rustix::process::getuid().as_raw() {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
    }
}
