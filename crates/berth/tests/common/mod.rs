//! What the tests of the built binary share: a person with a home of their own, a root file system, whole sessions.
//!
//! As root, the binary is run as an ordinary user (an id that no database knows): root has ways that others do not, and
//! it is the others for whom berth is made.
#![allow(dead_code)] // Each test file uses some of it.

pub mod layout;

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock};

/// An id without an entry in any database.
const STRANGER: u32 = 54_321;

/// Held for writing while a program is copied, for reading while one is started: a child that is forked in between has
/// the copy open for writing until it executes something else, and nobody can execute the copy (ETXTBSY) that long.
static COPYING: RwLock<()> = RwLock::new(());

fn copy_program(from: &Path, to: &Path) {
    let _alone = COPYING.write().unwrap_or_else(PoisonError::into_inner);
    std::fs::copy(from, to).unwrap();
}

/// Starts a command.
pub fn spawn(command: &mut Command) -> Child {
    let _nothing_is_copied = COPYING.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn().expect("berth starts")
}

/// A person with a home directory, a store and a binary to run.
pub struct Person {
    directory: tempfile::TempDir,
}

/// How a session went.
#[must_use = "a session that nobody looks at tests nothing"]
#[derive(Debug, PartialEq, Eq)]
pub struct Session {
    /// The exit code; 128 + N where signal N ended the process.
    pub code: i32,
    /// Standard output, with the person's directory as `$DIR`.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Session {
    /// Asserts all three at once.
    #[track_caller]
    pub fn is(&self, code: i32, stdout: &str, stderr: &str) {
        assert_eq!((self.code, self.stdout.as_str(), self.stderr.as_str()), (code, stdout, stderr));
    }

    /// Asserts success and what was printed.
    #[track_caller]
    pub fn prints(&self, stdout: &str) {
        self.is(0, stdout, "");
    }

    /// Asserts that berth failed with this message and hint, and printed no data.
    #[track_caller]
    pub fn fails(&self, code: i32, message: &str, hint: &str) {
        let hint = if hint.is_empty() { String::new() } else { format!("hint: {hint}\n") };
        self.is(code, "", &format!("berth: {message}\n{hint}"));
    }
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Person {
    /// A new one.
    pub fn new() -> Person {
        let person = Person { directory: tempfile::tempdir().expect("a temporary directory") };
        // Others may pass: the binary and the root file system are used by another id.
        std::fs::set_permissions(person.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["home", "work"] {
            let path = person.path(name);
            std::fs::create_dir(&path).unwrap();
            if is_root() {
                chown(&path, Some(STRANGER), Some(STRANGER)).unwrap();
            }
        }
        if is_root() {
            // Where the binary was built may be closed to others.
            copy_program(Path::new(env!("CARGO_BIN_EXE_berth")), &person.path("berth"));
        } else {
            symlink(env!("CARGO_BIN_EXE_berth"), person.path("berth")).unwrap();
        }
        person
    }

    /// A path in the person's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        // The short form: what berth prints has links resolved.
        self.directory.path().canonicalize().unwrap().join(name)
    }

    /// A root file system of busybox, as `dir:PATH`.
    pub fn rootfs(&self) -> String {
        let root = self.path("root");
        if !root.exists() {
            make_rootfs(&root);
        }
        format!("dir:{}", root.display())
    }

    /// The command with arguments, in the person's working directory and with a small known environment.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(self.path("berth"));
        command
            .args(arguments)
            .current_dir(self.path("work"))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.path("home"))
            .env("BERTH_CONFIG", "/dev/null")
            .stdin(Stdio::null());
        if is_root() {
            command.uid(STRANGER).gid(STRANGER);
        }
        command
    }

    /// Runs a line of words to its end.
    pub fn berth(&self, line: &str) -> Session {
        self.finish(self.command(&line.split_whitespace().collect::<Vec<_>>()))
    }

    /// Runs `berth run OPTIONS ROOTFS sh -c SCRIPT`.
    pub fn script(&self, options: &str, script: &str) -> Session {
        self.finish(self.script_command(options, script))
    }

    /// See [`Person::script`].
    pub fn script_command(&self, options: &str, script: &str) -> Command {
        let rootfs = self.rootfs();
        let mut words = vec!["run"];
        words.extend(options.split_whitespace());
        words.extend([rootfs.as_str(), "sh", "-c", script]);
        self.command(&words)
    }

    /// Runs a command to its end.
    pub fn finish(&self, mut command: Command) -> Session {
        self.session(spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())))
    }

    /// Runs a command to its end with this on its standard input.
    pub fn finish_with_input(&self, mut command: Command, input: &[u8]) -> Session {
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        child.stdin.take().unwrap().write_all(input).unwrap();
        self.session(child)
    }

    /// Waits for a process whose outputs are pipes.
    pub fn session(&self, child: Child) -> Session {
        let output = child.wait_with_output().unwrap();
        let directory = self.path("");
        let directory = directory.to_str().unwrap().trim_end_matches('/');
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(directory, "$DIR");
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap());
        Session { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// A directory that busybox makes a system of.
fn make_rootfs(root: &Path) {
    const COMMANDS: &[&str] = &[
        "cat", "chown", "echo", "env", "head", "hostname", "id", "kill", "ls", "mkdir", "mount", "pwd", "sh", "sleep",
        "stat", "stty", "tail", "test", "touch", "true", "tty", "wc", "yes",
    ];
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = busybox.expect("these tests need a static busybox: install the package busybox-static");
    for directory in ["bin", "etc", "srv", "tmp"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    copy_program(Path::new(busybox), &root.join("bin/busybox"));
    for command in COMMANDS {
        symlink("busybox", root.join("bin").join(command)).unwrap();
    }
    std::fs::write(root.join("bin/data"), "no program\n").unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:34:\n").unwrap();
}
