//! Files with one mistake each, files with none, and those of Slurm's guide.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use berth_oci_conf::Conf;
use berth_oci_conf::Document;
use berth_oci_conf::Release;
use berth_oci_conf::check::Finding;
use berth_oci_conf::check::Severity;
use berth_oci_conf::check::check;
use berth_oci_conf::check::rules;

fn files(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(dir);
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "conf")).collect();
    files.sort();
    files
}

/// What stands behind a word of a comment at the beginning.
fn head<'a>(text: &'a str, word: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.split_once("# ")?.1.strip_prefix(word));
    line.expect("the head of an example").trim()
}

fn short(findings: &[Finding]) -> String {
    let one =
        |finding: &Finding| format!("{}:{} {} {}", finding.at.line, finding.at.column, finding.severity, finding.rule);
    findings.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Each says in its head which release it is for, and what is found, where.
#[test]
fn each_planted_mistake_is_found_in_its_place_with_a_remedy() {
    let files = files("bad");
    let mut wrong = Vec::new();
    let mut met = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).expect("a text");
        let release: Release = head(&text, "Slurm ").parse().expect("a release");
        let found = check(&Document::load(file).expect("it can be read"), release);
        let name = file.file_name().expect("a name").to_string_lossy();
        if short(&found) != head(&text, "expect ") {
            wrong.push(format!("{name}: {}", short(&found)));
        }
        for finding in &found {
            assert!(!finding.message.is_empty() && !finding.remedy.is_empty(), "{name}: {finding:?}");
            met.push(finding.rule);
        }
    }
    assert!(wrong.is_empty(), "found:\n{}", wrong.join("\n"));
    assert!(files.len() >= 40);
    let never: Vec<&str> = rules().filter(|rule| !met.contains(rule)).collect();
    assert!(never.is_empty(), "no example for {never:?}");
}

/// Files that sites might have, of which nothing is to be said.
#[test]
fn nothing_is_found_in_good_files() {
    let files = files("good");
    for file in &files {
        let text = fs::read_to_string(file).expect("a text");
        let releases: Vec<Release> =
            head(&text, "Slurm ").split_whitespace().map(|word| word.parse().expect("a release")).collect();
        for release in releases {
            let document = Document::load(file).expect("it can be read");
            assert_eq!(short(&check(&document, release)), "", "{} {release}", file.display());
            assert!(Conf::of(&document, release).is_ok(), "{} {release}", file.display());
        }
    }
    assert!(files.len() >= 8);
}

fn example(edition: &str, name: &str) -> Document {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guide/{edition}/{name}.conf"));
    Document::load(&file).expect("it can be read")
}

/// The rules that find something in an example of Slurm's guide: errors, and warnings.
fn guide(edition: &str, name: &str, release: Release) -> (Vec<&'static str>, Vec<&'static str>) {
    let found = check(&example(edition, name), release);
    let of = |severity: Severity| {
        let found = found.iter().filter(|finding| finding.severity == severity);
        let mut rules: Vec<&str> = found.map(|finding| finding.rule).collect();
        rules.sort();
        rules.dedup();
        rules
    };
    (of(Severity::Error), of(Severity::Warning))
}

/// What a table here says of an example: its name, errors, warnings.
type Expected = (&'static str, &'static [&'static str], &'static [&'static str]);

fn assert_guide(edition: &str, release: Release, expected: &[Expected]) {
    for (name, errors, warnings) in expected {
        let (errors, warnings) = (errors.to_vec(), warnings.to_vec());
        assert_eq!(guide(edition, name, release), (errors, warnings), "{edition} {name}");
    }
    assert_eq!(files(&format!("guide/{edition}")).len(), expected.len(), "all examples");
}

#[test]
fn each_example_of_the_new_guide_is_checked() {
    assert_guide(
        "new",
        Release(24, 11),
        &[
            ("runc-create-start", &["create-start", "user-state"], &["query-output"]),
            ("runc-run", &["user-state"], &["no-exec", "query-output"]),
            ("crun-create-start", &["create-start", "user-state"], &["query-output"]),
            ("crun-run", &["user-state"], &["no-exec", "query-output"]),
            ("nvidia-create-start", &["create-start", "user-state"], &["query-output"]),
            ("nvidia-run", &["user-state"], &["no-exec", "query-output"]),
            ("singularity-native", &[], &["never-called", "no-exec", "unquoted"]),
            ("singularity-oci", &["sudo"], &["no-exec", "query-output"]),
            ("singularity-3.8", &["sudo", "syntax"], &["create-start", "query-output"]),
            ("charliecloud", &[], &["never-called", "no-exec", "unquoted"]),
            ("enroot", &[], &["never-called", "no-exec", "unquoted"]),
            ("multiple-runtimes", &[], &["environment", "never-called", "no-exec", "unquoted"]),
        ],
    );
}

#[test]
fn each_example_of_the_old_guide_is_checked() {
    assert_guide(
        "old",
        Release(22, 5),
        &[
            ("runc-create-start", &["create-start", "open-root"], &["query-output"]),
            ("runc-run", &["open-root"], &["no-exec", "query-output"]),
            ("crun-create-start", &["create-start", "open-root"], &["query-output"]),
            ("crun-run", &["open-root"], &["no-exec", "query-output"]),
            ("nvidia-create-start", &["create-start", "open-root"], &["query-output"]),
            ("nvidia-run", &["open-root"], &["no-exec", "query-output"]),
            ("singularity-3.8", &["syntax", "unknown-key"], &[]),
        ],
    );
}

/// Which examples slurmstepd takes. Those of the new guide are none for 22.05, as was seen there.
#[test]
fn examples_are_taken_by_the_releases_that_they_are_for() {
    for file in files("guide/new") {
        let name = file.file_stem().expect("a name").to_string_lossy();
        let document = example("new", &name);
        for release in [Release(23, 2), Release(24, 11), Release(26, 5)] {
            assert_eq!(Conf::of(&document, release).is_ok(), name != "singularity-3.8", "{name} {release}");
        }
        assert!(Conf::of(&document, Release(22, 5)).is_err(), "{name}");
    }
    for file in files("guide/old") {
        let name = file.file_stem().expect("a name").to_string_lossy();
        for release in [Release(21, 8), Release(22, 5), Release(24, 11)] {
            assert_eq!(
                Conf::of(&example("old", &name), release).is_ok(),
                name != "singularity-3.8",
                "{name} {release}"
            );
        }
    }
}

#[test]
fn the_guides_own_slips_are_met_by_what_was_meant() {
    for (edition, release, line) in [("new", Release(24, 11), 7), ("old", Release(22, 5), 5)] {
        let found = check(&example(edition, "singularity-3.8"), release);
        let quote = found.iter().find(|finding| finding.rule == "syntax").expect("the missing mark is found");
        assert_eq!(quote.at.line, line);
        assert!(quote.remedy.contains("quotation mark at the end of the value"), "{}", quote.remedy);
    }
    let found = check(&example("old", "singularity-3.8"), Release(22, 5));
    let keys: Vec<&str> =
        found.iter().filter(|finding| finding.rule == "unknown-key").map(|finding| finding.remedy.as_str()).collect();
    assert_eq!(keys, ["Query", "Create", "Start", "Kill", "Delete"].map(|verb| format!("RunTime{verb} is meant?")));
}
