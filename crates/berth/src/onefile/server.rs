//! The process that serves one image to the containers of one user: started by [`super::client`], gone by itself.
//!
//! It is given the open file and a door: a socket that listens, or a connection where it serves one container alone. The
//! file stays the one that was opened, whatever its name leads to later. See [`super`] for how long it lives.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use berth_container::launch::{apart, enter_own_namespaces};
use berth_fuse::{Owners, mount};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, statx};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use rustix::net::{SocketFlags, accept_with, sockopt};
use rustix::process::{Pid, PidfdFlags, Resource, pidfd_open};

use super::holders::Holders;
use super::message;
use super::name::{IDENTITY, Identity};
use super::reporting::Reporting;
use crate::{CommandError, ExitCode};

/// What the process' line begins with, before the file's name.
pub const TITLE: &str = "berth: image ";
/// How long the image stays mounted when nobody uses it any more: the next step of a job finds it.
const LINGER: Duration = Duration::from_secs(5);
/// Processes that are watched at a time: when all are gone, others are looked for.
const WATCHED: usize = 64;
/// Threads that answer the kernel: more than the machine has cores are of no use, and few images keep many busy.
const THREADS: std::ops::RangeInclusive<usize> = 2..=8;
/// The descriptors that [`super::client`] passes.
const FILE: RawFd = apart::FIRST as RawFd;
const DOOR: RawFd = FILE + 1;
/// Directories of which every machine has at least one; the image is mounted over the first that is there.
const STAGES: [&str; 4] = ["/tmp", "/run", "/usr", "/etc"];

/// Whether this line is a server's.
pub fn is_asked(arguments: &[OsString]) -> bool {
    arguments.len() == 1 && arguments[0].as_bytes().starts_with(TITLE.as_bytes())
}

/// Serves until nobody uses the image any more.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let name = String::from_utf8_lossy(&arguments[0].as_bytes()[TITLE.len()..]).into_owned();
    let Some((file, door)) = inherit() else {
        let error = CommandError::usage("this line is for a process of berth's own, which serves an image in one file")
            .with_hint("`berth run FILE COMMAND` starts it");
        error.report(false);
        return error.exit_code();
    };
    let _ = rustix::thread::set_name(c"berth-image");
    let most = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        rustix::process::Rlimit { current: most.maximum, maximum: most.maximum },
    );
    match Server::start(file, &name) {
        Ok(server) => {
            server.run(door);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut lines = vec![error.to_string()];
            lines.extend(error.hint().map(str::to_owned));
            refuse(&door, &lines);
            error.exit_code()
        }
    }
}

/// What the client has left: nothing where it was not this program's client who called.
fn inherit() -> Option<(File, Door)> {
    // SAFETY: nothing else in this program knows the numbers; whether they are open is asked next.
    #[allow(unsafe_code)]
    let (file, door) = unsafe { (BorrowedFd::borrow_raw(FILE), BorrowedFd::borrow_raw(DOOR)) };
    let is_file = rustix::fs::fstat(file).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG);
    let listens = sockopt::socket_acceptconn(door);
    let (true, Ok(listens)) = (is_file, listens) else { return None };
    for descriptor in [file, door] {
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC).ok()?;
    }
    // SAFETY: they are open, and owned by nobody else.
    #[allow(unsafe_code)]
    let (file, door) = unsafe { (File::from_raw_fd(FILE), OwnedFd::from_raw_fd(DOOR)) };
    if listens {
        rustix::fs::fcntl_setfl(&door, OFlags::NONBLOCK).ok()?;
    }
    Some((file, if listens { Door::Listening(door) } else { Door::Connection(door) }))
}

/// Where clients come from.
enum Door {
    /// They connect.
    Listening(OwnedFd),
    /// There is one, who has.
    Connection(OwnedFd),
}

impl Door {
    /// The next one who waits, if it is the same user.
    fn next(&self) -> Option<Client> {
        let Door::Listening(door) = self else { return None };
        loop {
            match accept_with(door, SocketFlags::CLOEXEC) {
                Ok(connection) => {
                    if let Some(client) = Client::new(connection) {
                        return Some(client);
                    }
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(_) => return None,
            }
        }
    }
}

/// A process that uses the image, or prepares to.
struct Client {
    connection: OwnedFd,
    pid: u32,
}

impl Client {
    fn new(connection: OwnedFd) -> Option<Client> {
        let peer = sockopt::socket_peercred(&connection).ok()?;
        let pid = peer.pid.as_raw_nonzero().get() as u32;
        (peer.uid == rustix::process::geteuid()).then_some(Client { connection, pid })
    }
}

/// Tells all who wait why there is no mount.
fn refuse(door: &Door, lines: &[String]) {
    if let Door::Connection(connection) = door {
        let _ = message::send_failed(connection, lines);
    }
    while let Some(client) = door.next() {
        let _ = message::send_failed(&client.connection, lines);
    }
}

struct Server {
    mounted: Place,
    identity: [u8; IDENTITY],
    device: (u32, u32),
    holders: Holders,
    serving: JoinHandle<()>,
    clients: Vec<Client>,
    watched: Vec<OwnedFd>,
}

impl Server {
    fn start(file: File, name: &str) -> Result<Server, CommandError> {
        let failed = |what: &'static str| move |e: rustix::io::Errno| CommandError::io("use", what, e);
        let identity = Identity::of(&file).map_err(|e| CommandError::io("read", name, e))?.to_bytes();
        let threads = std::thread::available_parallelism().map_or(*THREADS.start(), usize::from);
        let tree = berth_imagefile::open(file, name).map_err(|e| CommandError::failure(e.to_string()))?;
        // As long as they can be seen.
        let tree = Reporting::new(tree);
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", directory, Mode::empty()).map_err(failed("/proc"))?;
        enter_own_namespaces()?;
        let mounted = mount::mount(Path::new(mount::DEVICE), name, mount::Access::Owner).map_err(explain)?;
        let place = Place::take(&mounted.mount)?;
        // What a user would have who unpacked the image. All threads come after the namespaces.
        let server = berth_fuse::Server::new(std::sync::Arc::new(tree), mounted.connection, Owners::All(0, 0));
        let threads = threads.clamp(*THREADS.start(), *THREADS.end());
        let serving = std::thread::Builder::new()
            .name("image".to_owned())
            .spawn(move || server.serve(threads))
            .map_err(|e| CommandError::failure(format!("cannot start a thread: {e}")))?;
        let found = statx(&mounted.mount, c"", AtFlags::EMPTY_PATH, StatxFlags::INO).map_err(failed("the image"))?;
        let device = (found.stx_dev_major, found.stx_dev_minor);
        Ok(Server {
            mounted: place,
            identity,
            device,
            holders: Holders::new(proc, device),
            serving,
            clients: Vec::new(),
            watched: Vec::new(),
        })
    }

    fn run(mut self, door: Door) {
        let door = match door {
            Door::Connection(connection) => {
                Client::new(connection).into_iter().for_each(|client| self.admit(client));
                None
            }
            listening => Some(listening),
        };
        // Who started this process waits.
        self.admit_all(door.as_ref());
        let mut unused_since = None;
        // Where the kernel has ended it, there is nothing left to give.
        while !self.serving.is_finished() {
            if self.is_used() {
                unused_since = None;
            } else {
                let since = *unused_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= LINGER || door.is_none() {
                    match door.as_ref().and_then(Door::next) {
                        Some(client) => self.admit(client),
                        None => break,
                    }
                    continue;
                }
            }
            let patience = unused_since.map(|since| LINGER.saturating_sub(since.elapsed()));
            self.wait(door.as_ref(), patience);
        }
        // Who waits at the door is told by its end to start another server.
        drop(door);
        self.mounted.leave();
        let _ = self.serving.join();
    }

    /// Whether somebody has the image mounted, or is about to. Looks for others when all who were known are gone.
    fn is_used(&mut self) -> bool {
        if self.clients.is_empty() && self.watched.is_empty() {
            for pid in self.holders.find(WATCHED) {
                self.watch(pid);
            }
        }
        !self.clients.is_empty() || !self.watched.is_empty()
    }

    /// Waits until something happens, and takes note of it.
    fn wait(&mut self, door: Option<&Door>, patience: Option<Duration>) {
        let timeout = patience.map(|patience| Timespec {
            tv_sec: patience.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: (patience.subsec_nanos()).into(),
        });
        let descriptors = self.clients.iter().map(|client| client.connection.as_fd());
        let descriptors = descriptors.chain(self.watched.iter().map(OwnedFd::as_fd));
        let door_fd = match door {
            Some(Door::Listening(door)) => Some(door.as_fd()),
            _ => None,
        };
        let mut polled: Vec<PollFd<'_>> =
            descriptors.chain(door_fd).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        if poll(&mut polled, timeout.as_ref()).is_err() {
            return;
        }
        let mut happened = polled.iter().map(|polled| !polled.revents().is_empty()).collect::<Vec<_>>().into_iter();
        let mut gone = Vec::new();
        let mut rest = Vec::new();
        for client in self.clients.drain(..) {
            // A client says nothing: it is there, or not.
            if happened.next() == Some(true) { gone.push(client.pid) } else { rest.push(client) }
        }
        self.clients = rest;
        self.watched.retain(|_| happened.next() != Some(true));
        // The process is gone, or has become the command of its container.
        gone.into_iter().for_each(|pid| self.watch(pid));
        self.admit_all(door);
    }

    fn admit_all(&mut self, door: Option<&Door>) {
        while let Some(client) = door.and_then(Door::next) {
            self.admit(client);
        }
    }

    fn admit(&mut self, client: Client) {
        let copy = match self.mounted.copy() {
            Ok(copy) => copy,
            Err(error) => {
                let _ = message::send_failed(&client.connection, &[format!("cannot mount the image again: {error}")]);
                return;
            }
        };
        if message::send_mount(&client.connection, copy.as_fd(), self.device, self.identity).is_ok() {
            self.clients.push(client);
        }
    }

    /// Watches a process if it has the image mounted.
    fn watch(&mut self, pid: u32) {
        if self.watched.len() >= WATCHED {
            return;
        }
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let process = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Looked at after it was opened: the number may have become somebody else's.
        if let Some(process) = process.filter(|_| self.holders.has(pid)) {
            self.watched.push(process);
        }
    }
}

/// Where the image is mounted in this process' own mount namespace: the only mount there, so that nothing of the host's is
/// kept busy.
struct Place {
    path: String,
}

impl Place {
    fn take(mounted: &OwnedFd) -> Result<Place, CommandError> {
        let failed = |e: rustix::io::Errno| CommandError::io("mount", "the image", e);
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let stage = STAGES
            .iter()
            .find_map(|stage| match rustix::mount::mount(c"berth", *stage, c"tmpfs", flags, Some(c"mode=755")) {
                Ok(()) => Some(Ok(*stage)),
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => None,
                Err(error) => Some(Err(failed(error))),
            })
            .unwrap_or_else(|| Err(CommandError::failure("this machine has none of /tmp, /run, /usr, /etc")))?;
        rustix::process::chdir(stage).map_err(failed)?;
        rustix::fs::mkdir("image", Mode::from_raw_mode(0o755)).map_err(failed)?;
        move_mount(mounted, c"", rustix::fs::CWD, c"image", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(failed)?;
        let mut path = format!("{stage}/image");
        // A root that cannot be pivoted away (an initial ramdisk) stays.
        if rustix::process::pivot_root(c".", c".").is_ok() {
            unmount(c".", UnmountFlags::DETACH).map_err(failed)?;
            path = "/image".to_owned();
        }
        rustix::process::chdir(c"/").map_err(failed)?;
        Ok(Place { path })
    }

    /// A copy for another place.
    fn copy(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(rustix::fs::CWD, self.path.as_str(), flags)
    }

    /// Takes it off. The kernel ends the file system with its last copy.
    fn leave(&self) {
        let _ = unmount(self.path.as_str(), UnmountFlags::DETACH);
    }
}

fn explain(error: mount::Error) -> CommandError {
    let hint = match &error {
        mount::Error::Device { source: rustix::io::Errno::NOENT, .. } => Some(
            "the kernel's module `fuse` is not loaded: ask the administrator for `modprobe fuse`; or take the image by its \
             registry's name, which needs no FUSE",
        ),
        mount::Error::Device { source: rustix::io::Errno::ACCESS | rustix::io::Errno::PERM, .. } => Some(
            "users must be able to open it: ask the administrator to give it mode 0666, as distributions do, and to allow it \
             in jobs",
        ),
        mount::Error::Mount { .. } => {
            Some("users may mount FUSE file systems in user namespaces of their own since Linux 4.18")
        }
        _ => None,
    };
    CommandError::failure(error.to_string()).with_hint_if(hint)
}
