//! With real groups, of processes that really run: these tests need root.

#![allow(unsafe_code)] // mount namespaces and children of the tests

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// Whether root runs the tests; told where not, and a failure in CI.
fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "CI runs this as root");
    eprintln!("skipped: only root may make control groups here");
    false
}

fn id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("berth-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A shell that waits for a line before it does anything; killed at the end.
struct Sleeper(Child);

impl Sleeper {
    fn new(script: &str) -> Sleeper {
        let script = format!("read go; {script}");
        let mut command = Command::new("/bin/sh");
        Sleeper(command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn go(&mut self) {
        use std::io::Write as _;
        self.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// Runs to the end.
    fn output(mut self) -> String {
        use std::io::Read as _;
        self.go();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn line(&mut self) -> String {
        use std::io::Read as _;
        let mut line = Vec::new();
        let mut byte = [0];
        while self.0.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Removed at the end, also of a test that fails.
struct Guard(Cgroup);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.remove();
    }
}

fn create(resources: &str, pid: u32) -> Guard {
    let resources: Resources = serde_json::from_str(resources).unwrap();
    let id = id();
    let request = Request { id: &id, path: None, resources: Some(&resources), manager: Manager::Cgroupfs };
    Guard(Cgroup::create(&request, pid).unwrap())
}

/// A group in one hierarchy alone, to see that its own means do.
fn only(kind: impl Fn(&Kind) -> bool, pid: u32) -> Option<Guard> {
    let host = Host::read().unwrap();
    let hierarchy = host.hierarchies.iter().find(|it| kind(&it.kind))?;
    let directory = hierarchy.mount_point.join(hierarchy.own.as_ref()?).join(id());
    assert!(files::make(&hierarchy.mount_point, &directory, &mut |_| Ok(())).unwrap());
    create::put(pid, &directory).unwrap();
    let place = Place { kind: hierarchy.kind.clone(), directory, made: true };
    let pure_v2 = place.kind == Kind::V2;
    Some(Guard(Cgroup { places: vec![place], pure_v2, init: pid, ..Cgroup::default() }))
}

fn freezes() -> Vec<fn(&Kind) -> bool> {
    vec![|kind| *kind == Kind::V2, |kind| kind.has("freezer")]
}

fn value(cgroup: &Cgroup, controller: &str, v1: &str, v2: &str) -> String {
    let place =
        cgroup.places.iter().find(|it| if cgroup.pure_v2 { it.kind == Kind::V2 } else { it.kind.has(controller) });
    files::read(&place.unwrap().directory, if cgroup.pure_v2 { v2 } else { v1 }).unwrap().trim().to_owned()
}

#[test]
fn a_process_is_put_into_a_group_of_its_own_and_limited() {
    if !is_root() {
        return;
    }
    let sleeper = Sleeper::new("sleep 100");
    let guard = create(
        r#"{"memory":{"limit":67108864},"pids":{"limit":33},"cpu":{"shares":512,"quota":20000,"period":50000,"cpus":"0"}}"#,
        sleeper.pid(),
    );
    let cgroup = &guard.0;
    assert!(cgroup.is_own() && cgroup.warnings().is_empty());
    assert_eq!(cgroup.processes().unwrap(), [sleeper.pid()]);
    assert_eq!(value(cgroup, "memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(value(cgroup, "pids", "pids.max", "pids.max"), "33");
    assert_eq!(value(cgroup, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    let limits: Resources = serde_json::from_str(r#"{"memory":{"limit":33554432},"pids":{"limit":-1}}"#).unwrap();
    cgroup.update(&limits).unwrap();
    assert_eq!(value(cgroup, "memory", "memory.limit_in_bytes", "memory.max"), "33554432");
    assert_eq!(value(cgroup, "pids", "pids.max", "pids.max"), "max");
    let read: Cgroup = serde_json::from_str(&serde_json::to_string(cgroup).unwrap()).unwrap();
    assert_eq!(&read, cgroup);
}

#[test]
fn memory_and_swap_are_raised_and_lowered_in_the_order_that_the_kernel_needs() {
    if !is_root() {
        return;
    }
    let sleeper = Sleeper::new("sleep 100");
    let guard = create(r#"{"memory":{"limit":33554432}}"#, sleeper.pid());
    let memory = guard.0.places.iter().find(|it| it.kind.has("memory"));
    if memory.is_none_or(|it| !it.directory.join("memory.memsw.limit_in_bytes").exists()) {
        return; // The order matters only where there is such a file.
    }
    for (limit, both) in [(33_554_432, 67_108_864), (134_217_728, 268_435_456), (33_554_432, 33_554_432), (-1, -1)] {
        let json = format!(r#"{{"memory":{{"limit":{limit},"swap":{both}}}}}"#);
        guard.0.update(&serde_json::from_str(&json).unwrap()).unwrap();
        if limit > 0 {
            assert_eq!(value(&guard.0, "memory", "memory.memsw.limit_in_bytes", ""), both.to_string());
        }
    }
}

#[test]
fn a_limit_of_processes_makes_fork_fail() {
    if !is_root() {
        return;
    }
    let sleeper = Sleeper::new("(/bin/true) 2>/dev/null && echo forked || echo refused; /bin/true 2>&1 && :");
    let _guard = create(r#"{"pids":{"limit":1}}"#, sleeper.pid());
    assert!(!sleeper.output().contains("forked"));
}

#[test]
fn processes_stop_and_go_on_in_both_versions() {
    if !is_root() {
        return;
    }
    for kind in freezes() {
        let mut sleeper = Sleeper::new("echo went; read more");
        let Some(guard) = only(kind, sleeper.pid()) else { continue };
        assert!(!guard.0.is_frozen());
        guard.0.freeze(true).unwrap();
        assert!(guard.0.is_frozen());
        sleeper.go();
        assert_eq!(guard.0.processes().unwrap(), [sleeper.pid()]);
        guard.0.freeze(false).unwrap();
        assert!(!guard.0.is_frozen());
        assert_eq!(sleeper.line(), "went");
    }
}

#[test]
fn frozen_processes_and_those_in_groups_below_are_killed() {
    if !is_root() {
        return;
    }
    for kind in freezes() {
        let (mut first, mut second) = (Sleeper::new("sleep 100"), Sleeper::new("sleep 100"));
        let Some(guard) = only(kind, first.pid()) else { continue };
        let below = guard.0.places[0].directory.join("below");
        std::fs::create_dir(&below).unwrap();
        guard.0.add(second.pid(), Some(Path::new("below"))).unwrap();
        assert!(files::read(&below, "cgroup.procs").unwrap().contains(&second.pid().to_string()));
        guard.0.freeze(true).unwrap();
        guard.0.kill(libc::SIGKILL).unwrap();
        for sleeper in [&mut first, &mut second] {
            assert_eq!(sleeper.0.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
        guard.0.remove().unwrap();
        assert!(!guard.0.places[0].directory.exists());
        assert!(guard.0.processes().unwrap().is_empty());
    }
}

#[test]
fn other_signals_reach_everyone_too() {
    if !is_root() {
        return;
    }
    for kind in freezes() {
        let mut sleeper = Sleeper::new("");
        let Some(guard) = only(kind, sleeper.pid()) else { continue };
        guard.0.kill(libc::SIGTERM).unwrap();
        assert_eq!(sleeper.0.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert!(!guard.0.is_frozen());
    }
}

#[test]
fn removal_kills_what_is_left_and_spares_a_group_that_was_there_before() {
    if !is_root() {
        return;
    }
    let mut left = Sleeper::new("sleep 100");
    let guard = create("{}", left.pid());
    let directories: Vec<PathBuf> = guard.0.directories().map(Path::to_owned).collect();
    // Whoever waits makes its process vanish: the kernel's own removal is not waited for by anybody else.
    let waiter = std::thread::spawn(move || left.0.wait().unwrap());
    guard.0.remove().unwrap();
    assert_eq!(waiter.join().unwrap().signal(), Some(libc::SIGKILL));
    assert!(directories.iter().all(|directory| !directory.exists()));

    let (mut owner, mut guest) = (Sleeper::new("echo alive"), Sleeper::new("sleep 100"));
    let before = create("{}", owner.pid());
    let name = before.0.places[0].directory.file_name().unwrap().to_str().unwrap().to_owned();
    let request = Request { id: "x", path: Some(Path::new(&name)), resources: None, manager: Manager::Cgroupfs };
    let shared = Cgroup::create(&request, guest.pid()).unwrap();
    assert_eq!(before.0.processes().unwrap().len(), 2);
    assert!(!shared.is_own() && shared.processes().unwrap().is_empty());
    shared.kill(libc::SIGKILL).unwrap();
    shared.remove().unwrap();
    let limits: Resources = serde_json::from_str(r#"{"pids":{"limit":9}}"#).unwrap();
    assert!(Cgroup::create(&Request { resources: Some(&limits), ..request }, guest.pid()).is_err());
    owner.go();
    assert_eq!(owner.line(), "alive");
    guest.0.kill().unwrap();
}

/// Refused in the group, used before it.
fn opens(script_in: impl FnOnce(u32) -> Option<Guard>) -> Option<String> {
    let script = "for it in /dev/null /dev/zero /dev/mem /dev/kmsg; do (: <$it) 2>/dev/null && echo $it; done";
    let sleeper = Sleeper::new(script);
    let guard = script_in(sleeper.pid())?;
    let output = sleeper.output();
    drop(guard);
    Some(output)
}

#[test]
fn devices_are_really_refused_in_both_versions_and_allowed_by_an_update() {
    if !is_root() {
        return;
    }
    let deny: Resources = serde_json::from_str(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#).unwrap();
    let allow: Resources = serde_json::from_str(
        r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#,
    )
    .unwrap();
    let kinds: [fn(&Kind) -> bool; 2] = [|kind| *kind == Kind::V2, |kind| kind.has("devices")];
    let kmsg = std::fs::File::open("/dev/kmsg").is_ok();
    for kind in kinds {
        let refused = opens(|pid| {
            let guard = only(kind, pid)?;
            guard.0.update(&deny).unwrap();
            Some(guard)
        });
        let Some(refused) = refused else { continue };
        assert_eq!(refused, "/dev/null\n/dev/zero\n");
        let allowed = opens(|pid| {
            let guard = only(kind, pid)?;
            guard.0.update(&deny).unwrap();
            guard.0.update(&allow).unwrap();
            Some(guard)
        });
        assert_eq!(allowed.unwrap().contains("/dev/kmsg"), kmsg);
    }
}

#[test]
fn an_update_replaces_the_program_for_devices() {
    use std::os::fd::AsFd;
    if !is_root() {
        return;
    }
    let sleeper = Sleeper::new("");
    let Some(guard) = only(|kind| *kind == Kind::V2, sleeper.pid()) else { return };
    let group = std::fs::File::open(&guard.0.places[0].directory).unwrap();
    let deny: Resources = serde_json::from_str(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#).unwrap();
    guard.0.update(&deny).unwrap();
    let first = devices::bpf::attached(group.as_fd()).unwrap();
    guard.0.update(&deny).unwrap();
    let second = devices::bpf::attached(group.as_fd()).unwrap();
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
}

#[test]
fn a_group_whose_limits_are_wrong_is_not_left_behind() {
    if !is_root() {
        return;
    }
    let sleeper = Sleeper::new("");
    let id = id();
    for json in [r#"{"memory":{"limit":-7}}"#, r#"{"cpu":{"cpus":"4000"}}"#, r#"{"unified":{"memory.nosuch":"1"}}"#] {
        let resources: Resources = serde_json::from_str(json).unwrap();
        let request = Request { id: &id, path: None, resources: Some(&resources), manager: Manager::Cgroupfs };
        assert!(Cgroup::create(&request, sleeper.pid()).is_err(), "{json}");
        for hierarchy in Host::read().unwrap().hierarchies {
            assert!(!hierarchy.mount_point.join(hierarchy.own.unwrap()).join(&id).exists(), "{json}");
        }
    }
}

#[test]
fn without_a_group_nothing_is_signalled_and_limits_are_refused() {
    let request = Request { id: "x", path: None, resources: None, manager: Manager::Disabled };
    let cgroup = Cgroup::create(&request, std::process::id()).unwrap();
    assert!(!cgroup.is_own() && !cgroup.is_frozen());
    cgroup.kill(libc::SIGKILL).unwrap();
    cgroup.add(std::process::id(), None).unwrap();
    cgroup.remove().unwrap();
    assert!(cgroup.processes().unwrap().is_empty());
    assert!(cgroup.freeze(true).unwrap_err().hint().is_some());
    assert!(cgroup.update(&Resources::default()).is_err());

    let limits: Resources = serde_json::from_str(r#"{"pids":{"limit":1}}"#).unwrap();
    let request = Request { resources: Some(&limits), ..request };
    assert_eq!(Cgroup::create(&request, 1).unwrap().warnings().len(), 1);
}

/// Runs this as an ordinary user, from a group of this kind that is given to it; whether it holds.
fn as_user(delegated: Option<fn(&Kind) -> bool>, holds: fn() -> bool) -> bool {
    use std::os::unix::fs::chown;
    const USER: u32 = 64_218;
    let guard = delegated.map(|kind| {
        let waiting = Sleeper::new("");
        let guard = only(kind, waiting.pid()).expect("the hierarchy is mounted");
        let directory = &guard.0.places[0].directory;
        for path in [directory.clone(), directory.join("cgroup.procs"), directory.join("cgroup.subtree_control")] {
            // Version 1 has no such file as the last.
            if path.exists() {
                chown(path, Some(USER), Some(USER)).unwrap();
            }
        }
        guard
    });
    forked(|| {
        if let Some(guard) = &guard {
            let _ = create::put(std::process::id(), &guard.0.places[0].directory);
        }
        // SAFETY: no memory is involved.
        let became =
            unsafe { libc::setgroups(0, std::ptr::null()) == 0 && libc::setgid(USER) == 0 && libc::setuid(USER) == 0 };
        became && holds()
    })
}

/// Whether this holds in a process of its own.
fn forked(holds: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child only uses what the C library keeps usable after a fork, and ends without returning.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(holds)).unwrap_or(false);
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = 0;
    // SAFETY: the status outlives the call, and the child is ours.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

/// Whether this holds where cgroup v2 is all there is.
fn with_v2_alone(holds: impl FnOnce() -> bool) -> bool {
    forked(|| {
        // SAFETY: no memory is involved; the child has one thread.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let _ = rustix::mount::unmount("/sys/fs/cgroup", rustix::mount::UnmountFlags::DETACH);
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("cgroup2", "/sys/fs/cgroup", "cgroup2", flags, None).unwrap();
        holds()
    })
}

#[test]
fn cgroup_v2_alone_takes_processes_and_its_own_limits() {
    if !is_root() {
        return;
    }
    let sleeper = Sleeper::new("");
    let others = [Sleeper::new(""), Sleeper::new(""), Sleeper::new("")];
    assert!(with_v2_alone(|| {
        assert!(supported().v2 && !supported().v1);
        let limits = r#"{"unified":{"cgroup.max.descendants":"7"},"devices":[{"allow":false}]}"#;
        let guard = create(limits, sleeper.pid());
        assert!(guard.0.pure_v2 && guard.0.places.len() == 1);
        assert_eq!(value(&guard.0, "cgroup", "", "cgroup.max.descendants"), "7");
        assert_eq!(guard.0.processes().unwrap(), [sleeper.pid()]);
        guard.0.freeze(true).unwrap();
        assert!(guard.0.is_frozen());
        guard.0.freeze(false).unwrap();
        // Which controllers there are depends on the machine; one that is missing is said.
        let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
        let table = [
            ("pids", r#"{"pids":{"limit":9}}"#, "pids.max", "9"),
            ("memory", r#"{"memory":{"limit":67108864}}"#, "memory.max", "67108864"),
            ("hugetlb", r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#, "hugetlb.2MB.max", "4194304"),
        ];
        for ((controller, json, file, expected), other) in table.into_iter().zip(&others) {
            let resources: Resources = serde_json::from_str(json).unwrap();
            let id = id();
            let request = Request { id: &id, path: None, resources: Some(&resources), manager: Manager::Cgroupfs };
            match Cgroup::create(&request, other.pid()) {
                Ok(cgroup) => {
                    let guard = Guard(cgroup);
                    assert_eq!(value(&guard.0, controller, "", file), expected);
                }
                Err(error) => {
                    assert!(!controllers.split_whitespace().any(|it| it == controller), "{error}");
                    assert!(error.hint().unwrap().contains(controller), "{error}");
                    assert!(!Path::new("/sys/fs/cgroup").join(&id).exists());
                }
            }
        }
        true
    }));
}

fn as_asked(path: Option<&str>, limited: bool) -> Cgroup {
    let resources: Resources =
        serde_json::from_str(r#"{"memory":{"limit":67108864},"devices":[{"allow":false}]}"#).unwrap();
    let request = Request {
        id: "berth-test-ordinary",
        path: path.map(Path::new),
        resources: limited.then_some(&resources),
        manager: Manager::Cgroupfs,
    };
    Cgroup::create(&request, std::process::id()).unwrap()
}

#[test]
fn an_ordinary_user_who_may_not_gets_a_warning_and_only_for_limits() {
    if !is_root() {
        return;
    }
    assert!(as_user(None, || {
        let (plain, limited) = (as_asked(None, false), as_asked(Some("/berth-test/x"), true));
        !plain.is_own() && plain.warnings().is_empty() && !limited.is_own() && limited.warnings().len() == 1
    }));
}

#[test]
fn an_ordinary_user_makes_a_group_where_that_was_delegated() {
    if !is_root() || Host::read().unwrap().v2().is_none() {
        return;
    }
    assert!(as_user(Some(|kind| *kind == Kind::V2), || {
        let own = as_asked(None, false);
        own.is_own() && own.warnings().is_empty() && own.processes().unwrap() == [std::process::id()]
    }));
}

#[test]
fn an_ordinary_user_stays_in_the_group_by_which_a_batch_system_knows_the_job() {
    let freezer: fn(&Kind) -> bool = |kind| kind.has("freezer");
    if !is_root() || !Host::read().unwrap().hierarchies.iter().any(|it| freezer(&it.kind)) {
        return;
    }
    assert!(as_user(Some(freezer), || {
        let (own, limited) = (as_asked(None, false), as_asked(None, true));
        !own.is_own() && own.warnings().is_empty() && !limited.is_own() && limited.warnings().len() == 1
    }));
}
