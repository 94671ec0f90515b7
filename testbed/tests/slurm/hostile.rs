//! What users do to the node, to each other and to themselves: environments, mounts, images and paths that are made to do
//! harm.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;
use serde_json::json;
use testbed::image::Compression;
use testbed::image::LayerWriter;
use testbed::image::Layout;
use testbed::slurm::Options;
use testbed::slurm::Release;
use testbed::slurm::root;
use testbed::tar::Header;

use crate::plugin::world::Rows;
use crate::plugin::world::SMALL;
use crate::plugin::world::World;

on_each_release!("hostile" with registry:
    a_strange_environment_harms_nobody,
    hundreds_of_mounts_are_made,
    a_hostile_image_reaches_nothing,
    what_another_user_has_made_before_is_not_used,
);

/// Makes a layout with one image, of busybox and that configuration.
pub fn busybox_image(release: Release, dir: &Path, config: &Value) {
    image(release, dir, config, |_| Ok(()));
}

fn image(release: Release, dir: &Path, config: &Value, more: impl FnOnce(&mut LayerWriter<'_>) -> io::Result<()>) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("a folder");
    let busybox = fs::read(root::find(release).expect("a root folder").join("usr/bin/busybox")).expect("busybox");
    let layout = Layout::create(dir).expect("a layout");
    let layer = layout.layer(Compression::None, |tar| {
        tar.entry(&Header::dir("bin/", 0o755))?;
        tar.file(&Header::file("bin/busybox", 0o755), &busybox)?;
        for name in ["sh", "sleep", "cat", "echo", "pwd", "ls"] {
            tar.entry(&Header::symlink(format!("bin/{name}"), "busybox"))?;
        }
        more(tar)
    });
    layout.image("latest", &[layer.expect("a layer")], config).expect("an image");
}

fn a_strange_environment_harms_nobody(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let user = world.user();
    let line = |set: &str, options: &str, command: &str| {
        user.shell(&format!("{set}; exec srun --container-image=small {options} sh -c '{command}'"))
    };
    let said = line("for i in $(seq 2000); do export V$i=v; done", "", "echo $V1 $V2000");
    rows.prints(&said, "v v\n");
    let big = "big=$(head -c 100000 /dev/zero | tr '\\0' x); for i in 0 1 2 3 4 5 6 7 8 9; do export B$i=$big; done";
    rows.prints(&line(big, "", "echo ${#B0} ${#B9}"), "100000 100000\n");
    rows.prints(&line("export ODD=$'\\xff\\xfe'", "", "echo ${#ODD}"), "2\n");
    rows.prints(&line("export ODD=$'a\\nb=c'", "", "echo \"$ODD\""), "a\nb=c\n");
    // A library that is not in the image would be looked for by every program of it.
    let said = line(
        "export LD_PRELOAD=/tmp/evil.so LD_LIBRARY_PATH=/tmp",
        "",
        "echo ${LD_PRELOAD-none} ${LD_LIBRARY_PATH-none}",
    );
    rows.prints(&said, "none none\n");
    let said = line("export LD_PRELOAD=/tmp/evil.so", "--container-env=LD_PRELOAD", "echo $LD_PRELOAD");
    rows.prints(&said, "/tmp/evil.so\n");
    rows.prints(
        &line("export GLIBC_TUNABLES=x MALLOC_TRACE=/tmp/trace", "", "ls /tmp/trace 2>/dev/null; echo fine"),
        "fine\n",
    );
    // Who calls berth does not look for it in the user's path.
    user.shell("mkdir -p bin; printf '#!/bin/sh\\ntouch ~/called\\n' >bin/berth; chmod 755 bin/berth; cp bin/berth bin/scontrol").ok();
    rows.prints(&line("export PATH=$HOME/bin:$PATH", "", "echo fine"), "fine\n");
    rows.prints(&user.shell("ls called 2>/dev/null || echo not called"), "not called\n");
    rows.prints(&line("export TMPDIR=/nope XDG_RUNTIME_DIR=/nope XAUTHORITY=/nope", "", "echo fine"), "fine\n");
    rows.end();
    user.run(&["rm", "-r", "bin"]).ok();
    world.assert_clean();
}

fn hundreds_of_mounts_are_made(release: Release) {
    let world = World::new(release);
    let mounts: Vec<String> = (0..300).map(|number| format!("/etc/hostname:/m/{number}")).collect();
    let option = format!("--container-mounts={}", mounts.join(","));
    assert_eq!(world.shell(&[SMALL, &option], "ls /m | wc -l").ok(), "300\n");
    world.assert_clean();
}

fn a_hostile_image_reaches_nothing(release: Release) {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| {
        let dir = folder.path().join(name);
        fs::create_dir(&dir).expect("a folder");
        dir
    };
    // Files that berth puts in place would go elsewhere.
    let links: [(&str, &str); 4] =
        [("etc", "../../home/tuser1/etc"), ("proc", "/home"), ("dev", "etc"), ("tmp", "/proc/1/root")];
    for (name, target) in links {
        image(release, &at(name), &json!({}), |tar| {
            tar.entry(&Header::symlink(name, target))?;
            Ok(())
        });
    }
    for directory in ["/proc/self/fd/3", "/proc/self/fd", "/link", "/proc/1/cwd", "relative/../.."] {
        let name = format!("cwd{}", directory.replace('/', "-"));
        image(release, &at(&name), &json!({"WorkingDir": directory}), |tar| {
            tar.entry(&Header::symlink("link", "/proc/self/fd/9"))?;
            Ok(())
        });
    }
    let world = World::with(release, Options::default().plugin("").bind(folder.path(), "/srv/hostile"));
    let mut rows = Rows::default();
    world.user().shell("mkdir etc; echo own >etc/passwd").ok();
    for entry in fs::read_dir(folder.path()).expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let option = format!("--container-image=/srv/hostile/{name}");
        let said = world.shell(
            &[&option, "--no-container-mount-home"],
            "ls -di / . >/dev/null; echo ran; ls ../../../../../../srv/hostile",
        );
        // Refused with a reason, or harmless.
        let refused = said.code() != 0 && said.stdout.is_empty() && said.stderr.contains("error: ");
        let harmless = said.stdout == "ran\n";
        rows.holds(format!("{name}: {}", crate::plugin::world::report(&said)), refused || harmless);
    }
    rows.prints(&world.user().run(&["cat", "etc/passwd"]), "own\n");
    rows.prints(&world.user().run(&["ls", "etc"]), "passwd\n");
    rows.end();
    world.user().run(&["rm", "-r", "etc"]).ok();
    world.assert_clean();
}

fn what_another_user_has_made_before_is_not_used(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let other = world.cluster.node("n1").user("tuser2");
    // The places that a user could guess are not for others to make.
    for place in ["/var/lib/berth/20001", "/run/berth", "/home/tuser1/.local/share/berth/x", "/var/spool/slurmd/x"] {
        rows.holds(format!("{place} cannot be made"), other.run(&["mkdir", place]).code() != 0);
    }
    let planted =
        "mkdir -m 777 /tmp/berth /tmp/berth-20001 /tmp/berth-runtime-20001 /tmp/pyxis; ln -s /etc /dev/shm/berth";
    other.shell(planted).ok();
    rows.prints(&world.srun(&[SMALL, "--container-name=one"], &["echo", "fine"]), "fine\n");
    rows.prints(&world.node_shell("find /tmp /dev/shm -user tuser1"), "");
    rows.end();
    other.shell("rm -r /tmp/berth /tmp/berth-20001 /tmp/berth-runtime-20001 /tmp/pyxis /dev/shm/berth").ok();
    world.forget_containers();
    world.assert_clean();
}

impl World {
    fn node_shell(&self, line: &str) -> testbed::process::Output {
        self.cluster.node("n1").shell(line)
    }
}
