//! Mounts inside the new root.
//!
//! Images are hostile: a symbolic link in one must not send a mount to the host. So each target is resolved inside the
//! new root (openat2(2), `RESOLVE_IN_ROOT`, no magic links) and mounted by descriptor, never by path. Sources are opened
//! before the stage of the root file system covers anything of the host.
//!
//! `/proc` and `/sys` are what security modules and masks rely on: their mount points may not be reached through any link
//! at all, nothing but a proc file system is mounted on `/proc`, and nothing in it but what is known to be harmless.

mod cgroup;
mod copy_up;
mod devices;
mod mask;
mod path;
mod plan;

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, fstat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};

use super::ids;
use super::mount_points::MountPoint;
use super::options::Options;
use super::sys::{self, MountAttr, attr};
use crate::error::{Error, Result};
use crate::oci::{IdMap, Linux, Mount, NamespaceKind, Spec};

pub use devices::bind_console;
use path::{LINKS, Target, follow, is_directory, is_mount_root, make_target, resolve_without_links, split};
pub use path::{by_number, make_directories, resolve};
pub use plan::plan;

/// Files of `/proc` that may be replaced, because nothing but information for people is in them; `lxcfs` does it.
const REPLACEABLE: &[&CStr] = &[
    c"proc/cpuinfo",
    c"proc/diskstats",
    c"proc/loadavg",
    c"proc/meminfo",
    c"proc/net/dev",
    c"proc/slabinfo",
    c"proc/stat",
    c"proc/swaps",
    c"proc/sys/crypto/fips_enabled",
    c"proc/sys/kernel/ns_last_pid",
    c"proc/uptime",
];

/// Inode number of the top of a proc file system (`PROC_ROOT_INO` of the kernel).
const PROC_TOP: u64 = 1;

/// All mounts of a container, in order.
#[derive(Debug)]
pub struct MountPlan {
    steps: Vec<Step>,
    /// Trees of id-mapped mounts, by step: only who is outside of the container's user namespace may make them.
    early: OnceCell<Vec<(usize, OwnedFd)>>,
}

/// A mount, ready to be made.
#[derive(Debug)]
struct Step {
    source: Source,
    target: Target,
    changes: Vec<(bool, MountAttr)>,
    /// Nothing is done if the source is not there.
    optional: bool,
    /// The target is the kernel's (`/proc`, `/sys`): no link may lead there.
    strict: bool,
    /// What a tree must be.
    device: Option<devices::Device>,
    id_map: Option<Box<IdMapped>>,
}

#[derive(Debug)]
enum Source {
    /// A part of the host's file tree.
    Tree { path: CString, recursive: bool },
    /// A part of the container's own tree, laid over itself to change its attributes.
    Itself,
    /// A file system.
    Fs(FileSystem),
    /// The control groups.
    Cgroups(cgroup::Cgroups),
    /// A device node.
    Device(devices::Device),
    /// Nothing to see: an empty directory or file, by what is there.
    Mask,
    /// A symbolic link with this text.
    Link(CString),
}

#[derive(Debug)]
struct FileSystem {
    kind: CString,
    /// For show, in `/proc/mounts`.
    name: CString,
    flags: MountFlags,
    data: CString,
    /// A path of the host that serves where the kernel refuses.
    instead: Option<&'static CStr>,
    /// Starts with a copy of what is at its place.
    copy_up: bool,
    /// Gets the mode of what is at its place.
    mode: bool,
    /// Made read-only when all mounts in it are made.
    readonly: bool,
}

/// Owners of a mount, seen through a map.
#[derive(Debug)]
struct IdMapped {
    recursive: bool,
    uids: Vec<IdMap>,
    gids: Vec<IdMap>,
}

impl MountPlan {
    /// Opens what must be opened with the caller's rights, before any namespace is entered.
    pub fn prepare(&self) -> Result<()> {
        let mut early = Vec::new();
        for (index, step) in self.steps.iter().enumerate() {
            if let (Source::Tree { path, recursive }, Some(map)) = (&step.source, &step.id_map) {
                early.push((index, map.open(step, path, *recursive)?));
            }
        }
        if !early.is_empty() {
            let _ = self.early.set(early);
        }
        Ok(())
    }

    /// Whether [`MountPlan::prepare`] has something to do.
    pub fn need_preparation(&self) -> bool {
        self.steps.iter().any(|step| step.id_map.is_some())
    }

    /// Opens all sources of the host's tree. Must come before the root file system is staged.
    pub fn open(&self) -> Result<Opened<'_>> {
        let mut trees = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().enumerate() {
            let Source::Tree { path, recursive } = &step.source else {
                trees.push(None);
                continue;
            };
            let early = self.early.get().and_then(|early| early.iter().find(|(step, _)| *step == index));
            let tree = match early {
                Some((_, tree)) => tree.try_clone().map_err(|e| step.error(e)).map(Some)?,
                None => match clone_tree(CWD, path, *recursive) {
                    Ok(tree) => Some(tree),
                    Err(Errno::NOENT) if step.optional => None,
                    Err(error) => return Err(step.error(error.into())),
                },
            };
            if let Some(tree) = &tree {
                if let Some(device) = &step.device {
                    device.check(tree.as_fd()).map_err(|e| step.error(e.into()))?;
                }
                step.change(tree.as_fd())?;
            }
            trees.push(tree);
        }
        Ok(Opened { steps: &self.steps, trees })
    }
}

impl IdMapped {
    fn open(&self, step: &Step, path: &CStr, recursive: bool) -> Result<OwnedFd> {
        let refused = |e: io::Error| Error::Mount {
            what: step.what(),
            target: step.target.shown(),
            reason: format!("it cannot be id-mapped: {e}"),
            hint: match e.raw_os_error() {
                Some(libc::EPERM) => Some("id-mapped mounts of the host's files take the superuser".to_owned()),
                Some(libc::EINVAL) => Some("its file system cannot do that in this kernel".to_owned()),
                _ => None,
            },
        };
        if !rustix::process::geteuid().is_root() {
            return Err(refused(Errno::PERM.into()));
        }
        let users = ids::user_namespace(&self.uids, &self.gids)?;
        let tree = clone_tree(CWD, path, recursive).map_err(|e| step.error(e.into()))?;
        // It is a copy of the host's mount, not yet of the container's: what is mounted in it must stay in it.
        let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
        sys::mount_setattr(tree.as_fd(), true, &slave).map_err(refused)?;
        let map = MountAttr {
            set: attr::IDMAP,
            userns_fd: std::os::fd::AsRawFd::as_raw_fd(&users) as u64,
            ..MountAttr::default()
        };
        sys::mount_setattr(tree.as_fd(), self.recursive, &map).map_err(refused)?;
        Ok(tree)
    }
}

/// The steps with their sources opened.
#[derive(Debug)]
pub struct Opened<'a> {
    steps: &'a [Step],
    trees: Vec<Option<OwnedFd>>,
}

/// A copy of a mount tree, attached nowhere.
fn clone_tree(at: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        return open_tree(at, path, flags | OpenTreeFlags::AT_RECURSIVE);
    }
    match open_tree(at, path, flags) {
        // In a user namespace the kernel does not let go of one mount what the mounts below it hide.
        Err(Errno::INVAL) => open_tree(at, path, flags | OpenTreeFlags::AT_RECURSIVE),
        answer => answer,
    }
}

/// Attaches a tree to what is open as `target`.
fn put(tree: &OwnedFd, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

fn mount_at(target: BorrowedFd<'_>, kind: &CStr, flags: MountFlags, data: &CStr) -> Result<(), Errno> {
    mount(kind, by_number(target), kind, flags, Some(data))
}

impl Opened<'_> {
    /// Targets that the root lacks and that no other mount brings.
    pub fn missing(&self, root: BorrowedFd<'_>) -> Vec<MountPoint> {
        let mut missing = Vec::new();
        for (index, (step, tree)) in self.steps.iter().zip(&self.trees).enumerate() {
            let directory = match (&step.source, tree) {
                (Source::Tree { .. }, Some(tree)) => is_directory(tree.as_fd()),
                (Source::Fs(_) | Source::Cgroups(_), _) => true,
                _ => continue,
            };
            let path = step.target.0.to_bytes();
            let inside_another = self.steps[..index].iter().any(|before| {
                path.strip_prefix(before.target.0.to_bytes())
                    .is_some_and(|rest| rest.first().is_none_or(|&b| b == b'/'))
            });
            if !inside_another && resolve(root, &step.target.0).is_err_and(|error| error == Errno::NOENT) {
                missing.push(MountPoint { path: path.to_vec(), directory });
            }
        }
        missing
    }

    /// Makes the mounts in the root. `in_cgroup` is called before those that depend on the process' control group.
    pub fn attach(self, root: BorrowedFd<'_>, in_cgroup: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut progress = Progress::default();
        for (step, tree) in self.steps.iter().zip(self.trees) {
            if matches!(step.source, Source::Cgroups(_)) {
                in_cgroup()?;
            }
            step.attach(root, tree, &mut progress)?;
        }
        for (step, top) in progress.readonly {
            let change = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
            sys::mount_setattr(top.as_fd(), false, &change).map_err(|e| step.error(e))?;
        }
        Ok(())
    }
}

/// What steps leave to later ones.
#[derive(Debug, Default)]
struct Progress<'a> {
    /// The top of `/proc`: paths in it start there, so that nobody can put another directory in its place meanwhile.
    proc: Option<OwnedFd>,
    masks: mask::Masks,
    /// The kernel does not let us make device nodes.
    nodes_refused: bool,
    /// What becomes read-only at last.
    readonly: Vec<(&'a Step, OwnedFd)>,
}

impl Step {
    fn new(source: Source, target: Target) -> Step {
        Step { source, target, changes: Vec::new(), optional: false, strict: false, device: None, id_map: None }
    }

    fn attach<'a>(&'a self, root: BorrowedFd<'_>, tree: Option<OwnedFd>, progress: &mut Progress<'a>) -> Result<()> {
        match &self.source {
            Source::Tree { .. } => {
                let Some(tree) = tree else { return Ok(()) };
                let target = self.place(root, is_directory(tree.as_fd()))?;
                if self.is_proc() && !is_proc_top(tree.as_fd()) {
                    return Err(self.refuse("only a proc file system can be mounted there"));
                }
                self.put(&tree, target.as_fd())?;
                if self.is_proc() {
                    progress.proc = Some(tree);
                }
                Ok(())
            }
            Source::Mask => match self.locate(root, progress) {
                Ok(target) => progress.masks.hide(target.as_fd()).map_err(|e| self.error(e.into())),
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
                Err(error) => Err(self.error(error.into())),
            },
            Source::Itself => match self.locate(root, progress) {
                Ok(target) => {
                    let tree = clone_tree(target.as_fd(), c"", true).map_err(|e| self.error(e.into()))?;
                    self.change(tree.as_fd())?;
                    self.put(&tree, target.as_fd())
                }
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
                Err(error) => Err(self.error(error.into())),
            },
            Source::Fs(fs) => self.attach_fs(fs, root, progress),
            Source::Cgroups(cgroups) => cgroups.attach(self, root),
            Source::Device(device) => device.attach(self, root, &mut progress.nodes_refused),
            Source::Link(text) => {
                let (parent, name) = self.parent(root)?;
                match rustix::fs::symlinkat(text.as_c_str(), &parent, name) {
                    Ok(()) | Err(Errno::EXIST) => Ok(()),
                    Err(error) => Err(self.error(error.into())),
                }
            }
        }
    }

    fn attach_fs<'a>(&'a self, fs: &'a FileSystem, root: BorrowedFd<'_>, progress: &mut Progress<'a>) -> Result<()> {
        let found = self.find(root);
        let before = found.is_ok();
        let target = self.place_found(found, root, true)?;
        let mount_it = |data: &CStr| mount(&fs.name, by_number(&target), &fs.kind, fs.flags, Some(data));
        let top = match (mount_it(&fs.data), fs.instead) {
            (Ok(()), _) => None,
            (Err(Errno::PERM | Errno::BUSY), Some(path)) => {
                let tree = match clone_tree(CWD, path, true) {
                    Err(Errno::NOENT) if !self.is_proc() => return Ok(()),
                    other => other.map_err(|e| self.error(e.into()))?,
                };
                // What mount(2) would have been told.
                let set = u64::from(fs.flags.bits()) & (attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC);
                if set != 0 {
                    let change = MountAttr { set, ..MountAttr::default() };
                    sys::mount_setattr(tree.as_fd(), false, &change).map_err(|e| self.error(e))?;
                }
                self.put(&tree, target.as_fd())?;
                Some(tree)
            }
            // The group of terminals has no id in this user namespace.
            (Err(Errno::INVAL), _) if fs.kind.as_c_str() == c"devpts" && has_word(&fs.data, "gid=") => {
                let data = without_word(&fs.data, "gid=");
                mount_it(&data).map_err(|e| self.error(e.into()))?;
                None
            }
            (Err(error), _) => return Err(self.error(error.into())),
        };
        let mode = fs.mode && before;
        if self.changes.is_empty() && !self.is_proc() && !fs.copy_up && !mode && !fs.readonly {
            return Ok(());
        }
        let top = match top {
            Some(tree) => tree,
            None => self.top(root)?,
        };
        if mode {
            let wanted = fstat(&target).map_err(|e| self.error(e.into()))?.st_mode & 0o7777;
            rustix::fs::chmod(by_number(&top), Mode::from_raw_mode(wanted)).map_err(|e| self.error(e.into()))?;
        }
        if fs.copy_up && before {
            copy_up::copy(target.as_fd(), top.as_fd())
                .map_err(|e| self.failure(format!("cannot copy what the image has there: {e}")))?;
        }
        self.change(top.as_fd())?;
        if self.is_proc() {
            if !is_proc_top(top.as_fd()) {
                return Err(self.refuse("only a proc file system can be mounted there"));
            }
            progress.proc = Some(top);
        } else if fs.readonly {
            progress.readonly.push((self, top));
        }
        Ok(())
    }

    fn is_proc(&self) -> bool {
        self.target.0.as_c_str() == c"proc"
    }

    /// What is at the target: in `/proc` itself, if that is where it is.
    fn locate(&self, root: BorrowedFd<'_>, progress: &Progress<'_>) -> Result<OwnedFd, Errno> {
        match (&progress.proc, self.target.below(b"proc")) {
            (Some(proc), Some(path)) => resolve(proc.as_fd(), path),
            _ => resolve(root, &self.target.0),
        }
    }

    fn find(&self, root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        if self.strict || self.is_proc() {
            resolve_without_links(root, &self.target.0)
        } else {
            resolve(root, &self.target.0)
        }
    }

    /// Opens the target, made if missing, and refuses places where nothing may be mounted.
    fn place(&self, root: BorrowedFd<'_>, directory: bool) -> Result<OwnedFd> {
        self.place_found(self.find(root), root, directory)
    }

    fn place_found(&self, found: Result<OwnedFd, Errno>, root: BorrowedFd<'_>, directory: bool) -> Result<OwnedFd> {
        let target = match found {
            Err(Errno::NOENT) => {
                let made = self.create(root, directory)?;
                // A link may have come in between.
                if self.strict || self.is_proc() { self.find(root).map_err(|e| self.error(e.into()))? } else { made }
            }
            Err(Errno::LOOP) if self.strict || self.is_proc() => {
                return Err(self.refuse("a symbolic link leads there, and this may not be mounted through one"));
            }
            other => other.map_err(|e| self.error(e.into()))?,
        };
        self.check_place(target.as_fd())?;
        Ok(target)
    }

    /// Nothing is mounted in `/proc`, whatever path leads there, but over files that are for people only.
    fn check_place(&self, target: BorrowedFd<'_>) -> Result<()> {
        if !sys::is_procfs(target) {
            return Ok(());
        }
        let replaceable = matches!(self.source, Source::Tree { .. }) && REPLACEABLE.contains(&self.target.0.as_c_str());
        // A second proc file system over the first, as a bundle with two such mounts asks for.
        let again = self.is_proc() && is_proc_top(target);
        if replaceable || again { Ok(()) } else { Err(self.refuse("it is inside /proc")) }
    }

    /// The top of what was just mounted on the target.
    fn top(&self, root: BorrowedFd<'_>) -> Result<OwnedFd> {
        let top = self.find(root).map_err(|e| self.error(e.into()))?;
        if is_mount_root(top.as_fd()) {
            return Ok(top);
        }
        Err(self.refuse("its path changed while it was mounted"))
    }

    fn put(&self, tree: &OwnedFd, target: BorrowedFd<'_>) -> Result<()> {
        put(tree, target).map_err(|e| {
            // The kernel has one error for everything; this is the cause that people meet.
            let mixed = is_directory(tree.as_fd()) != is_directory(target);
            self.error(if mixed { io::Error::from_raw_os_error(libc::ENOTDIR) } else { e.into() })
        })
    }

    fn change(&self, mount: BorrowedFd<'_>) -> Result<()> {
        for (recursive, change) in &self.changes {
            match sys::mount_setattr(mount, *recursive, change) {
                // A user namespace may not take away what the host has set: that stays.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) && change.clear != 0 => {
                    let change = MountAttr { clear: 0, set: change.set & !attr::ATIME, ..*change };
                    sys::mount_setattr(mount, *recursive, &change)
                }
                other => other,
            }
            .map_err(|e| self.error(e))?;
        }
        Ok(())
    }

    /// The directory that holds the target, made if missing, and the target's name in it.
    fn parent(&self, root: BorrowedFd<'_>) -> Result<(OwnedFd, &CStr)> {
        let (directory, name) = split(&self.target.0);
        let directory = match directory {
            Some(directory) => make_directories(root, directory),
            None => root.try_clone_to_owned().map_err(|_| Errno::MFILE),
        };
        Ok((directory.map_err(|e| self.creation_error(e))?, name))
    }

    /// Makes a mount point. One that is a link to nowhere is made where it leads, which is inside the root: images have
    /// such links for files that an engine brings, `/etc/resolv.conf` above all.
    fn create(&self, root: BorrowedFd<'_>, directory: bool) -> Result<OwnedFd> {
        let mut path = self.target.0.to_bytes().to_vec();
        for _ in 0..LINKS {
            match make_target(root, &path, directory) {
                Err(Errno::EXIST) if !self.strict && !self.is_proc() => {
                    path = follow(root, &path).map_err(|e| self.creation_error(e))?;
                }
                other => return other.map_err(|e| self.creation_error(e)),
            }
        }
        Err(self.creation_error(Errno::LOOP))
    }

    fn creation_error(&self, error: Errno) -> Error {
        let (reason, hint) = match error {
            Errno::EXIST => ("the mount point is a symbolic link that leads nowhere".to_owned(), None),
            Errno::ROFS => (
                "the mount point does not exist and the root file system is read-only".to_owned(),
                Some("choose a mount point that the image has".to_owned()),
            ),
            Errno::NOTDIR => ("a part of the mount point's path is a file".to_owned(), None),
            // Overlayfs copies the directory up with its owner, who has no id in this user namespace.
            Errno::OVERFLOW => (
                "the mount point does not exist, and its directory in the image belongs to another user of this machine".to_owned(),
                Some("choose a mount point that the image has, or pull the image into a store of your own".to_owned()),
            ),
            error => (format!("cannot create the mount point: {error}"), None),
        };
        Error::Mount { what: self.what(), target: self.target.shown(), reason, hint }
    }

    fn what(&self) -> String {
        match &self.source {
            Source::Tree { path, .. } => path.to_string_lossy().into_owned(),
            Source::Itself => self.target.shown().display().to_string(),
            Source::Mask => "a mask".to_owned(),
            Source::Fs(fs) => fs.kind.to_string_lossy().into_owned(),
            Source::Cgroups(_) => "the control groups".to_owned(),
            Source::Device(_) => "a device".to_owned(),
            Source::Link(text) => format!("a link to {}", text.to_string_lossy()),
        }
    }

    fn failure(&self, reason: String) -> Error {
        Error::Mount { what: self.what(), target: self.target.shown(), reason, hint: None }
    }

    fn refuse(&self, reason: &str) -> Error {
        self.failure(reason.to_owned())
    }

    fn error(&self, error: io::Error) -> Error {
        let kind = match &self.source {
            Source::Fs(fs) => fs.kind.to_bytes(),
            _ => b"",
        };
        let hint = match (error.raw_os_error(), kind) {
            (Some(libc::EPERM), b"proc") => Some("the kernel mounts a new /proc only where the present one is wholly visible: inside another container, share its pid namespace (`--pid host`)".to_owned()),
            (Some(libc::ENODEV), _) => Some("this kernel has no such file system".to_owned()),
            _ => None,
        };
        let reason = match (error.raw_os_error(), &self.source) {
            (Some(libc::ENOENT), Source::Tree { .. }) => "no such file or directory on this machine".to_owned(),
            (Some(libc::ENOTDIR), _) => "one is a directory and the other is a file".to_owned(),
            (Some(libc::ENXIO), Source::Tree { .. } | Source::Device(_)) => {
                "what this machine has there is another device".to_owned()
            }
            _ => error.to_string(),
        };
        Error::Mount { what: self.what(), target: self.target.shown(), reason, hint }
    }
}

fn is_proc_top(fd: BorrowedFd<'_>) -> bool {
    sys::is_procfs(fd) && fstat(fd).is_ok_and(|stat| stat.st_ino == PROC_TOP)
}

fn has_word(data: &CStr, start: &str) -> bool {
    data.to_bytes().split(|&b| b == b',').any(|word| word.starts_with(start.as_bytes()))
}

fn without_word(data: &CStr, start: &str) -> CString {
    let kept: Vec<&[u8]> =
        data.to_bytes().split(|&b| b == b',').filter(|word| !word.starts_with(start.as_bytes())).collect();
    // Parts of a string without NUL have none.
    CString::new(kept.join(&b',')).unwrap_or_default()
}
