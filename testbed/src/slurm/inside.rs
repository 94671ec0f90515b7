//! The first process of a box: makes its file systems, its network and its configuration, starts the daemons, and then
//! takes in orphans until it is killed.
//!
//! It runs as `testbed slurm-box`, reads a [`Plan`](super::Plan) on its standard input and says on its standard output when
//! the cluster is up. Nothing outside is touched but control groups called `berth-slurm-PID`, which are removed at the end;
//! those of boxes that were killed are removed by the next one.

#![allow(unsafe_code)] // unshare, fork, prctl and waitpid.

use std::fs;
use std::io;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::mount::MountFlags;
use rustix::mount::MountPropagationFlags;

use super::Bind;
use super::Plan;
use super::READY;
use super::USERS;
use super::config;
use super::registries;
use super::session;

/// Control groups of a box are called this and the number of its outer process.
const GROUP: &str = "berth-slurm-";

/// Controllers, of the old form of control groups, that Slurm's plugins use.
const CONTROLLERS: [&str; 5] = ["freezer", "memory", "cpuset", "devices", "cpuacct"];

/// The hierarchy without controllers.
const SYSTEMD: &str = "name=systemd";

/// Devices of the host that a box has.
const DEVICES: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "fuse"];

/// Runs a box to its end, which is that of its first process.
pub fn run() -> io::Result<()> {
    let plan: Plan = serde_json::from_reader(io::stdin().lock())?;
    unshare(libc::CLONE_NEWNS)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let groups = Groups::enter(&plan.scratch)?;
    unshare(libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET | libc::CLONE_NEWCGROUP)?;
    // SAFETY: this process has no other thread.
    let init = unsafe { libc::fork() };
    if init < 0 {
        return Err(io::Error::last_os_error());
    }
    if init == 0 {
        // SAFETY: prctl with these arguments takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
        let error = first_process(&plan, &groups).expect_err("it does not end by itself");
        eprintln!("{error}");
        std::process::exit(1);
    }
    say(&format!("init {init}"))?;
    // SAFETY: the child is ours; its status is not asked for.
    unsafe { libc::waitpid(init, std::ptr::null_mut(), 0) };
    groups.remove();
    Ok(())
}

fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: unshare takes flags only, and this process has no other thread.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

/// The box's control group in each hierarchy of the old form. On a machine that has the new form alone, there is none, and
/// Slurm is set up to follow processes without them.
struct Groups {
    /// The hierarchies (`freezer`, `cpu,cpuacct`, `name=systemd`), as `/proc/self/cgroup` has them.
    hierarchies: Vec<String>,
    dir: PathBuf,
}

impl Groups {
    /// Mounts the hierarchies where only this process sees them, removes what dead boxes left, and moves the process into
    /// groups of its own.
    fn enter(scratch: &Path) -> io::Result<Groups> {
        let dir = scratch.join("cgroup");
        fs::create_dir(&dir)?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mut groups = Groups { hierarchies: Vec::new(), dir };
        for line in own.lines() {
            let names = line.split(':').nth(1).unwrap_or_default();
            // The one without controllers is what Slurm tells the form by.
            if names != SYSTEMD && !names.split(',').any(|name| CONTROLLERS.contains(&name)) {
                continue;
            }
            groups.hierarchies.push(names.to_owned());
            let mounted = groups.dir.join(folder(names));
            mount_hierarchy(&mounted, names)?;
            groups.sweep(&mounted);
            let group = mounted.join(format!("{GROUP}{}", std::process::id()));
            fs::create_dir(&group)?;
            if names.split(',').any(|name| name == "cpuset") {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    fs::write(group.join(file), fs::read(mounted.join(file))?)?;
                }
                fs::write(group.join("cgroup.clone_children"), "1")?;
            }
            fs::write(group.join("cgroup.procs"), "0")?;
        }
        Ok(groups)
    }

    fn sweep(&self, mounted: &Path) {
        for entry in fs::read_dir(mounted).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(pid) = name.strip_prefix(GROUP) else { continue };
            if !Path::new("/proc").join(pid).exists() {
                remove_group(&entry.path());
            }
        }
    }

    /// Leaves the groups and removes them. The box's processes are dead but may not be gone yet.
    fn remove(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        for names in &self.hierarchies {
            let mounted = self.dir.join(folder(names));
            let _ = fs::write(mounted.join("cgroup.procs"), "0");
            let group = mounted.join(format!("{GROUP}{}", std::process::id()));
            while !remove_group(&group) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Where a hierarchy is mounted, below `/sys/fs/cgroup`.
fn folder(names: &str) -> &str {
    names.strip_prefix("name=").unwrap_or(names)
}

fn mount_hierarchy(target: &Path, names: &str) -> io::Result<()> {
    fs::create_dir(target)?;
    let options = if names == SYSTEMD { "none,name=systemd" } else { names };
    mount("cgroup", target, "cgroup", options)
}

/// Removes a control group with all below it; says whether it is gone.
fn remove_group(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}

/// Everything that pid 1 does. Comes back only with an error.
fn first_process(plan: &Plan, groups: &Groups) -> io::Result<()> {
    // A mount namespace of its own, so that the outer process keeps the sight of the control groups that it removes.
    unshare(libc::CLONE_NEWNS)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    rustix::system::sethostname(b"ctl")?;
    let root = file_systems(plan, groups)?;
    write_files(plan, &root, !groups.hierarchies.is_empty())?;
    rustix::process::chdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let mut daemons = start_daemons(plan)?;
    wait_idle(&mut daemons)?;
    let pids: Vec<String> = daemons.iter().map(|daemon| daemon.id().to_string()).collect();
    say(&format!("ready {}", pids.join(" ")))?;
    loop {
        // SAFETY: any child will do, and no status is asked for.
        if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } < 0 {
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn mount(source: impl AsRef<Path>, target: &Path, kind: &str, options: &str) -> io::Result<()> {
    let data = std::ffi::CString::new(options).expect("no NUL in options");
    rustix::mount::mount(source.as_ref(), target, kind, MountFlags::empty(), Some(data.as_c_str()))
        .map_err(|error| io::Error::other(format!("cannot mount {kind} on {}: {error}", target.display())))
}

fn tmpfs(target: &Path, mode: &str) -> io::Result<()> {
    fs::create_dir_all(target)?;
    mount("tmpfs", target, "tmpfs", &format!("mode={mode}"))
}

/// Mounts the box's file systems; gives its root.
fn file_systems(plan: &Plan, groups: &Groups) -> io::Result<PathBuf> {
    let own = plan.scratch.join("own");
    let root = plan.scratch.join("root");
    fs::create_dir(&root)?;
    tmpfs(&own, "755")?;
    let (upper, work) = (own.join("upper"), own.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))?;
    let layers = [("lowerdir", &plan.root), ("upperdir", &upper), ("workdir", &work)];
    let options: Vec<String> = layers.iter().map(|(name, dir)| format!("{name}={}", dir.display())).collect();
    mount("overlay", &root, "overlay", &options.join(","))?;
    mount("proc", &root.join("proc"), "proc", "")?;
    mount("sysfs", &root.join("sys"), "sysfs", "")?;
    control_groups(&root, groups)?;
    devices(&root)?;
    for (name, mode) in [("tmp", "1777"), ("run", "755"), ("home", "755")] {
        tmpfs(&root.join(name), mode)?;
    }
    for Bind { source, target } in &plan.options.binds {
        bind(source, &root.join(target.strip_prefix("/").unwrap_or(target)))?;
    }
    Ok(root)
}

/// The old form's hierarchies, each seen from the box's own group down. The new form is left out: Slurm refuses a mixture,
/// and so does crun.
fn control_groups(root: &Path, groups: &Groups) -> io::Result<()> {
    let dir = root.join("sys/fs/cgroup");
    if groups.hierarchies.is_empty() {
        return Ok(());
    }
    tmpfs(&dir, "755")?;
    groups.hierarchies.iter().try_for_each(|names| mount_hierarchy(&dir.join(folder(names)), names))
}

fn devices(root: &Path) -> io::Result<()> {
    let dev = root.join("dev");
    tmpfs(&dev, "755")?;
    for name in DEVICES {
        let host = Path::new("/dev").join(name);
        if let Ok(meta) = fs::metadata(&host) {
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(
                rustix::fs::CWD,
                dev.join(name),
                rustix::fs::FileType::CharacterDevice,
                mode,
                meta.rdev(),
            )?;
            fs::set_permissions(dev.join(name), fs::Permissions::from_mode(0o666))?;
        }
    }
    fs::create_dir(dev.join("pts"))?;
    mount("devpts", &dev.join("pts"), "devpts", "newinstance,ptmxmode=0666,mode=620,gid=5")?;
    tmpfs(&dev.join("shm"), "1777")?;
    symlink("pts/ptmx", dev.join("ptmx"))?;
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{target}"), dev.join(name))?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    if source.is_dir() {
        fs::create_dir_all(target)?;
    } else {
        fs::create_dir_all(target.parent().expect("below the root"))?;
        fs::write(target, "")?;
    }
    let failed = |error| io::Error::other(format!("cannot bind {}: {error}", source.display()));
    rustix::mount::mount_bind_recursive(source, target).map_err(failed)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID;
    rustix::mount::mount_remount(target, flags, c"").map_err(failed)
}

/// Accounts, names, keys, and the configuration of Slurm.
fn write_files(plan: &Plan, root: &Path, cgroups: bool) -> io::Result<()> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let mut passwd = String::from("root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/usr/sbin/nologin\n");
    let mut group = String::from("root:x:0:\ntty:x:5:\nnogroup:x:65534:\n");
    for (name, id) in USERS {
        passwd.push_str(&format!("{name}:x:{id}:{id}::/home/{name}:/bin/bash\n"));
        group.push_str(&format!("{name}:x:{id}:\n"));
        let home = at("home").join(name);
        fs::create_dir(&home)?;
        chown(&home, Some(id), Some(id))?;
        if plan.options.run_user {
            run_user(&at("run"), id)?;
        }
    }
    for dir in [
        "root",
        "etc/slurm",
        "etc/munge",
        "etc/containers",
        "var/lib/berth",
        "run/munge",
        "var/log/slurm",
        "var/spool/slurmctld",
        "var/spool/slurmd",
    ] {
        fs::create_dir_all(at(dir))?;
    }
    let hosts = config::hosts(&plan.options);
    for (path, content) in [("etc/passwd", passwd), ("etc/group", group), ("etc/hosts", hosts)] {
        fs::write(at(path), content)?;
    }
    fs::write(at("etc/containers/registries.conf"), registries::REGISTRIES_CONF)?;
    // slurmd asks for a user's environment by su(1), whose rules come with a script of a package.
    fs::create_dir_all(at("etc/pam.d"))?;
    for program in ["su", "su-l", "other"] {
        let rules =
            ["auth", "account", "password", "session"].map(|kind| format!("{kind} required pam_permit.so\n")).concat();
        fs::write(at("etc/pam.d").join(program), rules)?;
    }
    let mut key = vec![0; 128];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut key)?;
    fs::write(at("etc/munge/munge.key"), key)?;
    fs::set_permissions(at("etc/munge/munge.key"), fs::Permissions::from_mode(0o400))?;
    fs::set_permissions(at("etc/munge"), fs::Permissions::from_mode(0o700))?;
    fs::write(at("etc/slurm/slurm.conf"), config::slurm_conf(&plan.options, cgroups))?;
    fs::write(at("etc/slurm/cgroup.conf"), config::cgroup_conf(plan.release, cgroups))?;
    for (path, content) in &plan.options.files {
        let path = root
            .join(Path::new("etc/slurm").join(path).strip_prefix("/").unwrap_or(&Path::new("etc/slurm").join(path)));
        fs::create_dir_all(path.parent().expect("below the root"))?;
        fs::write(&path, content)?;
        if content.starts_with("#!") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

fn run_user(run: &Path, id: u32) -> io::Result<()> {
    let dir = run.join("user").join(id.to_string());
    fs::create_dir_all(&dir)?;
    chown(&dir, Some(id), Some(id))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
}

/// What a node does before it becomes its daemon: a host name, a network and temporary places of its own. (By its IPC
/// namespace, which it has already, libraries such as UCX tell that ranks on two nodes share no memory.) What it has in
/// `/run` is what the host `ctl` has there at that moment, with munged's socket; `/sys` lists the node's own network.
const NODE: &str = r#"
hostname "n$1"
mount --bind /run/munge /mnt
mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/munge && mount --move /mnt /run/munge
for id in $2; do mkdir -p /run/user/$id && chown $id:$id /run/user/$id && chmod 700 /run/user/$id; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /var/lib/berth
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
[ ! -d /sys/fs/cgroup/freezer ] || mount --rbind /sys/fs/cgroup /mnt
mount -t sysfs sysfs /sys
[ ! -d /mnt/freezer ] || mount --move /mnt /sys/fs/cgroup
ip link add eth0 type veth peer name "v$1" netns 1
ip link set lo up
ip addr add "$3.$1/24" dev eth0
ip link set eth0 up
nsenter -t 1 -n ip link set "v$1" master br0 up
exec slurmd -D
"#;

/// Starts the daemons; gives those of the nodes.
fn start_daemons(plan: &Plan) -> io::Result<Vec<Child>> {
    // Slurm asks for addresses with AI_ADDRCONFIG, which gives none where there is only the loopback's.
    let network = config::NETWORK;
    let lines = format!(
        "ip link set lo up; ip link add br0 type bridge; ip addr add {network}.254/24 dev br0; ip link set br0 up"
    );
    let made = daemon("sh", &["-euc", &lines]).status()?;
    if !made.success() {
        return Err(io::Error::other("no network for the box"));
    }
    let munged = daemon("munged", &["--force", "--socket=/run/munge/munge.socket.2"]).status()?;
    if !munged.success() {
        return Err(io::Error::other("munged does not start"));
    }
    daemon("slurmctld", &["-D"]).spawn().map_err(|error| io::Error::other(format!("slurmctld: {error}")))?;
    // A daemon of a node that finds no controller sleeps for a second before it asks again.
    let start = Instant::now();
    while TcpStream::connect((format!("{network}.254"), 6817)).is_err() {
        if start.elapsed() > READY {
            return Err(io::Error::other("slurmctld does not listen"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let ids: Vec<String> = USERS.iter().map(|(_, id)| id.to_string()).collect();
    let ids = if plan.options.run_user { ids.join(" ") } else { String::new() };
    (1..=plan.options.nodes)
        .map(|number| {
            let number = number.to_string();
            let shell = ["--net", "--uts", "--ipc", "--mount", "sh", "-euc", NODE, "node", &number, &ids, network];
            daemon("unshare", &shell).spawn()
        })
        .collect()
}

/// A command with the environment that a system's service manager gives to its daemons.
fn daemon(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs([("PATH", session::PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")]);
    // Standard output is for `say` alone.
    command.stdin(Stdio::null()).stdout(io::stderr());
    command
}

/// Waits until every node is idle, or one of the daemons has ended.
fn wait_idle(daemons: &mut [Child]) -> io::Result<()> {
    let start = Instant::now();
    let wanted = format!("idle {}\n", daemons.len());
    while start.elapsed() < READY {
        let said = daemon("sinfo", &["-h", "-o", "%T %D"]).stdout(Stdio::piped()).output()?;
        if said.stdout == wanted.as_bytes() {
            return Ok(());
        }
        for daemon in &mut *daemons {
            if let Some(status) = daemon.try_wait()? {
                return Err(io::Error::other(format!("the daemon of a node ended: {status}")));
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(io::Error::other("the nodes did not become idle"))
}
