//! `berth setup` with the engines that it sets up: they start from what it writes and from nothing else, and what it takes back is
//! every byte. All folders of the system that are written to are the test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use testbed::chapter;
use testbed::cover::Cover;
use testbed::engine::Docker;
use testbed::engine::Engine;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::PODMAN;
use testbed::harness::REGISTRY;
use testbed::process;
use testbed::process::Output;

use crate::docker::CLIENT;
use crate::docker::DOCKERD;
use crate::subid::world::World;
use crate::subid::world::first;
use crate::subid::world::sh;

chapter!("setup",
    [Need::Root, DOCKERD, CLIENT]:
        docker_starts_from_what_is_written;
    [Need::Root, Need::Namespaces, DOCKERD, CLIENT, ROOTLESS, Need::Program("rootlesskit", "rootlesskit")]:
        rootless_docker_starts_from_what_a_person_writes;
    [Need::Root, Need::Namespaces, REGISTRY, PODMAN]:
        podman_of_all_users_runs_by_what_root_writes;
    [Need::Root, Need::Namespaces, PODMAN]:
        podman_runs_by_what_a_person_writes;
    [Need::Root, Need::Namespaces, REGISTRY]:
        what_enroot_was_told_berth_does;
);

/// What docker's packages start for an ordinary user.
const ROOTLESS_SCRIPT: &str = "/usr/share/docker.io/contrib/dockerd-rootless.sh";
const ROOTLESS: Need = Need::Program(ROOTLESS_SCRIPT, "docker.io");

/// Installs berth where daemons look for programs, and gives the test a place for journals.
fn installed(fixture: &Fixture) -> [Cover; 2] {
    let covers = ["/usr/local", "/var/lib"].map(Cover::over);
    for name in ["berth", "berth-runtime"] {
        let path = Path::new("/usr/local/bin").join(name);
        let _ = fs::remove_file(&path);
        symlink(fixture.program(name), path).expect("a link");
    }
    covers
}

/// Longest that a daemon may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// `berth setup` as root.
fn setup(words: &[&str]) -> Output {
    process::run(Command::new("/usr/local/bin/berth").arg("setup").args(words).env("LC_ALL", "C"))
}

/// All that is known of a folder's files but their times.
fn fingerprint(dir: &Path) -> String {
    // dockerd keeps a key of its own beside its file.
    let list = "find . ! -name key.json -printf '%p %y %m %U %G %l\\n' | sort; \
                find . -type f ! -name key.json -print0 | sort -z | xargs -0 -r sha256sum";
    sh(&format!("cd {} && {list}", dir.display()))
}

/// Shows, writes twice and looks; gives what has to be there again in the end.
fn written(dir: &Path, run: impl Fn(&[&str]) -> Output, words: &[&str]) -> String {
    let before = fingerprint(dir);
    run(words).ok();
    assert_eq!(fingerprint(dir), before, "only shown");
    run(&[words, &["--write"]].concat()).ok();
    let after = fingerprint(dir);
    assert_ne!(after, before);
    run(&[words, &["--write"]].concat()).ok();
    assert_eq!(fingerprint(dir), after, "twice is once");
    before
}

fn docker_starts_from_what_is_written() {
    let fixture = Fixture::as_oneself();
    let _etc = Cover::over("/etc");
    let _installed = installed(&fixture);
    // What the site has stays, in whatever form it was written.
    let file = Path::new("/etc/docker/daemon.json");
    fs::create_dir_all("/etc/docker").expect("a folder");
    fs::write(file, Docker::site_file(&fixture).to_string()).expect("a file");
    fs::set_permissions(file, fs::Permissions::from_mode(0o640)).expect("a mode");
    let storage = fixture.path("local").display().to_string();
    let before = written(Path::new("/etc"), setup, &["docker", "--storage", &storage]);

    let mut docker = Docker::by_its_file(fixture);
    let engine: &dyn Engine = &docker;
    let told = engine.call(&["info", "-f", "{{.DefaultRuntime}} {{.DockerRootDir}}"]).ok();
    assert_eq!(told, format!("berth {storage}/docker\n"));
    assert_eq!(engine.shell(&[], "touch /f && chown 1000:33 /f && stat -c %u:%g /f").ok(), "1000:33\n");
    let id = engine.ready(&[], "echo ready; exec sleep 300");
    assert_eq!(engine.about(&id, "{{.HostConfig.Runtime}}"), "berth");
    assert_eq!(engine.call(&["exec", &id, "echo", "joined"]).ok(), "joined\n");
    engine.remove(&id);
    assert_eq!(engine.run(&["--runtime=runc"], &["echo", "still there"]).ok(), "still there\n");
    engine.nothing_is_left();
    docker.end();

    setup(&["docker", "--undo"]).ok();
    assert_eq!(fingerprint(Path::new("/etc")), before);
    assert!(!Path::new("/var/lib/berth/setup").exists(), "the journal is gone, too");
}

fn rootless_docker_starts_from_what_a_person_writes() {
    let world = World::new();
    let _installed = installed(&world.fixture);
    world.berth(&["subid", "write", "--user", &world.alice.name]).ok();
    let local = world.fixture.make_dir("local", 0o755).display().to_string();
    let own = |program: &str, words: &[&str]| {
        let mut command = world.fixture.command(program, words);
        command.env("HOME", &world.alice.home);
        command
    };
    let setup = |words: &[&str]| process::run(&mut own("/usr/local/bin/berth", &[&["setup"], words].concat()));
    // What a machine without a network for containers wants.
    let file = world.alice.home.join(".config/docker/daemon.json");
    sh(&format!(
        "mkdir -p {0}/.config/docker && echo '{{\"iptables\": false, \"bridge\": \"none\", \"storage-driver\": \"vfs\"}}' >{1} && \
         chown -R {2}:{2} {0}",
        world.alice.home.display(),
        file.display(),
        world.alice.uid
    ));
    let before = written(&world.alice.home.join(".config"), setup, &["docker", "--storage", &local, "--host-network"]);

    // As systemd would start it.
    let unit = world.alice.home.join(".config/systemd/user/docker.service.d/50-berth.conf");
    let unit = fs::read_to_string(unit).expect("the override");
    let variables: Vec<(&str, &str)> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("Environment=\"")?.strip_suffix('"')?.split_once('='))
        .collect();
    assert_eq!(variables.len(), 2, "{unit}");
    let log = fs::File::create(world.fixture.path("log")).expect("a log");
    let mut command = own(ROOTLESS_SCRIPT, &[]);
    command.envs(variables).stdout(log.try_clone().expect("a descriptor")).stderr(log);
    let mut daemon = process::die_with_parent(&mut command).spawn().expect("a start");
    let docker = |words: &[&str]| {
        let socket = format!("unix://{}", world.fixture.path("run/docker.sock").display());
        process::run(own("/usr/bin/docker", words).env("DOCKER_HOST", socket))
    };
    let deadline = Instant::now() + PATIENCE;
    while !docker(&["version"]).status.success() {
        let ended = daemon.try_wait().ok().flatten();
        let log = || fs::read_to_string(world.fixture.path("log")).unwrap_or_default();
        assert!(ended.is_none() && Instant::now() < deadline, "dockerd: {}", log());
        thread::sleep(Duration::from_millis(50));
    }
    let told = docker(&["info", "-f", "{{.DefaultRuntime}} {{.DockerRootDir}}"]).ok();
    assert_eq!(told, format!("berth {local}/{}/docker\n", world.alice.name));
    docker(&["load", "-q", "-i", &world.fixture.archive_of("small").display().to_string()]).ok();
    let script = "touch /f && chown 1000:33 /f && stat -c %u:%g /f; cat /proc/self/uid_map";
    let said = docker(&["run", "--rm", "--network=none", "small", "sh", "-c", script]);
    assert!(said.stdout.starts_with("1000:33\n"), "{}", said.report());
    assert!(said.stdout.contains(&first(&world.alice).to_string()), "ids by the rule: {}", said.stdout);
    process::kill(daemon.id() as i32, libc::SIGTERM);
    process::wait(&mut daemon, PATIENCE).expect("an end");

    setup(&["docker", "--undo"]).ok();
    assert_eq!(fingerprint(&world.alice.home.join(".config")), before);
}

/// What a test's podman needs of a site where no systemd runs; everything else comes from the files of `berth setup`.
const CONTAINERS_CONF: &str = "[containers]\ndefault_ulimits = [\"nofile=1000:2000\", \"nproc=4000:4000\"]\n\
                               [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";

/// A user with ids by the rule, and podman without any configuration but that.
fn podman_site() -> (World, [Cover; 2], tempfile::TempDir) {
    let mut world = World::new();
    let installed = installed(&world.fixture);
    world.berth(&["subid", "write", "--user", &world.alice.name]).ok();
    let _ = fs::remove_dir_all("/etc/containers");
    fs::create_dir_all("/etc/containers").expect("a folder");
    fs::write("/etc/containers/policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).expect("a policy");
    fs::write("/etc/containers/containers.conf", CONTAINERS_CONF).expect("a file");
    process::reap_for_ever("conmon");
    // podman takes no path of more than 50 letters for what it keeps there.
    let run = tempfile::Builder::new().prefix("run-").tempdir().expect("a folder");
    world.alice.own(run.path()).expect("its owner");
    world.fixture.env.push(("XDG_RUNTIME_DIR".to_owned(), run.path().display().to_string()));
    (world, installed, run)
}

/// podman as alice, told nothing by options that a file could tell.
fn podman(world: &World, words: &[&str]) -> Output {
    process::run(world.fixture.command("podman", words).env("HOME", &world.alice.home))
}

/// Shows that alice's podman has berth behind it, and her images in that folder.
fn runs_by_berth(world: &World, graph_root: &str, image: &[&str]) {
    let format = "{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Path}} {{.Store.GraphRoot}}";
    let told = podman(world, &["info", "--format", format]).ok();
    assert_eq!(told, format!("berth /usr/local/bin/berth-runtime {graph_root}\n"));
    let run = ["run", "--network=none", "--cgroups=disabled", "--name=one"];
    let script = ["sh", "-c", "touch /f && chown 1000:33 /f && stat -c %u:%g /f"];
    let said = podman(world, &[&run[..], image, &script].concat());
    assert_eq!(said.stdout, "1000:33\n", "{}", said.report());
    assert_eq!(podman(world, &["inspect", "-f", "{{.OCIRuntime}}", "one"]).ok(), "berth\n");
    podman(world, &["rm", "one"]).ok();
    assert!(Path::new(graph_root).join("overlay-images").is_dir());
    let _ = process::run(Command::new("umount").arg("-l").arg(Path::new(graph_root).join("overlay")));
}

fn podman_of_all_users_runs_by_what_root_writes() {
    let (world, _installed, _run) = podman_site();
    let registry = world.fixture.registry();
    let local = world.fixture.path("local").display().to_string();
    let address = registry.address().to_string();
    let words = ["podman", "--storage", &local, "--registry", &address];
    let before = written(Path::new("/etc"), setup, &words);
    // A short name, which the written file lets podman look for.
    let graph_root = format!("{local}/{}/containers/storage", world.alice.name);
    runs_by_berth(&world, &graph_root, &["--tls-verify=false", "small"]);
    setup(&["podman", "--undo"]).ok();
    assert_eq!(fingerprint(Path::new("/etc")), before);
    let told = podman(&world, &["info", "--format", "{{.Host.OCIRuntime.Name}}"]);
    assert_ne!(told.stdout, "berth\n");
}

fn podman_runs_by_what_a_person_writes() {
    let (world, _installed, _run) = podman_site();
    let local = world.fixture.make_dir("local", 0o755).display().to_string();
    let own = |words: &[&str]| {
        let words = [&["setup"], words].concat();
        process::run(world.fixture.command("/usr/local/bin/berth", &words).env("HOME", &world.alice.home))
    };
    // What is there has reasons of its own.
    let dir = world.alice.home.join(".config/containers");
    sh(&format!(
        "mkdir -p {0} && printf '[storage]\ndriver = \"overlay\"' >{0}/storage.conf && chmod 600 {0}/storage.conf && \
                 chown -R {1}:{1} {2}",
        dir.display(),
        world.alice.uid,
        world.alice.home.display()
    ));
    let before = written(&dir, own, &["podman", "--storage", &local]);
    let archive = world.fixture.archive_of("small");
    podman(&world, &["load", "-q", "-i", &archive.display().to_string()]).ok();
    runs_by_berth(&world, &format!("{local}/{}/containers/storage", world.alice.name), &["small"]);
    own(&["podman", "--undo"]).ok();
    assert_eq!(fingerprint(&dir), before);
}

fn what_enroot_was_told_berth_does() {
    let world = World::new();
    let _installed = installed(&world.fixture);
    let (scratch, apps) = (world.fixture.make_dir("scratch", 0o755), world.fixture.make_dir("apps", 0o755));
    world.fixture.write("apps/tool", "of the site\n");
    sh("mkdir -p /etc/enroot/mounts.d /etc/enroot/environ.d");
    for (name, text) in [
        (
            "enroot.conf",
            format!(
                "ENROOT_CACHE_PATH {0}/cache-$(id -g)\nENROOT_DATA_PATH {0}/data-$(id -u)\nENROOT_MOUNT_HOME n\n",
                scratch.display()
            ),
        ),
        ("mounts.d/10.fstab", format!("{} /apps none bind,ro,x-create=dir\n", apps.display())),
        ("environ.d/10.env", "SITE=ours\n".to_owned()),
    ] {
        fs::write(Path::new("/etc/enroot").join(name), text).expect("a file of enroot");
    }
    let before = written(Path::new("/etc"), setup, &["enroot-migration"]);
    let registry = world.fixture.registry();
    let script = "cat /apps/tool; echo $SITE; touch /apps/mine 2>/dev/null || echo read-only";
    let said = world.fixture.berth(&["run", "--name", "kept", &registry.reference("small"), "sh", "-c", script]);
    assert_eq!(said.stdout, "of the site\nours\nread-only\n", "{}", said.report());
    let own = scratch.join(format!("berth-{}", world.alice.name));
    assert!(own.is_dir() && !world.fixture.store().exists(), "images and containers are where enroot kept its own");
    setup(&["enroot-migration", "--undo"]).ok();
    assert_eq!(fingerprint(Path::new("/etc")), before);
}
