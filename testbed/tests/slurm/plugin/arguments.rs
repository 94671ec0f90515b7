//! What a site writes behind the plugin's path in `plugstack.conf`.

use testbed::slurm::Options;
use testbed::slurm::Release;

use super::world::FRAMEWORK;
use super::world::HOME;
use super::world::Rows;
use super::world::SMALL;
use super::world::World;
use super::world::report;

on_each_release!("plugin_arguments" with registry:
    the_words_of_a_line_of_pyxis_are_heeded,
    a_word_that_is_none_stops_a_command_and_is_named,
    help_lists_the_options,
);

fn the_words_of_a_line_of_pyxis_are_heeded(release: Release) {
    let words = "runtime_path=/run/pyxis execute_entrypoint=1 container_scope=job sbatch_support=0 use_enroot_load=1 \
                 importer= use_squashfuse=1";
    let world = World::with(release, Options::default().plugin(words));
    let mut rows = Rows::default();
    // The entry point runs where a step does not say.
    let line = "echo ${FROM_ENTRY-unset}";
    rows.prints(&world.shell(&[FRAMEWORK], line), "yes\n");
    rows.prints(&world.shell(&[FRAMEWORK, "--no-container-entrypoint"], line), "unset\n");
    // sbatch does not know the options, srun in a script does.
    let said = world.user().run_with(&["sbatch", SMALL], b"#!/bin/sh\nhostname\n");
    rows.holds(
        format!("sbatch does not know the option: {}", report(&said)),
        said.code() != 0 && said.stderr.contains("unrecognized option '--container-image=small'"),
    );
    let said = world.batch(&[], "#!/bin/sh\nsrun --container-image=small --container-workdir=/bin pwd\n");
    rows.same("srun does", said.as_str(), "/bin\n");
    let node = world.cluster.node("n1");
    rows.prints(&world.srun(&[SMALL, "--container-name=one"], &["true"]), "");
    let modes = node.run(&["stat", "-c", "%a %u %n", "/run/pyxis", "/run/pyxis/20001"]);
    rows.prints(&modes, "755 0 /run/pyxis\n700 20001 /run/pyxis/20001\n");
    world
        .cluster
        .wait_until("the containers of the job are gone", || node.shell("ls /run/pyxis/20001").stdout.is_empty());
    rows.end();
    node.run(&["rmdir", "/run/pyxis/20001"]).ok();
    world.assert_clean();
}

fn a_word_that_is_none_stops_a_command_and_is_named(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    // Another configuration on the submitting host alone: with one for all, no daemon would start.
    let copy = format!("cp -r /etc/slurm {HOME}/conf && sed -i 's/$/ colour=red/' {HOME}/conf/plugstack.conf");
    world.user().shell(&copy).ok();
    let said = world.user().env("SLURM_CONF", &format!("{HOME}/conf/slurm.conf")).run(&["srun", "hostname"]);
    rows.holds(
        format!("it is named: {}", report(&said)),
        said.code() != 0 && said.stderr.contains("pyxis: unknown configuration option: colour=red"),
    );
    rows.end();
    world.assert_clean();
}

fn help_lists_the_options(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    for program in ["srun", "sbatch", "salloc"] {
        let said = world.user().run(&[program, "--help"]).ok();
        for option in [
            "image",
            "mounts",
            "workdir",
            "name",
            "save",
            "mount-home",
            "remap-root",
            "entrypoint",
            "entrypoint-log",
            "writable",
            "readonly",
            "env",
            "unshare",
        ] {
            rows.holds(format!("{program} knows {option}"), said.contains(&format!("--container-{option}")));
        }
        for option in ["mount-home", "remap-root", "entrypoint"] {
            rows.holds(format!("{program} knows no-{option}"), said.contains(&format!("--no-container-{option}")));
        }
    }
    rows.end();
}
