//! Mounts inside the new root.
//!
//! Images are hostile: a symbolic link in one must not send a mount to the host. So each target is resolved inside the
//! new root (openat2(2), `RESOLVE_IN_ROOT`, no magic links) and mounted by descriptor, never by path. Sources are opened
//! before the stage of the root file system covers anything of the host.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2, statat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};

use super::mount_points::MountPoint;
use super::options::Options;
use super::sys::{self, MountAttr, attr};
use crate::error::{Error, Result};
use crate::oci::{Mount, NamespaceKind, Spec};

/// A mount, ready to be made.
#[derive(Debug)]
pub struct Step {
    source: Source,
    target: Target,
    changes: Vec<(bool, MountAttr)>,
    /// Nothing is done if the source is not there.
    optional: bool,
}

#[derive(Debug)]
enum Source {
    /// A part of the host's file tree.
    Tree { path: CString, recursive: bool },
    /// A part of the container's own tree, laid over itself to change its attributes.
    Itself,
    /// A file system; the last is a path of the host that serves where the kernel refuses.
    Fs { kind: CString, flags: MountFlags, data: CString, instead: Option<&'static CStr> },
    /// Nothing to see: an empty directory or file, by what is there.
    Mask,
    /// A symbolic link with this text.
    Link(CString),
}

/// A path in the container, without the leading slash.
#[derive(Debug)]
struct Target(CString);

impl Target {
    fn new(path: &Path, field: impl Fn() -> String) -> Result<Target> {
        if !path.is_absolute() {
            return Err(Error::bad_spec(field(), format!("`{}` is not absolute", path.display())));
        }
        let mut relative = PathBuf::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => relative.push(name),
                Component::ParentDir => {
                    return Err(Error::bad_spec(field(), format!("`{}` has a `..`", path.display())));
                }
                _ => {}
            }
        }
        if relative.as_os_str().is_empty() {
            return Err(Error::bad_spec(field(), "the root itself cannot be a mount point"));
        }
        Ok(Target(super::c_string(relative.as_os_str(), field)?))
    }

    fn shown(&self) -> PathBuf {
        Path::new("/").join(&*self.0.to_string_lossy())
    }
}

/// What every container has in `/dev`, if it is not the host's.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// Links in a private `/dev`.
const DEVICE_LINKS: &[(&str, &CStr)] = &[
    ("/dev/fd", c"/proc/self/fd"),
    ("/dev/stdin", c"/proc/self/fd/0"),
    ("/dev/stdout", c"/proc/self/fd/1"),
    ("/dev/stderr", c"/proc/self/fd/2"),
    ("/dev/ptmx", c"pts/ptmx"),
];

/// Computes the steps of a configuration, in order.
pub fn plan(spec: &Spec, _bundle: Option<&Path>) -> Result<Vec<Step>> {
    let mut steps = Vec::with_capacity(spec.mounts.len() + 16);
    let private_dev = !spec.mounts.iter().any(|m| m.is_bind() && m.destination == Path::new("/dev"));
    let dev_mount = spec.mounts.iter().position(|m| m.destination == Path::new("/dev"));
    if private_dev && dev_mount.is_none() {
        device_steps(spec, &mut steps)?;
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        steps.push(step(mount, spec, || format!("mounts[{index}]"))?);
        if private_dev && dev_mount == Some(index) {
            device_steps(spec, &mut steps)?;
        }
    }
    let linux = spec.linux.as_ref();
    for path in linux.map_or(&[][..], |linux| &linux.readonly_paths) {
        let target = Target::new(path, || "linux.readonlyPaths".to_owned())?;
        let changes = vec![(true, MountAttr { set: attr::RDONLY, ..MountAttr::default() })];
        steps.push(Step { source: Source::Itself, target, changes, optional: true });
    }
    for path in linux.map_or(&[][..], |linux| &linux.masked_paths) {
        let target = Target::new(path, || "linux.maskedPaths".to_owned())?;
        steps.push(Step { source: Source::Mask, target, changes: Vec::new(), optional: true });
    }
    Ok(steps)
}

fn device_steps(spec: &Spec, steps: &mut Vec<Step>) -> Result<()> {
    let usual = DEVICES.iter().map(|name| (PathBuf::from(format!("/dev/{name}")), true));
    let asked = spec.linux.iter().flat_map(|linux| &linux.devices).map(|device| (device.path.clone(), false));
    for (path, optional) in usual.chain(asked) {
        let target = Target::new(&path, || "linux.devices".to_owned())?;
        let path = super::c_string(path.as_os_str(), || "linux.devices".to_owned())?;
        steps.push(Step { source: Source::Tree { path, recursive: false }, target, changes: Vec::new(), optional });
    }
    for (path, text) in DEVICE_LINKS {
        let target = Target::new(Path::new(path), || "linux.devices".to_owned())?;
        steps.push(Step { source: Source::Link((*text).to_owned()), target, changes: Vec::new(), optional: true });
    }
    Ok(())
}

fn step(mount: &Mount, spec: &Spec, field: impl Fn() -> String) -> Result<Step> {
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(Error::bad_spec(field(), "id-mapped mounts need the superuser and are not supported"));
    }
    let target = Target::new(&mount.destination, || format!("{}.destination", field()))?;
    let mut options = Options::parse(&mount.options);
    if mount.is_bind() {
        if let Some(word) = options.data.first() {
            return Err(Error::bad_spec(
                format!("{}.options", field()),
                format!("`{word}` is no option of a bind mount"),
            ));
        }
        let Some(source) = &mount.source else {
            return Err(Error::bad_spec(field(), "a bind mount needs a source"));
        };
        if !source.is_absolute() {
            return Err(Error::bad_spec(
                format!("{}.source", field()),
                format!("`{}` is not absolute", source.display()),
            ));
        }
        let path = super::c_string(source.as_os_str(), || format!("{}.source", field()))?;
        let source = Source::Tree { path, recursive: options.bind.unwrap_or(true) };
        return Ok(Step { source, target, changes: options.changes(), optional: false });
    }
    let Some(kind) = mount.kind.as_deref() else {
        return Err(Error::bad_spec(field(), "neither a bind mount nor a file system type"));
    };
    let new = |kind| spec.linux.iter().flat_map(|l| &l.namespaces).any(|n| n.kind == kind);
    let recursive = true;
    // Without its own namespace each of these would be refused, or would show the host's: then the host's mount it is.
    let host = match kind {
        "sysfs" if !new(NamespaceKind::Network) => Some(c"/sys"),
        "mqueue" if !new(NamespaceKind::Ipc) => Some(c"/dev/mqueue"),
        "proc" if !new(NamespaceKind::Pid) => Some(c"/proc"),
        "cgroup" | "cgroup2" => Some(c"/sys/fs/cgroup"),
        _ => None,
    };
    if let Some(path) = host {
        options.data.clear();
        let source = Source::Tree { path: path.to_owned(), recursive };
        return Ok(Step { source, target, changes: options.changes(), optional: kind != "proc" });
    }
    let changes = options
        .changes()
        .into_iter()
        .filter(|(_, change)| change.propagation != 0 || change.set == options.below && options.below != 0)
        .collect();
    let text = |text: &str| super::c_string(text.as_ref(), || format!("{}.options", field()));
    let source = Source::Fs {
        kind: text(kind)?,
        flags: MountFlags::from_bits_retain(options.flags as u32),
        data: text(&options.data.join(","))?,
        instead: match kind {
            "sysfs" => Some(c"/sys"),
            "mqueue" => Some(c"/dev/mqueue"),
            _ => None,
        },
    };
    Ok(Step { source, target, changes, optional: false })
}

/// The steps with their sources opened.
#[derive(Debug)]
pub struct Opened<'a> {
    steps: &'a [Step],
    trees: Vec<Option<OwnedFd>>,
}

/// Opens all sources of the host's tree. Must come before the root file system is staged.
pub fn open(steps: &[Step]) -> Result<Opened<'_>> {
    let mut trees = Vec::with_capacity(steps.len());
    for step in steps {
        trees.push(match &step.source {
            Source::Tree { path, recursive } => match clone_tree(CWD, path, *recursive) {
                Ok(tree) => {
                    step.change(tree.as_fd())?;
                    Some(tree)
                }
                Err(Errno::NOENT) if step.optional => None,
                Err(error) => return Err(step.error(error.into())),
            },
            _ => None,
        });
    }
    Ok(Opened { steps, trees })
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

impl Opened<'_> {
    /// Targets that the root lacks and that no other mount brings.
    pub fn missing(&self, root: BorrowedFd<'_>) -> Vec<MountPoint> {
        let mut missing = Vec::new();
        for (index, (step, tree)) in self.steps.iter().zip(&self.trees).enumerate() {
            let directory = match (&step.source, tree) {
                (Source::Tree { .. }, Some(tree)) => is_directory(tree.as_fd()),
                (Source::Fs { .. }, _) => true,
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

    /// Makes the mounts in the root.
    pub fn attach(self, root: BorrowedFd<'_>) -> Result<()> {
        for (step, tree) in self.steps.iter().zip(self.trees) {
            step.attach(root, tree)?;
        }
        Ok(())
    }
}

impl Step {
    fn attach(&self, root: BorrowedFd<'_>, tree: Option<OwnedFd>) -> Result<()> {
        match &self.source {
            Source::Tree { .. } => {
                let Some(tree) = tree else { return Ok(()) };
                let target = match resolve(root, &self.target.0) {
                    Err(Errno::NOENT) => self.create(root, is_directory(tree.as_fd()))?,
                    other => other.map_err(|e| self.error(e.into()))?,
                };
                self.put(&tree, target.as_fd())
            }
            Source::Mask => match resolve(root, &self.target.0) {
                Ok(target) if is_directory(target.as_fd()) => {
                    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                    mount_at(target.as_fd(), c"tmpfs", flags, c"nr_blocks=1,nr_inodes=2")
                        .map_err(|e| self.error(e.into()))
                }
                Ok(target) => {
                    let null = clone_tree(CWD, c"/dev/null", false).map_err(|e| self.error(e.into()))?;
                    self.put(&null, target.as_fd())
                }
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
                Err(error) => Err(self.error(error.into())),
            },
            Source::Itself => match resolve(root, &self.target.0) {
                Ok(target) => {
                    let tree = clone_tree(target.as_fd(), c"", true).map_err(|e| self.error(e.into()))?;
                    self.change(tree.as_fd())?;
                    self.put(&tree, target.as_fd())
                }
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
                Err(error) => Err(self.error(error.into())),
            },
            Source::Fs { kind, flags, data, instead } => {
                let target = match resolve(root, &self.target.0) {
                    Err(Errno::NOENT) => self.create(root, true)?,
                    other => other.map_err(|e| self.error(e.into()))?,
                };
                match (mount_at(target.as_fd(), kind, *flags, data), instead) {
                    (Ok(()), _) => {}
                    (Err(Errno::PERM), Some(path)) => {
                        let tree = clone_tree(CWD, path, true).map_err(|e| self.error(e.into()))?;
                        self.put(&tree, target.as_fd())?;
                    }
                    (Err(error), _) => return Err(self.error(error.into())),
                }
                if self.changes.is_empty() {
                    return Ok(());
                }
                let top = resolve(root, &self.target.0).map_err(|e| self.error(e.into()))?;
                self.change(top.as_fd())
            }
            Source::Link(text) => {
                let (parent, name) = self.parent(root)?;
                match rustix::fs::symlinkat(text.as_c_str(), &parent, name) {
                    Ok(()) | Err(Errno::EXIST) => Ok(()),
                    Err(error) => Err(self.error(error.into())),
                }
            }
        }
    }

    fn put(&self, tree: &OwnedFd, target: BorrowedFd<'_>) -> Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(tree, c"", target, c"", flags).map_err(|e| {
            // The kernel has one error for everything; this is the cause that people meet.
            let mixed = is_directory(tree.as_fd()) != is_directory(target);
            self.error(if mixed { io::Error::from_raw_os_error(libc::ENOTDIR) } else { e.into() })
        })
    }

    fn change(&self, mount: BorrowedFd<'_>) -> Result<()> {
        for (recursive, change) in &self.changes {
            sys::mount_setattr(mount, *recursive, change).map_err(|e| self.error(e))?;
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

    /// Makes a mount point.
    fn create(&self, root: BorrowedFd<'_>, directory: bool) -> Result<OwnedFd> {
        if directory {
            return make_directories(root, self.target.0.to_bytes()).map_err(|e| self.creation_error(e));
        }
        let (parent, name) = self.parent(root)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
            // It exists, yet it was not found: a link that leads nowhere.
            Err(error) => Err(self.creation_error(error)),
            Ok(_) => resolve(parent.as_fd(), name).map_err(|e| self.creation_error(e)),
        }
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
            Source::Fs { kind, .. } => kind.to_string_lossy().into_owned(),
            Source::Link(text) => format!("a link to {}", text.to_string_lossy()),
        }
    }

    fn error(&self, error: io::Error) -> Error {
        let kind = match &self.source {
            Source::Fs { kind, .. } => kind.to_bytes(),
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
            _ => error.to_string(),
        };
        Error::Mount { what: self.what(), target: self.target.shown(), reason, hint }
    }
}

/// Lays a terminal over `/dev/console` of the container, in whose root this process is already.
pub fn bind_console(terminal: BorrowedFd<'_>) -> Result<()> {
    let fail = |e: Errno| Error::Mount {
        what: "the terminal".to_owned(),
        target: PathBuf::from("/dev/console"),
        reason: e.to_string(),
        hint: None,
    };
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::IN_ROOT;
    let open = |path: &CStr, flags| loop {
        match openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600), how) {
            Err(Errno::AGAIN) => {}
            answer => break answer,
        }
    };
    let target = match open(c"/dev/console", OFlags::PATH) {
        Err(Errno::NOENT) => {
            open(c"/dev/console", OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL).map_err(fail)?;
            open(c"/dev/console", OFlags::PATH)
        }
        answer => answer,
    }
    .map_err(fail)?;
    let tree = clone_tree(terminal, c"", false).map_err(fail)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, c"", &target, c"", flags).map_err(fail)
}

/// Opens a path inside `root`, whatever its links say.
pub fn resolve(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        // EAGAIN: a `..` on the way met a rename or a mount somewhere in the system, so that the kernel could not tell
        // whether it stayed inside.
        match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN) => rustix::thread::sched_yield(),
            other => return other,
        }
    }
}

/// `mkdir -p` inside `root`; returns the innermost.
pub fn make_directories(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let c = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
    if let Ok(found) = resolve(root, c(path)?.as_c_str()) {
        return Ok(found);
    }
    let mut prefix: Vec<u8> = Vec::with_capacity(path.len());
    let mut directory = root.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        prefix.extend_from_slice(name);
        directory = match resolve(root, c(&prefix)?.as_c_str()) {
            Err(Errno::NOENT) => {
                // The name goes into the directory that its parents really lead to, which is inside the root.
                mkdirat(&directory, c(name)?.as_c_str(), Mode::from_raw_mode(0o755))?;
                resolve(root, c(&prefix)?.as_c_str())?
            }
            other => other?,
        };
    }
    Ok(directory)
}

/// Splits off the last name.
fn split(path: &CStr) -> (Option<&[u8]>, &CStr) {
    let bytes = path.to_bytes_with_nul();
    match path.to_bytes().iter().rposition(|byte| *byte == b'/') {
        // The rest of a C string after one of its bytes is a C string.
        Some(slash) => (Some(&bytes[..slash]), CStr::from_bytes_with_nul(&bytes[slash + 1..]).unwrap_or(path)),
        None => (None, path),
    }
}

fn is_directory(fd: BorrowedFd<'_>) -> bool {
    statat(fd, c"", AtFlags::EMPTY_PATH).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

fn mount_at(target: BorrowedFd<'_>, kind: &CStr, flags: MountFlags, data: &CStr) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    mount(kind, path.as_str(), kind, flags, Some(data))
}
