//! dockerd with berth as its default runtime.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use testbed::engine;
use testbed::engine::Docker;
use testbed::engine::Engine;
use testbed::engine::IMAGE;
use testbed::harness::Need;
use testbed::process;

use crate::engines::engine_chapter;
use crate::engines::shown_on;

pub const DOCKERD: Need = Need::Program("dockerd", "docker.io");
pub const CLIENT: Need = Need::Program("/usr/bin/docker", "docker.io docker-cli");
const INIT: Need = Need::Program("docker-init", "docker.io");

engine_chapter!("docker", [DOCKERD, CLIENT, INIT, Need::Root], Docker::start();
    it_is_asked_for_by_the_name_that_the_daemon_gave_it,
    health_is_told_by_the_image_itself,
    a_container_that_fails_is_started_again,
    limits_of_a_running_container_are_changed,
    what_is_refused_by_the_usual_filter_is_refused,
    buildkit_runs_its_steps,
    containers_run_where_all_control_groups_are_new,
    a_daemon_that_ends_leaves_nothing,
);

fn it_is_asked_for_by_the_name_that_the_daemon_gave_it() {
    shown_on(Docker::start(), |engine| {
        assert_eq!(engine.run(&["--runtime=added"], &["echo", "fine"]).ok(), "fine\n");
        let id = engine.ready(&["--runtime=added"], "echo ready; exec sleep 300");
        assert_eq!(engine.about(&id, "{{.HostConfig.Runtime}}"), "added");
        engine.remove(&id);
        // What the daemon finds out about it.
        let runtime = engine.call(&["info", "-f", "{{.DefaultRuntime}}"]).ok();
        assert_eq!(runtime.trim_end(), engine::state_name(&engine::runtime(engine.fixture())));
    });
}

fn health_is_told_by_the_image_itself() {
    shown_on(Docker::start(), |engine| {
        let dir = engine.fixture().make_dir("context", 0o755);
        let file = "FROM small\nHEALTHCHECK --interval=500ms --retries=2 CMD test -e /healthy\n\
            CMD touch /healthy; exec sleep 300\n";
        engine.fixture().write("context/Dockerfile", file);
        engine.call(&["build", "--network=none", "-t", "watched", &dir.display().to_string()]).ok();
        let id = engine.call(&["run", "-d", "--network=none", "watched"]).ok().trim_end().to_owned();
        let health = |wanted: &str| engine.about(&id, "{{.State.Health.Status}}") == wanted;
        engine.eventually("healthy", || health("healthy"));
        engine.call(&["exec", &id, "rm", "/healthy"]).ok();
        engine.eventually("unhealthy", || health("unhealthy"));
        engine.remove(&id);
    });
}

fn a_container_that_fails_is_started_again() {
    shown_on(Docker::start(), |engine| {
        let id = engine.start(&["--restart=on-failure:2"], &["sh", "-c", "echo tried; exit 4"]);
        engine.eventually("two more starts", || engine.about(&id, "{{.RestartCount}} {{.State.Status}}") == "2 exited");
        assert_eq!(engine.logs(&id), "tried\ntried\ntried\n");
        engine.remove(&id);
    });
}

fn limits_of_a_running_container_are_changed() {
    shown_on(Docker::start(), |engine| {
        let options = ["--memory", "50m", "--memory-swap", "100m"];
        let id = engine.ready(&options, "echo ready; exec sleep 300");
        engine.call(&["update", "--memory", "60m", "--memory-swap", "100m", "--pids-limit", "77", &id]).ok();
        let read = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes \
            /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null";
        assert_eq!(engine.call(&["exec", &id, "sh", "-c", read]).stdout, "62914560\n77\n");
        engine.remove(&id);
    });
}

fn what_is_refused_by_the_usual_filter_is_refused() {
    shown_on(Docker::start(), |engine| {
        let done = engine.run(&[], &["unshare", "-U", "true"]);
        assert!(done.stderr.contains("not permitted"), "{}", done.report());
        engine.run(&["--security-opt", "seccomp=unconfined"], &["unshare", "-U", "true"]).ok();
    });
}

fn buildkit_runs_its_steps() {
    // Its own daemon calls whatever is called `runc`.
    let dir = tempfile::tempdir().expect("a folder");
    let program = dir.path().join("runc");
    let fixture = testbed::fixture::Fixture::as_oneself();
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", engine::runtime(&fixture).display());
    fs::write(&program, script).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    shown_on(Docker::with(&[dir.path()]), |engine| {
        let dir = engine.fixture().make_dir("context", 0o755);
        engine
            .fixture()
            .write("context/Dockerfile", "FROM small\nRUN echo made > /made; id -u >> /made\nRUN cat /made\n");
        let path = dir.display().to_string();
        let mut command = engine.command(&["build", "--progress=plain", "--network=none", "-t", "made", &path]);
        let built = process::run(command.env("DOCKER_BUILDKIT", "1"));
        if built.stderr.contains("buildx component is missing") {
            // The client of newer systems has it in another package.
            return;
        }
        built.ok();
        assert_eq!(engine.call(&["run", "--rm", "--network=none", "made", "cat", "/made"]).ok(), "made\n0\n");
        engine.fixture().write("context/Dockerfile", "FROM small\nRUN echo said; exit 9\n");
        let mut command = engine.command(&["build", "--progress=plain", "--network=none", &path]);
        let failed = process::run(command.env("DOCKER_BUILDKIT", "1"));
        assert!(!failed.status.success() && failed.stderr.contains("exit code: 9"), "{}", failed.report());
    });
}

fn containers_run_where_all_control_groups_are_new() {
    shown_on(Docker::on_new_groups(), |engine| {
        // The container sees its own group as the root of them.
        let script = "grep ^0:: /proc/self/cgroup; mknod /disk b 7 0; head -c 1 /disk >/dev/null || echo refused";
        assert_eq!(engine.shell(&[], script).ok(), "0::/\nrefused\n");
        let id = engine.ready(&["--pid=host"], "sleep 313 & echo ready; exec sleep 314");
        assert_eq!(engine.call(&["exec", &id, "echo", "joined"]).ok(), "joined\n");
        engine.call(&["pause", &id]).ok();
        assert_eq!(engine.about(&id, "{{.State.Status}}"), "paused");
        engine.call(&["unpause", &id]).ok();
        engine.call(&["stop", "-t", "1", &id]).ok();
        engine.remove(&id);
    });
}

fn a_daemon_that_ends_leaves_nothing() {
    let mut docker = Docker::start();
    let engine: &dyn Engine = &docker;
    engine.ready(&[], "sleep 308 & echo ready; exec sleep 309");
    engine.call(&["run", "-d", "--network=host", IMAGE, "sleep", "310"]).ok();
    docker.end();
    (&docker as &dyn Engine).nothing_stays();
}
