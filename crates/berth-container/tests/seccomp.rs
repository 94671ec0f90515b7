//! System call filters of configurations, in force. They need the library libseccomp (Debian: libseccomp2).

mod support;

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use berth_container::oci::{Capabilities, Seccomp, SeccompRule};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use support::World;

fn profile() -> Seccomp {
    serde_json::from_str(include_str!("data/seccomp.json")).unwrap()
}

fn refusing(action: &str, names: &[&str]) -> Seccomp {
    Seccomp {
        default_action: "SCMP_ACT_ALLOW".to_owned(),
        syscalls: vec![SeccompRule {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            action: action.to_owned(),
            ..SeccompRule::default()
        }],
        ..Seccomp::default()
    }
}

#[test]
fn a_profile_is_in_force_in_the_command_and_what_it_starts() {
    let world = World::new();
    for no_new_privileges in [true, false] {
        for supervise in [true, false] {
            let mut run = world.shell("cat tmp/../replaced; mkdir new; mount none /tmp; sh -c 'mkdir again'; echo on");
            run.process().no_new_privileges = no_new_privileges;
            run.linux().seccomp = Some(profile());
            let finished = run.set("supervise", supervise).output();
            assert_eq!(finished.stdout(), "thirdon\n", "{finished:?}");
            let said = finished.stderr();
            assert_eq!(said.matches("Read-only file system").count(), 2, "{said}");
            assert!(said.contains("ermi"), "{said}");
        }
    }
}

#[test]
fn a_forbidden_call_kills_by_sigsys() {
    let world = World::new();
    let mut run = world.command(&["mkdir", "new"]);
    run.linux().seccomp = Some(refusing("SCMP_ACT_KILL_PROCESS", &["mkdir", "mkdirat"]));
    assert_eq!(run.output().signal(), Some(libc::SIGSYS));
}

#[test]
fn with_no_new_privileges_a_profile_need_not_allow_what_only_the_launcher_calls() {
    let world = World::new();
    let mut run = world.command(&["echo", "on"]);
    run.process().no_new_privileges = true;
    run.process().capabilities = Some(Capabilities::default());
    run.linux().seccomp = Some(refusing(
        "SCMP_ACT_KILL_PROCESS",
        &["chdir", "capset", "setgroups", "setresuid", "close_range", "seccomp", "umask", "mount"],
    ));
    assert_eq!(run.output().ok(), "on");
}

#[test]
fn without_no_new_privileges_it_comes_before_capabilities_are_given_up() {
    let world = World::new();
    let mut run = world.shell("grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status");
    run.process().capabilities = Some(Capabilities::default());
    run.linux().seccomp = Some(refusing("SCMP_ACT_ERRNO", &["mkdir"]));
    assert_eq!(run.output().ok(), "CapEff:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2");
}

#[test]
fn faults_of_a_profile_are_told_before_anything_starts() {
    let world = World::new();
    let mut run = world.shell("echo ran");
    run.linux().seccomp = Some(refusing("SCMP_ACT_WHATEVER", &["mkdir"]));
    let finished = run.output();
    assert!(finished.fails(125).contains("linux.seccomp.syscalls[0].action: unknown name"), "{finished:?}");
    assert_eq!(finished.stdout(), "");

    let mut run = world.shell("echo ran");
    run.linux().seccomp = Some(Seccomp {
        listener_path: Some(world.path("nobody.sock")),
        ..refusing("SCMP_ACT_NOTIFY", &["mkdir", "mkdirat"])
    });
    let said = run.output().fails(125);
    assert!(said.contains("nobody.sock: No such file") && said.contains("hint: the agent must listen"), "{said}");
}

#[test]
fn an_agent_gets_the_containers_state_and_answers_its_calls() {
    let world = World::new();
    for (no_new_privileges, supervise) in [(true, false), (false, true)] {
        let path = world.path(if supervise { "agent1.sock" } else { "agent0.sock" });
        let listener = UnixListener::bind(&path).unwrap();
        world.give(&path);
        let mut run = world.shell("mkdir made; echo $?; test -e made || echo not there");
        run.process().no_new_privileges = no_new_privileges;
        run.spec().annotations.insert("some".to_owned(), "thing".to_owned());
        run.linux().seccomp = Some(Seccomp {
            listener_path: Some(path),
            listener_metadata: Some("for the agent".to_owned()),
            ..refusing("SCMP_ACT_NOTIFY", &["mkdir", "mkdirat"])
        });
        let run = run.set("supervise", supervise);
        let (finished, (state, caller)) = std::thread::scope(|scope| {
            let agent = scope.spawn(|| agent(&listener));
            (run.output(), agent.join().unwrap())
        });
        assert_eq!(finished.ok(), "0\nnot there");
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(state["fds"], serde_json::json!(["seccompFd"]));
        assert_eq!(state["metadata"], "for the agent");
        assert_eq!(state["state"]["annotations"]["some"], "thing");
        assert_eq!(state["state"]["status"], "creating");
        assert_eq!(state["state"]["pid"], state["pid"]);
        // The shell forks for mkdir, which so has a later process id of the same namespace.
        assert!(state["pid"].as_u64().unwrap() <= u64::from(caller), "{state} {caller}");
    }
}

/// What it was sent, and who called; the first call is answered with success.
#[allow(unsafe_code)]
fn agent(listener: &UnixListener) -> (Vec<u8>, u32) {
    let (connection, _) = listener.accept().unwrap();
    let mut text = vec![0; 1 << 16];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(&connection, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    text.truncate(received.bytes);
    let fd: OwnedFd = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .expect("a descriptor");
    // SAFETY: all-zero is valid for these plain structures, and each request takes a pointer to the one given.
    unsafe {
        let mut call: libc::seccomp_notif = std::mem::zeroed();
        assert_eq!(libc::ioctl(fd.as_raw_fd(), 0xc050_2100, &raw mut call), 0, "SECCOMP_IOCTL_NOTIF_RECV");
        let mut answer: libc::seccomp_notif_resp = std::mem::zeroed();
        answer.id = call.id;
        assert_eq!(libc::ioctl(fd.as_raw_fd(), 0xc018_2101, &raw mut answer), 0, "SECCOMP_IOCTL_NOTIF_SEND");
        (text, call.pid)
    }
}
