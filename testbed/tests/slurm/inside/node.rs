//! What of the node and of the user a job expects to find: memory that ranks share, places for files, groups, language,
//! time zone, a display, names of hosts.

use testbed::slurm::Options;
use testbed::slurm::Release;

use crate::plugin::world::HOLD;
use crate::plugin::world::Rows;
use crate::plugin::world::SMALL;
use crate::plugin::world::World;
use crate::plugin::world::report;

on_each_release!("inside_node" with registry:
    shared_memory_is_the_nodes,
    the_folder_for_temporary_files_is_the_jobs,
    a_folder_that_a_prolog_makes_is_there,
    task_prologs_run_in_the_container,
    the_users_groups_are_kept,
    the_language_is_kept_where_the_image_has_it,
    the_time_zone_is_the_nodes,
    the_key_of_a_display_is_there,
    hosts_have_their_names,
);

fn shared_memory_is_the_nodes(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    // Ranks of a container.
    let line = "if [ $SLURM_PROCID = 0 ]; then echo first >/dev/shm/new; mv /dev/shm/new /dev/shm/ranks; \
                else until [ -e /dev/shm/ranks ]; do sleep 0.02; done; cat /dev/shm/ranks; fi";
    rows.prints(&world.shell(&["-n2", SMALL], line), "first\n");
    // Another container, while the first runs.
    let first = world.start(&[SMALL, "--container-mount-home"], &format!("echo mine >/dev/shm/two; {HOLD}"));
    world.wait_for("ready");
    let said = world.shell(&["--overlap", "--jobid", &world.job(), "--container-image=debian:12"], "cat /dev/shm/two");
    rows.prints(&said, "mine\n");
    world.let_go(first).ok();
    rows.prints(&world.cluster.node("n1").shell("cat /dev/shm/two; rm /dev/shm/two /dev/shm/ranks"), "mine\n");
    rows.end();
    world.assert_clean();
}

fn the_folder_for_temporary_files_is_the_jobs(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    world.cluster.root().shell("mkdir -m 1777 /scratch").ok();
    let user = world.user().env("TMPDIR", "/scratch/of tuser1:1");
    user.clone().shell("mkdir \"$TMPDIR\"; echo before >\"$TMPDIR/in\"").ok();
    let line = "cat \"$TMPDIR/in\"; echo after >\"$TMPDIR/out\"; ls /scratch";
    rows.prints(&user.run(&["srun", SMALL, "sh", "-c", line]), "before\nof tuser1:1\n");
    rows.prints(&user.shell("cat \"$TMPDIR/out\"; rm -r \"$TMPDIR\""), "after\n");
    // Slurm itself makes one up where it is missing.
    let said = user.run(&["srun", "--quiet", SMALL, "sh", "-c", "ls -d \"$TMPDIR\" >/dev/null && echo usable"]);
    rows.prints(&said, "usable\n");
    world.cluster.root().shell("rm -r /scratch").ok();
    rows.end();
    world.assert_clean();
}

fn a_folder_that_a_prolog_makes_is_there(release: Release) {
    let prolog = "#!/bin/sh\nmkdir -p /scratch && mkdir -m 700 /scratch/$SLURM_JOB_ID && chown $SLURM_JOB_UID /scratch/$SLURM_JOB_ID\n";
    let options = Options {
        slurm_conf: "Prolog=/etc/slurm/prolog\nEpilog=/etc/slurm/epilog\nPrologFlags=Alloc\n".to_owned(),
        ..Options::default()
    };
    let options = options.file("prolog", prolog).file("epilog", "#!/bin/sh\nrm -rf /scratch/$SLURM_JOB_ID\n");
    let world = World::with(release, options.plugin(""));
    let script = "#!/bin/sh\nexport TMPDIR=/scratch/$SLURM_JOB_ID\n\
                  srun --container-image=small sh -c 'echo kept >$TMPDIR/file; ls -ld $TMPDIR | cut -c1-10; ls /scratch | wc -l' 2>/dev/null\n\
                  srun --container-image=small sh -c 'cat $TMPDIR/file' 2>/dev/null\n";
    assert_eq!(world.batch(&[], script), "drwx------\n1\nkept\n");
    world.cluster.wait_until("the epilog has run", || world.cluster.node("n1").shell("ls /scratch").stdout.is_empty());
    world.assert_clean();
}

fn task_prologs_run_in_the_container(release: Release) {
    let options = Options { slurm_conf: "TaskProlog=/opt/site/task-prolog\n".to_owned(), ..Options::default() };
    let options = options.file("/opt/site/task-prolog", "#!/bin/sh\necho export FROM_SITE=yes\necho print hello\n");
    let world = World::with(release, options.plugin(""));
    let mut rows = Rows::default();
    rows.prints(&world.shell(&[SMALL], "echo $FROM_SITE"), "hello\nyes\n");
    let two = world.shell(&["-n2", "--container-image=debian:12"], "echo $FROM_SITE");
    let count = |word: &str| two.stdout.lines().filter(|line| *line == word).count();
    rows.same("both of two tasks", (count("hello"), count("yes")), (2, 2));
    // And one of the person's own, from the container; its descriptors are nobody's when the command runs.
    let own = "#!/bin/sh\necho export ALSO=mine\n";
    world.user().shell(&format!("printf '{own}' >own && chmod 755 own")).ok();
    let line = "echo $FROM_SITE $ALSO; ls -l /proc/self/fd | grep -c task-prolog";
    let said = world.shell(&["--task-prolog=/home/tuser1/own", SMALL, "--container-mount-home"], line);
    rows.holds(report(&said), said.stdout == "hello\nyes mine\n0\n");
    rows.end();
    world.assert_clean();
}

fn the_users_groups_are_kept(release: Release) {
    // Slurm looks groups up once, so they are there from the start.
    let users = testbed::slurm::USERS.map(|(name, id)| format!("{name}:x:{id}:\n")).concat();
    let group = format!("root:x:0:\ntty:x:5:\nnogroup:x:65534:\n{users}project:x:30001:tuser1\n");
    let world = World::with(release, Options::default().file("/etc/group", group).plugin(""));
    let mut rows = Rows::default();
    world
        .cluster
        .root()
        .shell("mkdir /project && echo data >/project/file && chgrp -R project /project && chmod 750 /project")
        .ok();
    let mounts = "--container-mounts=/project:/project";
    rows.prints(&world.shell(&[SMALL, mounts], "cat /project/file"), "data\n");
    rows.prints(&world.shell(&["-n2", SMALL, mounts, "--container-remap-root"], "cat /project/file"), "data\ndata\n");
    // A second user, who is not of the group, reads nothing.
    let other = world.cluster.as_user("tuser2");
    let said = other.run(&["srun", SMALL, mounts, "cat", "/project/file"]);
    rows.holds(format!("not of the group: {}", report(&said)), said.code() != 0);
    rows.end();
    world.assert_clean();
}

fn the_language_is_kept_where_the_image_has_it(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let line = "echo \"${LANG-unset} ${LC_ALL-unset}\"";
    let user = world.user().env("LANG", "C.UTF-8").env("LC_ALL", "POSIX");
    rows.prints(&user.run(&["srun", SMALL, "sh", "-c", line]), "C.UTF-8 POSIX\n");
    // An image with a language, as a folder.
    let made =
        "mkdir -p tree/bin tree/usr/lib/locale/de_DE.utf8 && cp /bin/busybox tree/bin/ && ln -s busybox tree/bin/sh";
    world.user().shell(made).ok();
    let user = world.user().env("LANG", "de_DE.UTF-8");
    rows.prints(&user.run(&["srun", "--container-image=./tree", "sh", "-c", line]), "de_DE.UTF-8 unset\n");
    rows.prints(&user.run(&["srun", "--container-image=debian:12", "sh", "-c", line]), "unset unset\n");
    world.user().run(&["rm", "-r", "tree"]).ok();
    rows.end();
    world.assert_clean();
}

/// A time zone of its own, as tzfile(5) has it: five and a half hours before the time of Greenwich.
fn zone() -> Vec<u8> {
    let mut part = b"TZif2".to_vec();
    part.extend([0; 15]);
    // Of all that there may be: one kind of time, and four bytes of names.
    part.extend([0u32, 0, 0, 0, 1, 4].iter().flat_map(|count| count.to_be_bytes()));
    part.extend(19800u32.to_be_bytes());
    part.extend(b"\0\0XST\0");
    [&part[..], &part, b"\nXST-5:30\n"].concat()
}

fn the_time_zone_is_the_nodes(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    world.cluster.root().run_with(&["sh", "-c", "rm -f /etc/localtime && cat >/etc/localtime"], &zone()).ok();
    rows.prints(&world.cluster.node("n1").shell("date +%Z"), "XST\n");
    rows.prints(&world.srun(&["--container-image=debian:12"], &["date", "+%Z"]), "XST\n");
    let user = world.user().env("TZ", "ABC-3");
    rows.prints(&user.run(&["srun", "--container-image=debian:12", "date", "+%Z%z"]), "ABC+0300\n");
    rows.end();
    world.assert_clean();
}

fn the_key_of_a_display_is_there(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let node = world.cluster.node("n1");
    node.shell(
        "mkdir -p /var/spool/keys && echo cookie >/var/spool/keys/of-tuser1 && chown tuser1 /var/spool/keys/of-tuser1",
    )
    .ok();
    let user = world.user().env("DISPLAY", "localhost:10.0").env("XAUTHORITY", "/var/spool/keys/of-tuser1");
    let line = "echo $DISPLAY; cat $XAUTHORITY; ls /var/spool/keys";
    rows.prints(&user.run(&["srun", SMALL, "sh", "-c", line]), "localhost:10.0\ncookie\nof-tuser1\n");
    // The sockets of displays.
    node.shell("mkdir -m 1777 /tmp/.X11-unix && touch /tmp/.X11-unix/X7").ok();
    rows.prints(&world.srun(&[SMALL], &["ls", "/tmp/.X11-unix"]), "X7\n");
    node.shell("rm -r /tmp/.X11-unix /var/spool/keys").ok();
    // A display whose key is gone is no reason not to start.
    rows.prints(&user.run(&["srun", SMALL, "echo", "fine"]), "fine\n");
    rows.end();
    world.assert_clean();
}

fn hosts_have_their_names(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    world.cluster.root().shell("printf 'search site.example\\nnameserver 192.0.2.1\\n' >/etc/resolv.conf").ok();
    rows.prints(&world.srun(&["-wn2", SMALL], &["hostname"]), "n2\n");
    let line = "grep -w n1 /etc/hosts; grep search /etc/resolv.conf";
    rows.prints(&world.shell(&[SMALL], line), "10.77.0.1 n1\nsearch site.example\n");
    let said = world.srun(&["--container-image=debian:12"], &["getent", "hosts", "ctl"]);
    rows.holds(format!("a name: {}", report(&said)), said.stdout.starts_with("10.77.0.254") && said.code() == 0);
    rows.end();
    world.assert_clean();
}
