//! How a container comes to be: `create`, and `run`, which goes on to the end.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::container::Container;
use super::record::{ProcessId, Record, now};
use super::root::{CONFIG, Lock, Root, START, remove_files, write_state};
use super::{Warn, absolute, keeps_groups, read_config};
use crate::bundle::{Bundle, Rootfs};
use crate::cgroup::{Cgroup, Manager, Request};
use crate::error::{Error, Result};
use crate::launch::hooks::{self, Identity, Stage};
use crate::launch::{Attendance, Channel, Message, Observer, Options, Outcome, Plan, unknown_capabilities};
use crate::oci::Spec;
use crate::state::boot_id;

/// A container that is to be.
pub struct Birth<'a> {
    /// Where it is written down.
    pub root: &'a Root,
    /// Its id.
    pub id: &'a str,
    /// The bundle.
    pub bundle: &'a Path,
    /// The configuration's file in the bundle: `config.json`.
    pub config: &'a Path,
    /// Who makes its cgroup.
    pub cgroups: Manager,
    /// Where to write its process id.
    pub pid_file: Option<&'a Path>,
    /// A listening socket that gets its terminal.
    pub console_socket: Option<&'a Path>,
    /// How many descriptors after the first three it inherits.
    pub preserve_fds: u32,
    /// Make its root the root by chroot(2).
    pub no_pivot: bool,
    /// Let it share the caller's session keyring.
    pub no_new_keyring: bool,
    /// Keep the record of a container that `run` has attended to its end.
    pub keep: bool,
    /// Changes the configuration before it is used.
    pub adjust: Option<&'a dyn Fn(&mut Spec)>,
    /// Who is told of limits that are not in force, and the like.
    pub warn: Warn<'a>,
}

impl std::fmt::Debug for Birth<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Birth").field("id", &self.id).field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

/// How `run` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The command did, with this exit code.
    Code(u8),
    /// It goes on by itself.
    Detached,
}

/// A birth with everything read that can be read.
struct Prepared<'a> {
    birth: &'a Birth<'a>,
    spec: Spec,
    config: Vec<u8>,
    bundle: PathBuf,
    rootfs: PathBuf,
    plan: Plan,
}

impl Birth<'_> {
    /// Makes the container, up to the moment before its command.
    pub fn create(&self) -> Result<()> {
        let prepared = self.prepare()?;
        let mut attendance =
            Attendance { console: self.connect_console(&prepared.spec, true)?, ..Attendance::default() };
        if self.is_read_to_the_end(&prepared.spec) {
            attendance.stdio = Some(elsewhere(&prepared.spec)?);
        }
        let (dir, lock) = self.root.claim(self.id)?;
        prepared.begin(dir, lock, attendance, Life::Created).map(drop)
    }

    /// Makes the container, runs its command, and unless `detach` waits for its end and deletes it.
    pub fn run(&self, detach: bool) -> Result<Ended> {
        let prepared = self.prepare()?;
        let console = self.connect_console(&prepared.spec, detach)?;
        let attendance = Attendance { detach, console, ..Attendance::default() };
        let (dir, lock) = self.root.claim(self.id)?;
        let life = if detach { Life::Left } else { Life::Attended };
        prepared.begin(dir, lock, attendance, life)
    }

    fn prepare(&self) -> Result<Prepared<'_>> {
        let bundle = absolute(self.bundle)?;
        let (mut spec, config) = read_config(&bundle.join(self.config))?;
        if let Some(adjust) = self.adjust {
            adjust(&mut spec);
        }
        let Some(root) = &spec.root else {
            return Err(Error::bad_spec("root", "missing: there is no root file system"));
        };
        if root.path.as_os_str().is_empty() {
            return Err(Error::bad_spec("root.path", "is empty"));
        }
        if spec.linux.as_ref().is_some_and(|linux| linux.intel_rdt.is_some()) {
            let reason = "cache and memory bandwidth allocation (resctrl) is not supported";
            return Err(Error::bad_spec("linux.intelRdt", reason));
        }
        let rootfs = bundle.join(&root.path);
        if let Some(process) = &mut spec.process {
            keep_last(&mut process.env);
        }
        let activated = pass_listen_fds(&mut spec);
        let identity = Identity { id: self.id.to_owned(), bundle: bundle.clone() };
        let options = Options {
            supervise: true,
            create_cwd: true,
            preserve_fds: self.preserve_fds.saturating_add(activated),
            identity: Some(identity),
            keyring: (!self.no_new_keyring).then(|| format!("_ses.{}", self.id)),
            no_pivot: self.no_pivot,
            set_home: true,
            keep_groups: keeps_groups(&spec),
            kept_filters: spec.linux.as_ref().and_then(|l| l.seccomp.as_ref()).and_then(|_| self.root.kept_filters()),
            ..Options::default()
        };
        let container = Bundle { spec, rootfs: Rootfs::Dir(rootfs.clone()) };
        let plan = Plan::new(&container, &options)?;
        let capabilities = container.spec.process.iter().filter_map(|process| process.capabilities.as_ref());
        for name in capabilities.flat_map(unknown_capabilities) {
            (self.warn)(&format!("this kernel has no capability {name}"));
        }
        Ok(Prepared { birth: self, spec: container.spec, config, bundle, rootfs, plan })
    }

    fn connect_console(&self, spec: &Spec, leaves: bool) -> Result<Option<OwnedFd>> {
        let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
        connect_console(self.console_socket, terminal, leaves)
    }

    /// Whether our standard output is read by somebody who waits for its end before going on, as slurmstepd does: the
    /// container, which would hold it open until then, must not inherit it. Engines that hand over the container's own
    /// files ask for its process id, and have one pipe for each.
    fn is_read_to_the_end(&self, spec: &Spec) -> bool {
        let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
        if self.pid_file.is_some() || self.console_socket.is_some() || self.preserve_fds != 0 || terminal {
            return false;
        }
        match (rustix::fs::fstat(rustix::stdio::stdout()), rustix::fs::fstat(rustix::stdio::stderr())) {
            (Ok(output), Ok(errors)) => {
                output.st_mode & libc::S_IFMT == libc::S_IFIFO
                    && (output.st_dev, output.st_ino) == (errors.st_dev, errors.st_ino)
            }
            _ => false,
        }
    }
}

/// Connects to the console socket where one is needed.
pub(super) fn connect_console(socket: Option<&Path>, terminal: bool, leaves: bool) -> Result<Option<OwnedFd>> {
    match socket {
        _ if !terminal => Ok(None),
        Some(path) => {
            let (directory, name) = (path.parent(), path.file_name());
            let directory = directory.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let fail = |e: Errno| Error::io("connect to the console socket", path, e);
            let name = name.ok_or_else(|| fail(Errno::INVAL))?;
            let directory = open_directory(directory).map_err(fail)?;
            let socket = socket_of(SocketType::STREAM).map_err(fail)?;
            rustix::net::connect(&socket, &address(&directory, name.as_ref()).map_err(fail)?).map_err(fail)?;
            Ok(Some(socket))
        }
        None if leaves => Err(Error::bad_spec(
            "process.terminal",
            "a container that is not attended needs somebody to take its terminal: use --console-socket",
        )),
        None => Ok(None),
    }
}

/// Leaves one value for each variable, the last, and no empty HOME, in whose place the user's home directory is put: what
/// engines count on, for C programs take the first of two and shells the last.
fn keep_last(env: &mut Vec<String>) {
    let name = |entry: &String| entry.split('=').next().map(str::to_owned);
    let mut seen = std::collections::HashSet::new();
    env.reverse();
    env.retain(|entry| seen.insert(name(entry)));
    env.reverse();
    env.retain(|entry| entry != "HOME=");
}

/// Hands sockets of a service manager on: returns how many.
fn pass_listen_fds(spec: &mut Spec) -> u32 {
    let Some(count) = std::env::var("LISTEN_FDS").ok().and_then(|text| text.parse::<u32>().ok()) else { return 0 };
    if let Some(process) = spec.process.as_mut().filter(|_| count > 0) {
        process.env.push(format!("LISTEN_FDS={count}"));
        // The command is the first process of its pid namespace, and knows itself by no other number.
        process.env.push("LISTEN_PID=1".to_owned());
    }
    count
}

/// Standard files for a container whose caller's cannot be had: a batch script's own files, which Slurm mounts for it, or
/// nothing.
fn elsewhere(spec: &Spec) -> Result<[OwnedFd; 3]> {
    let null = || {
        let path = "/dev/null";
        OpenOptions::new().read(true).write(true).open(path).map_err(|e| Error::io("open", path, e))
    };
    let of_script = |name: &str| {
        let mount = spec.mounts.iter().find(|m| m.is_bind() && m.destination == Path::new(name))?;
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().append(true).custom_flags(flags).open(mount.source.as_ref()?).ok()?;
        file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
    };
    let output = |name| of_script(name).map_or_else(null, Ok).map(OwnedFd::from);
    Ok([null()?.into(), output("/tmp/slurm/stdout")?, output("/tmp/slurm/stderr")?])
}

/// What becomes of a container after its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// It waits for its start.
    Created,
    /// It goes on by itself.
    Left,
    /// We stay with it, and delete it.
    Attended,
}

impl Prepared<'_> {
    fn begin(self, dir: PathBuf, lock: Lock, mut attendance: Attendance, life: Life) -> Result<Ended> {
        let Prepared { birth, spec, config, bundle, rootfs, plan } = self;
        let mut registrar = Registrar { birth, spec, bundle, rootfs, dir, life, lock: Some(lock), container: None };
        let outcome = registrar.write_config(&config).and_then(|()| {
            if life == Life::Created {
                attendance.gate = Some(Gate::open(&registrar.dir)?);
            }
            plan.attend(attendance, &mut registrar)
        });
        match outcome {
            Ok(Outcome::Left(_)) => Ok(Ended::Detached),
            Ok(Outcome::Ended(code)) => {
                if !birth.keep {
                    registrar.clean_up()?;
                }
                Ok(Ended::Code(code))
            }
            Err(error) => {
                let _ = registrar.clean_up();
                Err(error)
            }
        }
    }
}

/// Writes a container down as it comes to be.
struct Registrar<'a> {
    birth: &'a Birth<'a>,
    spec: Spec,
    bundle: PathBuf,
    rootfs: PathBuf,
    dir: PathBuf,
    life: Life,
    lock: Option<Lock>,
    container: Option<Container>,
}

impl Registrar<'_> {
    fn write_config(&self, config: &[u8]) -> Result<()> {
        let path = self.dir.join(CONFIG);
        // Without a state there is no container yet, so nobody reads a half of it.
        std::fs::write(&path, config).map_err(|e| Error::io("write", &path, e))
    }

    fn identity(&self) -> Identity {
        Identity { id: self.birth.id.to_owned(), bundle: self.bundle.clone() }
    }

    /// Deletes what there is of it.
    fn clean_up(&mut self) -> Result<()> {
        let lock = match self.lock.take() {
            Some(lock) => lock,
            None => match Lock::on(&self.dir) {
                Ok(lock) => lock,
                // Somebody has deleted it meanwhile.
                Err(_) => return Ok(()),
            },
        };
        match self.container.take() {
            Some(container) => container.finish_as(&self.spec, &lock, self.birth.warn),
            None => {
                remove_files(&self.dir);
                std::fs::remove_dir(&self.dir).map_err(|e| Error::io("remove", &self.dir, e))
            }
        }
    }
}

impl Observer for Registrar<'_> {
    fn created(&mut self, pid: u32) -> Result<()> {
        let linux = self.spec.linux.as_ref();
        let request = Request {
            id: self.birth.id,
            path: linux.and_then(|linux| linux.cgroups_path.as_deref()),
            resources: linux.and_then(|linux| linux.resources.as_ref()),
            manager: self.birth.cgroups,
        };
        let gone = || Error::system("find the container's process", Errno::SRCH);
        let attended = self.life == Life::Attended && !self.birth.keep;
        let record = Record {
            oci_version: self.spec.oci_version.clone(),
            id: self.birth.id.to_owned(),
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            created: now(),
            owner: rustix::process::geteuid().as_raw(),
            boot_id: boot_id(),
            process: ProcessId::of(pid).ok_or_else(gone)?,
            attendant: if attended { ProcessId::of(std::process::id()) } else { None },
            cgroup: Cgroup::create(&request, pid)?,
            annotations: self.spec.annotations.clone(),
        };
        record.cgroup.warnings().iter().for_each(|warning| (self.birth.warn)(warning));
        let text = serde_json::to_vec(&record).unwrap_or_default();
        self.container = Some(Container { dir: self.dir.clone(), record });
        write_state(&self.dir, &text)
    }

    fn ready(&mut self, pid: u32) -> Result<()> {
        if let Some(path) = self.birth.pid_file {
            write_pid_file(path, pid)?;
        }
        if self.life != Life::Created {
            hooks::run_stage(&self.spec, Stage::Poststart, &self.identity(), pid)?;
        }
        // From now on others may do something with it.
        self.lock = None;
        if self.life == Life::Attended {
            // While the command runs: nobody waits for it.
            self.birth.root.sweep_sometimes();
        }
        Ok(())
    }
}

/// Writes a process id in one piece: whoever watches for the file finds a number in it.
pub(super) fn write_pid_file(path: &Path, pid: u32) -> Result<()> {
    let fail = |e| Error::io("write the process id to", path, e);
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let flags = libc::O_NOFOLLOW;
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o644).custom_flags(flags).open(&new);
    let written = file.and_then(|mut file: File| std::io::Write::write_all(&mut file, pid.to_string().as_bytes()));
    written.and_then(|()| std::fs::rename(&new, path)).map_err(|e| {
        let _ = std::fs::remove_file(&new);
        fail(e)
    })
}

/// The socket at which a created container waits for its start.
pub(super) struct Gate {
    channel: Channel,
}

impl Gate {
    /// Opens it, for the container's process.
    fn open(dir: &Path) -> Result<OwnedFd> {
        let fail = |e: Errno| Error::io("make the start socket in", dir, e);
        let directory = open_directory(dir).map_err(fail)?;
        let socket = socket_of(SocketType::SEQPACKET).map_err(fail)?;
        rustix::net::bind(&socket, &address(&directory, Path::new(START)).map_err(fail)?).map_err(fail)?;
        rustix::net::listen(&socket, 1).map_err(fail)?;
        Ok(socket)
    }

    /// Connects to it, and takes its name away, so that nobody else does; `None` where somebody else has.
    pub fn connect(dir: &Path) -> Result<Option<Gate>> {
        let path = dir.join(START);
        let fail = |e: Errno| Error::io("connect to", &path, e);
        let directory = open_directory(dir).map_err(fail)?;
        let socket = socket_of(SocketType::SEQPACKET).map_err(fail)?;
        match rustix::net::connect(&socket, &address(&directory, Path::new(START)).map_err(fail)?) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            Err(error) => return Err(fail(error)),
        }
        match rustix::fs::unlinkat(&directory, START, rustix::fs::AtFlags::empty()) {
            Ok(()) => Ok(Some(Gate { channel: Channel::from_socket(socket) })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    /// Lets the command run; returns when it does, or why it does not.
    pub fn start(self) -> Result<()> {
        self.channel.go()?;
        match self.channel.receive() {
            Message::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }
}

fn open_directory(dir: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn socket_of(kind: SocketType) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
}

/// A socket's address by its directory's descriptor: paths may be longer than an address.
fn address(directory: &OwnedFd, name: &Path) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}
