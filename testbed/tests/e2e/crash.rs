//! Killed at any instant, the store stays whole, and a container's id can be used again.

use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::REGISTRY;
use testbed::image::Compression;
use testbed::process;
use testbed::tar::Header;

chapter!("crash",
    [REGISTRY, Need::Namespaces]:
        a_store_survives_two_hundred_kills_of_an_import,
        a_killed_importer_does_not_block_the_others;
    [Need::Namespaces]:
        a_container_whose_start_was_killed_leaves_its_id_and_no_process,
        a_container_whose_creation_was_killed_can_be_deleted_and_made_again;
);

/// xorshift64: instants that differ from run to run would make failures that nobody sees again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// An image whose import is many steps: five layers with every kind of entry, and a program to run.
fn image(fixture: &Fixture) -> (testbed::registry::Registry, String) {
    let registry = fixture.own_registry();
    let all = fixture.images();
    let layout = fixture.layout("many-steps");
    let parts = all.parts(&all.find("small").expect("the image")).expect("its parts");
    let archive = std::fs::read(all.blob(&parts[1].digest)).expect("the layer");
    let archive = testbed::image::unpacked(&archive, &parts[1].media_type).expect("its archive");
    let mut layers =
        vec![layout.raw_layer(Compression::Gzip(6), |out| out.write_all(&archive)).expect("the lowest layer")];
    for number in 0..4 {
        let layer = layout.layer(Compression::Gzip(6), |tar| {
            tar.entry(&Header::dir(format!("l{number}/"), 0o755))?;
            for file in 0..150 {
                let name = format!("l{number}/{file}");
                let content: Vec<u8> = (0..3000u32).map(|at| ((at * (file + 3)) >> 2) as u8).collect();
                tar.file(&Header::file(&name, 0o644).owner(file.into(), 7), &content)?;
                tar.entry(&Header::hard(format!("{name}-twin"), &name, 0o644))?;
                tar.entry(&Header::symlink(format!("{name}-link"), file.to_string()))?;
            }
            tar.file(&Header::file(format!("bin/.wh.applet-{number}"), 0), b"")?;
            Ok(())
        });
        layers.push(layer.expect("a layer"));
    }
    layout.image("x", &layers, &serde_json::json!({"Cmd": ["sh"]})).expect("an image");
    layout.push("x", registry.address(), "steps").expect("a push");
    let image = registry.reference("steps:x");
    (registry, image)
}

fn a_store_survives_two_hundred_kills_of_an_import() {
    let fixture = Fixture::new();
    let (_registry, image) = image(&fixture);
    let pull = fixture.berth(&["pull", &image]);
    let whole = pull.wall;
    pull.ok();
    let clean = || {
        fixture.berth(&["rmi", &image]).ok();
        fixture.berth(&["gc"]).ok();
    };
    clean();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut cut = 0;
    // The instants follow the speed of a machine that others use too: a pull that was faster draws them in.
    let (least, most) = (whole / 8, whole * 2);
    let mut span = whole;
    for round in 0..200 {
        let mut child = fixture
            .berth_command(&["-q", "pull", &image])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a started pull");
        std::thread::sleep(Duration::from_micros(random.below(span.as_micros() as u64)));
        process::kill(child.id() as i32, libc::SIGKILL);
        let (status, _) = process::wait(&mut child, Duration::from_secs(30)).expect("an end");
        cut += usize::from(!status.success());
        span = if status.success() { span * 3 / 4 } else { span * 9 / 8 }.clamp(least, most);
        let verified = fixture.berth(&["verify"]);
        assert_eq!(verified.code(), 0, "after kill {round}: {}", verified.report());
        // What a kill left must not be in the way: every fifth time the import is finished, and begins anew.
        if round % 5 == 4 {
            assert_eq!(fixture.berth(&["run", &image, "sh", "-c", "cat /l3/149-link | wc -c"]).ok().trim(), "3000");
            clean();
        } else if status.success() {
            // With everything there, the next pull would have nothing to be killed in.
            clean();
        }
    }
    assert!(cut > 100, "only {cut} of 200 imports were cut short: the instants prove nothing");
    fixture.berth(&["pull", &image]).ok();
    fixture.berth(&["gc"]).ok();
    fixture.berth(&["verify"]).ok();
    assert_eq!(fixture.unfinished(), Vec::<std::path::PathBuf>::new(), "what kills left is cleaned up");
}

fn a_killed_importer_does_not_block_the_others() {
    use testbed::fault::Fault;
    use testbed::fault::FaultyRegistry;
    use testbed::fault::Rule;
    let fixture = Fixture::new();
    let stall = Rule { target: "/blobs/".to_owned(), times: 1, fault: Fault::Stall(500_000) };
    // The configuration is a blob too, but the stall comes later in a blob than it is long.
    let registry = FaultyRegistry::start(&fixture.images(), None, vec![stall.clone(), stall]).expect("a server");
    let image = registry.reference("small");
    let mut first = fixture.berth_command(&["pull", &image]).stdin(Stdio::null()).spawn().expect("a start");
    let deadline = Instant::now() + Duration::from_secs(30);
    while registry.gets("/blobs/").len() < 2 {
        assert!(Instant::now() < deadline, "the first pull asks for no blob");
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = {
        let mut command = fixture.berth_command(&["pull", &image]);
        std::thread::spawn(move || process::run(&mut command))
    };
    std::thread::sleep(Duration::from_millis(300));
    process::kill(first.id() as i32, libc::SIGKILL);
    let _ = first.wait();
    second.join().expect("an end").ok();
    fixture.berth(&["verify"]).ok();
}

/// A bundle of the user's with busybox and this command.
fn bundle(fixture: &Fixture, name: &str, command: &[&str]) -> String {
    for dir in ["bin", "proc", "dev", "sys", "etc"] {
        fixture.make_dir(&format!("{name}/rootfs/{dir}"), 0o755);
    }
    fixture.make_dir(&format!("{name}/rootfs"), 0o755);
    let dir = fixture.make_dir(name, 0o755).to_str().expect("a path of text").to_owned();
    std::fs::copy("/bin/busybox", fixture.path(&format!("{name}/rootfs/bin/busybox"))).expect("a program");
    fixture.berth(&["runtime", "spec", "--rootless", "--bundle", &dir]).ok();
    let config = fixture.path(&format!("{name}/config.json"));
    let mut spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&config).expect("a configuration")).expect("JSON");
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = command.into();
    std::fs::write(&config, spec.to_string()).expect("the configuration");
    dir
}

/// Starts `arguments` of the runtime, kills it at some instant within `span`, and waits for its end.
fn kill_within(fixture: &Fixture, arguments: &[&str], span: Duration, random: &mut Random) {
    let mut child = fixture
        .berth_command(&[&["runtime"], arguments].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a started runtime");
    std::thread::sleep(Duration::from_micros(random.below(span.as_micros() as u64)));
    process::kill(child.id() as i32, libc::SIGKILL);
    process::wait(&mut child, Duration::from_secs(30)).expect("an end");
}

/// No process of a container is left below this one.
#[track_caller]
fn nobody_is_left(round: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left: Vec<String> =
            process::descendants(std::process::id() as i32).into_iter().map(process::name).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "after kill {round}: {left:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn a_container_whose_start_was_killed_leaves_its_id_and_no_process() {
    let fixture = Fixture::new();
    let sleeping = bundle(&fixture, "sleeping", &["/bin/busybox", "sleep", "1000"]);
    let short = bundle(&fixture, "short", &["/bin/busybox", "true"]);
    let run = ["runtime", "run", "--bundle", &short, "x"];
    let whole = fixture.berth(&run).wall;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut left = 0;
    for round in 0..60 {
        kill_within(&fixture, &["run", "--bundle", &sleeping, "x"], whole * 2, &mut random);
        nobody_is_left(round);
        left += usize::from(fixture.path("run/berth/x").exists());
        // The same id, without a word about what was there.
        let again = fixture.berth(&run);
        assert_eq!(again.code(), 0, "after kill {round}: {}", again.report());
        assert!(!fixture.path("run/berth/x").exists(), "after kill {round}");
    }
    assert!(left > 8, "only {left} of 60 kills left something: the instants prove nothing");
    assert_eq!(fixture.berth(&["runtime", "list", "-q"]).ok(), "");
}

fn a_container_whose_creation_was_killed_can_be_deleted_and_made_again() {
    let fixture = Fixture::new();
    let short = bundle(&fixture, "short", &["/bin/busybox", "true"]);
    let whole = fixture.berth(&["runtime", "run", "--bundle", &short, "x"]).wall;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..40 {
        kill_within(&fixture, &["create", "--bundle", &short, "x"], whole * 3 / 2, &mut random);
        fixture.berth(&["runtime", "delete", "--force", "x"]).ok();
        nobody_is_left(round);
        let file = fixture.write("work/said", "");
        let said = std::fs::OpenOptions::new().append(true).open(&file).expect("a file");
        // With a file: a pipe would be read to its end, which is the container's.
        let mut create = fixture.berth_command(&["runtime", "create", "--bundle", &short, "x"]);
        let created = create.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).status();
        let said = std::fs::read_to_string(&file).expect("the file");
        assert!(created.expect("a start").success(), "after kill {round}: {said}");
        fixture.berth(&["runtime", "start", "x"]).ok();
        fixture.berth(&["runtime", "delete", "--force", "x"]).ok();
        nobody_is_left(round);
    }
    assert_eq!(fixture.berth(&["runtime", "list", "-q"]).ok(), "");
}
