//! What a test has: a bundle with a busybox in it, a user, a runtime, and the containers that it makes.

#![allow(unsafe_code)] // waitpid for one process.

use std::env;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Once;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use testbed::harness::Prepared;
use testbed::process;
use testbed::process::Output;
use testbed::user::User;

use crate::runtime;
use crate::runtime::Call;
use crate::runtime::Runtime;

/// Where the runner tells its tests whom it made.
const USER: &str = "BERTH_CONFORMANCE_USER";

/// Where the runner tells its tests that a busybox is, on the file system on which they work.
const BUSYBOX: &str = "BERTH_CONFORMANCE_BUSYBOX";

/// Commands of busybox in the containers.
const APPLETS: &str = "busybox [ awk basename cat chgrp chmod chown cp cut date dd df dirname dmesg echo env expr false find free \
    grep groups head hexdump hostname id ionice ip kill ln ls mkdir mkfifo mknod mktemp mount mv nice nproc nsenter od ps \
    pwd readlink realpath renice rm rmdir sed seq setsid sh sha256sum sleep sort stat stty sync tail taskset tee test \
    timeout touch tr true tty umount uname uniq unlink unshare usleep vi wc which whoami xargs yes";

/// Longest that a test waits for something to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// What lives as long as the run.
#[derive(Debug)]
pub struct Run {
    programs: tempfile::TempDir,
    user: Option<User>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.user.iter().for_each(User::remove);
    }
}

/// Copies berth to where every user can start it and, as root, makes a user.
pub fn prepare() -> io::Result<Prepared<Run>> {
    let testbed = Path::new(env!("CARGO_BIN_EXE_testbed"));
    let berth = env::var_os("BERTH_BIN").map_or_else(|| testbed.with_file_name("berth"), PathBuf::from);
    let mut run = Run { programs: shared_dir("berth-conformance-bin-")?, user: None };
    let copy = run.programs.path().join("berth");
    fs::copy(&berth, &copy).map_err(|error| {
        io::Error::other(format!("no {} (cargo build -p berth makes it): {error}", berth.display()))
    })?;
    let busybox = run.programs.path().join("busybox");
    fs::copy("/bin/busybox", &busybox).map_err(|error| io::Error::other(format!("no busybox-static: {error}")))?;
    let mut env: Vec<(&'static str, OsString)> = vec![(runtime::BERTH, copy.into()), (BUSYBOX, busybox.into())];
    if rustix::process::getuid().is_root() {
        User::remove_stale();
        let user = User::create("c", true)?;
        env.push((USER, user.name.clone().into()));
        run.user = Some(user);
    }
    Ok(Prepared { env, keep: run })
}

fn shared_dir(prefix: &str) -> io::Result<tempfile::TempDir> {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

/// One test's world.
#[derive(Debug)]
pub struct World {
    dir: tempfile::TempDir,
    /// The runtime that is tested.
    pub runtime: Runtime,
    /// Who calls it.
    pub user: User,
    /// `config.json` as the next command writes it.
    pub spec: Value,
    /// Whether the runtime may leave control groups alone.
    pub without_cgroups: bool,
    /// The container that the methods are about.
    pub id: String,
    ids: Vec<String>,
}

impl World {
    /// An ordinary user with one id, who is root in the container.
    pub fn user(runtime: Runtime) -> World {
        let user = env::var(USER).ok().and_then(|name| User::named(&name)).unwrap_or_else(User::current);
        let mut world = World::with(runtime, user);
        let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1}]);
        world.push("/linux/namespaces", json!({"type": "user"}));
        world.set("/linux/uidMappings", map(world.user.uid));
        world.set("/linux/gidMappings", map(world.user.gid));
        world
    }

    /// An ordinary user with his subordinate ids: 0 is himself, 1 and up to 65,535 are those.
    pub fn ranges(runtime: Runtime) -> World {
        let mut world = World::user(runtime);
        let (uid, gid) = (sub_ids("/etc/subuid", &world.user.name), sub_ids("/etc/subgid", &world.user.name));
        world.push("/linux/uidMappings", json!({"containerID": 1, "hostID": uid, "size": 65_535}));
        world.push("/linux/gidMappings", json!({"containerID": 1, "hostID": gid, "size": 65_535}));
        world
    }

    /// Root, without a user namespace.
    pub fn root(runtime: Runtime) -> World {
        World::with(runtime, User::current())
    }

    fn with(runtime: Runtime, user: User) -> World {
        let dir = shared_dir("berth-conformance-").expect("a folder");
        let id = format!("c{}-{}", std::process::id(), runtime.name());
        let mut world =
            World { dir, runtime, user, spec: base_spec(), without_cgroups: true, id: id.clone(), ids: vec![id] };
        world.user.own(world.dir.path()).expect("its owner");
        for (name, mode) in [("run", 0o700), ("state", 0o700), ("bundle", 0o755), ("host", 0o755)] {
            world.make_dir(name, mode);
        }
        world.fill_rootfs();
        world.set("/root/path", json!("rootfs"));
        world
    }

    fn fill_rootfs(&self) {
        for (name, mode) in [("", 0o755), ("bin", 0o755), ("proc", 0o755), ("sys", 0o755), ("dev", 0o755)]
            .into_iter()
            .chain([("etc", 0o755), ("root", 0o755), ("mnt", 0o755), ("tmp", 0o1777)])
        {
            self.make_dir(&format!("bundle/rootfs/{name}"), mode);
        }
        // One file by many names: making hundreds of thousands of links of the other kind takes longer than all the rest.
        let bin = self.rootfs("bin");
        let busybox = env::var_os(BUSYBOX).expect("the runner sets it");
        for applet in APPLETS.split_whitespace() {
            fs::hard_link(&busybox, bin.join(applet)).expect("one more name");
        }
        self.write("bundle/rootfs/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nme:x:7:8:me:/mnt:/bin/sh\n");
        self.write("bundle/rootfs/etc/group", "root:x:0:\nus:x:8:\n");
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path in the container's files.
    pub fn rootfs(&self, name: &str) -> PathBuf {
        self.path("bundle/rootfs").join(name)
    }

    /// Makes a folder of the user's in the test's folder.
    pub fn make_dir(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a new folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        self.user.own(&path).expect("its owner");
        path
    }

    /// Writes a file of the user's in the test's folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a new file");
        self.user.own(&path).expect("its owner");
        path
    }

    /// Writes a program of the user's (a script of the host's shell) in the test's folder.
    pub fn script(&self, name: &str, lines: &str) -> String {
        let path = self.write(name, format!("#!/bin/sh\n{lines}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        path.display().to_string()
    }

    /// What a file in the test's folder holds; empty where there is none.
    pub fn read(&self, name: &str) -> String {
        fs::read(self.path(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sets one value of the specification; what is above it is made.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut World {
        let mut at = &mut self.spec;
        for key in pointer.split('/').skip(1) {
            at = match at {
                Value::Array(list) => &mut list[key.parse::<usize>().expect("an index")],
                other => &mut other[key],
            };
        }
        *at = value;
        self
    }

    /// Appends to a list of the specification; a missing one is made.
    pub fn push(&mut self, pointer: &str, value: Value) -> &mut World {
        if self.spec.pointer(pointer).is_none_or(Value::is_null) {
            self.set(pointer, json!([]));
        }
        self.spec.pointer_mut(pointer).and_then(Value::as_array_mut).expect("a list").push(value);
        self
    }

    /// Takes a value out of the specification.
    pub fn remove(&mut self, pointer: &str) -> &mut World {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        self.spec.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").remove(key);
        self
    }

    /// Adds a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: impl AsRef<Path>, options: &[&str]) -> &mut World {
        self.push(
            "/mounts",
            json!({"destination": destination, "type": kind, "source": source.as_ref(), "options": options}),
        )
    }

    /// Adds a bind mount.
    pub fn bind(&mut self, source: impl AsRef<Path>, destination: &str, options: &[&str]) -> &mut World {
        let options: Vec<&str> = ["bind"].iter().chain(options).copied().collect();
        self.mount(destination, "none", source, &options)
    }

    /// Takes a namespace out, so that the host's is kept.
    pub fn keep_namespace(&mut self, kind: &str) -> &mut World {
        let list = self.spec.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut).expect("a list");
        list.retain(|namespace| namespace["type"] != kind);
        self
    }

    /// Asks for one more new namespace.
    pub fn new_namespace(&mut self, kind: &str) -> &mut World {
        self.push("/linux/namespaces", json!({"type": kind}))
    }

    /// Joins a namespace by its path instead of making one.
    pub fn join_namespace(&mut self, kind: &str, path: &str) -> &mut World {
        self.keep_namespace(kind).push("/linux/namespaces", json!({"type": kind, "path": path}))
    }

    /// Sets what the container runs.
    pub fn args(&mut self, words: &[&str]) -> &mut World {
        self.set("/process/args", json!(words))
    }

    /// Sets what the container runs: a script of its shell.
    pub fn shell(&mut self, script: &str) -> &mut World {
        self.args(&["/bin/sh", "-c", script])
    }

    /// Writes `config.json`.
    pub fn write_spec(&self) {
        self.write("bundle/config.json", self.spec.to_string());
    }

    /// A command line of the runtime, run by the user in the bundle.
    pub fn verb<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        self.verb_with(&[], words)
    }

    /// The same with global options.
    pub fn verb_with<S: AsRef<OsStr>>(&self, globals: &[&str], words: impl IntoIterator<Item = S>) -> Command {
        let root = self.path("state");
        let call = Call { root: &root, rootless: self.user.uid != 0, without_cgroups: self.without_cgroups };
        let (program, first) = self.runtime.line(&call);
        let mut command = self.user.command(program);
        command.env("XDG_RUNTIME_DIR", self.path("run")).current_dir(self.path("bundle"));
        command.args(first).args(globals).args(words);
        command
    }

    /// Runs a command line of the runtime to its end.
    #[track_caller]
    pub fn call(&self, words: &[&str]) -> Output {
        process::run(&mut self.verb(words))
    }

    /// Runs the container to its end.
    #[track_caller]
    pub fn run(&self) -> Output {
        self.write_spec();
        self.call(&["run", &self.id])
    }

    /// What a script that ran in the container to its end with success wrote, without the last line end.
    #[track_caller]
    pub fn says(&mut self, script: &str) -> String {
        let text = self.shell(script).run().ok();
        text.trim_end().to_owned()
    }

    /// The runtime must refuse the container with a word on standard error, and leave nothing.
    #[track_caller]
    pub fn refused(&self) -> String {
        let output = self.run();
        assert_ne!(output.code(), 0, "{}", output.report());
        assert!(!output.stderr.trim().is_empty(), "no word of why: {}", output.report());
        for sign in ["panicked", "SIGSEGV", "goroutine "] {
            assert!(!output.stderr.contains(sign), "it crashed: {}", output.report());
        }
        assert_eq!(self.ids_left(), Vec::<String>::new(), "state is left: {}", output.report());
        output.stderr
    }

    /// Names in the directory of the state that are those of containers.
    pub fn ids_left(&self) -> Vec<String> {
        let list = fs::read_dir(self.path("state")).into_iter().flatten().flatten();
        list.map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| self.ids.contains(name))
            .collect()
    }

    /// Another container of this world.
    pub fn another(&mut self, tag: &str) -> String {
        let id = format!("{}-{tag}", self.ids[0]);
        self.ids.push(id.clone());
        id
    }

    /// Makes the container; its output goes to the file `out`, what the runtime says to `err`.
    #[track_caller]
    pub fn try_create(&self, options: &[&str]) -> (i32, String) {
        self.write_spec();
        let words = [&["create"], options, &[self.id.as_str()]].concat();
        let code = self.detached(&mut self.verb(words));
        (code, self.read("err"))
    }

    /// Runs a command whose children may keep its output: that goes to `out` and `err` in the test's folder.
    #[track_caller]
    pub fn detached(&self, command: &mut Command) -> i32 {
        reap_orphans();
        let (out, err) = (self.append("out"), self.append("err"));
        let mut child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("a runtime");
        let (status, _) = process::wait(&mut child, process::LIMIT).expect("it ends");
        std::os::unix::process::ExitStatusExt::signal(&status).map_or_else(|| status.code().unwrap_or(-1), |n| 128 + n)
    }

    /// A file in the test's folder that is written at its end.
    pub fn append(&self, name: &str) -> fs::File {
        let file = fs::OpenOptions::new().create(true).append(true).open(self.path(name)).expect("a file");
        self.user.own(&self.path(name)).expect("its owner");
        file
    }

    /// Makes the container, which must succeed.
    #[track_caller]
    pub fn create(&self) -> &World {
        self.create_with(&[])
    }

    /// The same with options.
    #[track_caller]
    pub fn create_with(&self, options: &[&str]) -> &World {
        let (code, err) = self.try_create(options);
        assert_eq!(code, 0, "create: {err}");
        self
    }

    /// Starts the container that was made.
    #[track_caller]
    pub fn start(&self) -> &World {
        let output = self.call(&["start", &self.id]);
        output.ok();
        self
    }

    /// Makes and starts a container that does nothing until it is killed; gives the id of its process.
    #[track_caller]
    pub fn sleeper(&mut self) -> i32 {
        self.args(&["/bin/sleep", "1000"]);
        self.create().start();
        let pid = self.pid();
        until("it sleeps", || process::name(pid) == "/bin/sleep 1000");
        pid
    }

    /// State of the container as the runtime prints it.
    #[track_caller]
    pub fn state(&self) -> Value {
        let output = self.call(&["state", &self.id]);
        let report = output.report();
        serde_json::from_str(&output.ok()).unwrap_or_else(|error| panic!("{error}: {report}"))
    }

    /// Status of the container.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap_or_default().to_owned()
    }

    /// The container's process.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().expect("a pid") as i32
    }

    /// Waits until the container is stopped.
    #[track_caller]
    pub fn stopped(&self) -> &World {
        until("the container stops", || self.status() == "stopped");
        self
    }

    /// Ends the container and removes it.
    #[track_caller]
    pub fn end(&self) {
        self.call(&["delete", "--force", &self.id]).ok();
    }

    /// Runs a script in the container that runs.
    #[track_caller]
    pub fn exec(&self, script: &str) -> Output {
        self.call(&["exec", &self.id, "/bin/sh", "-c", script])
    }

    /// Waits until the container has written this word to its output.
    #[track_caller]
    pub fn wrote(&self, word: &str) {
        until(&format!("the container writes {word}"), || self.read("out").contains(word));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for id in &self.ids {
            // A process that is frozen cannot be killed by crun.
            if self.path("state").join(id).exists() {
                for words in [["resume", id].as_slice(), &["delete", "--force", id]] {
                    let mut command = self.verb(words);
                    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                    if let Ok(mut child) = command.spawn() {
                        let _ = process::wait(&mut child, Duration::from_secs(20));
                    }
                }
            }
        }
        if !self.without_cgroups {
            crate::cgroups::remove();
        }
    }
}

/// Waits for the containers' processes whose parent, the runtime, has ended, as an engine does: a pid namespace does not
/// end as long as the end of one of its processes was not noticed.
fn reap_orphans() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        thread::spawn(|| {
            loop {
                for pid in children() {
                    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                    // Its numbers in this pid namespace and in those below: what the test itself started has one.
                    if field(&status, "NSpid").split_whitespace().count() > 1 {
                        // SAFETY: waitpid with no place for a status takes numbers only.
                        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
                    }
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
    });
}

fn children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()).collect()
}

/// Waits until something has happened.
#[track_caller]
pub fn until(what: &str, happened: impl FnMut() -> bool) {
    until_within(PATIENCE, what, happened);
}

/// Waits so long until something has happened.
#[track_caller]
pub fn until_within(patience: Duration, what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !happened() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn sub_ids(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(&format!("{name}:"))?.split(':').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{name} has no line in {file}"))
}

/// A field of `/proc/PID/status`, or of the like.
pub fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim)
}

/// A specification with little in it.
fn base_spec() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "conformance",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
        },
    })
}
