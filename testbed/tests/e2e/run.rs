//! A command in an image, as its user sees it.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::REGISTRY;
use testbed::process;
use testbed::process::Output;

chapter!("run",
    [REGISTRY, Need::Namespaces]:
        the_command_runs_in_the_image,
        every_exit_code_is_the_commands_own,
        a_command_that_is_not_there_is_127,
        a_command_that_cannot_be_run_is_126,
        an_option_that_makes_no_sense_is_125,
        standard_input_is_the_commands,
        ten_megabytes_pass_through_a_pipe,
        a_closed_standard_output_ends_the_command_as_outside,
        the_images_command_and_environment_are_used,
        options_win_over_the_image,
        the_hosts_environment_is_inherited_unless_refused,
        changes_vanish_with_the_container,
        a_read_only_container_refuses_writes,
        home_and_current_folder_are_there,
        a_contained_run_sees_nothing_of_the_host,
        folders_are_mounted_where_asked,
        the_user_has_a_name_inside,
        nothing_is_written_into_the_image,
        a_private_pid_namespace_begins_at_one,
        a_command_that_leads_a_session_of_its_own_is_waited_for,
        a_hostname_is_set_on_request,
        a_static_program_alone_in_an_image_runs,
        python_runs_from_five_layers,
        sixty_four_start_at_once,
        nothing_is_left_mounted_or_running,
        an_image_is_pulled_when_missing_and_then_not_again,
        timings_are_told_on_standard_error;
);

fn with_image(name: &str) -> (Fixture, String) {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let image = registry.reference(name);
    fixture.berth(&["pull", &image]).ok();
    (fixture, image)
}

/// A shell line in the image.
#[track_caller]
fn shell(fixture: &Fixture, options: &[&str], image: &str, script: &str) -> Output {
    fixture.berth(&[&["run"], options, &[image, "sh", "-c", script]].concat())
}

fn the_command_runs_in_the_image() {
    let (fixture, image) = with_image("small");
    assert_eq!(fixture.berth(&["run", &image, "echo", "hello world"]).ok(), "hello world\n");
    // Of the image and not of the host: its program is there, the host's package manager is not.
    shell(&fixture, &[], &image, "test -f /bin/busybox && ! test -e /usr/bin/dpkg && ! test -e /usr/bin/apt").ok();
}

fn every_exit_code_is_the_commands_own() {
    let (fixture, image) = with_image("small");
    for code in 0..=255 {
        assert_eq!(shell(&fixture, &[], &image, &format!("exit {code}")).code(), code);
    }
}

fn a_command_that_is_not_there_is_127() {
    let (fixture, image) = with_image("small");
    let told = fixture.berth(&["run", &image, "no-such-command"]).fails(127);
    assert!(told.starts_with("berth: ") && told.contains("no-such-command"), "{told}");
    fixture.berth(&["run", &image, "/no/such/path"]).fails(127);
}

fn a_command_that_cannot_be_run_is_126() {
    let (fixture, image) = with_image("small");
    let told = fixture.berth(&["run", &image, "/etc/passwd"]).fails(126);
    assert!(told.contains("/etc/passwd"), "{told}");
    fixture.berth(&["run", &image, "/etc"]).fails(126);
}

fn an_option_that_makes_no_sense_is_125() {
    let (fixture, image) = with_image("small");
    fixture.berth(&["run", "--no-such-option", &image, "true"]).fails(125);
    fixture.berth(&["run", "--mount", "nonsense", &image, "true"]).fails(125);
    fixture.berth(&["run"]).fails(125);
    fixture.berth(&["run", "-v", "/no/such/folder:/mnt", &image, "true"]).fails(125);
}

fn standard_input_is_the_commands() {
    let (fixture, image) = with_image("small");
    let limit = Duration::from_secs(60);
    let echoed = fixture.berth_with(&["run", &image, "cat"], b"from outside\n", limit).ok();
    assert_eq!(echoed, "from outside\n");
    let counted = fixture.berth_with(&["run", "-i", &image, "wc", "-c"], &[b'x'; 12_345], limit).ok();
    assert_eq!(counted.trim(), "12345");
    // An empty standard input ends at once.
    assert_eq!(fixture.berth(&["run", &image, "cat"]).ok(), "");
}

fn ten_megabytes_pass_through_a_pipe() {
    let (fixture, image) = with_image("small");
    let input: Vec<u8> = (0..10_000_000u32).map(|at| b'a' + (at % 23) as u8).collect();
    let out = fixture.berth_with(&["run", &image, "cat"], &input, Duration::from_secs(60)).ok();
    assert!(out.as_bytes() == input, "{} bytes came back", out.len());
}

fn a_closed_standard_output_ends_the_command_as_outside() {
    let (fixture, image) = with_image("small");
    for options in [&[][..], &["--pid"][..]] {
        let mut command = fixture.berth_command(&[&["run"], options, &[&image, "yes"]].concat());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a started command");
        let mut few = [0u8; 10];
        child.stdout.take().expect("a pipe").read_exact(&mut few).expect("the first lines");
        // The pipe is closed now: the next write of `yes` is its last.
        let (status, _) = process::wait(&mut child, Duration::from_secs(30)).expect("an end");
        assert!(!status.success(), "{status}");
    }
}

fn the_images_command_and_environment_are_used() {
    let (fixture, image) = with_image("configured");
    let told = fixture.berth(&["run", "--no-cwd", &image, "sh", "-c", "echo $GREETING; pwd"]).ok();
    assert_eq!(told.lines().next(), Some("hello from the image"));
    let (fixture, image) = with_image("distroless");
    assert_eq!(fixture.berth(&["run", &image]).ok(), "alone\n");
    assert_eq!(fixture.berth(&["run", &image, "other"]).ok(), "other\n");
}

fn options_win_over_the_image() {
    let (fixture, image) = with_image("configured");
    let told = shell(&fixture, &["-e", "GREETING=mine", "-w", "/etc"], &image, "echo $GREETING; pwd").ok();
    assert_eq!(told, "mine\n/etc\n");
    let file = fixture.write("variables", "# a comment\nONE=1\nTWO=with spaces\n");
    let told = shell(&fixture, &["--env-file", &file.display().to_string()], &image, "echo $ONE-$TWO").ok();
    assert_eq!(told, "1-with spaces\n");
    let told = fixture.berth(&["run", "--entrypoint", "/bin/echo", &image, "instead"]).ok();
    assert_eq!(told, "instead\n");
}

fn the_hosts_environment_is_inherited_unless_refused() {
    let (mut fixture, image) = with_image("small");
    fixture.env.push(("FROM_THE_HOST".to_owned(), "seen".to_owned()));
    assert_eq!(shell(&fixture, &[], &image, "echo $FROM_THE_HOST").ok(), "seen\n");
    assert_eq!(shell(&fixture, &["--clear-env"], &image, "echo $FROM_THE_HOST").ok(), "\n");
    assert_eq!(shell(&fixture, &["--clear-env", "-e", "FROM_THE_HOST"], &image, "echo $FROM_THE_HOST").ok(), "seen\n");
    assert_eq!(shell(&fixture, &["--contained"], &image, "echo $FROM_THE_HOST").ok(), "\n");
}

fn changes_vanish_with_the_container() {
    let (fixture, image) = with_image("small");
    shell(&fixture, &[], &image, "echo x > /new && rm /etc/group && test -f /new && ! test -e /etc/group").ok();
    shell(&fixture, &[], &image, "! test -e /new && test -f /etc/group").ok();
}

fn a_read_only_container_refuses_writes() {
    let (fixture, image) = with_image("small");
    let told = shell(&fixture, &["--read-only"], &image, "echo x > /new; echo $?").ok();
    assert_eq!(told, "1\n");
    let told = shell(&fixture, &["--read-only"], &image, "touch /etc/passwd; echo $?").ok();
    assert_eq!(told, "1\n");
}

fn home_and_current_folder_are_there() {
    let (fixture, image) = with_image("small");
    fs::write(fixture.home().join("mine"), "at home").expect("a file at home");
    let work = fixture.path("work");
    let told = shell(&fixture, &[], &image, "pwd; cat $HOME/mine; echo made > here").ok();
    assert_eq!(told, format!("{}\nat home", work.display()));
    assert_eq!(fs::read_to_string(work.join("here")).expect("a file made inside"), "made\n");
    let told = shell(&fixture, &["--no-home", "--no-cwd"], &image, "cat $HOME/mine 2>/dev/null || echo none").ok();
    assert_eq!(told, "none\n");
}

fn a_contained_run_sees_nothing_of_the_host() {
    let (fixture, image) = with_image("small");
    fs::write(fixture.home().join("mine"), "at home").expect("a file at home");
    let canary = fixture.write("canary", "in the host's /tmp");
    let script = format!(
        "test -e {} && echo home; test -e {} && echo canary; ls /dev | grep -c -e vd -e sd -e nvme -e loop",
        fixture.home().join("mine").display(),
        canary.display()
    );
    let told = shell(&fixture, &["--contained"], &image, &script);
    assert_eq!(told.stdout, "0\n", "{}", told.report());
}

fn folders_are_mounted_where_asked() {
    let (fixture, image) = with_image("small");
    let dir = fixture.make_dir("data", 0o755);
    fixture.write("data/file", "from the host");
    let spec = format!("{}:/mnt/deep/data", dir.display());
    assert_eq!(shell(&fixture, &["-v", &spec], &image, "cat /mnt/deep/data/file").ok(), "from the host");
    shell(&fixture, &["-v", &spec], &image, "echo inside > /mnt/deep/data/out").ok();
    assert_eq!(fs::read_to_string(dir.join("out")).expect("a file made inside"), "inside\n");
    let read_only = format!("{spec}:ro");
    shell(&fixture, &["-v", &read_only], &image, "cat /mnt/deep/data/file && ! echo x > /mnt/deep/data/no").ok();
    assert!(!dir.join("no").exists());
    let long = format!("type=bind,source={},target=/m,readonly", dir.display());
    shell(&fixture, &["--mount", &long], &image, "cat /m/file && ! echo x > /m/no").ok();
    // A single file over one of the image's.
    let file = format!("{}:/etc/group", dir.join("file").display());
    assert_eq!(shell(&fixture, &["-v", &file], &image, "cat /etc/group").ok(), "from the host");
}

fn the_user_has_a_name_inside() {
    let (fixture, image) = with_image("small");
    let user = &fixture.user;
    assert_eq!(
        shell(&fixture, &[], &image, "id -un; id -u; id -g").ok(),
        format!("{}\n{}\n{}\n", user.name, user.uid, user.gid)
    );
    // The image's own users are still there.
    shell(&fixture, &[], &image, "grep -q ^nobody: /etc/passwd && grep -q ^nogroup: /etc/group").ok();
}

fn nothing_is_written_into_the_image() {
    let (fixture, image) = with_image("debian");
    let before = fixture.merged_tree(&image);
    shell(&fixture, &[], &image, "touch /usr/bin/new; rm -r /usr/share/doc; echo x >> /etc/passwd; chmod 700 /usr")
        .ok();
    shell(&fixture, &["--remap-root"], &image, "useradd -u 4000 someone; mkdir /x").ok();
    let all = testbed::tree::Compare { owners: true, times: true, xattrs_except: &[], except: &[] };
    assert_eq!(before.differences(&fixture.merged_tree(&image), all), Vec::<String>::new());
    fixture.berth(&["verify"]).ok();
}

fn a_command_that_leads_a_session_of_its_own_is_waited_for() {
    let (fixture, image) = with_image("small");
    for options in [&["--pid"][..], &["--pid", "--init"]] {
        let said = shell(&fixture, options, &image, "exec setsid sh -c 'sleep 0.1; echo done; exit 8'");
        assert_eq!((said.code(), said.stdout.as_str()), (8, "done\n"), "{}", said.report());
    }
}

fn a_private_pid_namespace_begins_at_one() {
    let (fixture, image) = with_image("small");
    assert_eq!(
        shell(&fixture, &["--pid"], &image, "echo $$; ls /proc | grep -c '^[0-9]'").ok().lines().next(),
        Some("1")
    );
    assert_ne!(shell(&fixture, &[], &image, "echo $$").ok(), "1\n");
    for code in [0, 3, 255] {
        assert_eq!(shell(&fixture, &["--pid"], &image, &format!("exit {code}")).code(), code);
        assert_eq!(shell(&fixture, &["--pid", "--init"], &image, &format!("exit {code}")).code(), code);
    }
}

fn a_hostname_is_set_on_request() {
    let (fixture, image) = with_image("small");
    assert_eq!(shell(&fixture, &["--hostname", "ship"], &image, "hostname").ok(), "ship\n");
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(shell(&fixture, &[], &image, "hostname").ok().trim_end(), host);
}

fn a_static_program_alone_in_an_image_runs() {
    let (fixture, image) = with_image("distroless");
    assert_eq!(fixture.berth(&["run", &image]).ok(), "alone\n");
    for options in [&["--contained"][..], &["--read-only"], &["--pid"], &["--remap-root"]] {
        let line = [&["run"], options, &["--entrypoint", "/busybox", &image, "echo", "still"]].concat();
        assert_eq!(fixture.berth(&line).ok(), "still\n", "{options:?}");
    }
}

fn python_runs_from_five_layers() {
    let (fixture, image) = with_image("medium");
    let script = "import json, ssl, numpy; print(json.dumps({'sum': int(numpy.arange(10).sum())}))";
    assert_eq!(fixture.berth(&["run", &image, "python3", "-c", script]).ok(), "{\"sum\": 45}\n");
    let build = "cd /tmp && d=$(mktemp -d) && cd $d && printf 'int main(){return 7;}' > a.c && cc a.c && ./a.out; r=$?; rm -r $d; exit $r";
    assert_eq!(shell(&fixture, &[], &image, build).code(), 7);
}

fn sixty_four_start_at_once() {
    let (fixture, image) = with_image("small");
    let children: Vec<_> = (0..64)
        .map(|number| {
            let mut command =
                fixture.berth_command(&["run", &image, "sh", "-c", &format!("echo {number}; exit {number}")]);
            std::thread::spawn(move || process::run(&mut command))
        })
        .collect();
    for (number, child) in children.into_iter().enumerate() {
        let output = child.join().expect("an end");
        assert_eq!(
            (output.code(), output.stdout.trim()),
            (number as i32, number.to_string().as_str()),
            "{}",
            output.stderr
        );
    }
}

fn nothing_is_left_mounted_or_running() {
    let (fixture, image) = with_image("small");
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let before = mounts();
    for options in [&[][..], &["--pid"], &["--remap-root"], &["--contained"], &["--hostname", "x"], &["--net"]] {
        shell(&fixture, options, &image, "(sleep 300 </dev/null >/dev/null 2>&1 &) ; exit 0").ok();
        // A process that the command left behind is its own (as outside), unless it was in a namespace that ended.
        let left = process::descendants(std::process::id() as i32);
        let expected = usize::from(options != ["--pid"]);
        assert_eq!(
            left.len(),
            expected,
            "{options:?}: {:?}",
            left.iter().map(|pid| process::name(*pid)).collect::<Vec<_>>()
        );
        process::end_all(&left);
        while !process::descendants(std::process::id() as i32).is_empty() {
            std::thread::yield_now();
        }
    }
    assert_eq!(before, mounts());
}

fn an_image_is_pulled_when_missing_and_then_not_again() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let image = registry.reference("small");
    assert_eq!(fixture.berth(&["run", &image, "echo", "1"]).ok(), "1\n");
    let before = registry.requests().len();
    assert_eq!(fixture.berth(&["run", &image, "echo", "2"]).ok(), "2\n");
    assert_eq!(registry.requests().len(), before, "a start asks the registry nothing");
    drop(registry);
    assert_eq!(fixture.berth(&["run", &image, "echo", "3"]).ok(), "3\n");
}

fn timings_are_told_on_standard_error() {
    let (fixture, image) = with_image("small");
    let output = fixture.berth(&["run", "--timings", &image, "echo", "data"]);
    assert_eq!(output.stdout, "data\n");
    assert!(output.stderr.contains("ms"), "{}", output.stderr);
}
