//! Registries, disks and networks that fail.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use testbed::chapter;
use testbed::fault::Fault;
use testbed::fault::FaultyRegistry;
use testbed::fault::Rule;
use testbed::fault::Tokens;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::REGISTRY;
use testbed::process;
use testbed::process::Output;

chapter!("faults",
    []:
        each_refusal_of_a_registry_is_told,
        a_busy_registry_is_asked_again,
        retry_after_is_honoured,
        a_broken_connection_goes_on_where_it_broke,
        a_corrupted_answer_is_not_used,
        a_shorter_answer_is_not_used,
        a_changed_manifest_is_not_used,
        an_answer_that_is_no_manifest_is_told,
        a_stalled_registry_is_asked_again,
        a_registry_that_is_not_there_is_told,
        an_anonymous_token_is_fetched,
        a_token_that_ends_in_the_middle_is_renewed,
        a_token_server_that_refuses_is_told;
    [Need::Root]:
        a_full_disk_is_told_and_nothing_kept;
    [REGISTRY]:
        a_read_only_store_is_told,
        a_store_that_is_a_file_is_told;
    [REGISTRY, Need::Namespaces]:
        images_run_from_a_store_that_became_read_only;
);

fn rule(target: &str, times: usize, fault: Fault) -> Rule {
    Rule { target: target.to_owned(), times, fault }
}

fn status(code: u16, headers: &[(&str, &str)]) -> Fault {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Fault::Status(code, headers, r#"{"errors":[{"code":"TOLD","message":"because the test says so"}]}"#.to_owned())
}

/// A world whose registry fails in these ways.
fn world(tokens: Option<Tokens>, rules: Vec<Rule>) -> (Fixture, FaultyRegistry, String) {
    let fixture = Fixture::new();
    let registry = FaultyRegistry::start(&fixture.images(), tokens, rules).expect("a server");
    let image = registry.reference("small");
    (fixture, registry, image)
}

#[track_caller]
fn nothing_kept(fixture: &Fixture) {
    assert_eq!(fixture.image_names(), Vec::<String>::new());
    assert_eq!(fixture.unfinished(), Vec::<PathBuf>::new());
    fixture.berth(&["verify"]).ok();
}

/// The error must name the registry and contain the word.
#[track_caller]
fn told(fixture: &Fixture, output: Output, registry: &FaultyRegistry, word: &str) {
    let report = output.report();
    let text = output.fails(125);
    assert!(text.starts_with("berth: "), "{report}");
    assert!(text.contains(&registry.address().to_string()), "no registry in: {report}");
    assert!(text.to_lowercase().contains(word), "no '{word}' in: {report}");
    nothing_kept(fixture);
}

fn each_refusal_of_a_registry_is_told() {
    let all = [(401, "401"), (403, "403"), (404, ""), (429, "429"), (500, "500"), (503, "503"), (418, "418")];
    for (place, codes) in [("/manifests/", &all[..]), ("/blobs/", &all[1..5])] {
        for &(code, word) in codes {
            // No waiting between the tries: the answer says that at once is fine.
            let (fixture, registry, image) =
                world(None, vec![rule(place, usize::MAX, status(code, &[("Retry-After", "0")]))]);
            told(&fixture, fixture.berth(&["pull", &image]), &registry, word);
        }
    }
}

fn a_busy_registry_is_asked_again() {
    for code in [429, 500, 502, 503, 504] {
        let busy = status(code, &[("Retry-After", "0")]);
        let (fixture, _registry, image) =
            world(None, vec![rule("/blobs/", 2, busy.clone()), rule("/manifests/", 1, busy)]);
        fixture.berth(&["pull", &image]).ok();
    }
}

fn retry_after_is_honoured() {
    let (fixture, registry, image) = world(None, vec![rule("/manifests/", 1, status(429, &[("Retry-After", "2")]))]);
    let output = fixture.berth(&["pull", &image]);
    // Waiting less than told is what registries ban clients for; waiting longer is the machine's load.
    assert!(output.wall >= Duration::from_secs(2), "{}", output.report());
    output.ok();
    assert!(registry.gets("/manifests/").len() >= 2);
}

fn a_broken_connection_goes_on_where_it_broke() {
    let (fixture, registry, image) = world(None, vec![rule("/blobs/", 3, Fault::Break(300_000))]);
    fixture.berth(&["pull", &image]).ok();
    let ranges: Vec<String> =
        registry.requests().iter().filter_map(|request| request.header("range").map(str::to_owned)).collect();
    assert!(!ranges.is_empty(), "nothing was asked for by range");
    assert!(ranges.iter().any(|range| range.starts_with("bytes=300000-")), "{ranges:?}");
    fixture.berth(&["verify"]).ok();
}

fn a_corrupted_answer_is_not_used() {
    for at in [0, 100, 100_000] {
        let (fixture, registry, image) = world(None, vec![rule("/blobs/", usize::MAX, Fault::Corrupt(at))]);
        told(&fixture, fixture.berth(&["pull", &image]), &registry, "");
    }
}

fn a_shorter_answer_is_not_used() {
    for at in [0, 1, 100] {
        let (fixture, _registry, image) = world(None, vec![rule("/blobs/", usize::MAX, Fault::Short(at))]);
        drop(fixture.berth(&["pull", &image]).fails(125));
        nothing_kept(&fixture);
    }
    // Where every answer brings a good piece more, the pieces make the whole.
    let (fixture, _registry, image) = world(None, vec![rule("/blobs/", usize::MAX, Fault::Short(400_000))]);
    fixture.berth(&["pull", &image]).ok();
    fixture.berth(&["verify"]).ok();
}

fn a_changed_manifest_is_not_used() {
    // By tag nobody can tell; by digest everybody can.
    let (fixture, registry, _) = world(None, vec![rule("/manifests/", usize::MAX, Fault::Corrupt(2))]);
    let digest = fixture.images().find("small").expect("the image").digest;
    let image = format!("docker://{}/image@{digest}", registry.address());
    told(&fixture, fixture.berth(&["pull", &image]), &registry, "");
}

fn an_answer_that_is_no_manifest_is_told() {
    for body in ["<html>Sign in to the hotel's network</html>", "", "{}", "[1,2", "{\"schemaVersion\":1}"] {
        let page = Fault::Status(200, vec![("Content-Type".to_owned(), "text/html".to_owned())], body.to_owned());
        let (fixture, registry, image) = world(None, vec![rule("/manifests/", usize::MAX, page)]);
        told(&fixture, fixture.berth(&["pull", &image]), &registry, "");
    }
}

fn a_stalled_registry_is_asked_again() {
    // After half a minute without a byte; what came before is not fetched twice.
    let (fixture, registry, image) = world(None, vec![rule("/blobs/", 2, Fault::Stall(100_000))]);
    fixture.berth(&["pull", &image]).ok();
    let ranges: Vec<String> =
        registry.requests().iter().filter_map(|request| request.header("range").map(str::to_owned)).collect();
    assert!(ranges.iter().any(|range| range.starts_with("bytes=100000-")), "{ranges:?}");
}

fn a_registry_that_is_not_there_is_told() {
    let fixture = Fixture::new();
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let text = fixture.berth(&["pull", &format!("docker://127.0.0.1:{port}/image:small")]).fails(125);
    assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    let text = fixture.berth(&["pull", "docker://registry.invalid/image"]).fails(125);
    assert!(text.contains("registry.invalid"), "{text}");
    nothing_kept(&fixture);
}

fn an_anonymous_token_is_fetched() {
    let tokens = Tokens { login: None, uses: 1000 };
    let (fixture, registry, image) = world(Some(tokens), vec![]);
    fixture.berth(&["pull", &image]).ok();
    assert_eq!(registry.gets("/token").len(), 1, "one token for one repository");
}

fn a_token_that_ends_in_the_middle_is_renewed() {
    let tokens = Tokens { login: Some(("bob".to_owned(), "pw".to_owned())), uses: 2 };
    let (fixture, registry, image) = world(Some(tokens), vec![rule("/blobs/", 2, Fault::Break(200_000))]);
    fixture.berth(&["pull", "--creds", "bob:pw", &image]).ok();
    assert!(registry.gets("/token").len() >= 2);
    fixture.berth(&["verify"]).ok();
}

fn a_token_server_that_refuses_is_told() {
    let tokens = Tokens { login: Some(("bob".to_owned(), "pw".to_owned())), uses: 2 };
    let (fixture, registry, image) = world(Some(tokens), vec![]);
    told(&fixture, fixture.berth(&["pull", "--creds", "bob:no", &image]), &registry, "");
    told(&fixture, fixture.berth(&["pull", &image]), &registry, "hint: ");
}

fn a_full_disk_is_told_and_nothing_kept() {
    let fixture = Fixture::new();
    let registry = FaultyRegistry::start(&fixture.images(), None, vec![]).expect("a server");
    let disk = fixture.make_dir("disk", 0o755);
    rustix::mount::mount("tmpfs", &disk, "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=24m"))
        .expect("a small file system");
    fixture.user.own(&disk).expect("its owner");
    let store = disk.join("store").display().to_string();
    let text = fixture.berth(&["--store", &store, "pull", &registry.reference("debian")]).fails(125);
    assert!(text.to_lowercase().contains("no space left"), "{text}");
    assert!(text.contains("hint: "), "{text}");
    assert_eq!(fixture.berth(&["--store", &store, "images", "-q"]).ok(), "");
    fixture.berth(&["--store", &store, "verify"]).ok();
    // What was written has gone again: a small image fits.
    fixture.berth(&["--store", &store, "pull", &registry.reference("small")]).ok();
}

fn a_read_only_store_is_told() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let store = fixture.make_dir("closed", 0o555);
    let text =
        fixture.berth(&["--store", &store.display().to_string(), "pull", &registry.reference("small")]).fails(125);
    assert!(text.contains(&store.display().to_string()), "{text}");
    assert_eq!(fs::read_dir(&store).expect("the folder").count(), 0);
}

fn a_store_that_is_a_file_is_told() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let store = fixture.write("a-file", "not a store");
    let text =
        fixture.berth(&["--store", &store.display().to_string(), "pull", &registry.reference("small")]).fails(125);
    assert!(text.contains("a-file"), "{text}");
    assert_eq!(fs::read_to_string(&store).expect("the file"), "not a store");
}

fn images_run_from_a_store_that_became_read_only() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let image = registry.reference("small");
    fixture.berth(&["pull", &image]).ok();
    let mut command = fixture.command("chmod", &["-R", "a-w"]);
    process::run(command.arg(fixture.store())).ok();
    assert_eq!(fixture.berth(&["run", &image, "echo", "read only"]).ok(), "read only\n");
    fixture.berth(&["images"]).ok();
}
