//! What a container is given of users, files, rights, limits and names.

use std::fs;

use testbed::engine::Engine;
use testbed::engine::IMAGE;

pub fn the_user_and_the_groups_are_those_asked_for(engine: &dyn Engine) {
    let script = "id -u; id -g; grep Groups /proc/self/status | tr -s '\\t ' ' '";
    for (user, told) in [("nobody", "65534\n65534\n"), ("1234:4321", "1234\n4321\n"), ("0:5", "0\n5\n")] {
        let ids = engine.shell(&["--user", user], script).ok();
        assert!(ids.starts_with(told), "{user}: {ids}");
    }
    let ids = engine.shell(&["--user", "1234:4321", "--group-add", "77"], script).ok();
    assert!(ids.contains("77"), "{ids}");
    let capabilities = engine.shell(&["--user", "1234"], "grep -E 'Cap(Eff|Prm|Amb)' /proc/self/status").ok();
    assert_eq!(capabilities.matches("0000000000000000").count(), 3, "{capabilities}");
}

pub fn folders_and_files_of_the_host_are_there(engine: &dyn Engine) {
    let fixture = engine.fixture();
    let data = fixture.make_dir("data", 0o755);
    fixture.write("data/file", "from the host\n");
    let file = fixture.write("single", "one file\n");
    let bind = |options: &str| format!("{}:/mnt/data{options}", data.display());
    let single = format!("{}:/etc/single:ro", file.display());
    let script = "cat /mnt/data/file /etc/single; echo x > /mnt/data/written && echo written";
    let done = engine.shell(&["-v", &bind(""), "-v", &single], script);
    assert_eq!(done.ok(), "from the host\none file\nwritten\n");
    assert_eq!(fs::read_to_string(data.join("written")).expect("a file of the container"), "x\n");
    let done = engine.shell(&["-v", &bind(":ro,z")], "cat /mnt/data/file; echo x > /mnt/data/more");
    assert!(!done.status.success() && done.stderr.contains("Read-only"), "{}", done.report());
    let mount = format!("type=bind,source={},target=/deep/er/still,readonly", data.display());
    assert_eq!(engine.shell(&["--mount", &mount], "cat /deep/er/still/file").ok(), "from the host\n");
    // A volume of the engine's own is kept from one container to the next.
    engine.shell(&["-v", "kept:/kept"], "echo kept > /kept/file").ok();
    assert_eq!(engine.shell(&["-v", "kept:/kept"], "cat /kept/file").ok(), "kept\n");
    engine.call(&["volume", "rm", "kept"]).ok();
}

pub fn a_read_only_root_is_written_nowhere(engine: &dyn Engine) {
    let script = "for place in / /etc /root /home; do echo x > $place/file 2>/dev/null && echo wrote $place; done; \
        echo x > /scratch/file && echo scratch; dd if=/dev/zero of=/scratch/big bs=64k count=32 2>/dev/null || echo full; \
        stat -c %a /scratch";
    let done = engine.shell(&["--read-only", "--tmpfs", "/scratch:size=1m,mode=1750"], script);
    assert_eq!(done.ok(), "scratch\nfull\n1750\n");
    assert_eq!(engine.shell(&[], "echo x > /etc/file && echo wrote").ok(), "wrote\n");
}

/// The bit of a capability in a set as the kernel tells it.
fn has(set: &str, bit: u32) -> bool {
    u64::from_str_radix(set.trim(), 16).unwrap_or_else(|error| panic!("{set}: {error}")) >> bit & 1 == 1
}

pub fn capabilities_are_dropped_and_added(engine: &dyn Engine) {
    let (chown, net_admin, sys_admin, mknod) = (0, 12, 21, 27);
    let script = "grep CapEff /proc/self/status | cut -f2; grep CapBnd /proc/self/status | cut -f2";
    let sets = |options: &[&str]| engine.shell(options, script).ok();
    let usual = sets(&[]);
    for set in usual.lines() {
        assert!(has(set, chown) && !has(set, net_admin) && !has(set, sys_admin), "{usual}");
    }
    let none = sets(&["--cap-drop", "all"]);
    assert_eq!(none, "0000000000000000\n0000000000000000\n");
    let added = sets(&["--cap-drop", "chown", "--cap-add", "net_admin", "--cap-add", "mknod"]);
    for set in added.lines() {
        assert!(!has(set, chown) && has(set, net_admin) && has(set, mknod), "{added}");
    }
    let chown = engine.shell(&["--cap-drop", "chown"], "chown 5:5 /etc/passwd");
    assert!(!chown.status.success() && chown.stderr.contains("not permitted"), "{}", chown.report());
}

pub fn filters_and_no_new_privileges_hold(engine: &dyn Engine) {
    let script = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr -d '\\t'";
    assert_eq!(engine.shell(&[], script).ok(), "NoNewPrivs:0\nSeccomp:2\n");
    let options = ["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges"];
    assert_eq!(engine.shell(&options, script).ok(), "NoNewPrivs:1\nSeccomp:0\n");
    // A filter of the user's own.
    let filter = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    let filter = engine.fixture().write("filter.json", filter);
    let option = format!("seccomp={}", filter.display());
    let done = engine.shell(&["--security-opt", &option], "echo x > /file; mkdir /dir");
    assert!(done.stderr.contains("No space left"), "{}", done.report());
}

pub fn limits_of_the_process_are_set(engine: &dyn Engine) {
    let options = ["--ulimit", "nofile=100:200", "--ulimit", "nproc=3000:3000", "--ulimit", "core=0"];
    assert_eq!(engine.shell(&options, "ulimit -n; ulimit -Hn; ulimit -c").ok(), "100\n200\n0\n");
    let id = engine.ready(&options, "echo ready; exec sleep 300");
    assert_eq!(engine.call(&["exec", &id, "sh", "-c", "ulimit -n"]).ok(), "100\n", "a command that joins has them too");
    engine.remove(&id);
    let score = engine.shell(&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj").ok();
    assert_eq!(score, "500\n");
}

pub fn limits_of_control_groups_hold(engine: &dyn Engine) {
    if !engine.has_control_groups() {
        // They are not there, and containers run without them.
        engine.run(&[], &["true"]).ok();
        return;
    }
    let script = "echo ready; i=0; while test $i -lt 40; do sleep 5 & i=$((i+1)); done 2>&1; wait";
    let done = engine.shell(&["--pids-limit", "20"], script);
    assert!((done.stdout.clone() + &done.stderr).contains("fork"), "{}", done.report());
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; \
        echo ready; exec sleep 300";
    let id = engine.ready(&["--memory", "50m", "--memory-swap", "100m"], script);
    assert!(engine.logs(&id).starts_with("52428800\n"), "{}", engine.logs(&id));
    engine.remove(&id);
    // More than it may have: the kernel ends it.
    let script = "x=$(dd if=/dev/zero bs=1M count=200 2>/dev/null | tr '\\0' x); echo ${#x}";
    let id = engine.start(&["--memory", "20m", "--memory-swap", "20m"], &["sh", "-c", script]);
    assert_eq!(engine.exit_code(&id), "137");
    engine.remove(&id);
}

pub fn containers_share_namespaces(engine: &dyn Engine) {
    let id = engine.ready(&["--name", "first", "--ipc=shareable"], "echo ready; exec sleep 303");
    let mut words = vec!["run".to_owned(), "--rm".to_owned()];
    words.extend(engine.options().into_iter().filter(|option| !option.starts_with("--network")));
    let script = "cat /proc/1/comm; for name in net ipc pid; do readlink /proc/self/ns/$name; done";
    let shared =
        ["--network=container:first", "--pid=container:first", "--ipc=container:first", IMAGE, "sh", "-c", script];
    words.extend(shared.map(str::to_owned));
    let theirs = engine.call(&words).ok();
    let ours = engine.call(&["exec", &id, "sh", "-c", script]).ok();
    assert!(ours.starts_with("sleep\n"), "{ours}");
    assert_eq!(theirs, ours);
    engine.remove("first");
    // Those of the host; podman binds this folder for those of the third kind.
    let ipc = std::path::Path::new("/dev/mqueue").exists().then_some(("--ipc=host", "ipc"));
    for (option, name) in [("--uts=host", "uts"), ("--pid=host", "pid")].into_iter().chain(ipc) {
        let inside = engine.run(&[option], &["readlink", &format!("/proc/self/ns/{name}")]).ok();
        let outside = fs::read_link(format!("/proc/self/ns/{name}")).expect("a link");
        assert_eq!(inside.trim_end(), outside.to_string_lossy(), "{option}");
    }
    let without = engine.options().into_iter().filter(|option| !option.starts_with("--network"));
    let words: Vec<String> = ["run".to_owned(), "--rm".to_owned(), "--network=host".to_owned()]
        .into_iter()
        .chain(without)
        .chain([IMAGE, "readlink", "/proc/self/ns/net"].map(str::to_owned))
        .collect();
    let inside = engine.call(&words).ok();
    assert_eq!(inside.trim_end(), fs::read_link("/proc/self/ns/net").expect("a link").to_string_lossy());
}

pub fn names_directories_and_variables_are_set(engine: &dyn Engine) {
    let options = ["--hostname", "there", "-w", "/var", "-e", "GIVEN=a b", "--entrypoint", "/bin/sh"];
    let done = engine.run(&options, &["-c", "hostname; pwd; echo \"$GIVEN\"; echo $(cat /etc/hostname); echo $HOME"]);
    assert_eq!(done.ok(), "there\n/var\na b\nthere\n/root\n");
}

pub fn devices_and_kernel_parameters_are_set(engine: &dyn Engine) {
    let script = "for name in null zero full random urandom tty; do test -c /dev/$name || echo no $name; done; \
        test -L /dev/fd && test -L /dev/stdin && test -e /dev/ptmx && echo links; \
        echo x > /dev/given && echo given; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; \
        cat /proc/sys/net/ipv4/ip_forward; echo x > /proc/sys/kernel/hostname || echo closed";
    let options = ["--device", "/dev/null:/dev/given", "--shm-size", "3m", "--sysctl", "net.ipv4.ip_forward=1"];
    let done = engine.shell(&options, script);
    assert_eq!(done.stdout, "links\ngiven\n3072\n1\nclosed\n", "{}", done.report());
    // Control groups are folders of plain files for a container, whichever there are.
    let script = "grep -E ' - cgroup2? ' /proc/self/mountinfo | grep -v nosuid,nodev,noexec; echo end";
    assert_eq!(engine.shell(&[], script).ok(), "end\n");
    // What the engine hides is hidden.
    let script =
        "cat /proc/kcore /proc/timer_list 2>/dev/null | head -c 1 | wc -c; ls /proc/scsi /sys/firmware 2>/dev/null";
    let hidden = engine.shell(&[], script);
    assert!(hidden.stdout.starts_with("0\n") && hidden.stdout.matches('\n').count() <= 4, "{}", hidden.report());
}
