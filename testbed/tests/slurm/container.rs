//! Slurm's own `--container` with berth behind it: bundles and images by the same option. 24.11 and newer call berth by
//! `oci.conf`; on 22.05 there is none, and the plugin acts.

use testbed::process::Output;
use testbed::registry::Registry;
use testbed::slurm::Cluster;
use testbed::slurm::Options;
use testbed::slurm::Release;
use testbed::slurm::Session;
use testbed::slurm::Traces;
use testbed::slurm::oci;
use testbed::slurm::registries;

use crate::world::BUNDLE;
use crate::world::Step;

on_each_release!("container" with registry:
    an_image_and_a_bundle_are_run_by_the_same_option,
    what_a_person_writes_meets_no_shell,
    signals_and_time_limits_reach_the_program,
    tasks_each_have_their_rank,
    a_step_without_a_container_is_on_the_host,
    batch_scripts_and_terminals_are_in_the_container,
    what_is_wrong_is_told_and_the_node_stays,
);

/// A busybox image, by the name under which the boxes' registry has it.
const IMAGE: &str = "registry.test:5000/team/small:1.0";

struct World {
    cluster: Cluster,
    _registry: Registry,
    before: Traces,
}

impl World {
    fn new(release: Release) -> World {
        let mut options = Options { nodes: 2, ..Options::default() }.plugin("");
        if let Some(conf) = oci::images(release) {
            options = options.file("oci.conf", conf);
        }
        let cluster = Cluster::start(release, &options).expect("a cluster");
        let registry = cluster.registry(registries::Kind::Plain);
        oci::make_bundle(&cluster.as_user("tuser1"), BUNDLE);
        // The first steps make what is kept for all later ones.
        cluster.as_user("tuser1").run(&["srun", "-N2", "true"]).ok();
        cluster.as_user("tuser1").run(&["srun", "--container", IMAGE, "true"]).ok();
        cluster.as_user("tuser1").run(&["srun", "-N2", "--container", BUNDLE, "true"]).ok();
        let before = cluster.idle_traces();
        World { cluster, _registry: registry, before }
    }

    fn user(&self) -> Session<'_> {
        self.cluster.as_user("tuser1")
    }

    #[track_caller]
    fn srun(&self, container: &str, options: &[&str], command: &[&str]) -> Output {
        self.user().run(&[&["srun", "--container", container], options, command].concat())
    }

    #[track_caller]
    fn shell(&self, container: &str, line: &str) -> Output {
        self.srun(container, &[], &["sh", "-c", line])
    }

    #[track_caller]
    fn assert_clean(&self) {
        self.cluster.assert_clean(&self.before);
    }
}

fn an_image_and_a_bundle_are_run_by_the_same_option(release: Release) {
    let world = World::new(release);
    let said = world.shell(IMAGE, "echo out; echo err >&2; ls -d /rootfs /bin/busybox 2>/dev/null; exit 7");
    assert_eq!((said.code(), said.stdout.as_str()), (7, "out\n/bin/busybox\n"), "{}", said.report());
    assert!(said.stderr.lines().any(|line| line == "err"), "{}", said.report());
    let said = world.shell(BUNDLE, "echo out; hostname; exit 9");
    assert_eq!((said.code(), said.stdout.as_str()), (9, "out\nin-a-bundle\n"), "{}", said.report());
    // A relative name is the job's directory's.
    let said = world.user().run(&["srun", "--container", "./bundle", "hostname"]);
    assert_eq!(said.ok(), "in-a-bundle\n");
    let said = world.user().run_with(&["srun", "--container", IMAGE, "wc", "-c"], &[b'x'; 70_000]);
    assert_eq!(said.ok().trim(), "70000");
    world.assert_clean();
}

fn what_a_person_writes_meets_no_shell(release: Release) {
    let world = World::new(release);
    let arguments = [
        "two words",
        "it's",
        "\"double\"",
        "$HOME",
        "`id`",
        "a;b",
        "",
        "back\\slash",
        "new\nline",
        "ü",
        "%b %j",
        "100%",
    ];
    let expected: String = arguments.iter().map(|argument| format!("[{argument}]\n")).collect();
    for container in [IMAGE, BUNDLE] {
        let said = world.srun(container, &[], &[&["printf", "[%s]\\n"], &arguments[..]].concat());
        assert_eq!(said.ok(), expected, "{container}");
        let session = world.user().env("STRANGE", "a 'b' \"c\"\n$d=;e");
        let said = session.run(&["srun", "--container", container, "sh", "-c", "echo \"$STRANGE\""]);
        assert_eq!(said.ok(), "a 'b' \"c\"\n$d=;e\n", "{container}");
    }
    let evil = "/home/tuser1/b;touch x;id >&2;";
    world.user().run(&["cp", "-r", BUNDLE, evil]).ok();
    let said = world.srun(evil, &[], &["echo", "fine"]);
    assert_eq!((said.code(), said.stdout.as_str(), said.stderr.as_str()), (0, "fine\n", ""), "{}", said.report());
    let said = world.srun("$(id >/tmp/evil)", &[], &["true"]);
    assert_ne!(said.code(), 0, "{}", said.report());
    world.assert_clean();
    let found = world.cluster.root().run(&["find", "/", "-xdev", "(", "-name", "x", "-o", "-name", "evil", ")"]).stdout;
    assert_eq!(found, "");
}

/// A program that says when it is ready, and ends with 5 when it is told to.
const POLITE: &str = "trap 'echo goodbye; exit 5' TERM; trap 'echo signal; exit 6' USR1; echo >/tmp/ready; \
                      while :; do sleep 0.1; done";

fn signals_and_time_limits_reach_the_program(release: Release) {
    let world = World::new(release);
    for (container, signal, expected) in
        [(IMAGE, "TERM", (5, "goodbye\n")), (IMAGE, "USR1", (6, "signal\n")), (BUNDLE, "TERM", (5, "goodbye\n"))]
    {
        let line = POLITE.replace("/tmp/ready", if container == IMAGE { "/home/tuser1/ready" } else { "/out/ready" });
        let ready = if container == IMAGE { "/home/tuser1/ready".to_owned() } else { format!("{BUNDLE}/out/ready") };
        let step = Step(world.user().spawn(&["srun", "--container", container, "sh", "-c", &line]));
        world.cluster.wait_until("it is ready", || world.cluster.path(&ready).exists());
        let job = world.cluster.root().run(&["squeue", "-h", "-t", "R", "-o", "%i"]).ok().trim().to_owned();
        let words: &[&str] = if signal == "TERM" { &["scancel", &job] } else { &["scancel", "--signal=USR1", &job] };
        world.user().run(words).ok();
        let said = step.end();
        assert_eq!((said.code(), said.stdout.as_str()), expected, "{container} {signal}: {}", said.report());
        world.user().run(&["rm", &ready]).ok();
    }
    world.assert_clean();
}

fn tasks_each_have_their_rank(release: Release) {
    let world = World::new(release);
    for container in [IMAGE, BUNDLE] {
        let line = ["sh", "-c", "echo rank $SLURM_PROCID on $SLURMD_NODENAME"];
        let said = world.srun(container, &["-N2", "-n4", "-O", "-l"], &line).ok();
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        let expected = ["0: rank 0 on n1", "1: rank 1 on n1", "2: rank 2 on n2", "3: rank 3 on n2"];
        assert_eq!(lines, expected, "{container}");
    }
    world.assert_clean();
}

fn a_step_without_a_container_is_on_the_host(release: Release) {
    let world = World::new(release);
    const WHERE: &str = "[ -e /usr/sbin/slurmd ] && echo host || echo inside";
    // The batch step has a container; whoever stands in one with the variable set, and starts a plain step, has none.
    let job = world.cluster.batch(
        "tuser1",
        &["--container", IMAGE, "-o", "/home/tuser1/said"],
        &format!("#!/bin/sh\n{WHERE}\n"),
    );
    assert_eq!(world.user().run(&["cat", "said"]).ok(), "inside\n", "{}", world.cluster.job(&job.id));
    let session = world.user().env("SLURM_CONTAINER", BUNDLE);
    let said = session.run(&["srun", "sh", "-c", WHERE]);
    assert_eq!(said.ok(), "host\n", "an outer container's variable is not this step's");
    let said = session.run(&["srun", "--container", IMAGE, "sh", "-c", WHERE]);
    assert_eq!(said.ok(), "inside\n");
    world.user().run(&["rm", "said"]).ok();
    world.assert_clean();
}

fn batch_scripts_and_terminals_are_in_the_container(release: Release) {
    let world = World::new(release);
    for (container, host) in [(IMAGE, "n1"), (BUNDLE, "in-a-bundle")] {
        let options = ["--container", container, "-o", "/home/tuser1/said"];
        let job =
            world.cluster.batch("tuser1", &options, "#!/bin/sh\nhostname\necho \"$1\" $SLURM_JOB_ID >&2\nexit 7\n");
        assert!(world.cluster.job(&job.id).contains("ExitCode=7:0"), "{}", world.cluster.job(&job.id));
        let said = world.user().run(&["cat", "said"]).ok();
        assert_eq!(said, format!("{host}\n {}\n", job.id));
        let inner = format!("srun --pty --container {container} sh -c 'tty >/dev/null && echo on a terminal; exit 4'");
        let said = world.user().run(&["script", "-qec", &inner, "/dev/null"]);
        assert_eq!(said.code(), 4, "{container}: {}", said.report());
        assert!(said.stdout.contains("on a terminal"), "{container}: {}", said.report());
        world.user().run(&["rm", "said"]).ok();
    }
    world.assert_clean();
}

fn what_is_wrong_is_told_and_the_node_stays(release: Release) {
    let world = World::new(release);
    for (container, words) in [
        ("registry.test:5000/team/missing:1", "image not found"),
        ("/home/tuser1/no-such-bundle", "/home/tuser1/no-such-bundle"),
        ("UPPER/case", "UPPER/case"),
    ] {
        let said = world.srun(container, &[], &["true"]);
        assert_ne!(said.code(), 0, "{}", said.report());
        assert!(said.stderr.contains(words), "{}", said.report());
        let job = world.cluster.batch("tuser1", &["--container", container, "-o", "/home/tuser1/said"], "#!/bin/sh\n");
        let shown = world.cluster.job(&job.id);
        assert!(shown.contains("JobState=FAILED") && !shown.contains("held"), "{shown}");
        assert!(world.user().run(&["cat", "said"]).ok().contains(words));
        world.user().run(&["rm", "said"]).ok();
    }
    let said = world.srun(IMAGE, &[], &["no-such-program"]);
    assert_ne!(said.code(), 0, "{}", said.report());
    assert!(said.stderr.contains("no-such-program"), "{}", said.report());
    world.assert_clean();
}
