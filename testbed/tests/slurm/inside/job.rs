//! Ways into a running job from outside: `berth exec --job`, `berth ps --job`, and a step beside the others.

use testbed::process::Output;
use testbed::slurm::Release;

use crate::plugin::world::FRAMEWORK;
use crate::plugin::world::HOLD;
use crate::plugin::world::Rows;
use crate::plugin::world::SMALL;
use crate::plugin::world::World;
use crate::plugin::world::report;

on_each_release!("inside_job" with registry:
    a_command_runs_in_the_container_of_a_job,
    a_node_and_a_step_are_chosen,
    a_terminal_is_given,
    variables_of_the_caller_change_nothing,
    it_is_told_why_there_is_no_container_to_run_in,
    the_containers_of_a_job_are_listed,
    a_step_beside_others_joins_their_container,
);

/// A step on all nodes that holds, each node with a mark in its container.
const MARKED: &str = "echo of $SLURMD_NODENAME >/mark; echo >>/home/tuser1/ready.$SLURMD_NODENAME; \
                      until [ -e /home/tuser1/go ]; do sleep 0.3; done";

#[track_caller]
fn exec(world: &World, options: &[&str], command: &[&str]) -> Output {
    world.user().run(&[&["berth", "exec"], options, command].concat())
}

fn a_command_runs_in_the_container_of_a_job(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let line = format!("echo here >/mark; export LATER=no; {HOLD}");
    let user = world.user().env("OF_THE_JOB", "yes");
    let step = crate::world::Step(user.spawn(&["srun", FRAMEWORK, "--container-mount-home", "sh", "-c", &line]));
    world.wait_for("ready");
    let job = world.job();
    rows.prints(&exec(&world, &["--job", &job], &["cat", "/mark"]), "here\n");
    let line = "echo $FROM_IMAGE $OF_THE_JOB ${LATER-unset} $SLURM_JOB_ID; pwd; id -un";
    rows.prints(
        &exec(&world, &["--job", &job], &["sh", "-c", line]),
        &format!("yes yes unset {job}\n/workspace\ntuser1\n"),
    );
    // Words arrive as they are: nothing of them is a shell's.
    let words = ["two words", "it's", "$HOME", "`id`", "a;b", "", "--overlap", "%j"];
    let said = exec(&world, &[&format!("--job={job}")], &[&["printf", "[%s]\\n"], &words[..]].concat());
    rows.prints(&said, &words.map(|word| format!("[{word}]\n")).concat());
    let options = ["--job", &job, "-w", "/tmp", "-e", "NEW=1 2", "-e", "GIVEN"];
    let user = world.user().env("GIVEN", "by the caller");
    let line = "echo $PWD $NEW $GIVEN";
    let said = user.run(&[&["berth", "exec"], &options[..], &["sh", "-c", line]].concat());
    rows.prints(&said, "/tmp 1 2 by the caller\n");
    // Input, exit codes and errors are those of the command.
    let said =
        world.user().run_with(&["berth", "exec", "--job", &job, "sh", "-c", "cat; echo wrong >&2; exit 3"], b"input\n");
    rows.same("output", said.stdout.as_str(), "input\n");
    rows.same("code", said.code(), 3);
    rows.holds(format!("errors: {}", report(&said)), said.stderr.contains("wrong\n"));
    rows.same("no such command", exec(&world, &["--job", &job], &["no-such-command"]).code(), 127);
    // It is a step of the job, as Slurm has it.
    let line = "grep -o 'job_[0-9]*/step_[0-9]*' /proc/self/cgroup | sort -u";
    let said = exec(&world, &["--job", &job], &["sh", "-c", line]);
    rows.holds(
        format!("in a step: {}", report(&said)),
        said.stdout == format!("job_{job}/step_{}\n", said.stdout.trim().rsplit('_').next().unwrap_or_default())
            && !said.stdout.ends_with("step_0\n"),
    );
    world.let_go(step).ok();
    rows.end();
    world.assert_clean();
}

fn a_node_and_a_step_are_chosen(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    let step = world.start(&["-N2", SMALL, "--container-mount-home"], MARKED);
    world.wait_for("ready.n1");
    world.wait_for("ready.n2");
    let job = world.job();
    rows.prints(&exec(&world, &["--job", &job], &["cat", "/mark"]), "of n1\n");
    rows.prints(&exec(&world, &["--job", &job, "--node", "n2"], &["cat", "/mark"]), "of n2\n");
    // A second step on one of the nodes only, found by its number.
    let options = ["--overlap", "--jobid", &job, "-N1", "-n1", "-w", "n2", FRAMEWORK, "--container-mount-home"];
    let second = world.start(
        &options,
        &MARKED
            .replace("of $SLURMD_NODENAME", "second")
            .replace("ready", "second")
            .replace("tuser1/go", "tuser1/second.go"),
    );
    world.wait_for("second.n2");
    let number = world.user().run(&["squeue", "-h", "-s", "-o", "%i %N"]).ok();
    let number = number.lines().find_map(|line| line.strip_suffix(" n2")).expect("the second step").to_owned();
    rows.prints(&exec(&world, &["--job", &number], &["cat", "/mark"]), "second\n");
    rows.prints(&exec(&world, &["--job", &format!("{job}.0"), "--node", "n2"], &["cat", "/mark"]), "of n2\n");
    let said = exec(&world, &["--job", &number, "--node", "n1"], &["cat", "/mark"]);
    rows.fails(&said, 125, &["has no container on node n1", "berth ps --job"]);
    // The job ends with its first step.
    world.user().run(&["touch", "second.go"]).ok();
    second.end().ok();
    world.user().run(&["touch", "go"]).ok();
    step.end().ok();
    world.user().shell("rm go ready.* second.*").ok();
    rows.end();
    world.assert_clean();
}

fn a_terminal_is_given(release: Release) {
    let world = World::new(release);
    let step = world.start(&[SMALL, "--container-mount-home"], HOLD);
    world.wait_for("ready");
    let line = format!("berth exec -t --job {} sh -c 'tty >/dev/null && echo a terminal; exit 4'", world.job());
    let said = world.user().run(&["script", "-qec", &line, "/dev/null"]);
    world.let_go(step).ok();
    // A terminal has both streams, so what srun says of the code is there, too.
    assert_eq!((said.code(), said.stdout.contains("a terminal\r\n")), (4, true), "{}", said.report());
    world.assert_clean();
}

fn variables_of_the_caller_change_nothing(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let step = world.start(&[SMALL, "--container-mount-home"], &format!("echo here >/mark; {HOLD}"));
    world.wait_for("ready");
    let job = world.job();
    let variables = [
        ("PYXIS_CONTAINER_IMAGE", "no/such:image"),
        ("SLURM_CONTAINER_IMAGE", "no/such:image"),
        ("SLURM_CONTAINER", "/nowhere"),
        ("SLURM_NTASKS", "9"),
        ("SLURM_NNODES", "3"),
        ("SLURM_JOB_ID", "77"),
        ("SLURM_LABELIO", "1"),
        ("SLURM_NODELIST", "n9"),
        ("SQUEUE_STATES", "PENDING"),
        ("SQUEUE_FORMAT", "%j"),
        ("SLURM_HOSTFILE", "/nowhere"),
        ("SLURM_EXPORT_ENV", "NONE"),
    ];
    let mut user = world.user();
    for (name, value) in variables {
        user = user.env(name, value);
    }
    rows.prints(&user.run(&["berth", "exec", "--job", &job, "cat", "/mark"]), "here\n");
    let said = user.run(&["berth", "ps", "--json", "--job", &job]);
    rows.holds(format!("listed: {}", report(&said)), said.code() == 0 && said.stdout.contains(&format!("\"{job}.0\"")));
    // Of a job script, too, and of a container that has Slurm's commands.
    rows.prints(
        &world.shell(&["--overlap", "--jobid", &job], &format!("berth exec --job {job}.0 cat /mark")),
        "here\n",
    );
    world.let_go(step).ok();
    rows.end();
    world.assert_clean();
}

fn it_is_told_why_there_is_no_container_to_run_in(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    rows.fails(&exec(&world, &["--job", "4711"], &["true"]), 125, &["berth: there is no job 4711"]);
    rows.fails(&world.user().run(&["berth", "ps", "--job", "4711"]), 125, &["berth: there is no job 4711"]);
    rows.fails(&exec(&world, &["--job", "x;id"], &["true"]), 125, &["is no job such as"]);
    rows.fails(&exec(&world, &["--node", "n1"], &["one", "true"]), 125, &["--job"]);
    // A job without a container, and one of somebody else.
    let step = world.start(&[], HOLD);
    world.wait_for("ready");
    let job = world.job();
    let said = exec(&world, &["--job", &job], &["true"]);
    rows.fails(&said, 125, &[&format!("job {job} has no container on node n1"), "berth ps --job"]);
    rows.fails(&exec(&world, &["--job", &format!("{job}.7")], &["true"]), 125, &["there is no step 7 of job"]);
    rows.fails(&exec(&world, &["--job", &job, "--node", "n9"], &["true"]), 1, &["srun: error: "]);
    let said = world.user().run(&["berth", "ps", "--json", "--job", &job]);
    rows.prints(&said, "[]\n");
    let said = world.cluster.as_user("tuser2").run(&["berth", "exec", "--job", &job, "true"]);
    rows.fails(&said, 125, &["belongs to somebody else"]);
    world.let_go(step).ok();
    let said = exec(&world, &["--job", &job], &["true"]);
    rows.holds(
        format!("it has ended: {}", report(&said)),
        said.code() == 125 && said.stderr.contains("does not run: its state is COMPLET"),
    );
    // Where there is no Slurm.
    let said = world.user().run(&["env", "PATH=/nowhere", "/usr/bin/berth", "exec", "--job", "1", "true"]);
    rows.fails(&said, 125, &["there is no Slurm here: squeue is not in the PATH"]);
    rows.end();
    world.assert_clean();
}

fn the_containers_of_a_job_are_listed(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    let step = world
        .start(&["-N2", "-n4", "--ntasks-per-node=2", SMALL, "--container-name=one", "--container-mount-home"], MARKED);
    world.wait_for("ready.n1");
    world.wait_for("ready.n2");
    let job = world.job();
    let options = ["--overlap", "--jobid", &job, "-N1", "-n1", "-w", "n2", FRAMEWORK, "--container-mount-home"];
    let second = world.start(&options, &MARKED.replace("ready", "second").replace("tuser1/go", "tuser1/second.go"));
    world.wait_for("second.n2");
    let said = world.user().run(&["berth", "--json", "ps", "--job", &job]);
    let listed: serde_json::Value = serde_json::from_str(&said.ok()).expect("JSON");
    let field = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap_or("-").to_owned();
    let found: Vec<[String; 3]> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| [field(row, "node"), field(row, "name"), field(row, "image")])
        .collect();
    let image = FRAMEWORK.split_once('=').expect("an image").1;
    let expected =
        [["n1", "one", "small"], ["n2", "one", "small"], ["n2", "-", image]].map(|row| row.map(str::to_owned));
    rows.same("containers", found, expected.to_vec());
    for row in listed.as_array().expect("a list") {
        let pids = row["pids"].as_array().expect("processes").len();
        rows.holds(format!("processes of it: {row}"), pids >= if row["name"] == "one" { 2 } else { 1 });
        rows.same("its digest", row["digest"].as_str().map_or(0, str::len), 64);
        let pid = row["pids"][0].to_string();
        let seen = world
            .cluster
            .node(&field(row, "node"))
            .shell(&format!("tr '\\0' '\\n' </proc/{pid}/environ | grep -x SLURM_JOB_ID={job}"));
        rows.holds(format!("process {pid} is the job's: {}", report(&seen)), seen.code() == 0);
    }
    let table = world.user().run(&["berth", "ps", "--job", &job]).ok();
    let lines: Vec<&str> = table.lines().collect();
    rows.holds(
        format!("a table: {table}"),
        lines.len() == 4 && lines[0].starts_with("NODE") && lines[1].contains(&format!("{job}.0")),
    );
    rows.prints(&world.user().run(&["berth", "-q", "ps", "--job", &job]), "one\none\n");
    let said = world.user().run(&["berth", "--json", "ps", "--job", &format!("{job}.0")]).ok();
    rows.holds(format!("of one step: {said}"), !said.contains(image) && said.contains("\"one\""));
    // The job ends with its first step.
    world.user().run(&["touch", "second.go"]).ok();
    second.end().ok();
    world.user().run(&["touch", "go"]).ok();
    step.end().ok();
    world.user().shell("rm go ready.* second.*").ok();
    rows.end();
    world.forget_containers();
    world.assert_clean();
}

fn a_step_beside_others_joins_their_container(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    let step = world.start(&["-N2", SMALL, "--container-name=one", "--container-mount-home"], MARKED);
    world.wait_for("ready.n1");
    world.wait_for("ready.n2");
    let job = world.job();
    let beside = ["--overlap", "--jobid", &job, "-N2", "--label"];
    let sorted = |said: Output| {
        let text = said.ok();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join(" ")
    };
    let said = world.srun(&[&beside[..], &["--container-name=one"]].concat(), &["cat", "/mark"]);
    rows.same("by its name", sorted(said), "0: of n1 1: of n2".to_owned());
    let name = format!("--container-name={job}.0");
    let said = world.srun(&[&beside[..], &[&name]].concat(), &["cat", "/mark"]);
    rows.same("by its step", sorted(said), "0: of n1 1: of n2".to_owned());
    // What a step that joined leaves running is found by its own number.
    let third = world.start(
        &["--overlap", "--jobid", &job, "-N1", "-w", "n2", "--container-name=one"],
        &MARKED.replace("ready", "third").replace("tuser1/go", "tuser1/third.go"),
    );
    world.wait_for("third.n2");
    let number = world.user().run(&["squeue", "-h", "-s", "-o", "%i %N"]).ok();
    let number = number.lines().find_map(|line| line.strip_suffix(" n2")).expect("the third step").to_owned();
    rows.prints(&exec(&world, &["--job", &number], &["cat", "/mark"]), "of n2\n");
    // The job ends with its first step.
    world.user().run(&["touch", "third.go"]).ok();
    third.end().ok();
    world.user().run(&["touch", "go"]).ok();
    step.end().ok();
    world.user().shell("rm go ready.* third.*").ok();
    rows.end();
    world.forget_containers();
    world.assert_clean();
}
