//! Who one is in the container, what of the host is seen, and what can be written: `--container-workdir`, `-mount-home`,
//! `-remap-root`, `-writable`, `-readonly`, `-unshare`, `-save`.

use testbed::slurm::Release;

use super::world::FRAMEWORK;
use super::world::HOME;
use super::world::Rows;
use super::world::SMALL;
use super::world::World;
use super::world::report;

on_each_release!("plugin_rights" with registry:
    the_working_directory_is_the_images_or_the_asked_one,
    the_home_is_shown_when_asked_for,
    one_is_oneself_or_root_as_asked,
    the_root_is_written_or_not_as_asked,
    all_tasks_of_a_node_are_in_one_container,
    namespaces_are_ones_own_when_asked_for,
    saving_is_refused_in_words,
);

fn the_working_directory_is_the_images_or_the_asked_one(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    rows.prints(&world.srun(&[SMALL, "--no-container-mount-home"], &["pwd"]), "/\n");
    rows.prints(&world.srun(&[FRAMEWORK], &["pwd"]), "/workspace\n");
    rows.prints(&world.srun(&[FRAMEWORK, "--container-workdir=/tmp"], &["pwd"]), "/tmp\n");
    // The job's own is on the host.
    rows.prints(&world.srun(&["-D", "/srv", FRAMEWORK], &["pwd"]), "/workspace\n");
    let said = world.srun(&[SMALL, "--container-workdir=/nope"], &["pwd"]);
    rows.fails(&said, 1, &["pyxis: couldn't chdir to /nope: ", "No such file or directory"]);
    rows.end();
    world.assert_clean();
}

fn the_home_is_shown_when_asked_for(release: Release) {
    let world = World::new(release);
    world.user().write("own", "mine\n");
    let mut rows = Rows::default();
    let line = format!("cat {HOME}/own 2>/dev/null || echo hidden");
    rows.prints(&world.shell(&[SMALL, "--container-mount-home"], &line), "mine\n");
    rows.prints(&world.shell(&[SMALL, "--no-container-mount-home"], &line), "hidden\n");
    let said = world.user().env("PYXIS_CONTAINER_MOUNT_HOME", "0").run(&["srun", SMALL, "sh", "-c", &line]);
    rows.prints(&said, "hidden\n");
    let said = world.user().env("PYXIS_CONTAINER_MOUNT_HOME", "1").run(&["srun", SMALL, "sh", "-c", &line]);
    rows.prints(&said, "mine\n");
    // The home is where it is outside, and can be written.
    let line = "cd && pwd && echo from-inside >new && ls -n new | awk '{ print $3, $4 }'";
    rows.prints(&world.shell(&[SMALL, "--container-mount-home"], line), &format!("{HOME}\n20001 20001\n"));
    rows.prints(&world.user().run(&["cat", "new"]), "from-inside\n");
    rows.end();
    world.assert_clean();
}

fn one_is_oneself_or_root_as_asked(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    rows.prints(&world.shell(&[SMALL], "id -u; id -g; id -un"), "20001\n20001\ntuser1\n");
    rows.prints(&world.shell(&[SMALL, "--no-container-remap-root"], "id -u"), "20001\n");
    let root = [SMALL, "--container-remap-root"];
    rows.prints(&world.shell(&root, "id -u; id -g; id -un"), "0\n0\nroot\n");
    rows.prints(&world.shell(&root, "touch /f && chown 33:33 /f && echo changed"), "changed\n");
    // What it makes outside is the user's.
    let said = world.shell(&[SMALL, "--container-remap-root", "--container-mounts=/home/tuser1:/h"], "touch /h/made");
    rows.prints(&said, "");
    rows.prints(&world.user().run(&["stat", "-c", "%u:%g", "made"]), "20001:20001\n");
    let variable = world.user().env("PYXIS_CONTAINER_REMAP_ROOT", "1");
    rows.prints(&variable.run(&["srun", SMALL, "id", "-u"]), "0\n");
    rows.prints(&variable.run(&["srun", SMALL, "--no-container-remap-root", "id", "-u"]), "20001\n");
    // Nothing but one's own rights outside.
    let said = world.shell(&[SMALL, "--container-remap-root", "--container-mounts=/etc/shadow:/s"], "cat /s");
    rows.holds(format!("no rights of the host's root: {}", report(&said)), said.code() != 0 && said.stdout.is_empty());
    rows.end();
    world.assert_clean();
}

fn the_root_is_written_or_not_as_asked(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let line = "(echo x >/new) 2>/dev/null && echo written || echo read-only";
    rows.prints(&world.shell(&[SMALL, "--container-writable"], line), "written\n");
    rows.prints(&world.shell(&[SMALL, "--container-readonly"], line), "read-only\n");
    // A step's changes are its own.
    rows.prints(&world.shell(&[SMALL], "ls /new 2>/dev/null || echo gone"), "gone\n");
    let variable = world.user().env("PYXIS_CONTAINER_READONLY", "1");
    rows.prints(&variable.run(&["srun", SMALL, "sh", "-c", line]), "read-only\n");
    rows.end();
    world.assert_clean();
}

fn all_tasks_of_a_node_are_in_one_container(release: Release) {
    let world = World::nodes(release, 2);
    let line = "for kind in user mnt; do readlink /proc/self/ns/$kind; done | tr '\\n' ' '; echo $SLURMD_NODENAME";
    let said = world.shell(&["-N2", "-n6", SMALL], line).ok();
    let mut seen: Vec<&str> = said.lines().collect();
    seen.sort_unstable();
    assert_eq!(seen.len(), 6, "{said}");
    seen.dedup();
    assert_eq!(seen.len(), 2, "one container a node: {said}");
    // What one task writes the others read.
    let line = "[ $SLURM_PROCID = 0 ] && echo shared >/told; until [ -s /told ]; do sleep 0.02; done; cat /told";
    assert_eq!(world.shell(&["-N1", "-n4", SMALL], line).ok(), "shared\n".repeat(4));
    // And a step has a container of its own.
    assert_eq!(world.shell(&["-N1", SMALL], "ls /told 2>/dev/null || echo gone").ok(), "gone\n");
    world.assert_clean();
}

fn namespaces_are_ones_own_when_asked_for(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let of = |kind: &str| world.cluster.node("n1").run(&["readlink", &format!("/proc/self/ns/{kind}")]).ok();
    for kind in ["net", "ipc", "uts"] {
        let host = of(kind);
        let link = format!("/proc/self/ns/{kind}");
        rows.prints(&world.srun(&[SMALL], &["readlink", &link]), &host);
        let own = world.srun(&[SMALL, &format!("--container-unshare={kind}")], &["readlink", &link]);
        rows.holds(format!("{kind} of its own: {}", report(&own)), own.code() == 0 && own.stdout != host);
    }
    let all = [SMALL, "--container-unshare=net,ipc,uts"];
    rows.prints(&world.shell(&all, "wc -l </proc/net/dev"), "3\n");
    rows.end();
    world.assert_clean();
}

fn saving_is_refused_in_words(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let said = world.shell(&[SMALL, "--container-save=/home/tuser1/saved.sqsh"], "echo inside");
    rows.fails(&said, 1, &["--container-save", "/home/tuser1/saved.sqsh", "--container-name"]);
    rows.holds(format!("nothing ran: {}", report(&said)), said.stdout.is_empty());
    rows.end();
    world.assert_clean();
}
