//! Killed at any instant, the store stays whole.

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
