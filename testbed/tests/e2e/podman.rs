//! podman with berth as its runtime: as an ordinary user, and as root.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use testbed::chapter;
use testbed::engine;
use testbed::engine::Engine;
use testbed::engine::IMAGE;
use testbed::engine::Podman;
use testbed::harness::Need;
use testbed::harness::PODMAN;
use testbed::process;

use crate::engines::engine_chapter;
use crate::engines::shown_on;

/// What `--init` puts into containers.
const INIT: Need = Need::Program("tini-static", "tini");

pub mod rootless {
    use super::*;

    engine_chapter!("podman_rootless", [PODMAN, INIT, Need::Namespaces, Need::SubIds], Podman::rootless();
        the_path_of_the_runtime_is_enough,
        a_check_of_health_answers,
        a_pod_shares_its_namespaces,
        a_container_is_made_before_it_is_started,
        descriptors_are_passed_on,
        without_control_groups_containers_run_too,
        one_keeps_ones_own_id,
        one_keeps_ones_own_groups,
        hooks_of_the_engine_are_run,
    );

    fn the_path_of_the_runtime_is_enough() {
        shown_on(Podman::rootless(), super::the_path_of_the_runtime_is_enough);
    }

    fn a_check_of_health_answers() {
        shown_on(Podman::rootless(), super::a_check_of_health_answers);
    }

    fn a_pod_shares_its_namespaces() {
        shown_on(Podman::rootless(), super::a_pod_shares_its_namespaces);
    }

    fn a_container_is_made_before_it_is_started() {
        shown_on(Podman::rootless(), |engine| {
            let words = engine.words(&["create"], &["--name", "made"], &["sh", "-c", "echo begun; exit 6"]);
            engine.call(&words).ok();
            engine.call(&["init", "made"]).ok();
            assert_eq!(engine.about("made", "{{.State.Status}}"), "initialized");
            assert_eq!(engine.logs("made"), "");
            engine.call(&["start", "made"]).ok();
            assert_eq!(engine.exit_code("made"), "6");
            assert_eq!(engine.logs("made"), "begun\n");
            engine.call(&["rm", "made"]).ok();
            // One that is never started.
            let words = engine.words(&["create"], &["--name", "made"], &["sleep", "300"]);
            engine.call(&words).ok();
            engine.call(&["init", "made"]).ok();
            engine.remove("made");
        });
    }

    fn descriptors_are_passed_on() {
        shown_on(Podman::rootless(), |engine| {
            let given = engine.fixture().write("given", "by descriptor\n");
            let command = engine.container(&["--preserve-fds=1"], &["sh", "-c", "'cat <&3; ls /proc/self/fd | wc -l'"]);
            let line = format!("exec {} 3<{}", process::line(&command), given.display());
            let mut shell = engine.fixture().command("sh", &["-c", &line]);
            for (name, value) in command.get_envs() {
                shell.env(name, value.unwrap_or_default());
            }
            // Four, and the one by which the folder is read.
            assert_eq!(process::run(&mut shell).ok(), "by descriptor\n5\n");
        });
    }

    fn without_control_groups_containers_run_too() {
        shown_on(Podman::rootless(), |engine| {
            assert_eq!(engine.run(&["--cgroups=disabled"], &["echo", "fine"]).ok(), "fine\n");
            let id = engine.ready(&["--cgroups=disabled"], "echo ready; exec sleep 300");
            assert_eq!(engine.call(&["exec", &id, "echo", "joined"]).ok(), "joined\n");
            engine.remove(&id);
        });
    }

    fn one_keeps_ones_own_id() {
        shown_on(Podman::rootless(), |engine| {
            let uid = engine.fixture().user.uid;
            let data = engine.fixture().make_dir("own", 0o755);
            let bind = format!("{}:/own", data.display());
            let script = "id -u; touch /own/file; stat -c %u /own/file";
            let told = engine.shell(&["--userns=keep-id", "-v", &bind], script).ok();
            assert_eq!(told, format!("{uid}\n{uid}\n"));
            let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(data.join("file")).expect("a file"));
            assert_eq!(owner, uid);
        });
    }

    fn one_keeps_ones_own_groups() {
        shown_on(Podman::rootless(), |engine| {
            let groups = |options: &[&str]| engine.shell(options, "grep Groups: /proc/self/status | tr -d ' \\t'").ok();
            assert_eq!(groups(&[]), "Groups:\n");
            // The user's own group is root's in the container.
            assert!(groups(&["--group-add=keep-groups"]).contains('0'));
        });
    }

    fn hooks_of_the_engine_are_run() {
        shown_on(Podman::rootless(), |engine| {
            let fixture = engine.fixture();
            let hooks = fixture.make_dir("hooks", 0o755);
            let told = fixture.path("work/told");
            let program = fixture.write("hook", format!("#!/bin/sh\ncat > {}.$1\n", told.display()));
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
            for stage in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
                // Inside the container's namespaces the host's folders are still there when it runs.
                let hook = format!(
                    r#"{{"version": "1.0.0", "hook": {{"path": "{}", "args": ["hook", "{stage}"]}},
                        "when": {{"always": true}}, "stages": ["{stage}"]}}"#,
                    program.display()
                );
                fixture.write(&format!("hooks/{stage}.json"), hook);
            }
            let dir = hooks.display().to_string();
            let words = engine.words(&["--hooks-dir", &dir, "run"], &["--name", "hooked"], &["true"]);
            engine.call(&words).ok();
            engine.remove("hooked");
            for stage in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
                let path = format!("{}.{stage}", told.display());
                let state = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
                assert!(state.contains("\"ociVersion\"") && state.contains("\"bundle\""), "{stage}: {state}");
            }
        });
    }
}

pub mod rootful {
    use super::*;

    engine_chapter!("podman_rootful", [PODMAN, INIT, Need::Root], Podman::rootful();
        the_path_of_the_runtime_is_enough,
        a_check_of_health_answers,
        a_pod_shares_its_namespaces,
        a_pod_is_frozen,
        limits_of_a_running_container_are_changed,
        other_ids_are_mapped,
        a_privileged_container_sees_the_devices,
    );

    fn the_path_of_the_runtime_is_enough() {
        shown_on(Podman::rootful(), super::the_path_of_the_runtime_is_enough);
    }

    fn a_check_of_health_answers() {
        shown_on(Podman::rootful(), super::a_check_of_health_answers);
    }

    fn a_pod_shares_its_namespaces() {
        shown_on(Podman::rootful(), super::a_pod_shares_its_namespaces);
    }

    fn a_pod_is_frozen() {
        shown_on(Podman::rootful(), |engine| {
            make_pod(engine);
            engine.call(&["pod", "pause", "together"]).ok();
            assert_eq!(engine.about("member", "{{.State.Status}}"), "paused");
            engine.call(&["pod", "unpause", "together"]).ok();
            assert_eq!(engine.about("member", "{{.State.Status}}"), "running");
            remove_pod(engine);
        });
    }

    fn limits_of_a_running_container_are_changed() {
        shown_on(Podman::rootful(), |engine| {
            let script = "echo ready; exec sleep 300";
            let id = engine.ready(&["--memory", "50m", "--memory-swap", "100m"], script);
            engine.call(&["update", "--memory", "60m", "--memory-swap", "100m", &id]).ok();
            let read = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null";
            let limit = engine.call(&["exec", &id, "sh", "-c", read]).stdout;
            assert_eq!(limit, "62914560\n");
            engine.remove(&id);
        });
    }

    fn other_ids_are_mapped() {
        shown_on(Podman::rootful(), |engine| {
            let script = "cat /proc/self/uid_map | tr -s ' '; id -u; touch /file; stat -c %u /file; id -u nobody";
            let told = engine.shell(&["--uidmap=0:100000:65536"], script).ok();
            assert_eq!(told, " 0 100000 65536\n0\n0\n65534\n");
        });
    }

    fn a_privileged_container_sees_the_devices() {
        shown_on(Podman::rootful(), |engine| {
            let script = "test -c /dev/kmsg && echo kmsg; grep Seccomp: /proc/self/status | tr -d '\\t'; \
                mkdir /mnt; mount -t tmpfs tmpfs /mnt && echo mounted";
            assert_eq!(engine.shell(&["--privileged"], script).ok(), "kmsg\nSeccomp:0\nmounted\n");
        });
    }
}

/// podman on the other control groups than those of the chapters above.
pub mod groups {
    use super::*;

    chapter!("podman_groups",
        [PODMAN, INIT, Need::Root, Need::SubIds]:
            an_ordinary_user_has_containers_where_some_are_old;
        [PODMAN, INIT, Need::Root]:
            root_has_containers_where_all_are_new;
    );

    fn an_ordinary_user_has_containers_where_some_are_old() {
        shown_on(Podman::rootless_on_the_hosts_groups(), |engine| {
            assert_eq!(engine.run(&[], &["echo", "fine"]).ok(), "fine\n");
            let id = engine.ready(&[], "echo ready; exec sleep 300");
            assert_eq!(engine.call(&["exec", &id, "echo", "joined"]).ok(), "joined\n");
            engine.remove(&id);
        });
    }

    fn root_has_containers_where_all_are_new() {
        shown_on(Podman::rootful_on_new_groups(), |engine| {
            let options = ["--pids-limit=0", "--device=/dev/null:/dev/given"];
            let script = "echo x > /dev/given; mknod /dev/kept c 1 5 && head -c 1 /dev/kept >/dev/null && echo zero; \
                mknod /disk b 7 0 && head -c 1 /disk >/dev/null || echo refused";
            // Nodes may be made, and only those that were given are opened.
            assert_eq!(engine.shell(&options, script).ok(), "zero\nrefused\n");
            let id = engine.ready(&[&options[..], &["--pid=host"]].concat(), "sleep 311 & echo ready; exec sleep 312");
            assert_eq!(engine.call(&["exec", &id, "echo", "joined"]).ok(), "joined\n");
            engine.call(&["pause", &id]).ok();
            assert_eq!(engine.about(&id, "{{.State.Status}}"), "paused");
            engine.call(&["unpause", &id]).ok();
            engine.call(&["stop", "-t", "1", &id]).ok();
            engine.remove(&id);
        });
    }
}

fn the_path_of_the_runtime_is_enough(engine: &dyn Engine) {
    // What podman knows nothing of but the path, not even that it could write a log for it. It tells on what it is asked.
    let fixture = engine.fixture();
    let calls = fixture.write("work/calls", "");
    fs::set_permissions(&calls, fs::Permissions::from_mode(0o666)).expect("a mode");
    let script = format!(
        "#!/bin/sh\nfor word; do echo \"$word\" >> {}; done\nexec {} \"$@\"\n",
        calls.display(),
        engine::runtime(fixture).display()
    );
    let program = fixture.write("some-runtime", script);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    let path = program.display().to_string();
    let asked = |verb: &str| {
        let told = fs::read_to_string(&calls).expect("calls");
        fs::write(&calls, "").expect("an empty file");
        told.lines().any(|line| line == verb)
    };
    let run = |command: &str| {
        let words = engine.words(&["--runtime", &path, "run"], &["--rm"], &["sh", "-c", command]);
        engine.call(&words)
    };
    assert_eq!(run("exit 3").code(), 3);
    assert!(asked("create"), "another runtime was called");
    let words = engine.words(&["--runtime", &path, "run"], &["--rm"], &["/no/such/command"]);
    let done = engine.call(&words);
    assert!(done.code() == 127 && done.stderr.trim_end().lines().count() == 1, "{}", done.report());
    let dir = fixture.make_dir("context", 0o755);
    fixture.write("context/Dockerfile", "FROM small\nRUN true\n");
    assert!(asked("create"));
    let dir = dir.display().to_string();
    engine.call(&["--runtime", &path, "build", "--isolation=oci", "--network=none", &dir]).ok();
    assert!(asked("create"), "the step was not run by the runtime");
}

fn a_check_of_health_answers(engine: &dyn Engine) {
    let options = ["--health-cmd", "test -e /healthy", "--health-interval", "disable", "--name", "watched"];
    let id = engine.ready(&options, "touch /healthy; echo ready; exec sleep 300");
    engine.call(&["healthcheck", "run", "watched"]).ok();
    engine.call(&["exec", &id, "rm", "/healthy"]).ok();
    assert_eq!(engine.call(&["healthcheck", "run", "watched"]).code(), 1);
    engine.remove("watched");
}

fn make_pod(engine: &dyn Engine) {
    let group: Vec<String> =
        engine.options().into_iter().filter(|option| option.starts_with("--cgroup-parent")).collect();
    let infra = ["--infra-image", IMAGE, "--infra-command", "/bin/sleep 300", "--share", "net,ipc,uts,pid", "together"];
    let mut words = vec!["pod", "create", "--network=none"];
    words.extend(group.iter().map(String::as_str));
    words.extend(infra);
    engine.call(&words).ok();
    engine.call(&["run", "-d", "--stop-timeout=0", "--pod=together", "--name=member", IMAGE, "sleep", "307"]).ok();
}

fn a_pod_shares_its_namespaces(engine: &dyn Engine) {
    make_pod(engine);
    let script = "cat /proc/1/comm; ps; for name in net ipc uts pid; do readlink /proc/self/ns/$name; done";
    let ours = engine.call(&["exec", "member", "sh", "-c", script]).ok();
    assert!(ours.starts_with("sleep\n") && ours.contains("sleep 307"), "{ours}");
    let theirs = engine.call(&["run", "--rm", "--pod=together", IMAGE, "sh", "-c", script]).ok();
    let spaces = |text: &str| text.lines().filter(|line| line.contains(":[")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(spaces(&theirs), spaces(&ours));
    assert_eq!(spaces(&ours).len(), 4);
    engine.call(&["pod", "stop", "-t", "0", "together"]).ok();
    engine.call(&["pod", "start", "together"]).ok();
    remove_pod(engine);
}

fn remove_pod(engine: &dyn Engine) {
    let done = engine.call(&["pod", "rm", "-f", "-t", "0", "together"]);
    // podman writes files where the host has not mounted all of the old hierarchies, and then finds no empty folders there.
    let podman_itself = done.stderr.contains("conmon cgroup") && done.stderr.contains("directory not empty");
    assert!(done.status.success() || podman_itself, "{}", done.report());
}
