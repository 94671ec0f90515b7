//! `RunTimeCreate` and `RunTimeStart`: what Slurm's guide prints, and no other runtime completes.

use testbed::slurm::Options;
use testbed::slurm::Release;
use testbed::slurm::oci;

use crate::run::without_errors_of_slurm;
use crate::world::BUNDLE;
use crate::world::World;

on_each_release!("create":
    a_step_completes_as_printed_in_the_guide,
    four_tasks_complete,
    a_batch_script_has_its_output,
    a_cancelled_step_leaves_nothing,
    a_program_that_is_not_there_does_not_hang,
    a_background_child_ends_with_the_program,
);

fn a_step_completes_as_printed_in_the_guide(release: Release) {
    let world = World::new(release, oci::guide_create);
    for number in 1..=3 {
        let said = world.shell("echo lost; echo lost >&2; hostname >/out/said; exit 3");
        // slurmstepd reports the exit code of `start`, and keeps no output.
        assert_eq!((said.code(), said.stdout.as_str()), (0, ""), "step {number}: {}", said.report());
        assert_eq!(world.written("said"), "in-a-bundle\n");
        world.user().run(&["rm", &format!("{BUNDLE}/out/said")]).ok();
    }
    world.assert_clean();
}

fn four_tasks_complete(release: Release) {
    let options = Options { nodes: 4, ..Options::default() };
    let world = World::with(release, options.file("oci.conf", oci::guide_create(release)));
    world.srun(&["-N4", "-n4"], &["/bin/sh", "-c", "echo here >>/out/said"]).ok();
    assert_eq!(world.written("said"), "here\n".repeat(4));
    world.user().run(&["rm", &format!("{BUNDLE}/out/said")]).ok();
    world.assert_clean();
}

fn a_batch_script_has_its_output(release: Release) {
    let world = World::new(release, oci::guide_create);
    let options = ["--container", BUNDLE, "-o", "/home/tuser1/said", "-e", "/home/tuser1/errors"];
    let job = world.cluster.batch("tuser1", &options, "#!/bin/sh\necho written\necho told >&2\nexit 7\n");
    assert!(world.cluster.job(&job.id).contains("ExitCode=0:0"), "{}", world.cluster.job(&job.id));
    let said = world.user().run(&["cat", "said", "errors"]).ok();
    assert_eq!(without_errors_of_slurm(&said), "written\ntold\n");
    world.assert_clean();
}

fn a_cancelled_step_leaves_nothing(release: Release) {
    let world = World::new(release, oci::guide_create);
    for line in ["echo >/out/ready; exec sleep 1234", "trap '' TERM; echo >/out/ready; while :; do sleep 0.1; done"] {
        let step = world.start(&[], line);
        world.wait_for("ready");
        world.user().run(&["scancel", &world.job()]).ok();
        drop(step.end());
        world.user().run(&["rm", &format!("{BUNDLE}/out/ready")]).ok();
        world.assert_clean();
    }
}

fn a_program_that_is_not_there_does_not_hang(release: Release) {
    let world = World::new(release, oci::guide_create);
    let failed = world.srun(&[], &["/bin/missing"]);
    println!("{}", failed.report());
    world.assert_clean();
}

fn a_background_child_ends_with_the_program(release: Release) {
    let world = World::new(release, oci::guide_create);
    world.shell("setsid sleep 1234 & echo >/out/said").ok();
    assert_eq!(world.written("said"), "\n");
    world.user().run(&["rm", &format!("{BUNDLE}/out/said")]).ok();
    world.assert_clean();
}
