//! `berth run` on a directory, as an ordinary user.

mod common;

use std::process::Stdio;

use common::{Person, spawn};

#[test]
fn the_command_runs_as_the_person_in_the_persons_place() {
    let person = Person::new();
    let home = person.path("home");
    let session = person.script("", "pwd; echo $HOME; test $(id -u) = 0 && echo root; stat -c %u .");
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&home).unwrap());
    session.prints(&format!("$DIR/work\n$DIR/home\n{uid}\n"));
}

#[test]
fn what_is_written_to_home_and_the_current_directory_is_the_hosts() {
    let person = Person::new();
    person.script("", "echo here > file; echo home > ~/file; echo gone > /gone").prints("");
    assert_eq!(std::fs::read_to_string(person.path("work/file")).unwrap(), "here\n");
    assert_eq!(std::fs::read_to_string(person.path("home/file")).unwrap(), "home\n");
    assert!(!person.path("root/gone").exists(), "the image is not written");
}

#[test]
fn each_exit_code_is_the_commands_own() {
    let person = Person::new();
    for code in [0, 1, 2, 124, 125, 126, 127, 128, 200, 255] {
        person.script("", &format!("exit {code}")).is(code, "", "");
        person.script("--pid", &format!("exit {code}")).is(code, "", "");
    }
}

#[test]
fn a_signal_that_ends_the_command_is_told_as_a_shell_would() {
    let person = Person::new();
    for signal in [1, 2, 9, 15] {
        person.script("", &format!("kill -{signal} $$")).is(128 + signal, "", "");
    }
}

#[test]
fn commands_that_cannot_be_run_are_told_apart() {
    let person = Person::new();
    let rootfs = person.rootfs();
    let session = person.berth(&format!("run {rootfs} no-such-program"));
    assert_eq!((session.code, session.stdout.as_str()), (127, ""));
    assert!(session.stderr.contains("no-such-program"), "{session:?}");
    assert!(session.stderr.contains("/usr/local/sbin:/usr/local/bin"), "the path that was searched: {session:?}");
    let session = person.berth(&format!("run {rootfs} /no/such/program"));
    assert_eq!(session.code, 127, "{session:?}");
    let session = person.berth(&format!("run {rootfs} /bin/data"));
    assert_eq!((session.code, session.stdout.as_str()), (126, ""), "{session:?}");
    let session = person.berth(&format!("run {rootfs} /bin"));
    assert_eq!(session.code, 126, "{session:?}");
}

#[test]
fn standard_input_reaches_the_command() {
    let person = Person::new();
    let input = vec![b'x'; 300_000];
    let session = person.finish_with_input(person.script_command("", "wc -c"), &input);
    session.prints("300000\n");
    let session = person.finish_with_input(person.script_command("--pid", "wc -c"), &input);
    session.prints("300000\n");
}

#[test]
fn a_closed_standard_output_ends_the_command_as_outside() {
    let person = Person::new();
    let mut command = person.script_command("", "yes");
    let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    // busybox' own message or the signal: what matters is that it ends.
    assert!(!output.status.success());
}

#[test]
fn the_hosts_environment_is_there_unless_it_does_harm_or_the_image_knows_better() {
    let person = Person::new();
    let variable = |options: &str, name: &str| {
        let mut command = person.script_command(options, &format!("echo ${{{name}-unset}}"));
        for (name, value) in [("MINE", "host"), ("LD_LIBRARY_PATH", "/host"), ("SLURM_JOB_ID", "7")] {
            command.env(name, value);
        }
        let session = person.finish(command);
        assert_eq!((session.code, session.stderr.as_str()), (0, ""));
        session.stdout.trim_end().to_owned()
    };
    for (options, name, value) in [
        ("", "MINE", "host"),
        ("", "SLURM_JOB_ID", "7"),
        ("", "LD_LIBRARY_PATH", "unset"),
        ("", "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("--clear-env", "MINE", "unset"),
        ("--clear-env -e MINE", "MINE", "host"),
        ("--contained", "MINE", "unset"),
        ("-e MINE=typed", "MINE", "typed"),
        ("-e MINE=", "MINE", ""),
        ("-e LD_LIBRARY_PATH", "LD_LIBRARY_PATH", "/host"),
        ("--env PATH=/bin", "PATH", "/bin"),
    ] {
        assert_eq!(variable(options, name), value, "{options} {name}");
    }
}

#[test]
fn variables_come_from_files_too_and_a_bad_line_is_named() {
    let person = Person::new();
    std::fs::write(person.path("work/vars"), "# mine\nA=1\nB=two words\n").unwrap();
    person.script("--env-file vars -e A=2", "echo $A $B").prints("2 two words\n");
    std::fs::write(person.path("work/bad"), "A=1\nB C=1\n").unwrap();
    let session = person.script("--env-file bad", "true");
    assert_eq!(session.code, 125);
    assert!(session.stderr.starts_with("berth: bad: line 2: "), "{session:?}");
    let session = person.script("--env-file none", "true");
    session.fails(125, "cannot read none: No such file or directory", "");
}

#[test]
fn one_can_be_another_user_inside_and_remains_oneself_outside() {
    let person = Person::new();
    person.script("--remap-root", "id -u; touch made").prints("0\n");
    person.script("--user web", "id -u; id -g; echo $USER $HOME; touch more").prints("33\n34\nweb /srv\n");
    person.script("-u 7:8", "id -u; id -g").prints("7\n8\n");
    let owner = |name: &str| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(person.path(name)).unwrap());
    assert_eq!(owner("work/made"), owner("home"));
    assert_eq!(owner("work/more"), owner("home"));
    let session = person.script("--user nobody-here", "true");
    assert_eq!(session.code, 125);
    assert!(session.stderr.contains("nobody-here"), "{session:?}");
}

#[test]
fn root_inside_may_change_owners_as_far_as_it_can_see() {
    let person = Person::new();
    person.script("--remap-root", "touch /f && chown 33:34 /f && echo done").prints("done\n");
    let session = person.script("", "touch /f && chown 33:34 /f && echo done");
    assert_ne!(session.code, 0, "{session:?}");
}

#[test]
fn mounts_show_what_they_are_told_to() {
    let person = Person::new();
    std::fs::create_dir(person.path("data")).unwrap();
    std::fs::write(person.path("data/file"), "data\n").unwrap();
    let data = person.path("data").display().to_string();
    person.script(&format!("-v {data}:/mnt/deep/er"), "cat /mnt/deep/er/file").prints("data\n");
    let long = format!("--mount type=bind,source={data}/file,target=/one,readonly");
    person.script(&long, "cat /one; echo x > /one || echo refused").is(
        0,
        "data\nrefused\n",
        "sh: can't create /one: Read-only file system\n",
    );
    person
        .script("-v tmpfs:/mem:size=1m", "mount | while read a b c d e f; do test $c = /mem && echo $e; done; true")
        .prints("tmpfs\n");
    let session = person.script("-v /no/such:/x", "true");
    session.fails(
        125,
        "cannot mount /no/such: no such file or directory",
        "create it, or correct the path: berth does not make missing sources",
    );
    let session = person.script("-v /a:b", "true");
    assert!(session.code == 125 && session.stderr.contains("at character 4"), "{session:?}");
}

#[test]
fn the_root_can_be_read_only_or_changed_for_good() {
    let person = Person::new();
    person.script("--read-only", "touch /f 2>/dev/null || echo refused").prints("refused\n");
    person.script("", "touch /f && echo made").prints("made\n");
    assert!(!person.path("root/f").exists());
}

#[test]
fn the_command_starts_where_it_is_told() {
    let person = Person::new();
    person.script("-w /srv", "pwd").prints("/srv\n");
    person.script("--no-cwd", "pwd").prints("/\n");
    std::fs::write(person.path("home/secret"), "").unwrap();
    person.script("--no-home", "ls -A ~; pwd").prints("$DIR/work\n");
    let session = person.script("-w srv", "pwd");
    session.fails(125, "--workdir srv: not an absolute path of the container", "");
    let mut from_usr = person.script_command("", "pwd");
    from_usr.current_dir("/usr");
    person.finish(from_usr).prints("/\n");
}

#[test]
fn contained_shows_nothing_of_the_person() {
    let person = Person::new();
    std::fs::write(person.path("home/secret"), "").unwrap();
    let session = person.script("--contained", "pwd; ls -A ~ /tmp | wc -l; test -e /dev/null && echo null");
    assert_eq!(session.code, 0, "{session:?}");
    assert!(session.stdout.starts_with("/\n") && session.stdout.ends_with("null\n"), "{session:?}");
    assert!(!session.stdout.contains("secret"));
    let listing = person.script("--contained", "ls -A ~");
    listing.prints("");
}

#[test]
fn namespaces_are_the_containers_own_on_request() {
    let person = Person::new();
    person.script("--pid", "echo $$").prints("1\n");
    person.script("--hostname box", "hostname").prints("box\n");
    person.script("--net", "ls /sys/class/net").prints("lo\n");
    let own = person.script("", "ls /proc/self/ns -l | wc -l");
    assert_eq!(own.code, 0);
}

#[test]
fn the_process_id_is_written_before_the_command_runs() {
    let person = Person::new();
    person.script("--pidfile pid", "test $(cat pid) = $$ && echo same").prints("same\n");
}

#[test]
fn options_after_the_image_are_the_commands() {
    let person = Person::new();
    let rootfs = person.rootfs();
    person.berth(&format!("run {rootfs} echo --rm -v")).prints("--rm -v\n");
    person.berth(&format!("run -- {rootfs} echo -- x")).prints("-- x\n");
}

#[test]
fn phases_are_timed_on_standard_error() {
    let person = Person::new();
    let session = person.script("--timings", "true");
    assert_eq!((session.code, session.stdout.as_str()), (0, ""));
    assert!(session.stderr.starts_with("timings: ") && session.stderr.contains("sum"), "{session:?}");
}

#[test]
fn defaults_come_from_the_configuration() {
    let person = Person::new();
    std::fs::create_dir(person.path("scratch")).unwrap();
    std::fs::write(
        person.path("berth.toml"),
        format!(
            "[run]\nhome = false\nmounts = ['{}', '/no/such/place']\nenv = ['SITE=here']\nkeep-env = ['PATH']\n",
            person.path("scratch").display()
        ),
    )
    .unwrap();
    let mut command = person.script_command("", "ls -A ~; test -d $OLD/scratch && echo $SITE $PATH");
    command.env("BERTH_CONFIG", person.path("berth.toml")).env("OLD", person.path(""));
    person.finish(command).prints("here /usr/local/bin:/usr/bin:/bin\n");
}
