//! What tasks, steps and jobs do, and how they end.

use std::process::Stdio;

use super::world::World;
use super::world::wait_for;
use testbed::chapter;
use testbed::harness::Need;
use testbed::harness::REGISTRY;
use testbed::process;

chapter!("jobs",
    []:
        the_highest_exit_code_of_tasks_is_the_commands,
        lines_of_tasks_are_whole,
        standard_input_reaches_every_task_or_one,
        output_files_have_the_names_of_their_patterns,
        an_allocation_gives_its_steps_what_it_holds,
        steps_of_a_job_wait_for_each_others_processors,
        ctrl_c_twice_ends_a_step,
        a_job_is_ended_by_scancel_and_may_tidy_up,
        the_time_limit_ends_a_job,
        dependencies_are_kept,
        nothing_of_a_job_is_left_running,
        a_job_can_submit_another_that_outlives_it,
        a_link_by_the_name_of_a_command_is_that_command,
        sattach_shows_what_a_step_writes;
    [Need::Root]:
        other_users_see_nothing;
    [REGISTRY, Need::Namespaces]:
        tasks_and_scripts_run_in_containers;
);

fn the_highest_exit_code_of_tasks_is_the_commands() {
    let world = World::new();
    let output = world.berth(&["srun", "-n3", "sh", "-c", "exit $SLURM_PROCID"]);
    let said = output.fails(2);
    assert!(said.contains("task 2: Exited with exit code 2"), "{said}");
    let said = world.berth(&["srun", "sh", "-c", "kill -9 $$"]).fails(137);
    assert!(said.contains("task 0: Killed\nsrun: Force Terminated StepId=2.0"), "{said}");
    assert_eq!((world.end(1), world.end(2)), ("FAILED 2:0".to_owned(), "FAILED 0:9".to_owned()));
    let said = world.berth(&["srun", "no-such-command"]).fails(2);
    assert!(said.contains("execve(): no-such-command: No such file or directory"), "{said}");
}

fn lines_of_tasks_are_whole() {
    let world = World::new();
    let script = "for i in $(seq 300); do printf %s begin; printf '%0100d' $SLURM_PROCID; echo end; done";
    let said = world.berth(&["srun", "-l", "-n4", "sh", "-c", script]).ok();
    assert_eq!(said.lines().count(), 1200);
    for line in said.lines() {
        let task = &line[..1];
        assert_eq!(line, format!("{task}: begin{task:0>100}end"));
    }
}

fn standard_input_reaches_every_task_or_one() {
    let world = World::new();
    let limit = std::time::Duration::from_secs(60);
    let input: String = (0..20_000).map(|number| format!("{number}\n")).collect();
    let count = ["srun", "-n3", "sh", "-c", "wc -l"];
    let said = process::run_with(&mut world.command(&count), input.as_bytes(), limit).ok();
    assert_eq!(said, "20000\n20000\n20000\n");
    let only = ["srun", "-n3", "-l", "-i1", "sh", "-c", "wc -l"];
    let said = process::run_with(&mut world.command(&only), input.as_bytes(), limit).ok();
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0: 0", "1: 20000", "2: 0"]);
}

fn output_files_have_the_names_of_their_patterns() {
    let world = World::new();
    world.berth(&["srun", "-n2", "-J", "name", "-o", "%x-%j-%s-%t", "sh", "-c", "echo $SLURM_PROCID"]).ok();
    let read = |name: &str| std::fs::read_to_string(world.fixture.path("work").join(name)).expect(name);
    assert_eq!((read("name-1-0-0"), read("name-1-0-1")), ("0\n".to_owned(), "1\n".to_owned()));
    world.berth(&["sbatch", "-W", "--array=3-4", "-o", "%A_%a.%N", "--wrap", "echo $SLURM_ARRAY_TASK_ID"]).ok();
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let node = node.split('.').next().expect("a name").to_owned();
    assert_eq!((read(&format!("2_3.{node}")), read(&format!("2_4.{node}"))), ("3\n".to_owned(), "4\n".to_owned()));
}

fn an_allocation_gives_its_steps_what_it_holds() {
    let world = World::new();
    let berth = world.fixture.program("berth");
    let script = format!("{} srun sh -c 'echo $SLURM_JOB_ID.$SLURM_STEP_ID:$SLURM_NTASKS'; exit 7", berth.display());
    let output = world.berth(&["salloc", "-n2", "sh", "-c", &script]);
    assert_eq!(output.stdout, "1.0:2\n1.0:2\n");
    let said = output.fails(7);
    assert!(said.contains("salloc: Granted job allocation 1\n"), "{said}");
    assert!(said.contains("salloc: Relinquishing job allocation 1\n"), "{said}");
    assert_eq!(world.end(1), "FAILED 7:0");
}

fn steps_of_a_job_wait_for_each_others_processors() {
    let world = World::new();
    let berth = world.fixture.program("berth").display().to_string();
    // Each step notes how many run: with two processors, never a third.
    let work = world.fixture.path("work").display().to_string();
    let step = format!(
        "{berth} srun -n1 sh -c 'touch {work}/r.$SLURM_STEP_ID; ls {work} | grep -c ^r >> {work}/seen; sleep 0.2; rm {work}/r.$SLURM_STEP_ID' &"
    );
    let script = format!("{}wait", format!("{step}\n").repeat(5));
    let output = world.berth(&["salloc", "-n2", "sh", "-c", &script]);
    output.ok();
    let seen = std::fs::read_to_string(world.fixture.path("work/seen")).expect("what steps saw");
    assert_eq!(seen.lines().count(), 5);
    assert!(seen.lines().all(|count| count == "1" || count == "2"), "{seen}");
}

fn ctrl_c_twice_ends_a_step() {
    let world = World::new();
    let mut command = world.command(&["srun", "sh", "-c", "touch up; exec sleep 100"]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a start");
    world.wait_for_file("work/up");
    process::kill(child.id() as i32, libc::SIGINT);
    std::thread::sleep(std::time::Duration::from_millis(200));
    process::kill(child.id() as i32, libc::SIGINT);
    let (status, _) = process::wait(&mut child, std::time::Duration::from_secs(30)).expect("an end");
    assert_eq!(status.code(), Some(130));
    assert_eq!(world.end(1), "CANCELLED 0:2");
}

fn a_job_is_ended_by_scancel_and_may_tidy_up() {
    let world = World::new();
    let id = world.submit(&[], "trap 'touch tidy; exit 5' TERM; touch up; while :; do sleep 0.1; done");
    world.wait_for_file("work/up");
    world.berth(&["scancel", &id.to_string()]).ok();
    world.wait_until_idle();
    assert_eq!(world.end(id), "CANCELLED 5:0");
    world.wait_for_file("work/tidy");
    let waiting = world.submit(&["-H"], "true");
    world.berth(&["scancel", &waiting.to_string()]).ok();
    assert_eq!(world.end(waiting), "CANCELLED 0:0");
    // What does not listen is ended by force.
    let deaf = world.submit(&[], "trap '' TERM; touch deaf; while :; do sleep 0.1; done");
    world.wait_for_file("work/deaf");
    world.berth(&["scancel", &deaf.to_string()]).ok();
    world.wait_until_idle();
    assert_eq!(world.end(deaf), "CANCELLED 0:9");
}

fn the_time_limit_ends_a_job() {
    let world = World::new();
    let script = "trap 'touch early' USR1; while :; do sleep 0.1; done";
    let id = world.submit(&["-t1", "--signal=B:USR1@58"], script);
    world.wait_for_file("work/early");
    world.wait_until_idle();
    let job = world.job(id);
    assert_eq!((job["state"].as_str(), job["reason"].as_str()), (Some("TIMEOUT"), Some("TimeLimit")));
    let elapsed = job["ended"].as_u64().expect("an end") - job["started"].as_u64().expect("a start");
    assert!(elapsed >= 60, "{elapsed} s");
}

fn dependencies_are_kept() {
    let world = World::new();
    let bad = world.submit(&[], "while [ ! -e go ]; do sleep 0.05; done; false");
    let after = |kind: &str, name: &str| world.submit(&["-d", &format!("{kind}:{bad}")], &format!("touch {name}"));
    let ok = after("afterok", "ok");
    let not_ok = after("afternotok", "not-ok");
    let any = after("afterany", "any");
    let lost = world.submit(&["-d", &format!("afterok:{bad}"), "--kill-on-invalid-dep=yes"], "true");
    std::fs::write(world.fixture.path("work/go"), "").expect("a file");
    world.wait_for_file("work/not-ok");
    world.wait_for_file("work/any");
    wait_for("the job that can never start", || world.end(lost) == "CANCELLED 0:0");
    wait_for("the reason", || {
        let active = std::fs::read_to_string(world.queue().join("active")).expect("the list");
        active.lines().count() == 1 && active.contains("DependencyNeverSatisfied")
    });
    world.berth(&["scancel", &ok.to_string()]).ok();
    world.wait_until_idle();
    assert_eq!((world.end(not_ok), world.end(any)), ("COMPLETED 0:0".to_owned(), "COMPLETED 0:0".to_owned()));
    assert!(!world.fixture.path("work/ok").exists());
}

fn nothing_of_a_job_is_left_running() {
    let world = World::new();
    let mark = "setsid sh -c 'echo $$ > left; exec sleep 1000' & while [ ! -s left ]; do sleep 0.02; done";
    let pid = || -> i32 {
        let text = std::fs::read_to_string(world.fixture.path("work/left")).expect("a number");
        text.trim().parse().expect("a number")
    };
    for line in [&["srun", "sh", "-c", mark][..], &["sbatch", "-W", "-Q", "-o", "/dev/null", "--wrap", mark]] {
        world.berth(line).ok();
        let pid = pid();
        wait_for("the process that was left", || !std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
        std::fs::remove_file(world.fixture.path("work/left")).expect("a file");
    }
}

fn a_job_can_submit_another_that_outlives_it() {
    let world = World::new();
    let berth = world.fixture.program("berth").display().to_string();
    let script = format!("{berth} sbatch -o /dev/null --wrap 'while [ ! -e go ]; do sleep 0.05; done; touch done'");
    world.berth(&["srun", "sh", "-c", &script]).ok();
    assert_eq!(world.end(1), "COMPLETED 0:0");
    std::fs::write(world.fixture.path("work/go"), "").expect("a file");
    world.wait_until_idle();
    assert_eq!(world.end(2), "COMPLETED 0:0");
    world.wait_for_file("work/done");
}

fn a_link_by_the_name_of_a_command_is_that_command() {
    let world = World::new();
    let link = world.fixture.path("srun");
    std::os::unix::fs::symlink(world.fixture.program("berth"), &link).expect("a link");
    let mut command = world.fixture.command(&link, &["-n2", "echo", "x"]);
    command.env("BERTH_QUEUE", world.fixture.path("queue")).env("BERTH_ENGINE", "embedded").env("BERTH_JOB_CPUS", "4");
    assert_eq!(process::run(&mut command).ok(), "x\nx\n");
}

fn other_users_see_nothing() {
    let world = World::new();
    world.submit(&[], "echo secret");
    world.wait_until_idle();
    let other = testbed::user::User::create("jobs", false).expect("a user");
    let queue = world.queue();
    for path in [queue.clone(), queue.join("jobs"), queue.join("active")] {
        let listed = process::run(other.command("ls").arg(&path));
        assert_ne!(listed.code(), 0, "{} can be read", path.display());
    }
    other.remove();
}

fn tasks_and_scripts_run_in_containers() {
    let world = World::new();
    let registry = world.fixture.registry();
    let option = format!("--container-image={}", registry.reference("small"));
    let said = world.berth(&["srun", "-n2", &option, "sh", "-c", "ls /bin/busybox; id -u"]).ok();
    let line = format!("/bin/busybox\n{}\n", world.fixture.user.uid);
    let mut lines: Vec<&str> = said.lines().collect();
    let mut expected: Vec<&str> = line.lines().chain(line.lines()).collect();
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    let script = format!("#!/bin/sh\n#SBATCH {option}\n#SBATCH -o inside\nls /bin/busybox; exit 4\n");
    world.fixture.write("work/job.sh", script);
    world.berth(&["sbatch", "-W", "job.sh"]).fails(4);
    let said = std::fs::read_to_string(world.fixture.path("work/inside")).expect("output");
    assert_eq!(said, "/bin/busybox\n");
}

fn sattach_shows_what_a_step_writes() {
    let world = World::new();
    let script = "touch up; while [ ! -e go ]; do echo tick; sleep 0.05; done; echo out; echo err >&2; exit 3";
    let mut command = world.command(&["srun", "sh", "-c", script]);
    let mut srun = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a start");
    world.wait_for_file("work/up");
    let seen = world.fixture.write("work/seen", "");
    let told = world.fixture.write("work/told", "");
    let file = |path: &std::path::Path| std::fs::OpenOptions::new().write(true).open(path).expect("a file");
    let mut command = world.command(&["sattach", "1.0"]);
    let mut sattach = command.stdout(file(&seen)).stderr(file(&told)).spawn().expect("a start");
    let read = |path: &std::path::Path| std::fs::read_to_string(path).expect("output");
    wait_for("output of the step", || read(&seen).contains("tick\n"));
    std::fs::write(world.fixture.path("work/go"), "").expect("a file");
    let (status, _) = process::wait(&mut sattach, std::time::Duration::from_secs(60)).expect("an end");
    let _ = srun.wait();
    assert_eq!(status.code(), Some(3));
    assert!(read(&seen).ends_with("tick\nout\n") && read(&told) == "err\n", "{} {}", read(&seen), read(&told));
}
