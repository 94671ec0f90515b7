//! `--container-slurm`: Slurm's commands in a container, whatever its image.

use testbed::slurm::Options;
use testbed::slurm::Release;

use crate::plugin::world::HOME;
use crate::plugin::world::Rows;
use crate::plugin::world::SMALL;
use crate::plugin::world::World;
use crate::plugin::world::report;

on_each_release!("inside_tools" with registry:
    slurms_commands_work_in_a_container,
    a_container_starts_steps_of_its_job,
    a_container_submits_jobs,
    slurm_may_run_as_a_user_of_its_own,
);

/// Images of other C libraries than the node's: none, and that of Debian 12.
const IMAGES: [&str; 2] = [SMALL, "--container-image=debian:12"];

const TOOLS: &str = "--container-slurm";

fn slurms_commands_work_in_a_container(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    for image in IMAGES {
        let said = world.shell(&[image, TOOLS], "scontrol ping");
        rows.holds(format!("{image}: {}", report(&said)), said.code() == 0 && said.stdout.contains("ctl is UP"));
        rows.prints(&world.shell(&[image, TOOLS], "squeue -h -o '%u %T'"), "tuser1 RUNNING\n");
        rows.prints(&world.shell(&[image, TOOLS], "sinfo -h -o '%D %P'"), "2 all*\n");
        let line = "munge -n | unmunge | grep -E '^(STATUS|UID)' | tr -s ' ' | cut -d' ' -f2-3";
        rows.prints(&world.shell(&[image, TOOLS], line), "Success (0)\ntuser1 (20001)\n");
        rows.prints(
            &world.shell(&[image, TOOLS], "sstat --version >/dev/null && scontrol show hostnames 'n[1-2]'"),
            "n1\nn2\n",
        );
        // Nothing of it is there without the option.
        rows.prints(&world.shell(&[image], "ls /etc/slurm /run/munge 2>/dev/null; command -v srun; true"), "");
    }
    let said = world.shell(&[SMALL, TOOLS], "echo x >/etc/slurm/slurm.conf");
    rows.holds(format!("the configuration is not the container's: {}", report(&said)), said.code() != 0);
    rows.end();
    world.assert_clean();
}

fn a_container_starts_steps_of_its_job(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    for image in IMAGES {
        // The first of two tasks starts the inner step.
        let line =
            "test $SLURM_PROCID = 1 || srun --overlap -N2 -n2 sh -c 'test -x /usr/sbin/slurmd && hostname' | sort";
        let said = world.shell(&["-N2", image, TOOLS], line);
        rows.prints(&said, "n1\nn2\n");
        let line = "test $SLURM_PROCID = 1 || srun --overlap -N2 -n2 --container-image=framework sh -c 'test ! -e /usr/sbin/slurmd; echo $FROM_IMAGE' 2>&1";
        let said = world.shell(&["-N2", image, TOOLS], line);
        rows.holds(
            format!("steps in containers of a container: {}", report(&said)),
            said.code() == 0 && crate::plugin::world::printed(&said.stdout) == "yes\nyes\n",
        );
        let said = world.shell(&[image, TOOLS], "srun --overlap sh -c 'exit 7'");
        rows.same("the exit code", said.code(), 7);
    }
    // A job script in a container is one of those.
    let script = "#!/bin/sh\nsrun --container-image=small sh -c 'echo inner $SLURM_PROCID'\n";
    let said = world.batch(&["--container-image=debian:12", TOOLS], script);
    rows.same("a job script in a container", said, "inner 0\n".to_owned());
    rows.end();
    world.assert_clean();
}

fn a_container_submits_jobs(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    for image in IMAGES {
        let line = format!(
            "job=$(sbatch --parsable -o {HOME}/said --wrap 'srun --container-image=small echo from another job') && echo submitted \
             && until [ -s {HOME}/said ] && ! squeue -h -j $job | grep -q .; do sleep 0.1; done"
        );
        let said = world.shell(&[image, TOOLS, "--container-mount-home"], &line);
        rows.prints(&said, "submitted\n");
        let text = world.user().shell("cat said; rm said").stdout;
        rows.same(image, crate::plugin::world::printed(&text), "from another job\n".to_owned());
        let line = "job=$(sbatch --parsable -o /dev/null --wrap 'sleep 1000') && scancel $job && \
                    until ! squeue -h -j $job | grep -q .; do sleep 0.1; done; echo gone";
        rows.prints(&world.shell(&[image, TOOLS], line), "gone\n");
    }
    rows.end();
    world.assert_clean();
}

fn slurm_may_run_as_a_user_of_its_own(release: Release) {
    let own = "SlurmUser=tuser5\nStateSaveLocation=/home/tuser5/state\nSlurmctldPidFile=/home/tuser5/pid\n\
               SlurmctldLogFile=/home/tuser5/log\n";
    let options = Options { slurm_conf: own.to_owned(), ..Options::default() };
    let world = World::with(release, options.plugin(""));
    let mut rows = Rows::default();
    for image in IMAGES {
        let said = world.shell(&[image, TOOLS], "srun --overlap echo inner && squeue -h -o %u && scontrol ping");
        rows.holds(
            format!("{image}: {}", report(&said)),
            said.code() == 0 && said.stdout.starts_with("inner\ntuser1\n") && said.stdout.contains("is UP"),
        );
        rows.holds(format!("nothing is complained of: {}", report(&said)), !said.stderr.contains("SlurmUser"));
    }
    rows.end();
    world.assert_clean();
}
