//! `berth oci-conf`: what it prints works, and what it says of files is what slurmstepd does with them.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use berth_oci_conf::Conf;
use berth_oci_conf::Document;
use berth_oci_conf::document::Trouble;
use testbed::process::Output;
use testbed::slurm::Options;
use testbed::slurm::Release;
use testbed::slurm::peers;

use crate::world::BUNDLE;
use crate::world::World;

on_each_release!("oci-conf" with runtimes:
    what_is_printed_runs_containers,
    what_is_printed_for_create_and_start_completes,
    the_guides_form_with_create_is_found_to_hang,
    a_bundle_that_berth_made_is_run_by_each_runtime,
    root_calls_no_runtime_for_what_a_user_wrote,
);

/// Files of this kind need no runtime.
pub mod files {
    use super::*;

    on_each_release!("oci-conf::files":
        slurm_takes_the_files_that_are_said_to_be_taken,
    );
}

/// The runtimes that can be had here.
const RUNTIMES: [&str; 3] = ["berth", "crun", "runc"];

fn world(release: Release) -> World {
    let options = Options { run_user: true, ..Options::default() };
    let options = peers::add(options.file("oci.conf", ""), release).expect("runc and crun");
    World::with(release, options)
}

/// Makes a printed file the cluster's, as an administrator would, and lets the cluster's own release be what it is checked for.
#[track_caller]
fn install(world: &World, options: &[&str]) {
    let root = world.cluster.root();
    let words = [&["berth", "oci-conf", "write", "--slurm", world.cluster.release.version()], options].concat();
    let text = root.run(&words).ok();
    root.write("/etc/slurm/oci.conf", &text);
    let said = root.run(&["berth", "oci-conf", "check"]);
    assert_eq!(said.code(), 0, "{}", said.report());
}

/// What `berth oci-conf test` says on a node, to a user, of the cluster's file.
#[track_caller]
fn tried(world: &World, command: &str) -> Output {
    let words = ["berth", "oci-conf", "test", "--limit", "20s", BUNDLE, "/bin/sh", "-c", command];
    world.cluster.node("n1").user("tuser1").run(&words)
}

fn what_is_printed_runs_containers(release: Release) {
    let world = world(release);
    for runtime in RUNTIMES {
        install(&world, &["--runtime", runtime]);
        let said = tried(&world, "echo tried");
        assert!(said.code() == 0 && said.stdout.contains("\n    | tried\n"), "{runtime}: {}", said.report());
        let said = world.shell("echo out; echo err >&2; hostname; exit 3");
        assert_eq!((said.code(), said.stdout.as_str()), (3, "out\nin-a-bundle\n"), "{runtime}: {}", said.report());
        assert!(said.stderr.contains("err\n"), "{runtime}: {}", said.report());
        let counted = world.user().run_with(&World::words(&[], &["/bin/cat"]), b"input\n").ok();
        assert_eq!(counted, "input\n", "{runtime}");
        // 22.05 starts no second task on a node.
        if release != Release::Bookworm {
            let said = world.srun(&["-n2", "-O"], &["/bin/sh", "-c", "echo rank $SLURM_PROCID"]).ok();
            let mut lines: Vec<&str> = said.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, ["rank 0", "rank 1"], "{runtime}");
        }
        // A handler of the program runs, and its exit code comes back.
        let step = world.start(&[], "trap 'echo bye; exit 5' TERM; echo >/out/ready; while :; do sleep 0.05; done");
        world.wait_for("ready");
        world.user().run(&["scancel", &world.job()]).ok();
        let ended = step.end();
        assert!(ended.stdout.contains("bye"), "{runtime}: {}", ended.report());
        world.user().run(&["rm", &format!("{BUNDLE}/out/ready")]).ok();
        world.assert_clean();
    }
}

fn what_is_printed_for_create_and_start_completes(release: Release) {
    let world = world(release);
    for runtime in RUNTIMES {
        install(&world, &["--runtime", runtime, "--mode", "create-start"]);
        let said = tried(&world, "echo >>/out/said");
        assert!(said.code() == 0 && world.written("said") == "\n", "{runtime}: {}", said.report());
        let said = world.shell("echo lost; hostname >/out/said");
        assert_eq!((said.code(), said.stdout.as_str()), (0, ""), "{runtime}: {}", said.report());
        assert_eq!(world.written("said"), "in-a-bundle\n", "{runtime}");
        world.user().run(&["rm", &format!("{BUNDLE}/out/said")]).ok();
        world.assert_clean();
    }
}

/// And berth-runtime, of which the guide does not speak, does not.
fn the_guides_form_with_create_is_found_to_hang(release: Release) {
    let world = world(release);
    for (runtime, hangs) in [("crun", true), ("runc", true), ("berth-runtime", false)] {
        let conf = testbed::slurm::oci::guide_create(release).replace("berth-runtime", runtime);
        world.cluster.root().write("/etc/slurm/oci.conf", &conf);
        let said = world.cluster.node("n1").user("tuser1").run(&["berth", "oci-conf", "test", "--limit", "3s", BUNDLE]);
        assert_eq!(said.code(), i32::from(hangs), "{runtime}: {}", said.report());
        assert_eq!(said.stdout.contains("keeps its output open"), hangs, "{runtime}: {}", said.report());
        world.assert_clean();
    }
}

/// By Slurm, and by hand: with the same output and exit code.
fn a_bundle_that_berth_made_is_run_by_each_runtime(release: Release) {
    let world = world(release);
    let tree = format!("dir:{BUNDLE}/rootfs");
    let made = world.user().run(&["berth", "--quiet", "bundle", "--rootless", &tree, "made"]).ok();
    assert_eq!(made, "/home/tuser1/made\n");
    let line = ["/bin/sh", "-c", "id -u; cat /etc/text; touch /tmp/file && echo written; exit 4"];
    for runtime in RUNTIMES {
        install(&world, &["--runtime", runtime]);
        let said = world.user().run(&[&["srun", "--container", "/home/tuser1/made"][..], &line].concat());
        assert_eq!(
            (said.code(), said.stdout.as_str()),
            (4, "0\nno program\nwritten\n"),
            "{runtime}: {}",
            said.report()
        );
        // The directory's own command is a shell, which reads its input.
        let program = if runtime == "berth" { "berth-runtime" } else { runtime };
        let words = [program, "--root", "/tmp/by-hand", "run", "--bundle", "made", "by-hand"];
        let node = world.cluster.node("n1").user("tuser1");
        let said = node.run_with(&words, b"id -u; cat /etc/text; touch /tmp/file && echo written; exit 4");
        assert_eq!(
            (said.code(), said.stdout.as_str()),
            (4, "0\nno program\nwritten\n"),
            "{runtime}: {}",
            said.report()
        );
        node.run(&["rm", "-rf", "/tmp/by-hand"]).ok();
        world.assert_clean();
    }
}

/// Everything that a user's own container leaves for a runtime to read, with a hook in it, under the name that slurmstepd
/// asks for as root.
fn root_calls_no_runtime_for_what_a_user_wrote(release: Release) {
    let world = world(release);
    let trap = r#"
cat >~/plant <<'END'
#!/bin/sh
dir=/run/user/20001/n1.tuser1.$SLURM_JOB_ID.1.TASK
mkdir -p $dir
start=$(cut -d' ' -f22 /proc/$$/stat)
echo "{\"pid\": $$, \"process-start-time\": $start, \"cgroup-path\": \"\", \"scope\": \"\", \"rootfs\": \"rootfs\",
  \"systemd-cgroup\": false, \"bundle\": \"/home/tuser1/bundle\", \"created\": \"2026-01-01T00:00:00Z\",
  \"owner\": \"tuser1\", \"detached\": true, \"external_descriptors\": \"[]\"}" >$dir/status
sed 's#^{#{"hooks":{"poststop":[{"path":"/bin/sh","args":["sh","-c","id -u >>/home/ran"]}]},#' ~/bundle/config.json \
  >$dir/config.json
touch ~/planted
exec sleep 20
END
chmod +x ~/plant
srun --overlap -n1 ~/plant >/dev/null 2>&1 </dev/null &
until [ -e ~/planted ]; do sleep 0.05; done
srun --overlap -n1 --container ~/bundle /bin/true
while pgrep -f "slurmstepd: .$SLURM_JOB_ID[.]1.$" >/dev/null; do sleep 0.05; done
scancel $SLURM_JOB_ID
"#;
    // The number that is asked for at the end of a step.
    let task = if release == Release::Bookworm { "0" } else { "-1" };
    world.user().write("/home/tuser1/trap", &trap.replace("TASK", task));
    install(&world, &["--runtime", "crun"]);
    let root = world.cluster.root();
    // What was planted in the background has no hand on the output, so that nobody waits for it.
    drop(world.user().run(&["salloc", "-n2", "bash", "trap"]));
    assert_eq!(root.run(&["cat", "/home/ran"]).stdout, "", "root ran a user's hook");
}

/// All files with which the rules are tested, good and bad, but for those for which Slurm waits a minute.
fn slurm_takes_the_files_that_are_said_to_be_taken(release: Release) {
    let world = World::with(release, Options::default().file("oci.conf", ""));
    let version: berth_oci_conf::Release = release.version().parse().expect("a release");
    // What one of them includes.
    world.cluster.root().run(&["mkdir", "/etc/slurm/included"]).ok();
    let commands = fs::read_to_string(tests().join("good/included/commands.inc")).expect("a file");
    world.cluster.root().write("/etc/slurm/included/commands.inc", &commands);
    let mut wrong = Vec::new();
    let mut count = [0, 0];
    for file in examples() {
        let document = Document::load(&file).expect("it can be read");
        let waits = [Trouble::Include, Trouble::QuotedInclude, Trouble::IncludeCircle];
        // Which flags a release knows is not known here.
        let flags = document.last("DebugFlags").is_some_and(|entry| entry.value.contains("Loud"));
        if flags || document.mistakes.iter().any(|mistake| waits.contains(&mistake.what)) {
            continue;
        }
        let text = fs::read(&file).expect("a file");
        world
            .cluster
            .root()
            .run_with(&["sh", "-c", "cat >/etc/slurm/new && mv /etc/slurm/new /etc/slurm/oci.conf"], &text)
            .ok();
        let said = world.srun(&[], &["/bin/true"]);
        let conf = Conf::of(&document, version);
        count[usize::from(conf.is_ok())] += 1;
        if refused(&said) != conf.is_err() {
            let name = file.file_name().expect("a name").to_string_lossy();
            wrong.push(format!("{name}: {:?}\n{}", conf.err(), said.report()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count.iter().all(|&count| count >= 10), "{count:?}");
}

/// Whether slurmstepd did not like the file, whatever became of the program.
fn refused(said: &Output) -> bool {
    let words = ["Unspecified error", "unexpected replacement character", "mutually exclusive"];
    words.iter().any(|word| said.stderr.contains(word))
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/berth-oci-conf/tests")
}

fn examples() -> Vec<PathBuf> {
    let dir = tests();
    let list = |dir: &str, base: &Path| {
        let entries = fs::read_dir(base.join(dir)).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.filter(|path| path.extension().is_some_and(|kind| kind == "conf")).collect::<Vec<_>>()
    };
    let mut files: Vec<PathBuf> =
        ["bad", "good", "guide/new", "guide/old"].iter().flat_map(|name| list(name, &dir)).collect();
    files.sort();
    files
}
