//! The variables of a command in a container.

use testbed::slurm::Release;

use super::world::FRAMEWORK;
use super::world::Rows;
use super::world::SMALL;
use super::world::World;
use super::world::report;

on_each_release!("plugin_environment" with registry:
    the_images_variables_win_unless_named,
    the_language_of_the_host_stays_outside,
    the_jobs_variables_arrive_as_they_are,
    ranks_are_told_to_frameworks,
    the_entry_point_runs_when_asked_for,
);

fn the_images_variables_win_unless_named(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let user = world.user().env("FROM_IMAGE", "no").env("EDITOR", "emacs").env("OWN", "of-the-job");
    let line = "echo $FROM_IMAGE $EDITOR $OWN";
    rows.prints(&user.run(&["srun", FRAMEWORK, "sh", "-c", line]), "yes vi of-the-job\n");
    let said = user.run(&["srun", FRAMEWORK, "--container-env=EDITOR", "sh", "-c", line]);
    rows.prints(&said, "yes emacs of-the-job\n");
    let said = user.run(&["srun", FRAMEWORK, "--container-env=EDITOR,FROM_IMAGE", "sh", "-c", line]);
    rows.prints(&said, "no emacs of-the-job\n");
    let said = user.clone().env("PYXIS_CONTAINER_ENV", "EDITOR").run(&["srun", FRAMEWORK, "sh", "-c", line]);
    rows.prints(&said, "yes emacs of-the-job\n");
    // The search path is the image's: its commands are found, those of the host are not.
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n";
    let user = world.user().env("PATH", "/nowhere:/usr/bin:/bin");
    rows.prints(&user.run(&["srun", FRAMEWORK, "sh", "-c", "echo $PATH"]), path);
    rows.prints(&user.run(&["srun", FRAMEWORK, "nvidia-smi"]), "NVIDIA-SMI of the image\n");
    rows.prints(
        &user.run(&["srun", "--export=NONE", FRAMEWORK, "sh", "-c", "echo $PATH $FROM_IMAGE"]),
        &path.replace('\n', " yes\n"),
    );
    let said = world.srun(&[SMALL], &["scontrol", "ping"]);
    rows.holds(format!("the host's commands are outside: {}", report(&said)), said.code() != 0);
    rows.end();
    world.assert_clean();
}

fn the_language_of_the_host_stays_outside(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let user = world.user().env("LANG", "fr_FR.UTF-8").env("LANGUAGE", "de").env("LC_ALL", "de_DE.UTF-8");
    let line = "echo \"${LANG-unset} ${LANGUAGE-unset} ${LC_ALL-unset}\"";
    rows.prints(&user.run(&["srun", SMALL, "sh", "-c", line]), "unset unset unset\n");
    rows.prints(&user.run(&["srun", FRAMEWORK, "sh", "-c", line]), "C.UTF-8 unset unset\n");
    let said = user.run(&["srun", SMALL, "--container-env=LC_ALL,LANG", "sh", "-c", line]);
    rows.prints(&said, "fr_FR.UTF-8 unset de_DE.UTF-8\n");
    rows.end();
    world.assert_clean();
}

fn the_jobs_variables_arrive_as_they_are(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let strange = "a 'b' \"c\"\n$d=;e";
    let said = world.user().env("STRANGE", strange).run(&["srun", SMALL, "sh", "-c", "echo \"$STRANGE\""]);
    rows.prints(&said, &format!("{strange}\n"));
    let line = "echo $SLURM_PROCID $SLURM_LOCALID $SLURM_NTASKS $SLURMD_NODENAME $SLURM_JOB_ID";
    let said = world.shell(&["-n2", SMALL], &format!("{line} | sed 's/[0-9]*$/job/'"));
    let mut lines: Vec<&str> = said.stdout.lines().collect();
    lines.sort_unstable();
    rows.same("ranks", lines, vec!["0 0 2 n1 job", "1 1 2 n1 job"]);
    let arguments =
        ["two words", "it's", "\"double\"", "$HOME", "`id`", "a;b", "", "back\\slash", "new\nline", "ü", "%b %j"];
    let said = world.srun(&[SMALL], &[&["printf", "[%s]\\n"], &arguments[..]].concat());
    let expected: String = arguments.iter().map(|argument| format!("[{argument}]\n")).collect();
    rows.prints(&said, &expected);
    rows.end();
    world.assert_clean();
}

fn ranks_are_told_to_frameworks(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let line = "echo $SLURM_PROCID ${RANK-unset} ${LOCAL_RANK-unset}";
    let of = |image: &str| {
        let said = world.shell(&["-n2", image], line);
        let mut lines: Vec<String> = said.stdout.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    rows.same("an image with PyTorch", of(FRAMEWORK), vec!["0 0 0".to_owned(), "1 1 1".to_owned()]);
    rows.same("one without", of(SMALL), vec!["0 unset unset".to_owned(), "1 unset unset".to_owned()]);
    rows.end();
    world.assert_clean();
}

fn the_entry_point_runs_when_asked_for(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let line = "echo ${FROM_ENTRY-unset}";
    rows.prints(&world.shell(&[FRAMEWORK], line), "unset\n");
    let said = world.shell(&[FRAMEWORK, "--container-entrypoint"], line);
    rows.prints(&said, "yes\n");
    rows.holds(format!("its output is hidden: {}", report(&said)), !said.stderr.contains("the entry point runs"));
    rows.prints(&world.shell(&["-n2", FRAMEWORK, "--container-entrypoint"], line), "yes\nyes\n");
    let said = world.shell(&[FRAMEWORK, "--container-entrypoint", "--container-entrypoint-log"], line);
    rows.same("the code with a log", said.code(), 0);
    rows.holds(
        format!("its output is shown: {}", report(&said)),
        said.stdout.ends_with("yes\n") && format!("{}{}", said.stdout, said.stderr).contains("the entry point runs"),
    );
    rows.prints(&world.shell(&[FRAMEWORK, "--no-container-entrypoint"], line), "unset\n");
    let variable = world.user().env("PYXIS_CONTAINER_ENTRYPOINT", "1");
    rows.prints(&variable.run(&["srun", FRAMEWORK, "sh", "-c", line]), "yes\n");
    // An image without one has nothing to run.
    rows.prints(&world.shell(&[SMALL, "--container-entrypoint"], line), "unset\n");
    // One that fails is told with all that it said.
    let broken = "printf '#!/bin/sh\\necho no licence >&2\\nexit 7\\n' >/opt/vendor/entry.sh";
    rows.prints(&world.shell(&[FRAMEWORK, "--container-name=broken"], broken), "");
    let said = world.shell(&["--container-name=broken", "--container-entrypoint"], line);
    rows.fails(&said, 1, &["container start failed with error code: 7", "no licence"]);
    rows.end();
    world.forget_containers();
    world.assert_clean();
}
