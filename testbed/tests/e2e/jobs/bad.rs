//! What cannot be done is refused before anything is queued, in Slurm's words.

use super::world::World;
use testbed::chapter;

chapter!("jobs-bad",
    []:
        a_mistake_in_the_line_is_met_with_the_nearest_option,
        what_the_machine_could_never_do_is_refused_at_once,
        what_is_no_script_is_refused,
        files_that_cannot_be_written_are_told_before_the_job_is_queued;
);

#[track_caller]
fn refused(world: &World, line: &[&str], code: i32, expected: &str) {
    let said = world.berth(line).fails(code);
    assert_eq!(said, expected, "{line:?}");
    let jobs = std::fs::read_dir(world.fixture.path("queue")).expect("a folder").flatten();
    let queued = jobs.filter_map(|machine| std::fs::read_dir(machine.path().join("jobs")).ok()).flatten().count();
    assert_eq!(queued, 0, "{line:?} left a job");
}

fn a_mistake_in_the_line_is_met_with_the_nearest_option() {
    let world = World::new();
    refused(
        &world,
        &["srun", "--contaner-image=x", "true"],
        255,
        "srun: unrecognized option '--contaner-image=x'\nsrun: did you mean '--container-image'?\nTry \"srun --help\" for more information\n",
    );
    refused(
        &world,
        &["sbatch", "--aray=1", "--wrap", "true"],
        255,
        "sbatch: unrecognized option '--aray=1'\nsbatch: did you mean '--array'?\nTry \"sbatch --help\" for more information\n",
    );
    refused(&world, &["srun", "-n", "0", "true"], 1, "srun: error: Invalid numeric value \"0\" for --ntasks.\n");
    refused(&world, &["srun", "-t", "abc", "true"], 255, "srun: error: Invalid --time specification\n");
    refused(&world, &["srun"], 1, "srun: fatal: No command given to execute.\n");
}

fn what_the_machine_could_never_do_is_refused_at_once() {
    let world = World::new();
    let not_available = "Requested node configuration is not available";
    for (options, lines) in [
        (&["-n100"][..], vec![]),
        (&["-c100"], vec!["CPU count per node can not be satisfied"]),
        (&["--mem=100G"], vec!["Memory specification can not be satisfied"]),
    ] {
        let before: String = lines.iter().map(|line| format!("sbatch: error: {line}\n")).collect();
        let line = [&["sbatch"], options, &["--wrap", "true"]].concat();
        let expected = format!("{before}sbatch: error: Batch job submission failed: {not_available}\n");
        refused(&world, &line, 1, &expected);
    }
    refused(
        &world,
        &["srun", "-N2", "true"],
        1,
        &format!(
            "srun: error: Unable to allocate resources: {not_available}\n\
             srun: error: this machine is one node: more of them are where Slurm runs, with the same command line\n"
        ),
    );
    refused(
        &world,
        &["srun", "-n1", "true", ":", "-n1", "true"],
        1,
        "srun: error: heterogeneous jobs (`:` in the line) need a cluster: start the parts one by one, or where Slurm runs\n",
    );
    refused(&world, &["srun", "--gpus=99", "true"], 1, "srun: error: Invalid generic resource (gres) specification\n");
    refused(
        &world,
        &["sbatch", "--array=5-1", "--wrap", "true"],
        1,
        "sbatch: error: Batch job submission failed: Invalid job array specification\n",
    );
}

fn what_is_no_script_is_refused() {
    let world = World::new();
    world.fixture.write("work/plain", "echo x\n");
    world.fixture.write("work/empty", "");
    world.fixture.write("work/dos", "#!/bin/sh\r\necho x\r\n");
    let lines = |text: &str| text.lines().map(|line| format!("sbatch: error: {line}\n")).collect::<String>();
    for (name, text) in [
        (
            "plain",
            "This does not look like a batch script.  The first\nline must start with #! followed by the path to an interpreter.\nFor instance: #!/bin/sh",
        ),
        ("empty", "Batch script is empty!"),
        ("dos", "Batch script contains DOS line breaks (\\r\\n)\ninstead of expected UNIX line breaks (\\n)."),
        ("missing", "Unable to open file missing"),
    ] {
        refused(&world, &["sbatch", name], 1, &lines(text));
    }
}

fn files_that_cannot_be_written_are_told_before_the_job_is_queued() {
    let world = World::new();
    refused(
        &world,
        &["sbatch", "-o", "/nowhere/x", "--wrap", "true"],
        1,
        "sbatch: error: Could not open stdout file /nowhere/x: No such file or directory\n",
    );
    refused(
        &world,
        &["sbatch", "-D", "/nowhere", "--wrap", "true"],
        1,
        "sbatch: error: couldn't chdir to /nowhere: No such file or directory\n",
    );
}
