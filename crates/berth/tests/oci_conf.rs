//! `berth oci-conf`: what is printed, where, and with which exit code.

use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::process::Stdio;

/// Exit code, standard output and standard error of a call; `input` is what it reads.
#[track_caller]
fn berth(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.arg("oci-conf").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who reads nothing may be gone.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const GOOD: &str = "RunTimeRun=\"exec crun run --bundle %b %n.%u.%j.%s.%t\"\nRunTimeQuery=\"echo {}\"\nRunTimeKill=true\n\
                    RunTimeDelete=true\n";

#[test]
fn a_good_file_has_nothing_wrong() {
    let said = berth(&["check", "-", "--slurm", "22.05"], GOOD);
    assert_eq!(said, (0, "-: nothing is wrong for Slurm 22.05\n".to_owned(), String::new()));
    assert_eq!(berth(&["check", "--quiet", "-", "--slurm", "22.05"], GOOD), (0, String::new(), String::new()));
    assert_eq!(berth(&["check", "--json", "-", "--slurm", "22.05"], GOOD), (0, "[]\n".to_owned(), String::new()));
}

#[test]
fn errors_have_their_place_and_a_remedy_and_are_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("oci.conf");
    fs::write(&file, format!("{GOOD}Include more.conf\n")).unwrap();
    fs::write(dir.path().join("more.conf"), "\n  Nonsense = 1\n").unwrap();
    let name = file.to_str().unwrap();
    let (code, out, err) = berth(&["check", name, "--slurm", "22.05"], "");
    assert_eq!((code, err.as_str()), (1, ""));
    let expected = format!("{}:2:3: error: Slurm knows no key Nonsense: ", dir.path().join("more.conf").display());
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with(&expected) && lines[0].ends_with("[unknown-key]"), "{out}");
    assert!(lines[1].starts_with("    ") && lines[2] == "1 error for Slurm 22.05", "{out}");
    let (code, out, _) = berth(&["check", "--json", name, "--slurm", "22.05"], "");
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, found.as_array().unwrap().len()), (1, 1));
    assert_eq!(found[0]["line"], 2);
    assert_eq!(
        (&found[0]["column"], &found[0]["severity"], &found[0]["rule"]),
        (&3.into(), &"error".into(), &"unknown-key".into())
    );
}

#[test]
fn warnings_are_no_failure_and_steer_no_terminal() {
    let text = format!("{GOOD}RunTimeKill=\"true\x1b[2J\"\n").replace("exec ", "");
    let (code, out, _) = berth(&["check", "-", "--slurm", "22.05"], &text);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("[no-exec]") && out.contains("[set-twice]") && out.ends_with("2 warnings for Slurm 22.05\n"),
        "{out}"
    );
    assert!(!out.contains('\x1b'));
}

#[test]
fn what_cannot_be_read_and_what_is_no_release_is_told() {
    for (arguments, expected) in [
        (&["check", "/nowhere/oci.conf", "--slurm", "24.11"][..], "/nowhere/oci.conf"),
        (&["check", "/dev/null", "--slurm", "24.11"], "not a file"),
        (&["check", "-", "--slurm", "20.11"], "it came with 21.08"),
        (&["write", "--runtime", "docker"], "charliecloud"),
        (&["write", "--runtime", "enroot", "--slurm", "22.05"], "IgnoreFileConfigJson"),
        (&["write", "--runtime", "apptainer", "--mode", "create-start", "--slurm", "24.11"], "no create and start"),
        (&["write", "--runtime", "berth", "--plugin", "--slurm", "22.05"], "no oci.conf"),
        (&["write", "--runtime", "crun", "--plugin", "--slurm", "24.11"], "--plugin is for"),
        (&["write", "--runtime", "crun", "--script"], "no script"),
    ] {
        let (code, out, err) = berth(arguments, "");
        assert_eq!((code, out.as_str()), (125, ""), "{arguments:?}: {err}");
        assert!(err.contains(expected), "{arguments:?}: {err}");
    }
}

#[test]
fn what_is_written_is_found_right() {
    for runtime in ["runc", "crun", "nvidia", "apptainer", "singularity", "charliecloud", "enroot", "berth"] {
        let (code, text, _) = berth(&["write", "--runtime", runtime, "--slurm", "26.05"], "");
        assert_eq!(code, 0, "{runtime}");
        let said = berth(&["check", "-", "--slurm", "26.05"], &text);
        assert_eq!((said.0, said.1.as_str()), (0, "-: nothing is wrong for Slurm 26.05\n"), "{runtime}\n{text}");
    }
    let (_, text, _) = berth(&["write", "--runtime", "berth", "--plugin", "--slurm", "24.11"], "");
    assert!(text.contains("exec berth oci-step"), "{text}");
    let (code, script, _) = berth(&["write", "--runtime", "enroot", "--script"], "");
    assert!(code == 0 && script.starts_with("#!/bin/bash\n"), "{script}");
    // What it is, the shell can at least read.
    let mut shell = Command::new("bash").args(["-n"]).stdin(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

/// enroot itself is not here: a program that tells how it was called stands in for it.
#[test]
fn the_script_for_enroot_passes_signals_on_and_leaves_nothing() {
    let world = tempfile::tempdir().unwrap();
    let at = |name: &str| world.path().join(name);
    let (_, script, _) = berth(&["write", "--runtime", "enroot", "--script"], "");
    fs::write(at("script"), script).unwrap();
    fs::create_dir(at("spool")).unwrap();
    fs::write(at("image.sqsh"), "").unwrap();
    let fake = "#!/bin/sh\necho \"$@\" >>\"$CALLS\"\n[ $1 = start ] || exit 0\n[ \"$4\" != wait ] || { trap 'exit 7' TERM; \
                touch \"$CALLS.ready\"; while :; do sleep 0.02; done; }\nread line; echo \"$line in $3\"; exit 5\n";
    fs::write(at("enroot"), fake).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(at("enroot"), mode).unwrap();
    let path = format!("{}:{}", world.path().display(), std::env::var("PATH").unwrap());
    let start = |image: &str, word: &str| {
        let mut command = Command::new("bash");
        command.arg(at("script")).arg(image).arg(at("spool")).arg(at("environment")).args(["--", "a b", word]);
        command.env("PATH", &path).env("CALLS", at("calls")).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let calls = || fs::read_to_string(at("calls")).unwrap();
    // An image that has to be fetched; input, output and exit code are the program's.
    let mut child = start("docker://debian", "x");
    child.stdin.take().unwrap().write_all(b"read\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(5), "read in a b\n"));
    let made = calls();
    let lines: Vec<&str> = made.lines().collect();
    assert!(lines[0].starts_with("import -o ") && lines[0].ends_with("/image.sqsh -- docker://debian"), "{made}");
    assert!(lines[1].starts_with("create -n step ") && lines[2] == "start step a b x", "{made}");
    // A squashfs file is taken as it is, and a signal reaches the program.
    fs::remove_file(at("calls")).unwrap();
    let child = start(at("image.sqsh").to_str().unwrap(), "wait");
    while !at("calls.ready").exists() {
        std::thread::yield_now();
    }
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(7));
    assert!(!calls().contains("import"), "{}", calls());
    assert_eq!(fs::read_dir(at("spool")).unwrap().count(), 0, "the spool is empty");
}
