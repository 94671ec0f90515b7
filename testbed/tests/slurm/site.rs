//! What a site relies on: what root's calls at the end of a step do, and what users can do to each other.

use testbed::slurm::Release;
use testbed::slurm::oci;

use crate::world::BUNDLE;
use crate::world::Step;
use crate::world::World;

on_each_release!("site":
    roots_calls_at_the_end_do_no_harm,
    the_name_of_a_bundle_is_no_command,
    two_users_do_not_meet,
    a_job_of_roots_is_a_job_like_others,
    the_documented_first_steps_work,
    roots_calls_leave_a_running_container_alone,
    nothing_of_root_happens_in_a_users_folder,
);

fn roots_calls_at_the_end_do_no_harm(release: Release) {
    let world = World::new(release, oci::guide_run);
    for verb in ["Query", "Kill", "Delete"] {
        let conf = oci::guide_run(release);
        let line = conf.lines().find_map(|line| line.strip_prefix(&format!("RunTime{verb}="))).expect("its line");
        let line = line.trim_matches('"').replace("%n.%u.%j.%s.%t", "n1.tuser1.1.0.-1").replace("%U", "20001");
        let said = world.cluster.node("n1").dir("/").run(&["sh", "-c", &line]);
        assert_eq!(said.stdout, "", "{}", said.report());
        assert!(said.stderr.lines().count() <= 1, "{}", said.report());
        // To delete what is not there is no failure, as nothing is left to do.
        assert_eq!(said.code() == 0, verb == "Delete", "{}", said.report());
    }
    world.assert_clean();
}

fn the_name_of_a_bundle_is_no_command(release: Release) {
    let world = World::new(release, oci::run);
    let evil = "/home/tuser1/b;touch x;id >&2;";
    world.user().run(&["cp", "-r", BUNDLE, evil]).ok();
    let said = world.user().run(&["srun", "--container", evil, "/bin/echo", "fine"]);
    assert_eq!((said.code(), said.stdout.as_str(), said.stderr.as_str()), (0, "fine\n", ""), "{}", said.report());
    world.assert_clean();
    let found = world.cluster.root().run(&["find", "/", "-xdev", "-name", "x"]).stdout;
    assert_eq!(found, "");
}

fn two_users_do_not_meet(release: Release) {
    let world = World::new(release, oci::run);
    let other = world.cluster.as_user("tuser2");
    oci::make_bundle(&other, "/home/tuser2/bundle");
    let step = world.start(&[], "echo >/out/ready; until [ -e /out/go ]; do sleep 0.05; done; echo mine");
    world.wait_for("ready");
    let said = other.run(&["srun", "--container", "/home/tuser2/bundle", "/bin/sh", "-c", "echo theirs; ls /out"]);
    assert_eq!(said.ok(), "theirs\n");
    world.user().run(&["touch", &format!("{BUNDLE}/out/go")]).ok();
    assert_eq!(step.end().ok(), "mine\n");
    world.user().run(&["rm", &format!("{BUNDLE}/out/go"), &format!("{BUNDLE}/out/ready")]).ok();
    world.assert_clean();
}

fn a_job_of_roots_is_a_job_like_others(release: Release) {
    let world = World::new(release, oci::run);
    let root = world.cluster.root();
    let steps = "mkdir -p bundle/rootfs/bin && cd bundle && cp /bin/busybox rootfs/bin/sh && berth-runtime spec";
    root.clone().dir("/srv").shell(steps).ok();
    let line = ["srun", "--container", "/srv/bundle", "/bin/sh", "-c"];
    let said = root.run(&[&line[..], &["echo fine; exit 3"]].concat());
    assert_eq!((said.code(), said.stdout.as_str()), (3, "fine\n"), "{}", said.report());
    let step = Step(root.spawn(&[&line[..], &["trap '' TERM; while :; do echo; done >/dev/null"]].concat()));
    world.cluster.wait_until("the step runs", || !world.cluster.root().run(&["squeue", "-h", "-s"]).stdout.is_empty());
    root.run(&["scancel", &world.job()]).ok();
    drop(step.end());
    // Root may make its own session's folder; what was in it is gone, or it could not be removed.
    if release != Release::Bookworm {
        world.cluster.wait_until("the step is over", || {
            world.cluster.node("n1").run(&["rmdir", "/run/user/0", "/run/user"]).status.success()
        });
    }
    world.assert_clean();
}

fn the_documented_first_steps_work(release: Release) {
    let world = World::new(release, oci::run);
    // The other user has no bundle yet.
    let said = world.cluster.as_user("tuser2").shell(&format!("set -e\n{}", oci::first_steps()));
    assert_eq!(said.ok(), "user 0 in a container\n");
    world.assert_clean();
}

fn roots_calls_leave_a_running_container_alone(release: Release) {
    let world = World::new(release, oci::guide_run);
    let step = world.start(&[], "echo >/out/ready; until [ -e /out/go ]; do sleep 0.05; done; echo done");
    world.wait_for("ready");
    let id = format!("n1.tuser1.{}.0", world.job());
    let root = if release == Release::Bookworm { "/tmp/" } else { "/run/user/20001/" };
    let ask = |verb: &str| world.cluster.node("n1").run(&["berth-runtime", "--root", root, verb, &format!("{id}.-1")]);
    assert_ne!(ask("state").code(), 0);
    assert_ne!(ask("kill").code(), 0);
    assert_ne!(ask("delete").code(), 0);
    // Root sees the container itself, as its user does.
    let seen = world.cluster.node("n1").run(&["berth-runtime", "--root", root, "state", &format!("{id}.0")]).ok();
    assert!(seen.contains("\"running\""), "{seen}");
    world.user().run(&["touch", &format!("{BUNDLE}/out/go")]).ok();
    assert_eq!(step.end().ok(), "done\n");
    world.user().run(&["rm", &format!("{BUNDLE}/out/go"), &format!("{BUNDLE}/out/ready")]).ok();
    world.assert_clean();
}

fn nothing_of_root_happens_in_a_users_folder(release: Release) {
    let world = World::new(release, oci::run);
    let node = world.cluster.node("n1");
    // A record that names root's processes and files, with a hook that tells who ran it.
    let user = node.clone().user("tuser1");
    user.shell("mkdir -m 700 -p /tmp/own/evil /tmp/own/n1.tuser1.1.0.0").ok();
    let pid = node.run(&["pgrep", "-o", "slurmd"]).ok();
    let start = node.shell(&format!("cut -d' ' -f22 /proc/{}/stat", pid.trim())).ok();
    let boot = node.run(&["cat", "/proc/sys/kernel/random/boot_id"]).ok();
    for (id, start) in [("evil", start.trim()), ("n1.tuser1.1.0.0", "1")] {
        let state = serde_json::json!({
            "ociVersion": "1.0.2", "id": id, "bundle": "/root", "rootfs": "/root", "created": "", "owner": 0,
            "bootId": boot.trim(),
            "process": {"pid": pid.trim().parse::<u32>().expect("a number"), "startTime": start.parse::<u64>().expect("ticks")},
        });
        let hook = serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", "id -u >>/tmp/own/ran"]});
        let config = serde_json::json!({"ociVersion": "1.0.2", "hooks": {"poststop": [hook]}});
        user.write(&format!("/tmp/own/{id}/state.json"), &state.to_string());
        user.write(&format!("/tmp/own/{id}/config.json"), &config.to_string());
    }
    for words in [["state", "n1.tuser1.1.0.-1"], ["kill", "evil"], ["delete", "evil"]] {
        drop(node.run(&[&["berth-runtime", "--root", "/tmp/own"], &words[..]].concat()));
    }
    assert!(node.run(&["kill", "-0", pid.trim()]).status.success(), "slurmd lives");
    let ran = node.run(&["cat", "/tmp/own/ran"]).stdout;
    assert!(ran.lines().all(|line| line == "20001"), "hooks ran as {ran:?}");
    let left = node.run(&["find", "/tmp/own", "-user", "root"]).stdout;
    assert_eq!(left, "");
    node.run(&["rm", "-r", "/tmp/own"]).ok();
    world.assert_clean();
}
