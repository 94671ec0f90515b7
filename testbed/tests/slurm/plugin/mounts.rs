//! `--container-mounts`.

use testbed::slurm::Release;

use super::world::FRAMEWORK;
use super::world::Rows;
use super::world::SMALL;
use super::world::World;
use super::world::report;

on_each_release!("plugin_mounts" with registry:
    all_forms_of_a_mount_work,
    a_mount_that_cannot_be_is_told,
);

fn all_forms_of_a_mount_work(release: Release) {
    let world = World::new(release);
    let make = "mkdir -p /srv/data/sub '/srv/with space' && echo of-the-node >/srv/data/file && chmod 777 /srv/data && \
                echo spaced >'/srv/with space/file' && mkdir ~tuser1/rel && echo relative >~tuser1/rel/file";
    world.cluster.root().shell(make).ok();
    let mut rows = Rows::default();
    for (mounts, line, printed) in [
        ("/srv/data", "cat /srv/data/file", "of-the-node\n"),
        ("/srv/data:/data", "cat /data/file; test -e /srv/data || echo only there", "of-the-node\nonly there\n"),
        ("/srv/data:/new/deep/dir", "cat /new/deep/dir/file", "of-the-node\n"),
        ("/srv/data/file:/etc/new-file", "cat /etc/new-file", "of-the-node\n"),
        ("/srv/data/file:/etc/passwd", "cat /etc/passwd", "of-the-node\n"),
        ("/srv/data:/data", "echo written >/data/sub.txt && cat /data/sub.txt && rm /data/sub.txt", "written\n"),
        (
            "/srv/data:/data:ro",
            "cat /data/file; (echo x >/data/file) 2>/dev/null || echo read-only",
            "of-the-node\nread-only\n",
        ),
        (
            "/srv/data:/data:ro+nosuid+noexec",
            "grep ' /data ' /proc/self/mounts | cut -d' ' -f4 | tr , '\\n' | grep -cxE 'ro|nosuid|noexec'",
            "3\n",
        ),
        ("/srv/data:/data:rprivate", "cat /data/file", "of-the-node\n"),
        ("/srv/data:/a,/srv/data/file:/b", "cat /a/file /b", "of-the-node\nof-the-node\n"),
        ("/srv/data:/a,/srv/data:/a", "cat /a/file; grep -c ' /a ' /proc/self/mounts", "of-the-node\n1\n"),
        ("/srv/with space:/a place", "cat '/a place/file'", "spaced\n"),
        // Of the job's working directory, and of the container's root.
        ("./rel:/data", "cat /data/file", "relative\n"),
        ("/srv/data:./data", "cat /data/file", "of-the-node\n"),
        (
            "tmpfs:/scratch",
            "ls /scratch; echo x >/scratch/file && grep ' /scratch ' /proc/self/mounts | cut -d' ' -f3",
            "tmpfs\n",
        ),
        ("tmpfs:/scratch:size=4m", "df -k /scratch | tail -1 | awk '{ print $2 }'", "4096\n"),
        ("umount:/sys", "ls /sys | wc -l", "0\n"),
        ("/srv/data:/data,umount:/data", "ls /data/file 2>/dev/null || echo gone", "gone\n"),
    ] {
        rows.prints(&world.shell(&[SMALL, &format!("--container-mounts={mounts}")], line), printed);
    }
    // In another working directory, and for each task.
    let said = world.shell(&["-D", "/home/tuser1/rel", "-n2", SMALL, "--container-mounts=./file:/data"], "cat /data");
    rows.prints(&said, "relative\nrelative\n");
    // An image's own working directory can be under a mount.
    let said = world.shell(&[FRAMEWORK, "--container-mounts=/srv/data:/workspace"], "cat file");
    rows.prints(&said, "of-the-node\n");
    rows.end();
    world.assert_clean();
}

fn a_mount_that_cannot_be_is_told(release: Release) {
    let world = World::new(release);
    world.cluster.root().shell("mkdir -m 700 /srv/closed && touch /srv/closed/file && mkdir /srv/dir").ok();
    let mut rows = Rows::default();
    for (mounts, words) in [
        ("/nope:/data", &["--container-mounts: source path does not exist: /nope"][..]),
        ("/srv/dir:/data,/nope:/data", &["--container-mounts: source path does not exist: /nope"]),
        ("./nope:/data", &["nope"]),
        ("/srv/closed/file:/data", &["/srv/closed/file"]),
        ("/srv/dir:/etc/passwd", &["/etc/passwd"]),
        ("/srv/dir:/data:nonsense", &["nonsense"]),
    ] {
        let said = world.shell(&[SMALL, &format!("--container-mounts={mounts}")], "echo inside");
        rows.fails(&said, 1, words);
        rows.holds(format!("nothing ran: {}", report(&said)), said.stdout.is_empty());
    }
    rows.end();
    world.assert_clean();
}
