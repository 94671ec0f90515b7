//! Images in one file: `--container-image=/path/X.sqsh`, as pyxis' users have them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use testbed::process;
use testbed::slurm::Release;

use super::world::HOLD;
use super::world::HOME;
use super::world::Rows;
use super::world::World;
use super::world::report;

on_each_release!("plugin_onefile" with registry:
    a_file_is_started_where_it_is,
    tasks_of_a_node_share_a_server_and_steps_do_not,
    nothing_is_left_of_a_step_that_is_cancelled_or_killed,
    a_server_that_dies_is_an_error_for_its_users_alone,
    a_file_of_enroots_says_how_it_is_started,
);

const FILE: &str = "--container-image=/home/tuser1/x.sqsh";

/// The line of a server.
const SERVER: &str = "^berth: image x.sqsh";

/// Makes `x.sqsh` in the user's home: busybox and what the test adds.
fn pack(world: &World, name: &str, add: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = dir.path().join("tree");
    for name in ["bin", "etc", "dev", "proc", "sys", "tmp", "run"] {
        fs::create_dir_all(tree.join(name)).expect("a directory");
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("busybox");
    for name in ["sh", "cat", "echo", "env", "id", "pwd", "readlink", "sleep", "true", "touch"] {
        symlink("busybox", tree.join("bin").join(name)).expect("a link");
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("a file");
    fs::write(tree.join("etc/told"), "by the image\n").expect("a file");
    add(&tree);
    let file = world.cluster.path(format!("{HOME}/{name}"));
    let options = ["-all-root", "-noappend", "-no-progress", "-quiet"];
    process::run(Command::new("mksquashfs").arg(&tree).arg(&file).args(options)).ok();
}

fn with_file(world: World) -> World {
    pack(&world, "x.sqsh", |_| {});
    world
}

fn servers(world: &World) -> usize {
    let said = world.cluster.root().run(&["pgrep", "-fc", SERVER]).stdout;
    said.trim().parse().unwrap_or(0)
}

fn a_file_is_started_where_it_is(release: Release) {
    let world = with_file(World::nodes(release, 2));
    let mut rows = Rows::default();
    rows.prints(&world.shell(&["-N1", FILE], "cat /etc/told"), "by the image\n");
    rows.prints(&world.shell(&["-N1", "--container-image=./x.sqsh"], "cat /etc/told"), "by the image\n");
    rows.prints(&world.shell(&["-N2", "-n4", FILE], "cat /etc/told"), &"by the image\n".repeat(4));
    rows.prints(&world.shell(&["-N1", FILE], "id -u; touch /new && echo written"), "20001\nwritten\n");
    rows.prints(&world.shell(&["-N1", FILE], "[ -e /new ] || echo gone"), "gone\n");
    let read_only = [FILE, "-N1", "--container-readonly"];
    rows.prints(&world.shell(&read_only, "(echo >/new) 2>/dev/null || echo read-only"), "read-only\n");
    rows.prints(&world.shell(&["-N1", FILE, "--container-remap-root"], "id -u"), "0\n");
    let named = ["-wn1", "--container-name=kept"];
    rows.prints(&world.shell(&[&named[..], &[FILE]].concat(), "echo kept >/new"), "");
    rows.prints(&world.shell(&named, "cat /new /etc/told"), "kept\nby the image\n");
    let of_batch = world.batch(&["-N1", FILE], "#!/bin/sh\ncat /etc/told\n");
    rows.same("a job script", of_batch.as_str(), "by the image\n");
    let said = world.srun(&["-N1", "--container-image=/home/tuser1/none.sqsh"], &["true"]);
    rows.fails(&said, 1, &["pyxis: failed to create container filesystem for image: /home/tuser1/none.sqsh"]);
    world.user().write("text.sqsh", "no image\n");
    let said = world.srun(&["-N1", "--container-image=./text.sqsh"], &["true"]);
    rows.fails(&said, 1, &["./text.sqsh is no image"]);
    let cut = "head -c 200 x.sqsh >cut.sqsh";
    world.user().shell(cut).ok();
    let said = world.srun(&["-N1", "--container-image=./cut.sqsh"], &["true"]);
    rows.fails(&said, 1, &["cut.sqsh ends too early"]);
    rows.end();
    world.forget_containers();
    world.assert_clean();
}

fn tasks_of_a_node_share_a_server_and_steps_do_not(release: Release) {
    let world = with_file(World::nodes(release, 2));
    let mut rows = Rows::default();
    let step = world.start(&["-N2", "-n4", FILE], &format!("echo >{HOME}/task$SLURM_PROCID; {HOLD}"));
    (0..4).for_each(|task| world.wait_for(&format!("task{task}")));
    rows.same("servers on two nodes", servers(&world), 2);
    world.let_go(step).ok();
    // Two steps of one job at once: the end of one is not the other's.
    let script = format!(
        "#!/bin/sh\nsrun -n1 --overlap {FILE} sh -c '{HOLD}; cat /etc/told' &\n\
         until [ -e ready ]; do sleep 0.05; done\n\
         srun -n1 --overlap {FILE} sh -c 'cat /etc/told'\ntouch go\nwait\n"
    );
    let printed = world.batch(&["-N1"], &script);
    rows.same("both steps", printed.as_str(), &"by the image\n".repeat(2));
    world.user().run(&["rm", "go", "ready"]).ok();
    rows.end();
    world.assert_clean();
}

fn nothing_is_left_of_a_step_that_is_cancelled_or_killed(release: Release) {
    let world = with_file(World::new(release));
    let mut rows = Rows::default();
    for line in [
        "scancel -u tuser1",
        "scancel -f -s TERM -u tuser1; scancel -u tuser1",
        "pkill -KILL -u tuser1 sh",
        "pkill -KILL -u tuser1 '^(sh|sleep|berth-image)$'",
    ] {
        let step = world.start(&["-n2", FILE], HOLD);
        world.wait_for("ready");
        rows.same("a server", servers(&world), 1);
        drop(world.cluster.root().shell(line));
        let said = step.end();
        rows.holds(format!("{line}: {}", report(&said)), said.code() != 0);
        world.cluster.wait_until(&format!("no server is left after `{line}`"), || servers(&world) == 0);
        world.user().run(&["rm", "ready"]).ok();
    }
    rows.prints(&world.shell(&[FILE], "cat /etc/told"), "by the image\n");
    rows.end();
    world.assert_clean();
}

fn a_server_that_dies_is_an_error_for_its_users_alone(release: Release) {
    let world = with_file(World::new(release));
    let mut rows = Rows::default();
    // What was read before may still be there; what was not is an error, and nothing waits.
    let line = format!("cd /; {HOLD}; cat /etc/told 2>/dev/null || echo unreadable");
    let step = world.start(&[FILE], &line);
    world.wait_for("ready");
    world.cluster.root().run(&["pkill", "-KILL", "-f", SERVER]).ok();
    world.cluster.wait_until("the server is gone", || servers(&world) == 0);
    let said = world.let_go(step);
    rows.same("what the step read", said.stdout.as_str(), "unreadable\n");
    rows.prints(&world.shell(&[FILE], "cat /etc/told"), "by the image\n");
    rows.end();
    world.assert_clean();
}

fn a_file_of_enroots_says_how_it_is_started(release: Release) {
    let world = World::new(release);
    pack(&world, "x.sqsh", |tree| {
        let rc = "mkdir -p \"/work\" 2> /dev/null\ncd \"/work\" && unset OLDPWD || exit 1\n\n\
                  if [ -s /etc/rc.local ]; then\n    . /etc/rc.local\nfi\n\nif [ $# -gt 0 ]; then\n    exec '/entry' \"$@\"\n\
                  else\n    exec '/entry' '/bin/sh'\nfi\n";
        fs::create_dir(tree.join("work")).expect("a directory");
        fs::write(tree.join("entry"), "#!/bin/sh\nexport ENTERED=yes\nexec \"$@\"\n").expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(tree.join("entry"), mode).expect("a mode");
        for (name, text) in
            [("rc", rc), ("rc.local", "# nothing\n"), ("environment", "TOLD=by-the-image\n"), ("fstab", "")]
        {
            fs::write(tree.join("etc").join(name), text).expect("a file");
        }
    });
    let mut rows = Rows::default();
    let line = "echo $TOLD $ENTERED; pwd";
    rows.prints(&world.shell(&[FILE], line), "by-the-image\n/work\n");
    rows.prints(&world.shell(&[FILE, "--container-entrypoint"], line), "by-the-image yes\n/work\n");
    rows.end();
    world.assert_clean();
}
