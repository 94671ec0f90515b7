//! What is wrong with a step's container: the person reads it on the terminal, the step fails, and nothing else suffers:
//! neither the node, nor the job's other steps, nor the next job.

use testbed::fault::base64;
use testbed::slurm::Options;
use testbed::slurm::Release;
use testbed::slurm::registries::Kind;

use crate::plugin::world::HOLD;
use crate::plugin::world::HOME;
use crate::plugin::world::Rows;
use crate::plugin::world::SMALL;
use crate::plugin::world::World;
use crate::plugin::world::report;

on_each_release!("faults" with registry:
    what_is_wrong_is_told_and_the_step_fails,
    a_broken_configuration_is_told,
    a_login_that_is_wrong_is_told,
    a_batch_job_fails_and_is_not_held,
    other_steps_of_the_job_go_on,
    what_the_site_did_wrong_is_told,
    a_store_that_is_full_is_told,
    an_image_may_go_while_it_is_used,
    a_stuck_start_of_a_named_container_is_told,
);

/// Options, and what is said of them on the node.
const WRONG: [(&[&str], &str); 29] = [
    (&["--container-image=nosuch/image"], "image not found: manifest `latest` of docker.io/nosuch/image"),
    (
        &["--container-image=docker.io#library/small:nope"],
        "image not found: manifest `nope` of docker.io/library/small",
    ),
    (&["--container-image=registry.test:5000#small"], "nothing listens there (connection refused)"),
    (&["--container-image=nohost.invalid/x"], "the host name `nohost.invalid` is not known"),
    (&["--container-image=a b;$(touch x)%s'\""], "invalid image reference `a b;$(touch x)%s"),
    (&["--container-image=small\n'x'"], "character 6 is the control character \\n"),
    (&["--container-image=/no/such.sqsh"], "cannot open the image /no/such.sqsh: No such file or directory"),
    (&["--container-image=/etc/passwd"], "/etc/passwd is no image"),
    (&["--container-image=/dev/zero"], "/dev/zero is no image"),
    (&["--container-image=/home/tuser1/pipe"], "/home/tuser1/pipe is no image"),
    (&[SMALL, "--container-mounts=/nope:/x"], "pyxis: --container-mounts: source path does not exist: /nope"),
    (&[SMALL, "--container-mounts=/tmp:/etc/passwd"], "cannot mount /tmp on /etc/passwd: one is a directory"),
    (&[SMALL, "--container-mounts=/tmp:/proc/x"], "cannot mount /tmp on /proc/x"),
    (&[SMALL, "--container-mounts=/tmp:/x:ro+wat"], "unknown option `wat`"),
    (&[SMALL, "--container-workdir=/nope"], "pyxis: couldn't chdir to /nope"),
    (&[SMALL, "--container-workdir=/etc/passwd"], "pyxis: couldn't chdir to /etc/passwd"),
    (&[SMALL, "--container-readonly", "--container-workdir=/nope"], "pyxis: couldn't chdir to /nope"),
    (&["--container-conf=/nope"], "cannot read /nope: No such file or directory"),
    (&["--container-conf=./broken.toml"], "unclosed array, expected `]`"),
    (&["--container-conf=./locked.toml"], "cannot read ./locked.toml: Permission denied"),
    (&["--container-conf=./pipe"], "./pipe: not a file"),
    (&["--container-conf=/dev/zero"], "/dev/zero: not a file"),
    (&["--container-conf=absent"], "--container-conf absent: there is no absent.toml in "),
    (&[SMALL, "--container-name=../../x"], "invalid container name `../../x`"),
    (&[SMALL, "--container-name=.."], "invalid container name `..`"),
    (&["--container-name=absent"], "a container with name \"pyxis_absent\" does not exist"),
    (&[SMALL, "--container-name=absent:exec"], "\"exec\" flag was passed to --container-name"),
    (&[SMALL, "--container-device=/dev/nope"], "device `/dev/nope` needs /dev/nope: No such file or directory"),
    (&[SMALL, "--container-device=maker/gpu=7"], "no device `maker/gpu=7`"),
];

fn what_is_wrong_is_told_and_the_step_fails(release: Release) {
    let world = World::new(release);
    let made = "echo 'image = [' >broken.toml; touch locked.toml; chmod 0 locked.toml; mkfifo pipe";
    world.user().shell(made).ok();
    let mut rows = Rows::default();
    for (options, words) in WRONG {
        rows.fails(&world.srun(options, &["hostname"]), 1, &[words]);
    }
    // Of several tasks one tells it, and the others that it was told.
    let said = world.srun(&["-n3", "--container-image=nosuch/image"], &["hostname"]);
    rows.fails(&said, 1, &["image not found", "pyxis: container was not started successfully by another task"]);
    rows.same("told once", said.stderr.matches("berth: image not found").count(), 1);
    let found = world.cluster.root().run(&["find", "/", "-xdev", "-name", "x", "-not", "-path", "/proc/*"]).stdout;
    rows.same("no word was a shell's", found.as_str(), "");
    rows.prints(&world.srun(&[], &["echo", "fine"]), "fine\n");
    rows.end();
    world.forget_containers();
    world.assert_clean();
}

fn a_broken_configuration_is_told(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let conf = format!("{HOME}/.config/berth/berth.toml");
    world.user().shell("mkdir -p .config/berth").ok();
    for (line, words) in [
        ("echo 'x = [' >\"$0\"", "berth.toml: line 1, column 6: unclosed array, expected `]`"),
        ("echo 'colour = 1' >\"$0\"", "berth.toml: line 1, column 1: unknown field `colour`"),
        ("chmod 0 \"$0\"", "berth.toml: cannot be read: Permission denied"),
        ("rm -f \"$0\"; mkfifo \"$0\"", "berth.toml: cannot be read: it is a pipe"),
    ] {
        world.user().run(&["bash", "-c", line, &conf]).ok();
        rows.fails(&world.srun(&[SMALL], &["hostname"]), 1, &[words]);
    }
    world.user().run(&["rm", "-r", ".config"]).ok();
    world.cluster.root().shell("mkdir /etc/berth; echo 'colour = 1' >/etc/berth/berth.toml").ok();
    rows.fails(&world.srun(&[SMALL], &["hostname"]), 1, &["/etc/berth/berth.toml: line 1, column 1: unknown field"]);
    world.cluster.root().run(&["rm", "-r", "/etc/berth"]).ok();
    for (name, value, words) in [
        ("BERTH_STORE", "/nope", "the image store /nope cannot be made: Permission denied"),
        ("BERTH_CONFIG", "/nope", "/nope: no such file"),
        ("XDG_DATA_HOME", "/nope", "the image store /nope/berth/store cannot be made"),
    ] {
        rows.fails(&world.user().env(name, value).run(&["srun", SMALL, "hostname"]), 1, &[words]);
    }
    rows.prints(&world.srun(&[SMALL], &["echo", "fine"]), "fine\n");
    rows.end();
    world.assert_clean();
}

fn a_login_that_is_wrong_is_told(release: Release) {
    let world = World::new(release);
    let _registry = world.cluster.registry(Kind::Login);
    let mut rows = Rows::default();
    let image = "--container-image=registry.test:5001#team/small:1.0";
    let said = world.srun(&[image], &["hostname"]);
    rows.fails(&said, 1, &["pyxis: failed to import docker image", "registry.test:5001", "login"]);
    world.user().run(&["mkdir", ".docker"]).ok();
    let login = |password: &str| {
        let auth = base64(format!("alice:{password}").as_bytes());
        let text = serde_json::json!({"auths": {"registry.test:5001": {"auth": auth}}}).to_string();
        world.user().write(&format!("{HOME}/.docker/config.json"), &text);
    };
    login("guessed");
    let said = world.srun(&[image], &["hostname"]);
    rows.fails(&said, 1, &["pyxis: failed to import docker image", "registry.test:5001"]);
    rows.holds("a password is told to nobody", !said.stderr.contains("guessed"));
    login("secret");
    rows.prints(&world.srun(&[image], &["echo", "fine"]), "fine\n");
    rows.end();
    world.assert_clean();
}

fn a_batch_job_fails_and_is_not_held(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    for (options, words) in [WRONG[0], WRONG[4], WRONG[10], WRONG[14], WRONG[17], WRONG[25]] {
        let output = format!("{HOME}/out");
        let job = world.cluster.batch("tuser1", &[&["-o", &output], options].concat(), "#!/bin/sh\nhostname\n");
        let shown = world.cluster.job(&job.id);
        let said = world.user().run(&["cat", &output]).stdout;
        rows.holds(format!("{words}: the job fails: {shown}"), shown.contains("JobState=FAILED"));
        rows.holds(format!("{words}: it is told: {said}"), said.contains(words));
        drop(world.user().run(&["rm", "-f", &output]));
    }
    // A wish that arrives in the environment alone is looked at on the node.
    let export = "--export=ALL,PYXIS_CONTAINER_IMAGE=small,PYXIS_CONTAINER_ENTRYPOINT=maybe";
    rows.fails(&world.srun(&[export], &["hostname"]), 1, &["pyxis: "]);
    rows.end();
    world.assert_clean();
}

fn other_steps_of_the_job_go_on(release: Release) {
    let world = World::new(release);
    let script = "#!/bin/bash
srun --overlap -n1 --container-image=small --container-mount-home sh -c 'until [ -e ~/go ]; do sleep 0.1; done; echo one' &
srun --overlap -n1 --container-image=nosuch/image true 2>/dev/null; echo failed $?
srun --overlap -n1 --container-image=small echo two
touch ~/go; wait; rm ~/go
";
    assert_eq!(world.batch(&[], script), "failed 1\ntwo\none\n");
    world.assert_clean();
}

/// Runs berth where no further namespaces can be made.
const WITHOUT_NAMESPACES: &str = "#!/bin/sh
exec unshare --user --map-current-user --keep-caps sh -c 'echo 0 >/proc/sys/user/max_user_namespaces; exec berth \"$@\"' sh \"$@\"
";

fn what_the_site_did_wrong_is_told(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let root = world.cluster.root();
    let plugstack = |arguments: &str| {
        let line = format!("required {} {arguments}\n", testbed::slurm::PLUGIN);
        root.write("/etc/slurm/plugstack.conf", &line);
    };
    plugstack("berth=/nonexistent/berth");
    rows.fails(&world.srun(&[SMALL], &["hostname"]), 1, &["berth: cannot run /nonexistent/berth on this node"]);
    let job = world.cluster.batch("tuser1", &["-o", "/dev/null", SMALL], "#!/bin/sh\nhostname\n");
    let shown = world.cluster.job(&job.id);
    rows.holds(format!("the job fails: {shown}"), shown.contains("JobState=FAILED"));
    rows.prints(&world.srun(&[], &["echo", "fine"]), "fine\n");
    plugstack("runtime_path=/proc/berth");
    rows.prints(&world.srun(&[SMALL], &["echo", "fine"]), "fine\n");
    let said = world.srun(&[SMALL, "--container-name=one"], &["hostname"]);
    rows.fails(&said, 1, &["cannot make a directory for named containers in /proc/berth"]);
    root.write("/etc/slurm/without-namespaces", WITHOUT_NAMESPACES);
    root.run(&["chmod", "755", "/etc/slurm/without-namespaces"]).ok();
    plugstack("berth=/etc/slurm/without-namespaces");
    rows.fails(
        &world.srun(&[SMALL], &["hostname"]),
        1,
        &["cannot create a new user and mount namespace", "user.max_user_namespaces"],
    );
    plugstack("");
    // What is not the user's own is not used.
    let node = world.cluster.node("n1");
    node.shell("rm -rf /var/lib/berth/20001; mkdir -m 777 /var/lib/berth/20001").ok();
    let said = world.srun(&[SMALL, "--container-name=one"], &["hostname"]);
    rows.fails(&said, 1, &["/var/lib/berth/20001 is not a directory of user 20001 that nobody else can write"]);
    node.shell("rmdir /var/lib/berth/20001; ln -s /home/tuser2 /var/lib/berth/20001").ok();
    let said = world.srun(&[SMALL, "--container-name=one"], &["hostname"]);
    rows.fails(&said, 1, &["/var/lib/berth/20001 is not a directory of user 20001"]);
    rows.prints(&world.srun(&[SMALL], &["echo", "fine"]), "fine\n");
    node.run(&["rm", "/var/lib/berth/20001"]).ok();
    rows.end();
    world.assert_clean();
}

fn a_store_that_is_full_is_told(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let node = world.cluster.node("n1");
    node.shell("mkdir /home/full; mount -t tmpfs -o size=600k,mode=1777 tmpfs /home/full").ok();
    let user = world.user().env("BERTH_STORE", "/home/full/store");
    let said = user.run(&["srun", SMALL, "hostname"]);
    rows.fails(&said, 1, &["pyxis: failed to import docker image: small", "No space left on device"]);
    rows.prints(&node.shell("find /home/full/store/tmp /home/full/store/layers -type f"), "");
    node.run(&["mount", "-o", "remount,size=64m", "/home/full"]).ok();
    rows.prints(&user.run(&["srun", SMALL, "echo", "fine"]), "fine\n");
    rows.end();
    node.shell("umount /home/full; rmdir /home/full").ok();
    world.assert_clean();
}

fn an_image_may_go_while_it_is_used(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let user = world.user();
    let step = world.start(&[SMALL, "--container-mount-home"], &format!("{HOLD}; echo done"));
    world.wait_for("ready");
    rows.fails(&user.run(&["berth", "rmi", "small"]), 125, &["is in use by process"]);
    rows.prints(&world.srun(&[SMALL], &["echo", "fine"]), "fine\n");
    user.run(&["berth", "rmi", "--force", "small"]).ok();
    rows.prints(&world.let_go(step), "done\n");
    // It is fetched again.
    let step = world.start(&[SMALL, "--container-mount-home"], &format!("{HOLD}; echo done"));
    world.wait_for("ready");
    user.shell("rm -rf .local/share/berth/store/layers/sha256/*").ok();
    rows.prints(&world.let_go(step), "done\n");
    let words = ["pyxis: failed to import docker image: small", "is missing from the store", "berth pull small"];
    rows.fails(&world.srun(&[SMALL], &["hostname"]), 1, &words);
    drop(user.run(&["berth", "pull", "small"]));
    rows.prints(&world.srun(&[SMALL], &["echo", "fine"]), "fine\n");
    user.shell("rm -rf .local/share/berth").ok();
    rows.prints(&world.srun(&[SMALL], &["echo", "fine"]), "fine\n");
    rows.end();
    world.assert_clean();
}

fn a_stuck_start_of_a_named_container_is_told(release: Release) {
    let world = World::with(release, Options::default().plugin(""));
    let mut rows = Rows::default();
    rows.prints(&world.srun(&[SMALL, "--container-name=one"], &["echo", "made"]), "made\n");
    let lock = "exec flock /var/lib/berth/20001/n1/containers/one/lock sh -c 'echo >~/ready; exec sleep 1234'";
    let mut stuck = world.cluster.node("n1").user("tuser1").spawn(&["sh", "-c", lock]);
    world.wait_for("ready");
    let step = world.start(&["-e", "/home/tuser1/errors", "--container-name=one"], "echo started");
    let errors = world.cluster.path("/home/tuser1/errors");
    world.cluster.wait_until("it is told", || {
        let told = std::fs::read_to_string(&errors).unwrap_or_default();
        told.contains("waiting for container `one`: another process is starting or removing it")
    });
    rows.prints(&world.srun(&[SMALL], &["echo", "fine"]), "fine\n");
    world.user().shell("scancel -u tuser1").ok();
    let said = step.end();
    rows.holds(format!("it ends: {}", report(&said)), crate::kills::failed(release, &said) && said.stdout.is_empty());
    world.cluster.node("n1").shell("kill $(pgrep -f '^sleep 1234')").ok();
    let _ = stuck.wait();
    rows.prints(&world.srun(&["--container-name=one"], &["echo", "again"]), "again\n");
    rows.end();
    world.user().run(&["rm", "ready", "errors"]).ok();
    world.forget_containers();
    world.assert_clean();
}
