//! `--container-name`: containers that outlive their step, and steps that meet in one.

use testbed::slurm::Options;
use testbed::slurm::Release;

use super::world::FRAMEWORK;
use super::world::HOLD;
use super::world::Rows;
use super::world::SMALL;
use super::world::World;
use super::world::report;

on_each_release!("plugin_names" with registry:
    a_named_container_keeps_its_files,
    a_step_joins_a_named_container_that_runs,
    the_flags_of_a_name_are_heeded,
    a_name_of_a_job_ends_with_it,
    a_step_joins_another_by_its_number,
    nobody_sees_the_containers_of_another,
);

fn a_named_container_keeps_its_files(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    rows.prints(&world.shell(&[SMALL, "--container-name=one"], "echo kept >/mark"), "");
    rows.prints(&world.shell(&["--container-name=one"], "cat /mark"), "kept\n");
    let again = world.shell(&["--container-name=one", "--container-verbose"], "cat /mark");
    rows.holds(
        format!("it is told: {}", report(&again)),
        again.stderr.contains("pyxis: reusing existing container filesystem"),
    );
    // The image that it was made of stays, whichever is named.
    rows.prints(&world.shell(&[FRAMEWORK, "--container-name=one"], "cat /mark; test ! -e /opt/vendor"), "kept\n");
    // Mounts are the step's own.
    let said = world.shell(&["--container-name=one", "--container-mounts=/etc/slurm:/conf"], "ls /conf/slurm.conf");
    rows.prints(&said, "/conf/slurm.conf\n");
    rows.prints(&world.shell(&["--container-name=one"], "ls /conf/slurm.conf 2>/dev/null || echo gone"), "gone\n");
    let variable = world.user().env("PYXIS_CONTAINER_NAME", "one");
    rows.prints(&variable.run(&["srun", "cat", "/mark"]), "kept\n");
    rows.prints(&world.shell(&[SMALL, "--container-name=two"], "cat /mark 2>/dev/null || echo another"), "another\n");
    rows.end();
    world.forget_containers();
    world.assert_clean();
}

fn a_step_joins_a_named_container_that_runs(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let line = format!("cd /tmp; echo here >/mark; readlink /proc/self/ns/mnt; {HOLD}");
    let first = world.start(&[FRAMEWORK, "--container-name=one", "--container-mount-home"], &line);
    world.wait_for("ready");
    let line = "cat /mark; pwd; readlink /proc/self/ns/mnt";
    let second = world.shell(&["--container-name=one", "--container-verbose"], line);
    let third = world.shell(&[SMALL, "--container-name=one:exec", "--container-mounts=/etc/slurm:/conf"], "ls /conf");
    let number = world.shell(&["-n3", "--container-name=one", "--container-workdir=/opt"], "pwd");
    let first = world.let_go(first).ok();
    // Not where the running command has gone since.
    rows.prints(&second, &format!("here\n/workspace\n{first}"));
    rows.holds(
        format!("it is told: {}", report(&second)),
        second.stderr.contains("pyxis: reusing existing container namespaces"),
    );
    rows.holds(
        format!("the mounts of a running container stay, and that is told: {}", report(&third)),
        third.code() != 0 && third.stderr.contains("--container-mounts"),
    );
    rows.prints(&number, "/opt\n/opt\n/opt\n");
    rows.end();
    world.forget_containers();
    world.assert_clean();
}

fn the_flags_of_a_name_are_heeded(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let said = world.srun(&["--container-name=one"], &["true"]);
    rows.fails(&said, 1, &["a container with name", "one\" does not exist, and --container-image is not set"]);
    let not_running = r#""exec" flag was passed to --container-name but the container is not running"#;
    rows.fails(&world.srun(&["--container-name=one:exec"], &["true"]), 1, &[not_running]);
    rows.prints(&world.shell(&[SMALL, "--container-name=one:create"], "echo kept >/mark"), "");
    let exists = r#""create" flag was passed to --container-name but the container already exists"#;
    rows.fails(&world.srun(&[SMALL, "--container-name=one:create"], &["true"]), 1, &[exists]);
    rows.fails(&world.srun(&["--container-name=one:exec"], &["true"]), 1, &[not_running]);
    rows.prints(&world.srun(&["--container-name=one:auto"], &["cat", "/mark"]), "kept\n");
    // The files are the same, and the namespaces are not.
    let line = format!("readlink /proc/self/ns/mnt; {HOLD}");
    let first = world.start(&["--container-name=one", "--container-mount-home"], &line);
    world.wait_for("ready");
    let own = world.shell(&["--container-name=one:no_exec"], "cat /mark; readlink /proc/self/ns/mnt");
    let shared = world.shell(&["--container-name=one:exec"], "readlink /proc/self/ns/mnt");
    let first = world.let_go(first).ok();
    rows.prints(&shared, &first);
    rows.holds(
        format!("namespaces of its own: {}", report(&own)),
        own.code() == 0 && own.stdout.starts_with("kept\n") && !own.stdout.contains(&first),
    );
    rows.end();
    world.forget_containers();
    world.assert_clean();
}

fn a_name_of_a_job_ends_with_it(release: Release) {
    let world = World::with(release, Options::default().plugin("container_scope=job"));
    let mut rows = Rows::default();
    let script = "#!/bin/sh\n\
                  srun --container-image=small --container-name=one sh -c 'echo kept >/mark'\n\
                  srun --container-name=one cat /mark\n";
    let said = world.batch(&[], script);
    rows.holds(format!("within a job it stays: {said}"), said.ends_with("kept\n"));
    world.assert_clean();
    let said = world.srun(&["--container-name=one"], &["true"]);
    rows.fails(&said, 1, &["does not exist, and --container-image is not set"]);
    rows.end();
    world.assert_clean();
}

fn a_step_joins_another_by_its_number(release: Release) {
    let world = World::new(release);
    let line = format!("echo here >/mark; readlink /proc/self/ns/mnt; {HOLD}");
    let first = world.start(&[SMALL, "--container-mount-home"], &line);
    world.wait_for("ready");
    let job = world.job();
    let name = format!("--container-name={job}.0");
    let joined = world.shell(&["--overlap", "--jobid", &job, &name], "cat /mark; readlink /proc/self/ns/mnt");
    let first = world.let_go(first).ok();
    assert_eq!(joined.ok(), format!("here\n{first}"));
    world.assert_clean();
}

fn nobody_sees_the_containers_of_another(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let line = format!("echo secret >/mark; {HOLD}");
    let first = world.start(&[SMALL, "--container-name=one", "--container-mount-home"], &line);
    world.wait_for("ready");
    let other = world.cluster.as_user("tuser2");
    let said = other.run(&["srun", "--container-name=one", "cat", "/mark"]);
    rows.fails(&said, 1, &["does not exist, and --container-image is not set"]);
    let said = other.run(&["srun", SMALL, "--container-name=one", "sh", "-c", "cat /mark 2>/dev/null || echo own"]);
    rows.prints(&said, "own\n");
    let said = other.run(&["srun", "--overlap", "--jobid", &world.job(), "true"]);
    rows.holds("nor the job", said.code() != 0);
    let said = world.cluster.node("n1").user("tuser2").shell("ls /var/lib/berth/20001");
    rows.holds(format!("nor the files: {}", report(&said)), said.code() != 0);
    world.let_go(first).ok();
    rows.end();
    world.forget_containers();
    world.assert_clean();
}
