//! What berth says to a line that starts no container: mistakes, help, versions, an empty store.

mod common;

use common::{Person, spawn};

#[test]
fn mistakes_in_the_line_are_berths_own_failures() {
    let person = Person::new();
    person.berth("run").fails(
        125,
        "the following required arguments were not provided: <IMAGE>",
        "the usage is `berth run [OPTIONS] IMAGE [COMMAND [ARGUMENT]...]`; `berth run --help` tells more",
    );
    person.berth("imagse").fails(125, "unrecognized subcommand 'imagse'", "a similar subcommand exists: 'images'");
    person.berth("pull --nonsense x").fails(
        125,
        "unexpected argument '--nonsense' found",
        "the usage is `berth pull [OPTIONS] <IMAGE>...`; `berth pull --help` tells more",
    );
    let session = person.berth("gc --keep-size much");
    assert_eq!(session.code, 125);
    assert!(session.stderr.contains("`much` is not a size"), "{session:?}");
}

#[test]
fn a_mistake_is_one_json_object_where_json_is_wanted() {
    let person = Person::new();
    for line in ["--json run", "run --json", "run --json Not-A-Name true"] {
        let session = person.berth(line);
        assert_eq!((session.code, session.stdout.as_str()), (125, ""));
        assert_eq!(session.stderr.lines().count(), 1, "{session:?}");
        let error: serde_json::Value = serde_json::from_str(&session.stderr).unwrap();
        assert_eq!(error["code"], 125);
        assert!(error["error"].is_string() && error["causes"].is_array(), "{error}");
    }
}

#[test]
fn nothing_asked_is_answered_with_the_help_and_is_a_failure() {
    let session = Person::new().berth("");
    assert_eq!(session.code, 125);
    assert!(session.stderr.contains("Containers that live natively in Slurm"), "{session:?}");
    assert_eq!(session.stdout, "");
}

#[test]
fn help_goes_to_standard_output_for_every_verb() {
    let person = Person::new();
    for line in ["--help", "help", "run --help", "help run", "images -h"] {
        let session = person.berth(line);
        assert_eq!((session.code, session.stderr.as_str()), (0, ""), "{line}");
        assert!(session.stdout.contains("Usage: berth"), "{line}: {session:?}");
    }
    for verb in berth::cli::VERBS {
        let session = person.berth(&format!("{} --help", verb.name));
        assert!(session.stdout.contains(&format!("Usage: berth {}", verb.name)), "{}", verb.name);
    }
}

#[test]
fn the_version_is_told_in_each_way() {
    let person = Person::new();
    let expected = format!("berth {}\n", env!("CARGO_PKG_VERSION"));
    for line in ["version", "--version", "-V"] {
        person.berth(line).prints(&expected);
    }
    person.berth("version --json").prints(&format!("{{\n  \"version\": \"{}\"\n}}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_empty_store_has_no_images_and_says_so_in_each_form() {
    let person = Person::new();
    person.berth("images").prints("REPOSITORY   TAG   DIGEST   CREATED   SIZE\n");
    person.berth("images --quiet").prints("");
    person.berth("images --json").prints("[]\n");
    person.berth("inspect debian:12").fails(
        125,
        "image not found: docker.io/library/debian:12 (looked in the store $DIR/home/.local/share/berth/store)",
        "`berth images` lists what the store has, `berth pull` fetches more",
    );
    person.berth("gc --quiet").prints("");
    person.berth("verify --quiet").prints("");
}

#[test]
fn the_store_is_where_the_line_the_variable_or_the_default_says() {
    let person = Person::new();
    let mut by_variable = person.command(&["images", "-q"]);
    by_variable.env("BERTH_STORE", person.path("work/variable"));
    person.finish(by_variable).prints("");
    let mut by_line = person.command(&["images", "-q", "--store", "line"]);
    by_line.env("BERTH_STORE", person.path("work/other"));
    person.finish(by_line).prints("");
    assert!(person.path("work/variable/version").exists());
    assert!(person.path("work/line/version").exists(), "a relative place starts at the current directory");
    assert!(!person.path("work/other").exists());
}

#[test]
fn a_mistake_in_the_configuration_is_told_with_its_place() {
    let person = Person::new();
    std::fs::write(person.path("berth.toml"), "[run]\nhmoe = true\n").unwrap();
    let mut command = person.command(&["images"]);
    command.env("BERTH_CONFIG", person.path("berth.toml"));
    let session = person.finish(command);
    assert_eq!(session.code, 125);
    assert!(
        session.stderr.starts_with("berth: $DIR/berth.toml: line 2, column 1: unknown field `hmoe`"),
        "{session:?}"
    );
}

#[test]
fn a_file_where_an_image_is_wanted_is_recognized() {
    let person = Person::new();
    std::fs::write(person.path("work/image.tar"), "").unwrap();
    let session = person.berth("run ./image.tar true");
    assert_eq!(session.code, 125);
    assert!(session.stderr.contains("hint: `./image.tar` is a file here"), "{session:?}");
    assert!(session.stderr.contains("docker-archive:./image.tar"), "{session:?}");
}

#[test]
fn an_image_that_may_not_be_fetched_must_be_there() {
    Person::new().berth("run --pull never debian:12 true").fails(
        125,
        "image not found: docker.io/library/debian:12 (looked in the store $DIR/home/.local/share/berth/store)",
        "`berth images` lists what the store has, `berth pull` fetches more",
    );
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let person = Person::new();
    let mut command = person.command(&["run", "--help"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer).stderr(std::process::Stdio::piped());
    let session = person.session(spawn(&mut command));
    session.is(141, "", "");
}

#[test]
fn the_hosts_abilities_are_told_with_reasons() {
    let person = Person::new();
    let session = person.berth("info");
    assert_eq!((session.code, session.stderr.as_str()), (0, ""), "{session:?}");
    assert!(session.stdout.contains("$DIR/home/.local/share/berth/store (0 images)"), "{session:?}");
    let info: serde_json::Value = serde_json::from_str(&person.berth("info --json").stdout).unwrap();
    assert_eq!(info["abilities"]["containers"]["works"], true, "{info}");
    let subid = &info["abilities"]["many ids (--subid)"];
    // The person of these tests has no ranges, unless the tests are run by somebody who has.
    assert!(subid["works"] == true || subid["hint"].is_string(), "{info}");
}
