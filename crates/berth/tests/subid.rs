//! `berth subid` on files of a test's own: whole lines, whole files, whoever kills it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// Users with these uids, called u and the uid.
    fn new(uids: impl Iterator<Item = u32>) -> World {
        let world = World { dir: tempfile::tempdir().unwrap() };
        let users: String = uids.map(|uid| format!("u{uid}:x:{uid}:100::/home/u{uid}:/bin/sh\n")).collect();
        fs::write(world.path("users"), users).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.args(["subid", verb]).stdin(Stdio::null());
        if verb != "import" {
            command.arg("--users").arg(self.path("users")).arg("--rule").arg(self.path("rule"));
        }
        if ["check", "write", "import"].contains(&verb) {
            command.arg("--subuid").arg(self.path("subuid")).arg("--subgid").arg(self.path("subgid"));
        }
        command
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

#[track_caller]
fn run(command: &mut Command, code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned());
    assert_eq!(status.code(), Some(code), "{out}{err}");
    (out, err)
}

#[test]
fn entries_are_planned_written_and_found_right() {
    let world = World::new([0, 1001, 1002].into_iter());
    let entries = "u1001:65601536:65536\nu1002:65667072:65536\n";
    assert_eq!(run(&mut world.command("plan"), 0).0, entries);
    fs::write(world.path("subuid"), "# kept\n").unwrap();
    let told = run(&mut world.command("write"), 0).0;
    assert_eq!(told.matches("2 added, 0 as they are").count(), 2, "{told}");
    assert_eq!([world.text("subuid"), world.text("subgid")], [format!("# kept\n{entries}"), entries.to_owned()]);
    let told = run(&mut world.command("write"), 0).0;
    assert_eq!(told.matches("0 added, 2 as they are").count(), 2, "{told}");
    assert_eq!(run(&mut world.command("check"), 0).0, "nothing is wrong\n");
}

#[test]
fn who_is_refused_is_told_and_the_others_are_served() {
    let world = World::new([1001, 100_000].into_iter());
    let (out, err) = run(&mut world.command("write"), 1);
    assert!(
        out.contains("1 added") && err.contains("u100000 gets no range: uid 100000 is in no declared band"),
        "{out}{err}"
    );
    let bands = run(world.command("plan").arg("--propose"), 0).0;
    fs::write(world.path("rule"), &bands).unwrap();
    run(&mut world.command("plan"), 0);
    // The first has an entry of before: it is not moved behind anybody's back.
    let before = world.text("subuid");
    let moved = !bands.contains("base = 65536000");
    let (_, err) = run(&mut world.command("write"), i32::from(moved));
    assert_eq!(err.contains("u1001 has 65601536-65667071 already"), moved, "{err}");
    assert!(world.text("subuid").starts_with(&before));
}

#[test]
fn findings_are_told_with_who_can_reach_whom() {
    let world = World::new([1001, 1002].into_iter());
    let text = "u1001:10010001:65536\nu1002:10020001:65536\n";
    fs::write(world.path("subuid"), text).unwrap();
    fs::write(world.path("subgid"), text).unwrap();
    let (out, _) = run(&mut world.command("check"), 1);
    let told = "subuid lines 1 and 2: u1001 and u1002 share 55536 user ids (10020001-10075536)\n    u1001 can read and change what";
    assert!(out.contains(told) && out.ends_with("2 findings\n"), "{out}");
    let (out, _) = run(world.command("check").arg("--json"), 1);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&found[0]["kind"], &found[1]["file"]), (&"overlap".into(), &"subgid".into()));
}

#[test]
fn a_document_carries_ranges_to_other_nodes() {
    let world = World::new([1001, 1002].into_iter());
    let document = world.path("document.json");
    run(world.command("export").arg("--output").arg(&document), 0);
    let written = fs::metadata(&document).unwrap().modified().unwrap();
    run(world.command("export").arg("--output").arg(&document), 0);
    assert_eq!(fs::metadata(&document).unwrap().modified().unwrap(), written, "nothing new, nothing written");
    run(world.command("import").arg(&document), 0);
    assert_eq!(world.text("subgid"), "u1001:65601536:65536\nu1002:65667072:65536\n");
    fs::write(&document, "{\"users\": {}}").unwrap();
    let (_, err) = run(world.command("import").arg(&document), 125);
    assert!(err.contains("document.json is no document of ranges"), "{err}");
}

/// Both files are whole at every instant: all lines of before, or all of after.
#[test]
fn killed_at_any_instant_it_leaves_whole_files_and_no_lock_in_the_way() {
    let world = World::new(1000..41_000);
    let before: String = (0..20_000).map(|at| format!("old{at}:{}:1\n", 4_294_840_000u32 + at)).collect();
    let whole = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        text == before
            || (text.len() > before.len() && text.starts_with(&before) && text.ends_with("u40999:2686910464:65536\n"))
    };
    let (mut killed, mut finished) = (0, 0);
    for attempt in 0..60u64 {
        // Begun anew now and then, so that kills hit the writing and not only the reading.
        if attempt % 3 == 0 {
            fs::write(world.path("subuid"), &before).unwrap();
            fs::write(world.path("subgid"), &before).unwrap();
        }
        let mut child = world.command("write").stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_micros(500 * attempt * attempt / 8);
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > deadline {
                break None;
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        match ended {
            Some(status) => {
                assert!(status.success());
                finished += 1;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
            }
        }
        assert!(whole(&world.path("subuid")) && whole(&world.path("subgid")), "after {killed} kills");
    }
    assert!(killed > 0, "never interrupted; {finished} ran through");
    run(&mut world.command("write"), 0);
    assert!(!world.path("subuid.lock").exists() && !world.path("subgid.lock").exists());
    assert_eq!(world.text("subuid").lines().count(), 60_000);
}

#[test]
fn a_million_users_are_planned() {
    // Two of them are nobody's.
    let world = World::new(1000..1_001_002);
    fs::write(world.path("rule"), "[[bands]]\nuids = \"1000-1001001\"\nbase = 1048576\ncount = 4096\n").unwrap();
    let start = Instant::now();
    let (out, _) = run(&mut world.command("plan"), 0);
    // For who wonders; machines differ, so that nothing is claimed of it here.
    println!("a million users were planned in {:.2} s", start.elapsed().as_secs_f64());
    let mut end = 1_001_002u64;
    let mut users = 0;
    for line in out.lines() {
        let mut fields = line.rsplit(':').map(|field| field.parse::<u64>());
        let (count, first) = (fields.next().unwrap().unwrap(), fields.next().unwrap().unwrap());
        assert!(first >= end && count == 4096, "{line} begins before {end}");
        (end, users) = (first + count, users + 1);
    }
    assert_eq!((users, end), (1_000_000, 1_048_576 + 1_000_002 * 4096));
}
