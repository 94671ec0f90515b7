//! `berth oci-conf test`: a step's calls, without Slurm.

mod common;

use std::fs;

use common::{Person, Session, is_root};
use serde_json::Value;

const ID: &str = "%n.%u.%j.%s.%t";

/// A person with a bundle, `bundle`, in the working directory.
fn person() -> Person {
    let person = Person::new();
    let rootfs = person.rootfs();
    let made = person.berth(&format!("--quiet bundle {rootfs} bundle"));
    assert_eq!(made.code, 0, "{made:?}");
    person
}

/// Tries a file with the rest of a line.
fn test(person: &Person, conf: &str, rest: &str) -> Session {
    fs::write(person.path("oci.conf"), conf).unwrap();
    let file = person.path("oci.conf");
    person.berth(&format!("oci-conf test --file {} {rest}", file.display()))
}

fn berths(person: &Person) -> String {
    let runtime = format!("{} runtime --root={}", person.path("berth").display(), person.path("work/state").display());
    format!(
        "RunTimeRun=\"exec {runtime} run --bundle %b {ID}\"\n\
         RunTimeQuery=\"{runtime} state {ID} 2>/dev/null || echo {{}}\"\n\
         RunTimeKill=\"{runtime} kill -a {ID} 2>/dev/null\"\nRunTimeDelete=\"{runtime} delete --force {ID} 2>/dev/null\"\n"
    )
}

#[test]
fn each_call_is_told_with_its_line_and_output() {
    let person = person();
    for release in ["22.05", "24.11", "26.05"] {
        let said = test(&person, &berths(&person), &format!("--slurm {release} bundle /bin/echo it's here"));
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
        let lines: Vec<&str> = said.stdout.lines().collect();
        assert!(lines[0].starts_with("RunTimeRun ends with exit code 0, after "), "{said:?}");
        assert!(
            lines[1].starts_with("    exec $DIR/berth runtime") && lines[1].contains("/task-0") != (release == "22.05"),
            "{said:?}"
        );
        assert_eq!(lines[2], "    | it's here");
        let task = if release == "22.05" { ".0 2>/dev/null" } else { ".-1 2>/dev/null" };
        assert!(lines[3].starts_with("RunTimeQuery ends") && lines[4].contains(task), "{said:?}");
        assert!(lines.last().unwrap().ends_with(&format!(" works with Slurm {release}")), "{said:?}");
    }
    let left = fs::read_dir(person.path("work/state")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[test]
fn what_fails_is_exit_code_1_and_told_for_programs() {
    let person = person();
    let said = test(&person, &berths(&person), "--json --slurm 24.11 bundle /bin/missing");
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, told["faults"].as_array().unwrap().len()), (1, 1), "{said:?}");
    assert_eq!(told["calls"][0]["key"], "RunTimeRun");
    let said = test(&person, "RunTimeRun=\"echo %Z\"\n", "--slurm 24.11 bundle");
    assert_eq!((said.code, said.stdout.as_str()), (125, ""), "{said:?}");
    assert!(
        said.stderr.contains("%Z came with Slurm 26.05") && said.stderr.contains("berth oci-conf check"),
        "{said:?}"
    );
}

#[test]
fn a_create_that_slurm_waits_for_for_ever_is_found() {
    let person = person();
    let conf = |create: &str| {
        format!(
            "RunTimeCreate=\"{create}\"\nRunTimeStart=\"echo stopped >state\"\nRunTimeKill=true\nRunTimeDelete=\"rm state\"\n\
             RunTimeQuery=\"echo {{ ,status,: ,$(cat state), }} | tr , $(printf '\\\\042')\"\n"
        )
    };
    let good = test(&person, &conf("echo created >state"), "--slurm 24.11 bundle");
    assert_eq!((good.code, good.stderr.as_str()), (0, ""), "{good:?}");
    let order: Vec<&str> = good
        .stdout
        .lines()
        .filter(|line| line.starts_with("RunTime"))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let expected = ["RunTimeCreate", "RunTimeQuery", "RunTimeStart", "RunTimeQuery", "RunTimeDelete", "RunTimeQuery"];
    assert_eq!(order, expected, "{good:?}");
    let hangs = test(&person, &conf("sleep 61.25 & echo created >state"), "--slurm 24.11 --limit 1s bundle");
    assert!(hangs.code == 1 && hangs.stdout.contains("keeps its output open"), "{hangs:?}");
    let left = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    assert!(!left.into_iter().any(|line| line == b"sleep\x0061.25\0"), "nothing runs on");
}

#[test]
fn an_image_that_is_no_bundle_gets_the_command_in_its_line() {
    let person = Person::new();
    let conf = "IgnoreFileConfigJson=true\nCreateEnvFile=null\nRunTimeRun=\"tr '\\\\000' ';' <%e | grep -c FROM_JOB=yes; echo %b %@\"\n";
    fs::write(person.path("oci.conf"), conf).unwrap();
    let mut command =
        person.command(&["oci-conf", "test", "--slurm", "26.05", "--file", "../oci.conf", "docker://x", "a b"]);
    let said = person.finish({
        command.env("FROM_JOB", "yes");
        command
    });
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("    | 1\n    | docker://x a b\n"), "{said:?}");
}

#[test]
fn root_is_sent_away() {
    if !is_root() {
        return;
    }
    let berth = std::process::Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["oci-conf", "test", "--slurm", "24.11", "--file", "/dev/null", "x"])
        .output()
        .unwrap();
    assert_eq!(berth.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&berth.stderr).contains("ordinary user"));
}
