//! Somebody dies at every stage of a step's start and end, or has enough: the step ends, whoever waited is told, and
//! nothing is left.

use std::time::Duration;

use testbed::fault::Fault;
use testbed::fault::FaultyRegistry;
use testbed::fault::Rule;
use testbed::recipes;
use testbed::recipes::Images;
use testbed::recipes::Recipe;
use testbed::slurm::Cluster;
use testbed::slurm::Options;
use testbed::slurm::Release;

use crate::plugin::world::HOLD;
use crate::plugin::world::Rows;
use crate::plugin::world::SMALL;
use crate::plugin::world::World;
use crate::plugin::world::report;

on_each_release!("kills" with registry:
    who_is_killed_during_the_fetch_ends_the_step,
    whoever_is_killed_at_any_time_leaves_nothing,
    slurmd_may_die_and_come_back,
    a_node_that_is_lost_during_the_fetch_ends_the_step,
    a_fetch_and_an_entrypoint_end_when_they_are_told_to,
    a_jobs_containers_end_with_it_alone,
);

/// An image whose registry stalls in the middle of a layer.
const STALLED: &str = "--container-image=registry.test:5000#any/image:small";

/// `berth step`, as the kernel shows its command line.
const CALL: &str = "^/usr/bin/berth step";

fn stalling(cluster: &Cluster) -> FaultyRegistry {
    let layout = Images::ensure(&recipes::cache(), &[Recipe::Small]).expect("images").layout;
    let rule = Rule { target: "/blobs/".to_owned(), times: 99, fault: Fault::Stall(1000) };
    FaultyRegistry::at(cluster.listen(5000).expect("a port"), &layout, None, vec![rule]).expect("a registry")
}

/// Waits until one more layer is on its way.
#[track_caller]
fn wait_for_fetch(world: &World, registry: &FaultyRegistry, before: usize) {
    world.cluster.wait_until("the image is being fetched", || registry.gets("/blobs/").len() > before);
}

/// Removes what Slurm itself leaves of a step whose slurmstepd was killed: its socket, and its control groups.
fn forget_step_of_slurm(world: &World) {
    let line = "rm -f /var/spool/slurmd/n1/n1_*; sleep 1; find /sys/fs/cgroup -mindepth 3 -depth -type d \
                \\( -path '*job_*' -o -name 'uid_*' \\) -exec rmdir {} + 2>/dev/null; true";
    world.cluster.node("n1").shell(line).ok();
}

fn runs(world: &World, pattern: &str) -> bool {
    world.cluster.root().run(&["pgrep", "-f", pattern]).status.success()
}

fn who_is_killed_during_the_fetch_ends_the_step(release: Release) {
    let world = World::new(release);
    let registry = stalling(&world.cluster);
    let mut rows = Rows::default();
    let root = world.cluster.root();
    let task = format!("kill -KILL $(ps -o ppid= $(pgrep -o -f '{CALL}'))");
    let call = format!("kill -KILL $(pgrep -o -f '{CALL}')");
    for (who, line, words) in [
        ("berth step", &call, "couldn't start container: `berth step` ended with exit code 137"),
        ("its task", &task, "pyxis: a previous task terminated unexpectedly during container setup"),
    ] {
        let before = registry.gets("/blobs/").len();
        let step = world.start(&["-n2", STALLED], "echo ran");
        wait_for_fetch(&world, &registry, before);
        root.shell(line).ok();
        let said = step.end();
        rows.holds(
            format!("{who}: {}", report(&said)),
            said.code() != 0 && said.stdout.is_empty() && said.stderr.contains(words),
        );
        world.cluster.wait_until("berth step has ended", || !runs(&world, CALL));
    }
    // Slurm itself does not notice that a slurmstepd is gone; what is ours does.
    let before = registry.gets("/blobs/").len();
    let step = world.start(&["-n2", STALLED], "echo ran");
    wait_for_fetch(&world, &registry, before);
    root.run(&["pkill", "-KILL", "slurmstepd"]).ok();
    world.cluster.wait_until("berth step has ended", || !runs(&world, CALL));
    root.run(&["scancel", "-u", "tuser1"]).ok();
    rows.same("nothing ran", step.end().stdout.as_str(), "");
    rows.end();
    forget_step_of_slurm(&world);
    registry.calm();
    world
        .cluster
        .wait_until("the node is idle", || world.cluster.root().run(&["sinfo", "-h", "-o", "%T"]).stdout == "idle\n");
    assert_eq!(world.srun(&[STALLED], &["echo", "fine"]).ok(), "fine\n");
    world.assert_clean();
}

fn whoever_is_killed_at_any_time_leaves_nothing(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    for round in 0..12_u64 {
        // Not the same place twice: before the call, during the fetch or the launch, while the tasks join.
        let name = format!("--container-name=round{round}");
        let step = world.start(&["-n3", SMALL, &name], "true");
        std::thread::sleep(Duration::from_millis(40 + round * 53 % 400));
        let whom = ["pkill -KILL -o -f '^/usr/bin/berth step'", "pkill -KILL -n -P \"$(pgrep slurmstepd | head -n1)\""];
        drop(world.cluster.root().shell(whom[round as usize % 2]));
        let said = step.end();
        rows.holds(format!("round {round}: {}", report(&said)), said.stderr.len() < 10_000);
        rows.prints(&world.srun(&[SMALL, &name], &["echo", "fine"]), "fine\n");
    }
    rows.end();
    world.forget_containers();
    world.assert_clean();
}

fn slurmd_may_die_and_come_back(release: Release) {
    let mut world = World::new(release);
    let registry = stalling(&world.cluster);
    let mut rows = Rows::default();
    // During the fetch.
    let step = world.start(&[STALLED], "echo ran");
    wait_for_fetch(&world, &registry, 0);
    world.cluster.stop_daemon("n1");
    registry.calm();
    world.cluster.start_daemon("n1");
    let said = step.end();
    rows.prints(&said, "ran\n");
    // While it runs, and at its end.
    let step = world.start(&[SMALL, "--container-name=one", "--container-mount-home"], &format!("{HOLD}; echo held"));
    world.wait_for("ready");
    world.cluster.stop_daemon("n1");
    world.user().run(&["touch", "go"]).ok();
    world.cluster.start_daemon("n1");
    rows.prints(&step.end(), "held\n");
    world.user().run(&["rm", "go", "ready"]).ok();
    rows.prints(&world.srun(&[SMALL, "--container-name=one"], &["echo", "fine"]), "fine\n");
    rows.end();
    world.forget_containers();
    world.assert_clean();
}

fn a_node_that_is_lost_during_the_fetch_ends_the_step(release: Release) {
    let mut world = World::nodes(release, 2);
    let registry = stalling(&world.cluster);
    let step = world.start(&["-N2", "-n2", STALLED], "echo ran");
    wait_for_fetch(&world, &registry, 0);
    world.cluster.stop_node("n1");
    // What slurmctld does by itself when the node has not answered for minutes.
    let root = world.cluster.root();
    root.run(&["scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=lost"]).ok();
    let said = step.end();
    registry.calm();
    world.cluster.start_daemon("n1");
    // A slurmd that registers anew may have brought it back by itself: then there is nothing to resume, which is an error.
    let _ = root.run(&["scontrol", "update", "NodeName=n1", "State=RESUME"]);
    assert!(said.code() != 0, "{}", report(&said));
    assert!(said.stderr.contains("error: "), "{}", report(&said));
    world.cluster.wait_until("both nodes are idle", || {
        world.cluster.root().run(&["sinfo", "-h", "-o", "%T %D"]).stdout == "idle 2\n"
    });
    assert_eq!(world.srun(&["-N2", "-n2", STALLED], &["echo", "fine"]).ok(), "fine\nfine\n");
    world.assert_clean();
}

fn a_fetch_and_an_entrypoint_end_when_they_are_told_to(release: Release) {
    let entrypoint = serde_json::json!({"Entrypoint": ["/bin/sh", "-c", "while :; do sleep 0.1; done"]});
    let layout = tempfile::tempdir().expect("a folder");
    crate::hostile::busybox_image(release, layout.path(), &entrypoint);
    let options = Options::default().plugin("").bind(layout.path(), "/srv/endless");
    let world = World::with(release, options);
    let registry = stalling(&world.cluster);
    let mut rows = Rows::default();
    let endless = ["--container-image=/srv/endless", "--container-entrypoint"];
    let is_in_entrypoint = || runs(&world, "^/bin/sh -c while :");
    let start = |limit: &str| {
        let before = registry.gets("/blobs/").len();
        let fetch = world.start(&["-t", limit, STALLED], "echo ran");
        wait_for_fetch(&world, &registry, before);
        let entrypoint = world.start(&[&["-t", limit], &endless[..]].concat(), "echo ran");
        world.cluster.wait_until("the entrypoint runs", is_in_entrypoint);
        [fetch, entrypoint]
    };
    let steps = start("10");
    world.user().run(&["scancel", "-u", "tuser1"]).ok();
    for said in steps.map(crate::world::Step::end) {
        rows.holds(format!("cancelled: {}", report(&said)), failed(release, &said) && said.stdout.is_empty());
    }
    world.cluster.wait_until("nothing runs", || !is_in_entrypoint() && !runs(&world, CALL));
    let steps = start("10");
    let jobs = world.cluster.root().run(&["squeue", "-h", "-t", "R", "-o", "%i"]).ok();
    for job in jobs.lines() {
        // Limits are minutes: an end that is now comes to the same.
        // In the second of its start, Slurm takes that for no time at all.
        world.cluster.wait_until("it ends now", || {
            let line = ["scontrol", "update", &format!("JobId={job}"), "EndTime=now"];
            world.cluster.root().run(&line).code() == 0
        });
    }
    for said in steps.map(crate::world::Step::end) {
        // The words are slurmstepd's; on a busy node srun is told to go before they reach it.
        let told = said.stderr.contains("DUE TO TIME LIMIT") || said.stderr.contains("Terminated");
        rows.holds(format!("out of time: {}", report(&said)), failed(release, &said) && said.stdout.is_empty() && told);
    }
    // Without slurmstepd nobody waits for the entrypoint.
    let step = world.start(&endless, "echo ran");
    world.cluster.wait_until("the entrypoint runs", is_in_entrypoint);
    world.cluster.root().run(&["pkill", "-KILL", "slurmstepd"]).ok();
    world.cluster.wait_until("the entrypoint has ended", || !is_in_entrypoint());
    world.user().run(&["scancel", "-u", "tuser1"]).ok();
    rows.same("nothing ran", step.end().stdout.as_str(), "");
    rows.end();
    forget_step_of_slurm(&world);
    world.assert_clean();
}

/// Whether a step that was ended before its tasks ran gave a code. 24.11 lets the tasks know only when `srun` has given up
/// waiting for them, which that takes for no failure; it does say so. Without the plugin this was not looked at.
pub fn failed(release: Release, said: &testbed::process::Output) -> bool {
    said.code() != 0 || release == Release::Trixie && said.stderr.contains("Timed out waiting for job step to complete")
}

fn a_jobs_containers_end_with_it_alone(release: Release) {
    let world = World::with(release, Options::default().plugin("container_scope=job"));
    let mut rows = Rows::default();
    // Each writes once it has made its container, and uses it again when it is let go.
    let script = "#!/bin/bash
srun --overlap -n1 --container-image=small --container-name=work sh -c 'test ! -e /mark && echo $SLURM_JOB_ID >/mark' 2>~/said-$SLURM_JOB_NAME || exit
echo >~/made-$SLURM_JOB_NAME-$SLURM_RESTART_COUNT
until [ -e ~/go-$SLURM_JOB_NAME ]; do sleep 0.05; done
test \"$(srun --overlap -n1 --container-name=work cat /mark)\" = $SLURM_JOB_ID && echo >~/used-$SLURM_JOB_NAME
";
    let submit = |name: &str| {
        let options = ["sbatch", "--parsable", "--requeue", "-n1", "-o", "/dev/null", &format!("--job-name={name}")];
        world.user().run_with(&options, script.as_bytes()).ok().trim().to_owned()
    };
    let (first, second) = (submit("a"), submit("b"));
    for name in ["a", "b"] {
        let path = world.cluster.path(format!("/home/tuser1/made-{name}-"));
        let said = || world.user().shell(&format!("cat said-{name}")).stdout;
        world.cluster.wait_until("it has its container", || {
            assert!(path.exists() || !said().contains("error"), "job {name}: {}", said());
            path.exists()
        });
    }
    world.user().run(&["touch", "go-a"]).ok();
    world.wait_for("used-a");
    world.cluster.wait_until("the first ends", || world.cluster.job_ended(&first));
    let list = || world.cluster.node("n1").shell("ls /var/lib/berth/20001/n1/containers").stdout;
    world.cluster.wait_until("its container is gone", || !list().contains(&format!("job{first}.")));
    rows.same("the other's is there", list(), format!("job{second}.work\n"));
    // Queued again, it finds its name free.
    world.cluster.root().run(&["scontrol", "requeue", &second]).ok();
    let made = world.cluster.path("/home/tuser1/made-b-1");
    world.cluster.wait_until("the second runs again", || {
        // A job that was queued again waits for two minutes, unless it is told not to; and one that is told so while its node
        // still tidies up is held.
        drop(world.cluster.root().run(&["scontrol", "release", &second]));
        drop(world.cluster.root().run(&["scontrol", "update", &format!("JobId={second}"), "StartTime=now"]));
        made.exists()
    });
    world.user().run(&["touch", "go-b"]).ok();
    world.wait_for("used-b");
    world.cluster.wait_until("the second ends", || world.cluster.job_ended(&second));
    world.cluster.wait_until("its container is gone", || list().is_empty());
    rows.end();
    world.user().shell("rm made-* used-* go-* said-*").ok();
    world.forget_containers();
    world.assert_clean();
}
