//! `--container-image`: what names an image, and what is said of one that cannot be had.

use testbed::slurm::Release;
use testbed::slurm::registries::Kind;
use testbed::slurm::registries::LOGIN;

use super::world::Rows;
use super::world::World;
use super::world::report;

on_each_release!("plugin_images" with registry:
    all_ways_to_name_an_image_work,
    a_login_is_found_where_enroot_has_it,
    what_cannot_be_had_is_told_and_leaves_nothing,
    an_image_without_a_shell_runs,
    an_image_in_one_file_is_mounted_for_the_step,
);

fn all_ways_to_name_an_image_work(release: Release) {
    let world = World::new(release);
    let _plain = world.cluster.registry(Kind::Plain);
    let mut rows = Rows::default();
    let digest = {
        let said = world.user().run(&["berth", "pull", "-q", "ghcr.io/team/small:1.0"]).ok();
        said.trim().to_owned()
    };
    let by_digest = format!("ghcr.io/team/small@{digest}");
    for image in [
        "small",
        "small:latest",
        "docker://small",
        "docker://small:latest",
        "library/small",
        "docker.io/library/small",
        "docker://docker.io#library/small",
        "quay.io#team/small:1.0",
        "docker://quay.io#team/small:1.0",
        "quay.io/team/small:1.0",
        "somebody@quay.io#team/small:1.0",
        "registry.test:5000#team/small:1.0",
        "registry.test:5000/team/small:1.0",
        &by_digest,
    ] {
        let option = format!("--container-image={image}");
        rows.prints(&world.shell(&[&option], "test ! -e /etc/slurm && echo inside"), "inside\n");
    }
    // The value may be a word of its own, and the same twice is no contradiction.
    let twice = ["--container-image", "small", "--container-image=small"];
    rows.prints(&world.shell(&twice, "test ! -e /etc/slurm && echo inside"), "inside\n");
    rows.end();
    world.assert_clean();
}

fn a_login_is_found_where_enroot_has_it(release: Release) {
    let world = World::new(release);
    let _login = world.cluster.registry(Kind::Login);
    let image = "--container-image=registry.test:5001#team/small:1.0";
    let mut rows = Rows::default();
    rows.fails(
        &world.shell(&[image], "echo inside"),
        1,
        &["pyxis: failed to import docker image: registry.test:5001#team/small:1.0", "401"],
    );
    world.user().run(&["mkdir", "-p", ".config/enroot"]).ok();
    let (user, password) = LOGIN;
    world.user().write(".config/enroot/.credentials", &format!("machine registry.test login {user} password wrong\n"));
    rows.fails(&world.shell(&[image], "echo inside"), 1, &["pyxis: failed to import docker image: "]);
    world
        .user()
        .write(".config/enroot/.credentials", &format!("machine registry.test login {user} password {password}\n"));
    rows.prints(&world.shell(&[image], "echo inside"), "inside\n");
    let named = format!("--container-image={user}@registry.test:5001#library/small");
    rows.prints(&world.shell(&[&named], "echo inside"), "inside\n");
    rows.end();
    world.assert_clean();
}

fn what_cannot_be_had_is_told_and_leaves_nothing(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    for (image, words) in [
        ("missing", &["pyxis: failed to import docker image: missing", "docker.io/library/missing"][..]),
        ("small:nothing", &["pyxis: failed to import docker image: small:nothing"]),
        ("quay.io#team/other", &["pyxis: failed to import docker image: quay.io#team/other"]),
        ("UPPER", &["UPPER"]),
        ("small:a:b", &["small:a:b"]),
        ("/home/tuser1/image.sqsh", &["/home/tuser1/image.sqsh"]),
        ("./image.sqsh", &["image.sqsh"]),
        ("dockerd://small", &["dockerd://small"]),
    ] {
        let option = format!("--container-image={image}");
        let said = world.shell(&[&option], "echo inside");
        rows.fails(&said, 1, words);
        rows.holds(format!("nothing ran: {}", report(&said)), said.stdout.is_empty());
    }
    rows.end();
    world.assert_clean();
}

fn an_image_without_a_shell_runs(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let image = "--container-image=distroless";
    rows.prints(&world.srun(&[image], &["/busybox", "echo", "alone"]), "alone\n");
    // There is no passwd in the image, but a user has a name.
    rows.prints(&world.srun(&[image], &["/busybox", "id", "-un"]), "tuser1\n");
    rows.prints(&world.srun(&["-n3", image], &["/busybox", "echo", "three"]), "three\nthree\nthree\n");
    rows.end();
    world.assert_clean();
}

fn an_image_in_one_file_is_mounted_for_the_step(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    world.user().run(&["berth", "pull", "-q", "-o", "image.sqsh", "small"]).ok();
    let image = "--container-image=/home/tuser1/image.sqsh";
    rows.prints(&world.shell(&[image], "echo inside"), "inside\n");
    rows.prints(&world.shell(&["--container-image=./image.sqsh"], "echo inside"), "inside\n");
    rows.prints(&world.shell(&["-N2", "-n6", image], "echo inside"), &"inside\n".repeat(6));
    // One mount for all tasks of a node, and what one task changes the others see.
    let script =
        "grep -c berth /proc/self/mountinfo >/dev/null; echo x >/by-$SLURM_LOCALID; sleep 0.5; ls / | grep -c by-";
    rows.prints(&world.shell(&["-N1", "-n3", image], script), "3\n3\n3\n");
    let kept = ["--container-name=kept", image];
    rows.prints(&world.shell(&[&["-N1"][..], &kept].concat(), "echo y >/kept"), "");
    rows.end();
    world.forget_containers();
    world.user().run(&["rm", "image.sqsh"]).ok();
    world.assert_clean();
}
