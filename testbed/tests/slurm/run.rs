//! `RunTimeRun`: one call of the runtime from a step's start to its end.

use testbed::slurm::Options;
use testbed::slurm::Release;
use testbed::slurm::oci;

use crate::world::BUNDLE;
use crate::world::RUN_FORMS;
use crate::world::World;

on_each_release!("run":
    output_errors_and_exit_codes_come_back,
    a_program_that_is_not_there_is_127_and_one_that_is_none_126,
    a_program_ended_by_a_signal_gives_its_code,
    input_reaches_the_program,
    arguments_arrive_as_they_were_typed,
    the_environment_is_the_jobs_and_the_bundles,
    a_step_may_start_in_another_folder,
    four_tasks_run_each_in_a_container,
    a_terminal_is_the_programs,
    a_cancelled_program_says_goodbye,
    a_signal_reaches_the_programs_handler,
    a_cancelled_program_is_gone_in_the_guides_form,
    a_program_that_ignores_its_end_is_killed,
    a_time_limit_ends_the_program,
    a_background_child_ends_with_the_step,
    a_batch_script_runs_in_the_container,
    an_interactive_allocation_is_in_the_container,
    a_session_folder_is_used_where_there_is_one,
);

fn output_errors_and_exit_codes_come_back(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        let said = world.shell("echo out; echo err >&2; hostname");
        assert_eq!((said.code(), said.stdout.as_str(), said.stderr.as_str()), (0, "out\nin-a-bundle\n", "err\n"));
        let labelled = world.srun(&["-l"], &["/bin/echo", "labelled"]);
        assert_eq!((labelled.code(), labelled.stdout.as_str()), (0, "0: labelled\n"), "{}", labelled.report());
        for code in [3, 255] {
            let failed = world.shell(&format!("echo before; exit {code}"));
            assert_eq!((failed.code(), failed.stdout.as_str()), (code, "before\n"), "{}", failed.report());
        }
        world.assert_clean();
    }
}

fn a_program_that_is_not_there_is_127_and_one_that_is_none_126(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        for (program, code) in [("/bin/missing", 127), ("/etc/text", 126)] {
            let failed = world.srun(&[], &[program]);
            assert_eq!(failed.code(), code, "{}", failed.report());
            let told = failed.stderr.lines().filter(|line| line.starts_with("berth: ")).collect::<Vec<_>>();
            assert!(told.len() == 1 && told[0].contains(program), "{}", failed.report());
        }
        world.assert_clean();
    }
}

fn a_program_ended_by_a_signal_gives_its_code(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        let killed = world.shell("sh -c 'kill -KILL $$'; exit $?");
        assert_eq!(killed.code(), 137, "{}", killed.report());
        let step = world.start(&[], "echo >/out/ready; exec sleep 1234");
        world.wait_for("ready");
        world.cluster.node("n1").shell("kill -KILL $(pgrep -f '^sleep 1234')").ok();
        let killed = step.end();
        assert_eq!(killed.code(), 137, "{}", killed.report());
        world.user().run(&["rm", &format!("{BUNDLE}/out/ready")]).ok();
        world.assert_clean();
    }
}

fn input_reaches_the_program(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        let text = "0123456789abcde\n".repeat(65_536);
        let counted = world.user().run_with(&World::words(&[], &["/bin/cat"]), text.as_bytes());
        assert_eq!(counted.code(), 0);
        assert!(counted.stdout == text, "{} bytes of {} came back", counted.stdout.len(), text.len());
        world.assert_clean();
    }
}

fn arguments_arrive_as_they_were_typed(release: Release) {
    let arguments =
        ["two words", "it's", "\"double\"", "$HOME", "`id`", "a;b", "", "back\\slash", "new\nline", "ü", "%b %j"];
    for form in RUN_FORMS {
        let world = World::new(release, form);
        let said = world.srun(&[], &[&["/bin/printf", "[%s]\\n"], &arguments[..]].concat());
        let expected: String = arguments.iter().map(|argument| format!("[{argument}]\n")).collect();
        assert_eq!(said.ok(), expected);
        world.assert_clean();
    }
}

fn the_environment_is_the_jobs_and_the_bundles(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        let session = world.user().env("STRANGE", "a 'b' \"c\"\n$d=;e");
        let words =
            World::words(&[], &["/bin/sh", "-c", "echo \"$STRANGE\"; echo $FROM_BUNDLE $SLURM_JOB_ID $SLURM_PROCID"]);
        let said = session.run(&words).ok();
        // 22.05 writes the container's environment before it knows the task.
        let rank = if release == Release::Bookworm { "" } else { " 0" };
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..2], ["a 'b' \"c\"", "$d=;e"]);
        assert!(lines[2].starts_with("yes ") && lines[2].ends_with(rank), "{said}");
        assert!(!said.contains("yes  "), "the job has a number: {said}");
        world.assert_clean();
    }
}

fn a_step_may_start_in_another_folder(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        // The folder in the container is the bundle's own matter; that of the runtime must not.
        let said = world.srun(&["-D", "/var/tmp"], &["/bin/pwd"]);
        assert_eq!(said.ok(), "/\n");
        world.assert_clean();
    }
}

fn four_tasks_run_each_in_a_container(release: Release) {
    let options = Options { nodes: 4, ..Options::default() };
    for form in RUN_FORMS {
        let world = World::with(release, options.clone().file("oci.conf", form(release)));
        let line = "echo node $SLURMD_NODENAME rank $SLURM_PROCID, pid $$";
        let said = world.srun(&["-l", "-N4", "-n4"], &["/bin/sh", "-c", line]).ok();
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        let expected = |number: i32| match release {
            Release::Bookworm => format!("{number}: node rank , pid 1"),
            _ => format!("{number}: node n{} rank {number}, pid 1", number + 1),
        };
        assert_eq!(lines, [0, 1, 2, 3].map(expected));
        // 22.05 starts no second task on a node.
        if release != Release::Bookworm {
            let said = world.srun(&["-N1", "-n4", "-O"], &["/bin/sh", "-c", "echo rank $SLURM_PROCID"]).ok();
            let mut lines: Vec<&str> = said.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, ["rank 0", "rank 1", "rank 2", "rank 3"]);
        }
        world.assert_clean();
    }
}

fn a_terminal_is_the_programs(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        let line = "if tty >/dev/null; then echo on a terminal; stty size; else echo on none; fi; read word; echo \"word $word\"; exit 4";
        let inner = format!("stty rows 33 cols 111; srun --pty --container {BUNDLE} /bin/sh -c '{line}'");
        let said = world.user().run_with(&["script", "-qec", &inner, "/dev/null"], b"typed\n");
        assert_eq!(said.code(), 4, "{}", said.report());
        // 22.05 writes a configuration that asks for no terminal, whatever the step has.
        if release == Release::Bookworm {
            assert!(said.stdout.contains("on "), "{}", said.report());
        } else {
            // The terminal shows what is typed whenever it comes: also between the two.
            assert!(said.stdout.contains("on a terminal\r\n"), "{}", said.report());
            assert!(said.stdout.contains("33 111\r\n"), "{}", said.report());
        }
        assert!(said.stdout.contains("word typed"), "{}", said.report());
        world.assert_clean();
    }
}

/// A program that says when it is ready, and ends with 5 when it is told to.
const POLITE: &str = "trap 'echo goodbye; exit 5' TERM; trap 'echo signal; exit 6' USR1; echo >/out/ready; \
                      while :; do sleep 0.1; done";

fn a_cancelled_program_says_goodbye(release: Release) {
    let world = World::new(release, oci::run);
    let step = world.start(&[], POLITE);
    world.wait_for("ready");
    world.user().run(&["scancel", &world.job()]).ok();
    let said = step.end();
    assert_eq!((said.code(), said.stdout.as_str()), (5, "goodbye\n"), "{}", said.report());
    world.user().run(&["rm", &format!("{BUNDLE}/out/ready")]).ok();
    world.assert_clean();
}

fn a_signal_reaches_the_programs_handler(release: Release) {
    let world = World::new(release, oci::run);
    let step = world.start(&[], POLITE);
    world.wait_for("ready");
    world.user().run(&["scancel", "--signal=USR1", &world.job()]).ok();
    let said = step.end();
    assert_eq!((said.code(), said.stdout.as_str()), (6, "signal\n"), "{}", said.report());
    world.user().run(&["rm", &format!("{BUNDLE}/out/ready")]).ok();
    world.assert_clean();
}

fn a_cancelled_program_is_gone_in_the_guides_form(release: Release) {
    let world = World::new(release, oci::guide_run);
    let step = world.start(&[], POLITE);
    world.wait_for("ready");
    world.user().run(&["scancel", &world.job()]).ok();
    let said = step.end();
    // The shell in front of the runtime ends by the signal: what the program says of it is lost.
    assert_ne!(said.code(), 0, "{}", said.report());
    world.user().run(&["rm", &format!("{BUNDLE}/out/ready")]).ok();
    world.assert_clean();
}

fn a_program_that_ignores_its_end_is_killed(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        let step = world.start(&[], "trap '' TERM; echo >/out/ready; while :; do sleep 0.1; done");
        world.wait_for("ready");
        world.user().run(&["scancel", &world.job()]).ok();
        // What srun says of it, and whether it waits for the end, is its own matter.
        drop(step.end());
        world.user().run(&["rm", &format!("{BUNDLE}/out/ready")]).ok();
        world.assert_clean();
    }
}

fn a_time_limit_ends_the_program(release: Release) {
    let world = World::new(release, oci::run);
    let step = world.start(&["-t", "10"], POLITE);
    world.wait_for("ready");
    // Limits are minutes: an end that is now comes to the same, when slurmctld looks for it next.
    // In the second of its start, Slurm takes that for no time at all.
    let job = format!("JobId={}", world.job());
    world.cluster.wait_until("it ends now", || {
        world.cluster.root().run(&["scontrol", "update", &job, "EndTime=now"]).code() == 0
    });
    let said = step.end();
    assert_eq!((said.code(), said.stdout.as_str()), (5, "goodbye\n"), "{}", said.report());
    assert!(said.stderr.contains("DUE TO TIME LIMIT"), "{}", said.report());
    world.user().run(&["rm", &format!("{BUNDLE}/out/ready")]).ok();
    world.assert_clean();
}

fn a_background_child_ends_with_the_step(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        let said = world.shell("sleep 1234 & setsid sleep 1234 & echo started");
        assert_eq!(said.ok(), "started\n");
        world.assert_clean();
    }
}

fn a_batch_script_runs_in_the_container(release: Release) {
    for (advised, form) in [(true, RUN_FORMS[0]), (false, RUN_FORMS[1])] {
        let world = World::new(release, form);
        let script = "#!/bin/sh\nhostname\necho job $SLURM_JOB_ID >&2\nexit 7\n";
        let options = ["--container", BUNDLE, "-o", "/home/tuser1/said", "-e", "/home/tuser1/errors"];
        let job = world.cluster.batch("tuser1", &options, script);
        let shown = world.cluster.job(&job.id);
        assert!(shown.contains("ExitCode=7:0"), "{shown}\n{}", world.cluster.log());
        let said = world.user().run(&["cat", "said", "errors"]).ok();
        let expected = format!("in-a-bundle\njob {}\n", job.id);
        // In the guide's form Slurm tells in the job's output that its last question was for a container that is gone.
        let said = if advised { said } else { without_errors_of_slurm(&said) };
        assert_eq!(said, expected);
        world.assert_clean();
    }
}

pub fn without_errors_of_slurm(text: &str) -> String {
    let line = |line: &&str| !line.is_empty() && !line.contains("_get_container_state") && !line.contains("_try_parse");
    text.lines().filter(line).map(|line| format!("{line}\n")).collect()
}

fn an_interactive_allocation_is_in_the_container(release: Release) {
    for form in RUN_FORMS {
        let world = World::new(release, form);
        let session = world.user().env("SHELL", "/bin/sh");
        let inner = format!("salloc --container {BUNDLE}");
        let said = session.run_with(&["script", "-qec", &inner, "/dev/null"], b"hostname\nexit 8\n");
        assert!(said.stdout.contains("in-a-bundle\r\n"), "{}", said.report());
        assert_eq!(said.code(), 8, "{}", said.report());
        world.assert_clean();
    }
}

fn a_session_folder_is_used_where_there_is_one(release: Release) {
    for form in RUN_FORMS {
        let options = Options { run_user: true, ..Options::default() };
        let world = World::with(release, options.file("oci.conf", form(release)));
        assert_eq!(world.shell("echo fine").ok(), "fine\n");
        world.assert_clean();
    }
}
