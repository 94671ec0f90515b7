//! What pyxis has not: an environment as a file, devices, Slurm's commands in the container, limits of its changes.

use testbed::slurm::Release;

use super::world::FRAMEWORK;
use super::world::HOME;
use super::world::Rows;
use super::world::SMALL;
use super::world::World;
use super::world::report;

on_each_release!("plugin_ours" with registry:
    an_environment_is_a_file,
    slurms_commands_work_inside_when_asked_for,
    devices_stages_and_limits_are_heeded,
);

/// An environment, and one that it builds upon.
const BASE: &str = "image = \"small\"\n[env]\nTHREADS = \"4\"\nCOLOUR = \"red\"\n";
const OWN: &str = "\
base_environment = \"base\"
image = \"nvcr.io#nvidia/pytorch:21.12-py3\"
mounts = [\"/etc/hosts:/from-node:ro\"]
workdir = \"/opt\"
[env]
THREADS = \"8\"
EDITOR = \"\"
";

fn an_environment_is_a_file(release: Release) {
    let world = World::new(release);
    let user = world.user();
    user.run(&["mkdir", ".edf"]).ok();
    user.write(".edf/base.toml", BASE);
    user.write("own.toml", OWN);
    user.run(&["cp", "own.toml", ".edf/named.toml"]).ok();
    let mut rows = Rows::default();
    let line = "pwd; grep -c nvcr.io /from-node; echo $THREADS $COLOUR ${EDITOR-unset} $FROM_IMAGE";
    let printed = "/opt\n1\n8 red unset yes\n";
    for conf in ["named", "./own.toml", &format!("{HOME}/own.toml")] {
        rows.prints(&world.shell(&[&format!("--container-conf={conf}")], line), printed);
    }
    // Options win over the file.
    let said = world.shell(&["--container-conf=named", SMALL, "--container-workdir=/bin"], "pwd; echo $FROM_IMAGE");
    rows.prints(&said, "/bin\n\n");
    let said = user.clone().env("PYXIS_CONTAINER_CONF", "base").run(&["srun", "sh", "-c", "echo $THREADS $COLOUR"]);
    rows.prints(&said, "4 red\n");
    user.write("wrong.toml", "image = \"small\"\nmount = [\"/etc\"]\n");
    rows.fails(&world.shell(&["--container-conf=./wrong.toml"], "true"), 1, &["wrong.toml", "mount"]);
    rows.fails(&world.shell(&["--container-conf=nothing"], "true"), 1, &["nothing"]);
    rows.end();
    world.assert_clean();
}

fn slurms_commands_work_inside_when_asked_for(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    let script = "\
#!/bin/bash
#SBATCH --container-image=debian:12
#SBATCH --container-slurm
#SBATCH -N2
. /etc/os-release; echo $ID
srun hostname | sort
srun -N1 -n1 --container-image=small sh -c 'test -e /etc/os-release || echo another'
scontrol show job $SLURM_JOB_ID | grep -c JobState=RUNNING
";
    rows.same("in a script", world.batch(&[], script), "debian\nn1\nn2\nanother\n1\n".to_owned());
    // In an image that has no C library at all.
    let said = world.shell(&["-N1", SMALL, "--container-slurm"], "sinfo -h -o %D; squeue -h -o %u");
    rows.prints(&said, "2\ntuser1\n");
    let said = world.shell(&["-N1", SMALL], "command -v srun || echo none");
    rows.prints(&said, "none\n");
    rows.end();
    world.assert_clean();
}

fn devices_stages_and_limits_are_heeded(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    rows.prints(&world.shell(&[SMALL, "--container-device=/dev/full"], "test -c /dev/full && echo there"), "there\n");
    rows.fails(&world.shell(&[SMALL, "--container-device=/dev/nothing"], "true"), 1, &["/dev/nothing"]);
    rows.fails(&world.shell(&[SMALL, "--container-device=vendor.com/class=all"], "true"), 1, &["vendor.com/class"]);
    let line = "dd if=/dev/zero of=/big bs=1k count=4096 2>/dev/null && echo written || echo full";
    rows.prints(&world.shell(&[SMALL, "--container-overlay-size=1M"], line), "full\n");
    rows.prints(&world.shell(&[SMALL, "--container-overlay-size=64M"], line), "written\n");
    rows.prints(&world.shell(&[FRAMEWORK, "--container-stage"], "pwd"), "/workspace\n");
    let said = world.shell(&[SMALL, "--container-verbose"], "echo inside");
    rows.prints(&said, "inside\n");
    rows.holds(format!("it tells more: {}", report(&said)), !said.stderr.is_empty());
    // Ranks of a node share memory; what they leave there is not the next step's.
    let line = "[ $SLURM_PROCID = 0 ] && echo shared >/dev/shm/told; until [ -s /dev/shm/told ]; do sleep 0.02; done; \
                cat /dev/shm/told";
    rows.prints(&world.shell(&["-n2", SMALL], line), "shared\nshared\n");
    world.cluster.node("n1").shell("rm -f /dev/shm/told").ok();
    rows.end();
    world.assert_clean();
}
