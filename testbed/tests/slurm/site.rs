//! What a site relies on: what root's calls at the end of a step do, and what users can do to each other.

use testbed::slurm::Release;
use testbed::slurm::oci;

use crate::world::BUNDLE;
use crate::world::RUN_FORMS;
use crate::world::World;

on_each_release!("site":
    roots_calls_at_the_end_do_no_harm,
    the_name_of_a_bundle_is_no_command,
    two_users_do_not_meet,
    what_a_killed_node_left_is_no_obstacle,
);

fn roots_calls_at_the_end_do_no_harm(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        let conf = form(release);
        for verb in ["Query", "Kill", "Delete"] {
            let line = conf.lines().find_map(|line| line.strip_prefix(&format!("RunTime{verb}="))).expect("its line");
            let line = line.trim_matches('"').replace("%n.%u.%j.%s.%t", "n1.tuser1.1.0.-1").replace("%U", "20001");
            let line = line.replace("%u", "tuser1");
            let said = world.cluster.node("n1").dir("/").run(&["sh", "-c", &line]);
            assert_eq!(said.stdout, "", "{}", said.report());
            assert!(said.stderr.lines().count() <= 1, "{}", said.report());
            // To delete what is not there is no failure, as nothing is left to do.
            assert_eq!(said.code() == 0, verb == "Delete", "{}", said.report());
        }
        world.assert_clean();
    }
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

fn what_a_killed_node_left_is_no_obstacle(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        let step = world.start(&[], "echo >/out/ready; exec sleep 1234");
        world.wait_for("ready");
        // The whole step at once, as when a node goes down, with nobody to clean up.
        world.cluster.node("n1").shell("pkill -KILL slurmstepd; pkill -KILL -U tuser1; true").ok();
        drop(step.end());
        world.user().run(&["rm", &format!("{BUNDLE}/out/ready")]).ok();
        world.cluster.wait_until("the job is gone", || world.cluster.root().run(&["squeue", "-h"]).stdout.is_empty());
        assert_eq!(world.shell("echo again").ok(), "again\n");
    }
}
