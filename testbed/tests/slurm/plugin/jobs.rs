//! What is Slurm's stays Slurm's: codes, signals, limits, terminals, input and output, control groups.

use testbed::slurm::Options;
use testbed::slurm::Release;

use super::world::HOLD;
use super::world::HOME;
use super::world::Rows;
use super::world::SMALL;
use super::world::World;
use super::world::report;
use crate::world::Step;

on_each_release!("plugin_jobs" with registry:
    a_time_limit_ends_the_step,
    output_input_and_labels_are_slurms,
    a_command_that_is_told_to_end_says_goodbye,
    a_terminal_is_the_commands,
    many_tasks_and_nodes_run,
    tasks_are_in_the_steps_control_groups,
    slurm_shows_and_attaches_to_the_step,
    background_children_end_with_the_step,
);

fn output_input_and_labels_are_slurms(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let said = world.shell(&[SMALL], "echo out; echo err >&2; exit 3");
    rows.same("output", said.stdout.as_str(), "out\n");
    rows.holds(format!("errors: {}", report(&said)), said.stderr.contains("\nerr\n"));
    rows.same("code", said.code(), 3);
    let said = world.shell(&["-n2", "-l", SMALL], "echo rank");
    let mut lines: Vec<&str> = said.stdout.lines().collect();
    lines.sort_unstable();
    rows.same("labels", lines, vec!["0: rank", "1: rank"]);
    let text = "0123456789abcde\n".repeat(65_536);
    let counted = world.user().run_with(&["srun", SMALL, "cat"], text.as_bytes());
    rows.holds(format!("{} bytes came back", counted.stdout.len()), counted.stdout == text);
    let killed = world.shell(&[SMALL], "kill -KILL $$");
    rows.same("a signal", killed.code(), 137);
    // Of two, one fails: the step has its code.
    let said = world.shell(&["-n2", SMALL], "exit $SLURM_PROCID");
    rows.same("the largest code", said.code(), 1);
    rows.holds(
        format!("the task is named: {}", report(&said)),
        said.stderr.contains("task 1: Exited with exit code 1"),
    );
    let said = world.shell(&["-o", &format!("{HOME}/out.%t"), "-n2", SMALL], "echo $SLURM_PROCID");
    rows.prints(&said, "");
    rows.prints(&world.user().shell("cat out.0 out.1"), "0\n1\n");
    rows.end();
    world.assert_clean();
}

/// A program that says when it is ready, and ends with a code of its own when it is told to.
const POLITE: &str = "trap 'echo goodbye; exit 5' TERM; trap 'echo signal; exit 6' USR1; echo >/home/tuser1/ready; \
                      while :; do sleep 0.1; done";

fn a_command_that_is_told_to_end_says_goodbye(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let options = [SMALL, "--container-mount-home"];
    for (flags, code, word) in [(&[][..], 5, "goodbye\n"), (&["--signal=USR1"], 6, "signal\n")] {
        let step = world.start(&options, POLITE);
        world.wait_for("ready");
        world.user().run(&[&["scancel"], flags, &[&world.job()]].concat()).ok();
        let said = step.end();
        rows.same(report(&said), (said.code(), said.stdout.as_str()), (code, word));
        world.user().run(&["rm", "ready"]).ok();
        world.assert_clean();
    }
    // One that does not listen is killed.
    let step = world.start(&options, "trap '' TERM; echo >/home/tuser1/ready; while :; do sleep 0.1; done");
    world.wait_for("ready");
    world.user().run(&["scancel", &world.job()]).ok();
    drop(step.end());
    world.user().run(&["rm", "ready"]).ok();
    rows.end();
    world.assert_clean();
}

fn a_time_limit_ends_the_step(release: Release) {
    let world = World::new(release);
    // Slurm looks at limits twice a minute.
    let said = world.start(&["-t", "0:01", SMALL], "exec sleep 1234").end();
    assert_ne!(said.code(), 0, "{}", report(&said));
    assert!(said.stderr.contains("TIME LIMIT") || said.stderr.contains("time limit"), "{}", report(&said));
    world.assert_clean();
}

fn a_terminal_is_the_commands(release: Release) {
    let world = World::new(release);
    let line = "tty >/dev/null && echo on a terminal; stty size; read word; echo \"word $word\"; exit 4";
    let inner = format!("stty rows 33 cols 111; srun --pty --container-image=small sh -c '{line}'");
    let said = world.user().run_with(&["script", "-qec", &inner, "/dev/null"], b"typed\n");
    assert_eq!(said.code(), 4, "{}", report(&said));
    for wanted in ["on a terminal\r\n", "33 111\r\n", "word typed"] {
        assert!(said.stdout.contains(wanted), "{wanted:?}: {}", report(&said));
    }
    world.assert_clean();
}

fn many_tasks_and_nodes_run(release: Release) {
    let world = World::nodes(release, 4);
    let mut rows = Rows::default();
    let line = "echo $SLURM_PROCID $SLURMD_NODENAME";
    for (nodes, tasks) in [("-N1", 32), ("-N4", 4), ("-N4", 32)] {
        let count = format!("-n{tasks}");
        let said = world.shell(&[nodes, &count, SMALL], line);
        let mut ranks: Vec<usize> =
            said.stdout.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
        ranks.sort_unstable();
        rows.same(format!("{nodes} {count}: {}", report(&said)), ranks, (0..tasks).collect());
        rows.same("its code", said.code(), 0);
    }
    rows.end();
    world.assert_clean();
}

fn tasks_are_in_the_steps_control_groups(release: Release) {
    let world = World::new(release);
    let plain = world.srun(&[], &["cat", "/proc/self/cgroup"]).ok();
    let step = world.start(&["-n2", SMALL, "--container-mount-home"], &format!("echo >ready.$SLURM_PROCID; {HOLD}"));
    world.wait_for("ready.0");
    world.wait_for("ready.1");
    let job = world.job();
    // As the node sees them, whatever they see of themselves.
    let all = "for pid in $(pgrep -u tuser1 -x 'sh|sleep'); do grep -E 'freezer|memory' /proc/$pid/cgroup | sed \"s/^/$pid /\"; done";
    let groups = world.cluster.node("n1").shell(all).ok();
    world.let_go(step).ok();
    // On a machine without the controllers, Slurm has no groups.
    if plain.contains("/step_0") {
        let of_step = format!("/job_{job}/step_0");
        let freezer = groups.lines().filter(|line| line.contains("freezer")).collect::<Vec<&str>>();
        assert!(freezer.len() >= 2 && freezer.iter().all(|line| line.contains(&of_step)), "{groups}");
    }
    world.assert_clean();
}

fn slurm_shows_and_attaches_to_the_step(release: Release) {
    let counted = Options { slurm_conf: "JobAcctGatherType=jobacct_gather/linux\n".to_owned(), ..Options::default() };
    let world = World::with(release, counted.plugin(""));
    let mut rows = Rows::default();
    let line = "echo >/home/tuser1/ready; until [ -e /home/tuser1/go ]; do echo tick; sleep 0.05; done; echo last";
    let step = world.start(&[SMALL, "--container-mount-home"], line);
    world.wait_for("ready");
    let id = format!("{}.0", world.job());
    let shown = world.user().run(&["scontrol", "show", "step", &id]);
    rows.holds(format!("scontrol: {}", report(&shown)), shown.stdout.contains("State=RUNNING"));
    let counted = world.user().run(&["sstat", "-n", "-P", "-o", "NTasks,AveRSS", "-j", &id]);
    rows.holds(format!("sstat: {}", report(&counted)), counted.code() == 0 && counted.stdout.starts_with("1|"));
    let attached = Step(world.user().spawn(&["bash", "-c", &format!("sattach {id} >attached")]));
    let path = world.cluster.path(format!("{HOME}/attached"));
    world.cluster.wait_until("it is attached", || path.metadata().is_ok_and(|file| file.len() > 0));
    let said = world.let_go(step);
    rows.holds(format!("srun: {}", report(&said)), said.code() == 0 && said.stdout.ends_with("tick\nlast\n"));
    rows.same("the code of sattach", attached.end().code(), 0);
    rows.holds("what sattach printed", world.user().run(&["cat", "attached"]).stdout.ends_with("tick\nlast\n"));
    rows.end();
    world.assert_clean();
}

fn background_children_end_with_the_step(release: Release) {
    let world = World::new(release);
    world.shell(&[SMALL], "setsid sleep 1234 & sleep 1235 & echo started").ok();
    world.assert_clean();
    world.shell(&["-n2", SMALL], "sleep 1236 >/dev/null 2>&1 </dev/null & exit 0").ok();
    world.assert_clean();
}
