//! A place with an image of three layers, owned by an ordinary user, and the `launch` example run as that user.
#![allow(dead_code, unreachable_pub)] // Each test program uses its part.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{PoisonError, RwLock};

use berth_container::oci::{IdMap, Linux, Mount, Namespace, NamespaceKind, Process, Root, Spec, User};
use berth_container::{Bundle, GeneratedFile, Rootfs, Upper};
use serde_json::{Value, json};

/// Whom the tests become when the superuser runs them: an id without a name, as in a job on a node without a directory.
const USER: u32 = 64_217;

/// Programs that the image has, all busybox.
const APPLETS: &[&str] = &[
    "cat", "chmod", "echo", "env", "false", "find", "grep", "head", "hostname", "id", "kill", "ls", "mkdir", "mount",
    "ps", "pwd", "readlink", "rm", "sh", "sleep", "stat", "test", "touch", "true", "tty", "wc", "yes",
];

/// Held for writing while a program is copied, for reading while one is started: a child forked in between has the copy
/// open for writing until it executes something, and nobody can execute the copy that long (ETXTBSY).
static COPYING: RwLock<()> = RwLock::new(());

fn spawn(command: &mut Command) -> Child {
    let _nobody_copies = COPYING.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}

/// A temporary directory with everything.
pub struct World {
    pub dir: tempfile::TempDir,
    pub uid: u32,
    pub gid: u32,
    launcher: PathBuf,
}

impl World {
    pub fn new() -> World {
        let dir = tempfile::Builder::new().prefix("berth-launch-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (euid, egid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let (uid, gid) = if euid == 0 { (USER, USER) } else { (euid, egid) };
        // The user may have no way to where the build puts programs.
        let built = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/launch");
        let launcher = dir.path().join("launch");
        {
            let _alone = COPYING.write().unwrap_or_else(PoisonError::into_inner);
            std::fs::copy(&built, &launcher).unwrap_or_else(|e| panic!("{}: {e}", built.display()));
        }
        let world = World { dir, uid, gid, launcher };
        world.make_layers();
        std::fs::create_dir(world.path("outside")).unwrap();
        std::fs::create_dir(world.path("state")).unwrap();
        world.give(world.dir.path());
        world
    }

    /// The program that starts containers.
    pub fn launcher(&self) -> &Path {
        &self.launcher
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives a file tree to the user.
    pub fn give(&self, top: &Path) {
        let _ = rustix::fs::chownat(
            rustix::fs::CWD,
            top,
            Some(rustix::fs::Uid::from_raw(self.uid)),
            Some(rustix::fs::Gid::from_raw(self.gid)),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        );
        if std::fs::symlink_metadata(top).unwrap().is_dir() {
            for entry in std::fs::read_dir(top).unwrap() {
                self.give(&entry.unwrap().path());
            }
        }
    }

    fn make_layers(&self) {
        let (first, second, third) = (self.path("l0"), self.path("l1"), self.path("l2"));
        for directory in ["bin", "dev", "etc", "proc", "sys", "tmp", "opaque", "data"] {
            std::fs::create_dir_all(first.join(directory)).unwrap();
        }
        std::fs::copy("/bin/busybox", first.join("bin/busybox"))
            .expect("the package busybox-static is needed for these tests");
        for applet in APPLETS {
            symlink("busybox", first.join("bin").join(applet)).unwrap();
        }
        std::fs::write(first.join("removed"), "first").unwrap();
        std::fs::write(first.join("replaced"), "first").unwrap();
        std::fs::write(first.join("opaque/old"), "first").unwrap();
        std::fs::write(first.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        std::fs::create_dir_all(second.join("opaque")).unwrap();
        std::fs::write(second.join("opaque/new"), "second").unwrap();
        rustix::fs::setxattr(second.join("opaque"), "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
            .expect("the temporary directory needs a file system with user xattrs");
        let whiteout = rustix::fs::makedev(0, 0);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            second.join("removed"),
            rustix::fs::FileType::CharacterDevice,
            mode,
            whiteout,
        )
        .unwrap();
        std::fs::create_dir_all(&third).unwrap();
        std::fs::write(third.join("replaced"), "third").unwrap();
        // What a hostile image would have.
        symlink(self.path("outside"), third.join("absolute")).unwrap();
        symlink("../../../../../../..".to_owned() + self.path("outside").to_str().unwrap(), third.join("dotted"))
            .unwrap();
        symlink("/nowhere/at/all", third.join("dangling")).unwrap();
        for (name, mode, content) in [
            ("script", 0o755, "#!/no/such/interpreter\n"),
            ("plain", 0o755, "neither program nor script"),
            ("locked", 0o644, "#!/bin/sh\n"),
        ] {
            std::fs::write(third.join(name), content).unwrap();
            std::fs::set_permissions(third.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    /// A container in which a shell runs this.
    pub fn shell(&self, script: &str) -> Run<'_> {
        self.command(&["sh", "-c", script])
    }

    pub fn command(&self, args: &[&str]) -> Run<'_> {
        let map = |id| vec![IdMap { container_id: id, host_id: id, size: 1 }];
        let spec = Spec {
            root: Some(Root { path: "root".into(), readonly: false }),
            process: Some(Process {
                user: User { uid: self.uid, gid: self.gid, ..User::default() },
                args: args.iter().map(|&arg| arg.to_owned()).collect(),
                env: vec!["PATH=/bin".to_owned()],
                cwd: "/".into(),
                ..Process::default()
            }),
            mounts: vec![Mount::rbind("/proc", "/proc"), Mount::rbind("/dev", "/dev")],
            linux: Some(Linux {
                namespaces: vec![Namespace::new(NamespaceKind::User), Namespace::new(NamespaceKind::Mount)],
                uid_mappings: map(self.uid),
                gid_mappings: map(self.gid),
                ..Linux::default()
            }),
            ..Spec::default()
        };
        let lowers = ["l0", "l1", "l2"].map(|name| self.path(name)).to_vec();
        let rootfs = Rootfs::Overlay { lowers, generated: Vec::new(), upper: Upper::Tmpfs { size: None } };
        Run { world: self, bundle: Bundle { spec, rootfs }, extra: json!({}), setup: Vec::new(), superuser: false }
    }
}

type Setup = Box<dyn FnMut() -> std::io::Result<()> + Send + Sync>;

/// A container about to be run.
pub struct Run<'a> {
    world: &'a World,
    pub bundle: Bundle,
    extra: Value,
    setup: Vec<Setup>,
    superuser: bool,
}

impl Run<'_> {
    pub fn spec(&mut self) -> &mut Spec {
        &mut self.bundle.spec
    }

    pub fn process(&mut self) -> &mut Process {
        self.bundle.spec.process.as_mut().unwrap()
    }

    pub fn linux(&mut self) -> &mut Linux {
        self.bundle.spec.linux.as_mut().unwrap()
    }

    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.extra[key] = value.into();
        self
    }

    pub fn mount(mut self, mount: Mount) -> Self {
        self.spec().mounts.push(mount);
        self
    }

    pub fn bind(self, source: &str, target: &str, options: &[&str]) -> Self {
        let mut mount = Mount::rbind(self.world.path(source), target);
        mount.options.extend(options.iter().map(|&option| option.to_owned()));
        self.mount(mount)
    }

    pub fn upper(mut self, new: Upper) -> Self {
        if let Rootfs::Overlay { upper, .. } = &mut self.bundle.rootfs {
            *upper = new;
        }
        self
    }

    pub fn generate(mut self, path: &str, content: &str) -> Self {
        if let Rootfs::Overlay { generated, .. } = &mut self.bundle.rootfs {
            generated.push(GeneratedFile { path: path.into(), mode: 0o644, content: content.into() });
        }
        self
    }

    /// New namespaces of these kinds, with a new /proc for new process ids.
    pub fn unshare(mut self, kinds: &[NamespaceKind]) -> Self {
        for kind in kinds {
            self.linux().namespaces.push(Namespace::new(*kind));
            if *kind == NamespaceKind::Pid {
                self.spec().mounts[0] = Mount::of_type("proc", "/proc", &["nosuid", "nodev", "noexec"]);
            }
        }
        self
    }

    pub fn root_inside(mut self) -> Self {
        self.linux().uid_mappings[0].container_id = 0;
        self.linux().gid_mappings[0].container_id = 0;
        self.process().user = User::default();
        self
    }

    /// A container of this name, with its changes on disk.
    pub fn named(self, name: &str) -> Self {
        let state = self.world.path("state");
        let (upper, work) = (state.join(name).join("upper"), state.join(name).join("work"));
        self.upper(Upper::Dir { upper, work }).set("named", json!([state, name]))
    }

    /// The lowest layer itself is the root file system, without the later ones.
    pub fn directory(mut self) -> Self {
        self.bundle.rootfs = Rootfs::Dir(self.world.path("l0"));
        self
    }

    /// The superuser starts it, without a user namespace, with a `/dev` of its own.
    pub fn superuser(mut self) -> Self {
        self.superuser = true;
        self.process().user = User::default();
        let linux = self.linux();
        linux.namespaces.retain(|namespace| namespace.kind != NamespaceKind::User);
        linux.uid_mappings.clear();
        linux.gid_mappings.clear();
        self.private_dev()
    }

    pub fn private_dev(mut self) -> Self {
        self.spec().mounts[1] = Mount::of_type("tmpfs", "/dev", &["nosuid", "mode=755"]);
        self
    }

    /// Run in the launcher's process before it starts.
    pub fn before(mut self, setup: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        self.setup.push(Box::new(setup));
        self
    }

    #[allow(unsafe_code)]
    fn launcher(mut self) -> Command {
        self.extra["bundle"] = serde_json::to_value(&self.bundle).unwrap();
        let mut file = tempfile::NamedTempFile::new_in(self.world.dir.path()).unwrap();
        file.write_all(self.extra.to_string().as_bytes()).unwrap();
        let path = file.into_temp_path().keep().unwrap();
        self.world.give(&path);
        let mut command = Command::new(&self.world.launcher);
        command.arg(path).current_dir("/").stdin(Stdio::null());
        if rustix::process::geteuid().is_root() && !self.superuser {
            command.uid(self.world.uid).gid(self.world.gid);
        }
        for setup in self.setup {
            // SAFETY: what the tests pass makes system calls only.
            unsafe { command.pre_exec(setup) };
        }
        command
    }

    /// Starts it with its outputs thrown away, and does not wait.
    pub fn spawn(self, stdout: Stdio) -> Child {
        spawn(self.launcher().stdout(stdout).stderr(Stdio::null()))
    }

    pub fn output(self) -> Finished {
        let mut command = self.launcher();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Finished(spawn(&mut command).wait_with_output().unwrap())
    }

    /// Starts it and waits for its first line, which says that it is ready.
    pub fn start(self) -> Running {
        let mut child = spawn(self.launcher().stdout(Stdio::piped()).stderr(Stdio::inherit()));
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        assert_ne!(first, "", "the container ended before it was ready");
        Running { child, stdout, first }
    }
}

/// A container that has ended.
#[derive(Debug)]
#[must_use]
pub struct Finished(Output);

impl Finished {
    pub fn code(&self) -> i32 {
        self.0.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }

    pub fn signal(&self) -> Option<i32> {
        self.0.status.signal()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// What it wrote, if it ended well.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.0.status.code(), Some(0), "{}{}", self.stdout(), self.stderr());
        self.stdout().trim_end().to_owned()
    }

    /// What it said, if it ended with this code.
    #[track_caller]
    pub fn fails(&self, code: i32) -> String {
        assert_eq!(self.0.status.code(), Some(code), "{}{}", self.stdout(), self.stderr());
        self.stderr()
    }
}

/// A container that runs.
pub struct Running {
    pub child: Child,
    stdout: BufReader<ChildStdout>,
    pub first: String,
}

impl Drop for Running {
    /// A failed test must not leave a container behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_raw(self.pid() as i32).unwrap(), signal).unwrap();
    }

    /// Waits until nobody holds its standard output any more; returns what came meanwhile, and the launcher's end.
    pub fn finish(mut self) -> (String, std::process::ExitStatus) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap())
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

/// Whether this test can be run: it takes the superuser, whom CI has.
pub fn superuser() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "CI runs this as root");
    eprintln!("SKIPPED: takes the superuser");
    false
}

/// The words of a text, as a set.
pub fn words(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

/// For [`World::give`] of single files.
pub fn own(path: &Path, uid: u32) {
    let _ = chown(path, Some(uid), Some(uid));
}
