//! The ways to submit: scripts, allocations, steps in jobs, and options by variables.

use testbed::slurm::Release;

use super::world::HOLD;
use super::world::HOME;
use super::world::Rows;
use super::world::SMALL;
use super::world::World;
use super::world::printed;
use super::world::report;

on_each_release!("plugin_submit" with registry:
    a_batch_script_runs_in_the_container,
    steps_of_a_script_have_containers_of_their_own,
    variables_stand_for_options,
    an_array_and_a_requeued_job_run,
    a_second_step_runs_beside_the_first,
);

/// A script that tells where it runs.
const SCRIPT: &str = "#!/bin/sh\ntest -e /etc/slurm && echo outside || echo inside\necho \"$# $1\"\nexit 7\n";

fn a_batch_script_runs_in_the_container(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let output = format!("{HOME}/batch.out");
    world.user().write("script", SCRIPT);
    let job = world.cluster.batch("tuser1", &["-o", &output, SMALL, "script", "an argument"], "");
    rows.same(
        "options of sbatch",
        printed(&world.user().run(&["cat", "batch.out"]).stdout),
        "inside\n1 an argument\n".to_owned(),
    );
    rows.holds("its exit code", world.cluster.job(&job.id).contains("ExitCode=7:0"));
    let lines = SCRIPT.replacen(
        '\n',
        "\n#SBATCH --container-image docker://nvcr.io\\#nvidia/pytorch:21.12-py3\n\
         #SBATCH --container-mounts=/etc/hosts:/etc/hosts-of-node\n#SBATCH --container-remap-root\n\
         #SBATCH --container-workdir=/opt\nid -u; pwd; grep -c nvcr.io /etc/hosts-of-node\n",
        1,
    );
    rows.same("lines of a script", world.batch(&[], &lines), "0\n/opt\n1\ninside\n0 \n".to_owned());
    let other = lines.replace("--container-workdir=/opt", "--comment=none");
    let said = world.batch(&["--container-workdir=/tmp"], &other);
    rows.same("both together", said, "0\n/tmp\n1\ninside\n0 \n".to_owned());
    // An image that cannot be had fails the job, and holds nothing up.
    let job = world.cluster.batch("tuser1", &["-o", &output, "--container-image=missing"], SCRIPT);
    let shown = world.cluster.job(&job.id);
    rows.holds(format!("the job has failed: {shown}"), shown.contains("JobState=FAILED"));
    let said = world.user().run(&["cat", "batch.out"]).stdout;
    rows.holds(format!("it is told: {said}"), said.contains("pyxis: failed to import docker image: missing"));
    rows.end();
    world.assert_clean();
}

fn steps_of_a_script_have_containers_of_their_own(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    let script = "#!/bin/sh\n\
                  srun -N1 -n1 --container-image=small sh -c 'echo one >/mark; cat /mark'\n\
                  srun -N1 -n1 --container-image=small sh -c 'ls /mark 2>/dev/null || echo gone'\n\
                  srun -N2 hostname | sort\n\
                  srun -N2 --container-image=nvcr.io#nvidia/pytorch:21.12-py3 pwd\n";
    let said = world.batch(&["-N2"], script);
    let printed: Vec<&str> = said.lines().filter(|line| !line.contains("pyxis: ")).collect();
    rows.same("steps", printed, vec!["one", "gone", "n1", "n2", "/workspace", "/workspace"]);
    rows.end();
    world.assert_clean();
}

fn variables_stand_for_options(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let user = world.user().env("PYXIS_CONTAINER_IMAGE", "nvcr.io#nvidia/pytorch:21.12-py3");
    rows.prints(&user.run(&["srun", "pwd"]), "/workspace\n");
    rows.prints(&user.run(&["srun", SMALL, "sh", "-c", "test ! -e /workspace && echo small"]), "small\n");
    rows.prints(&user.clone().env("PYXIS_CONTAINER_WORKDIR", "/opt").run(&["srun", "pwd"]), "/opt\n");
    let mounts = user.clone().env("PYXIS_CONTAINER_MOUNTS", "/etc/hosts:/from-node");
    rows.prints(&mounts.run(&["srun", "grep", "-c", "nvcr.io", "/from-node"]), "1\n");
    rows.prints(
        &world.user().env("SLURM_CONTAINER_IMAGE", "small").run(&["srun", "ls", "/bin/busybox"]),
        "/bin/busybox\n",
    );
    // One for the job alone: some releases then ask the node for the person's environment.
    let said =
        world.batch(&["--export=ALL,ASKED=yes"], "#!/bin/sh\nsrun --container-image=small sh -c 'echo $ASKED'\n");
    rows.holds(format!("a variable for the job: {said}"), said.ends_with("yes\n"));
    // In a script, for its steps, and for the script itself.
    let script = "#!/bin/sh\nexport PYXIS_CONTAINER_IMAGE=nvcr.io#nvidia/pytorch:21.12-py3\nsrun pwd\nsrun --container-image=small --container-workdir=/bin pwd\n";
    rows.same("steps of a script", world.batch(&[], script), "/workspace\n/bin\n".to_owned());
    let submit = format!("sbatch --parsable -o {HOME}/said --wrap pwd");
    let id = user.shell(&submit).ok().trim().to_owned();
    world.cluster.wait_until("the job ends", || world.cluster.job_ended(&id));
    rows.prints(&world.user().run(&["cat", "said"]), "/workspace\n");
    rows.end();
    world.assert_clean();
}

fn an_array_and_a_requeued_job_run(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let script = format!(
        "#!/bin/sh\nsrun --container-image=small sh -c 'echo $SLURM_ARRAY_TASK_ID' >{HOME}/array.$SLURM_ARRAY_TASK_ID\n"
    );
    let said = world.user().run_with(&["sbatch", "--parsable", "--array=1-4", "-o", "/dev/null"], script.as_bytes());
    let id = said.ok().trim().to_owned();
    let all = || world.cluster.root().run(&["squeue", "-h", "-j", &id]).stdout.trim().is_empty();
    world.cluster.wait_until("the array ends", all);
    rows.prints(&world.user().shell("cat array.*"), "1\n2\n3\n4\n");
    // The first time it is sent back into the queue while it runs.
    let script = format!(
        "#!/bin/sh\nsrun --container-image=small --container-mount-home sh -c 'echo $SLURM_RESTART_COUNT >>{HOME}/runs; \
         [ -n \"$SLURM_RESTART_COUNT\" ] || sleep 1234'\n"
    );
    let said = world.user().run_with(&["sbatch", "--parsable", "--requeue", "-o", "/dev/null"], script.as_bytes());
    let id = said.ok().trim().to_owned();
    world.wait_for("runs");
    world.cluster.root().run(&["scontrol", "requeue", &id]).ok();
    // A job that is sent back waits for two minutes, unless it is told not to.
    world.cluster.wait_until("it waits", || world.cluster.job(&id).contains("JobState=PENDING"));
    world.cluster.wait_until("it has run again", || {
        let _ = world.cluster.root().run(&["scontrol", "update", &format!("jobid={id}"), "starttime=now"]);
        world.cluster.job(&id).contains("JobState=COMPLETED")
    });
    rows.prints(&world.user().run(&["cat", "runs"]), "\n1\n");
    rows.end();
    world.assert_clean();
}

fn a_second_step_runs_beside_the_first(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let first = world.start(&[SMALL, "--container-mount-home"], &format!("echo first; {HOLD}"));
    world.wait_for("ready");
    let job = world.job();
    let said = world.shell(&["--overlap", "--jobid", &job, SMALL], "echo second; readlink /proc/self/ns/mnt");
    rows.holds(format!("it runs: {}", report(&said)), said.code() == 0 && said.stdout.starts_with("second\n"));
    let said = world.srun(&["--overlap", "--jobid", &job], &["cat", "/etc/slurm/plugstack.conf"]);
    rows.holds(format!("one outside: {}", report(&said)), said.stdout.contains("spank_berth"));
    rows.prints(&world.let_go(first), "first\n");
    rows.end();
    world.assert_clean();
}
