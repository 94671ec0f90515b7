//! What is wrong is told by `srun` and `sbatch` before anything starts, in the words that scripts look for.

use testbed::slurm::Release;

use super::world::Rows;
use super::world::SMALL;
use super::world::World;
use super::world::report;

on_each_release!("plugin_errors" with registry:
    mistakes_are_told_before_a_job_starts,
    options_without_a_container_are_told_and_ignored,
    a_command_that_is_not_there_or_fails_gives_its_code,
);

/// Options, and what is said of them.
const MISTAKES: [(&[&str], &str); 18] = [
    (&["--container-image="], "--container-image: argument required"),
    (&[SMALL, "--container-mounts="], "--container-mounts: argument required"),
    (&[SMALL, "--container-workdir="], "--container-workdir: argument required"),
    (&[SMALL, "--container-image=other"], "--container-image specified multiple times"),
    (&[SMALL, "--container-workdir=/a", "--container-workdir=/b"], "--container-workdir specified multiple times"),
    (
        &[SMALL, "--container-mount-home", "--no-container-mount-home"],
        "both --container-mount-home and --no-container-mount-home were specified",
    ),
    (
        &[SMALL, "--container-remap-root", "--no-container-remap-root"],
        "both --container-remap-root and --no-container-remap-root were specified",
    ),
    (
        &[SMALL, "--container-entrypoint", "--no-container-entrypoint"],
        "both --container-entrypoint and --no-container-entrypoint were specified",
    ),
    (
        &[SMALL, "--container-writable", "--container-readonly"],
        "both --container-writable and --container-readonly were specified",
    ),
    (&[SMALL, "--container-mounts=/a:/b:ro:more"], "--container-mounts: invalid format: /a:/b:ro:more"),
    (
        &[SMALL, "--container-mounts=data:/b"],
        "mount source must be a relative path, an absolute path, \"tmpfs\" or \"umount\"",
    ),
    (&[SMALL, "--container-mounts=/a:b"], "mount target must be a relative path or an absolute path"),
    (&[SMALL, "--container-name="], "--container-name: argument required"),
    (&[SMALL, "--container-name=:create"], "--container-name: empty name"),
    (&[SMALL, "--container-name=a:b"], "--container-name: flag must be \"auto\", \"create\", \"exec\" or \"no_exec\""),
    (&[SMALL, "--container-save=/tmp/"], "--container-save: target is a directory"),
    (&[SMALL, "--container-env=A,,B"], "--container-env: invalid format: A,,B"),
    (&[SMALL, "--container-unshare=net,user"], "--container-unshare: unknown namespace 'user'"),
];

fn mistakes_are_told_before_a_job_starts(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    for (options, words) in MISTAKES {
        let said = world.srun(options, &["hostname"]);
        rows.holds(
            format!("{words} is told: {}", report(&said)),
            said.code() != 0
                && said.stdout.is_empty()
                && said.stderr.contains(words)
                && said.stderr.contains("pyxis: "),
        );
    }
    for (options, words) in [MISTAKES[0], MISTAKES[3], MISTAKES[9], MISTAKES[14]] {
        let said = world.user().run_with(&[&["sbatch"], options].concat(), b"#!/bin/sh\nhostname\n");
        rows.holds(
            format!("sbatch tells {words}: {}", report(&said)),
            said.code() != 0 && said.stdout.is_empty() && said.stderr.contains(words),
        );
    }
    // By a variable as well.
    let said = world.user().env("PYXIS_CONTAINER_MOUNTS", "data:/b").run(&["srun", SMALL, "hostname"]);
    rows.holds(
        format!("of a variable: {}", report(&said)),
        said.code() != 0 && said.stdout.is_empty() && said.stderr.contains("mount source must be"),
    );
    let jobs = world.cluster.root().run(&["scontrol", "-o", "show", "jobs"]).ok();
    rows.same("no job but the first", jobs.lines().count(), 1);
    rows.end();
    world.assert_clean();
}

fn options_without_a_container_are_told_and_ignored(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    for (option, name) in [
        ("--container-workdir=/nope", "--container-workdir"),
        ("--container-mounts=/etc:/x", "--container-mounts"),
        ("--container-remap-root", "--[no-]container-remap-root"),
        ("--container-readonly", "--container-readonly"),
        ("--container-env=A", "--container-env"),
    ] {
        let said = world.srun(&[option], &["cat", "/etc/hostname-of-nobody", "/etc/slurm/plugstack.conf"]);
        let told = format!("pyxis: ignoring {name} because neither --container-image nor --container-name is set");
        rows.holds(
            format!("it runs on the host: {}", report(&said)),
            said.stdout.contains("spank_berth.so") && said.stderr.contains(&told),
        );
    }
    rows.end();
    world.assert_clean();
}

fn a_command_that_is_not_there_or_fails_gives_its_code(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let plain = world.srun(&[], &["no-such-command"]);
    let said = world.srun(&[SMALL], &["no-such-command"]);
    rows.same(format!("as outside: {} {}", report(&plain), report(&said)), said.code(), plain.code());
    rows.holds(format!("it is named: {}", report(&said)), said.stderr.contains("no-such-command"));
    let plain = world.srun(&[], &["/etc/passwd"]);
    let said = world.srun(&[SMALL], &["/etc/passwd"]);
    rows.same(format!("as outside: {} {}", report(&plain), report(&said)), said.code(), plain.code());
    for code in [0, 1, 3, 127, 255] {
        rows.same("its own code", world.shell(&[SMALL], &format!("exit {code}")).code(), code);
    }
    rows.end();
    world.assert_clean();
}
