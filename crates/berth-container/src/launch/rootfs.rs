//! The root file system: put together at a stage on the host, then made the root.
//!
//! ```text
//! STAGE              a tmpfs, laid over a directory of the host that every machine has
//!   lower/           generated files: the highest lower layer
//!   upper/  work/    changes, where they go to memory
//!   N/               layer N, where it is a mount of its own (an image in one file)
//!   root/            the overlay: becomes `/`
//! ```
//!
//! Nobody else sees the stage: it is in the container's mount namespace only. What it hides of the host (`/tmp`) may be a
//! source of bind mounts, so those are opened before ([`super::mounts`]). After the switch the host's tree is detached;
//! overlayfs holds the tmpfs by itself.

mod overlay;

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use overlay::Overlay;

use super::mount_points::MountPoint;
use super::sys::{self, MountAttr, attr};
use crate::bundle::{GeneratedFile, Rootfs, Upper};
use crate::error::{Error, Result};
use crate::mountinfo;
use crate::oci::Spec;

/// Overlayfs takes no more layers.
const MAX_LOWERS: usize = 500;

/// The root file system, ready to be put together.
#[derive(Debug)]
pub struct RootPlan {
    kind: Kind,
    readonly: bool,
    /// Propagation of the whole tree before anything is mounted; `None` where the kernel already made it a slave, or where
    /// it is to stay shared.
    propagation: Option<MountPropagationFlags>,
    /// The tree stays shared with the host: what the root lies on is taken out of that.
    shared: bool,
    /// `linux.rootfsPropagation`, put in force on the new root.
    own_propagation: Option<MountPropagationFlags>,
    /// chroot(2) rather than pivot_root(2), for roots that cannot be pivoted away (an initial ramfs).
    no_pivot: bool,
}

#[derive(Debug)]
enum Kind {
    Dir(CString),
    Overlay { name: CString, lowers: Vec<Lower>, generated: Vec<Generated>, upper: UpperPlan },
}

/// A layer of the image.
#[derive(Debug)]
struct Lower {
    path: CString,
    /// Not what is at the path, but this mount.
    mounted: Option<Arc<OwnedFd>>,
}

#[derive(Debug)]
struct Generated {
    /// Directories to make first, the outermost first, relative to the layer.
    parents: Vec<CString>,
    path: CString,
    mode: Mode,
    content: Vec<u8>,
}

#[derive(Debug)]
enum UpperPlan {
    Memory { size: Option<u64> },
    Dir { upper: CString, work: CString },
}

impl RootPlan {
    /// Computes what to do.
    ///
    /// `new_user`: the mount namespace will be made within a new user namespace.
    pub fn plan(rootfs: &Rootfs, spec: &Spec, new_user: bool, options: &super::Options) -> Result<RootPlan> {
        let label = options.label.as_deref();
        let mut readonly = spec.root.as_ref().is_some_and(|root| root.readonly);
        let kind = match rootfs {
            Rootfs::Dir(path) => Kind::Dir(super::c_string(path.as_os_str(), || "rootfs".to_owned())?),
            Rootfs::Overlay { lowers, generated, upper } => {
                if lowers.is_empty() || lowers.len() >= MAX_LOWERS {
                    return Err(Error::bad_spec(
                        "rootfs.lowers",
                        format!("{} layers: 1 to {} are possible", lowers.len(), MAX_LOWERS - 1),
                    ));
                }
                let c = |path: &PathBuf| super::c_string(path.as_os_str(), || "rootfs".to_owned());
                let upper = match upper {
                    // Mount points may have to be made, so there is an upper directory, but nothing inside can write it.
                    Upper::None => {
                        readonly = true;
                        UpperPlan::Memory { size: None }
                    }
                    Upper::Tmpfs { size } => UpperPlan::Memory { size: *size },
                    Upper::Dir { upper, work } => UpperPlan::Dir { upper: c(upper)?, work: c(work)? },
                };
                let generated = generated.iter().map(Generated::plan).collect::<Result<_>>()?;
                let name = super::c_string(label.unwrap_or("berth").as_ref(), || "label".to_owned())?;
                let lower = |path: &PathBuf| {
                    let mounted = options.mounted_layers.iter().find(|(named, _)| named == path);
                    Ok(Lower { path: c(path)?, mounted: mounted.map(|(_, mount)| mount.clone()) })
                };
                Kind::Overlay { name, lowers: lowers.iter().map(lower).collect::<Result<_>>()?, generated, upper }
            }
        };
        // The mounts of a mount namespace of a new user namespace are slaves already: nothing travels back to the host.
        let asked = spec.linux.as_ref().and_then(|linux| linux.rootfs_propagation.as_deref()).filter(|w| !w.is_empty());
        let own_propagation = asked.map(propagation_of).transpose()?;
        let kind_of = own_propagation.map(|flags| flags.difference(MountPropagationFlags::REC));
        let shared = !new_user && kind_of == Some(MountPropagationFlags::SHARED);
        let propagation = match kind_of {
            _ if new_user || shared => None,
            Some(MountPropagationFlags::PRIVATE | MountPropagationFlags::UNBINDABLE) => {
                Some(MountPropagationFlags::PRIVATE)
            }
            _ => Some(MountPropagationFlags::DOWNSTREAM),
        };
        Ok(RootPlan { kind, readonly, propagation, shared, own_propagation, no_pivot: options.no_pivot })
    }

    /// Keeps what is mounted from now on from the host.
    pub fn isolate(&self) -> Result<()> {
        match self.propagation {
            Some(kind) => mount_change("/", kind | MountPropagationFlags::REC)
                .map_err(|e| Error::system("keep the container's mounts from the host", e)),
            None => Ok(()),
        }
    }

    /// Puts the root file system together on the stage. The host's tree is still in reach.
    pub fn assemble(&self) -> Result<Root<'_>> {
        match &self.kind {
            Kind::Dir(path) => Ok(Root { fd: bind_dir(path, self.shared)?, plan: self, overlay: None }),
            Kind::Overlay { name, lowers, generated, upper } => {
                let overlay = Overlay::prepare(name, lowers, generated, upper)?;
                let fd = overlay.mount()?;
                Ok(Root { fd, plan: self, overlay: Some(overlay) })
            }
        }
    }
}

impl Generated {
    fn plan(file: &GeneratedFile) -> Result<Generated> {
        let field = || format!("rootfs.generated[{}]", file.path.display());
        let mut names = Vec::new();
        for component in file.path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => names.push(name),
                _ => return Err(Error::bad_spec(field(), "`..` is not possible here")),
            }
        }
        let Some((_, directories)) = names.split_last() else {
            return Err(Error::bad_spec(field(), "names no file"));
        };
        let prefix = |count: usize| super::c_string(names[..count].iter().collect::<PathBuf>().as_os_str(), field);
        Ok(Generated {
            parents: (1..=directories.len()).map(prefix).collect::<Result<_>>()?,
            path: prefix(names.len())?,
            mode: Mode::from_raw_mode(file.mode & 0o7777),
            content: file.content.clone(),
        })
    }

    fn write(&self, layer: BorrowedFd<'_>) -> io::Result<()> {
        for parent in &self.parents {
            match mkdirat(layer, parent.as_c_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(layer, self.path.as_c_str(), flags, self.mode)?;
        let mut rest = self.content.as_slice();
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&file, rest)?..];
        }
        Ok(())
    }
}

/// The root file system on its stage.
#[derive(Debug)]
pub struct Root<'a> {
    fd: OwnedFd,
    plan: &'a RootPlan,
    overlay: Option<Overlay<'a>>,
}

impl Root<'_> {
    /// Its top directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A directory of ours, if there is one, and the path of the root file system, as programs in the container's mount
    /// namespace see them before the switch. A root that is a directory of the host stays at its path.
    pub fn on_host(&self) -> (Option<&'static Path>, PathBuf) {
        let path = |text: &CStr| PathBuf::from(OsStr::from_bytes(text.to_bytes()));
        match (&self.plan.kind, &self.overlay) {
            (_, Some(overlay)) => {
                let stage = overlay.stage_path.to_str().ok().map(Path::new);
                (stage, path(overlay.stage_path).join("root"))
            }
            (Kind::Dir(directory), None) => (None, path(directory)),
            // An overlay is always there for such a plan: see `assemble`.
            (Kind::Overlay { .. }, None) => (None, PathBuf::new()),
        }
    }

    /// Makes the mount points that the root lacks in a layer of its own, where the image's layers belong to somebody
    /// else (a site's store). Overlayfs cannot copy such directories up to the changes (EOVERFLOW: their owner has no id
    /// in the user namespace), so nothing can be made in them once it is mounted: it is mounted again.
    pub fn add_mount_points(&mut self, missing: impl FnOnce(BorrowedFd<'_>) -> Vec<MountPoint>) -> Result<()> {
        let Some(overlay) = self.overlay.as_ref().filter(|overlay| overlay.foreign) else { return Ok(()) };
        let points = missing(self.fd.as_fd());
        if points.is_empty() {
            return Ok(());
        }
        let layer = overlay.lower()?;
        for point in &points {
            point
                .make(self.fd.as_fd(), layer.as_fd())
                .map_err(|e| Error::io("make the mount point", Path::new(&*String::from_utf8_lossy(&point.path)), e))?;
        }
        unmount(overlay.target().as_str(), UnmountFlags::DETACH)
            .map_err(|e| Error::system("take the overlay off to add mount points", e))?;
        self.fd = overlay.mount()?;
        Ok(())
    }

    /// The last act: protects the root where asked, makes it `/`, and lets go of the host's tree.
    pub fn enter(self) -> Result<()> {
        if self.plan.readonly {
            let change = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
            sys::mount_setattr(self.fd(), false, &change)
                .map_err(|e| Error::system("make the root file system read-only", e))?;
        }
        let switch = |e: Errno| Error::system("make the container's root file system the root", e);
        if self.plan.no_pivot {
            hide_kernel_mounts(self.fd())?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&self.fd, c"", CWD, c"/", flags).map_err(switch)?;
            fchdir(&self.fd).map_err(switch)?;
            rustix::process::chroot(c".").map_err(switch)?;
        } else {
            let old = if self.plan.shared {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                Some(rustix::fs::open(c"/", flags, Mode::empty()).map_err(switch)?)
            } else {
                None
            };
            fchdir(&self.fd).map_err(switch)?;
            // With both arguments the same directory, the old root ends up on top of the new one, where "." finds it.
            pivot_root(c".", c".").map_err(switch)?;
            if let Some(old) = old {
                // Detaching the old root must not detach anything of the host's.
                let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
                sys::mount_setattr(old.as_fd(), true, &slave)
                    .map_err(|e| Error::system("keep the container's mounts from the host", e))?;
            }
            unmount(c".", UnmountFlags::DETACH).map_err(|e| Error::system("detach the host's file tree", e))?;
        }
        chdir(c"/").map_err(switch)?;
        match self.plan.own_propagation {
            Some(kind) => mount_change(c"/", kind).map_err(|e| Error::system("set the root's mount propagation", e)),
            None => Ok(()),
        }
    }
}

/// The words of `linux.rootfsPropagation`.
fn propagation_of(word: &str) -> Result<MountPropagationFlags> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(word) => (word, MountPropagationFlags::REC),
        None => (word, MountPropagationFlags::empty()),
    };
    let kind = match word {
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "private" => MountPropagationFlags::PRIVATE,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        other => return Err(Error::bad_spec("linux.rootfsPropagation", format!("unknown word `{other}`"))),
    };
    Ok(kind | recursive)
}

/// Puts a directory of the host on the stage, which is its own place: hooks find it where the configuration says.
fn bind_dir(path: &CStr, shared: bool) -> Result<OwnedFd> {
    let shown = || path.to_string_lossy().into_owned();
    let refuse = |e: io::Error| Error::Rootfs { reason: format!("{}: {e}", shown()), hint: None };
    let directory = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| refuse(e.into()))?;
    if same_mount_and_file(&directory).map_err(|e| refuse(e.into()))? {
        return Err(Error::Rootfs {
            reason: "the root file system of the container is that of this machine".to_owned(),
            hint: Some("`root.path` must name a directory of its own".to_owned()),
        });
    }
    if shared {
        make_parent_private(path).map_err(|e| refuse(e.into()))?;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&directory, c"", flags).map_err(|e| refuse(e.into()))?;
    if shared {
        let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
        sys::mount_setattr(tree.as_fd(), true, &private).map_err(refuse)?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, c"", &directory, c"", flags).map_err(|e| refuse(e.into()))?;
    Ok(tree)
}

/// Whether a directory is the present root, seen through the same mount.
fn same_mount_and_file(directory: &OwnedFd) -> Result<bool, Errno> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let of = |at: BorrowedFd<'_>, path: &CStr| {
        statx(at, path, AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)
            .map(|s| (s.stx_dev_major, s.stx_dev_minor, s.stx_ino, s.stx_mnt_id))
    };
    Ok(of(directory.as_fd(), c"")? == of(CWD, c"/")?)
}

/// Takes the mount that `path` is on out of its peer group, so that what is mounted there stays here.
fn make_parent_private(path: &CStr) -> Result<(), Errno> {
    let mut path = std::fs::canonicalize(OsStr::from_bytes(path.to_bytes()))
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    loop {
        match mount_change(path.as_path(), MountPropagationFlags::PRIVATE) {
            // Not a mount point: the mount begins further up.
            Err(Errno::INVAL) if path.pop() => {}
            other => return other,
        }
    }
}

/// Without pivot_root(2) the host's tree stays in the namespace. The kernel would take its complete /proc and /sys as a
/// reason to allow a container new ones without masks: they go.
fn hide_kernel_mounts(root: BorrowedFd<'_>) -> Result<()> {
    let failed = |e: io::Error| Error::system("hide the host's /proc and /sys", e);
    let inside = rustix::fs::readlink(format!("/proc/self/fd/{}", root.as_raw_fd()), Vec::new())
        .map_err(|e| failed(e.into()))?;
    let inside = Path::new(OsStr::from_bytes(inside.to_bytes()));
    // What was mounted last is on top.
    for mount in kernel_mounts(inside).map_err(failed)?.iter().rev() {
        let point = mount.point.as_path();
        let result = match unmount(point, UnmountFlags::DETACH) {
            // It belongs to another user namespace and cannot be taken off: it is covered.
            Err(Errno::INVAL | Errno::PERM) => {
                rustix::mount::mount(c"tmpfs", point, c"tmpfs", MountFlags::RDONLY, None)
            }
            other => other,
        };
        match result {
            Ok(()) => {}
            // The host took the mount's directory away meanwhile, and with it the mount; or it lies under another one, where
            // it would count all the same.
            Err(Errno::NOENT | Errno::NOTDIR) => {
                if kernel_mounts(inside).map_err(failed)?.iter().any(|left| left.id == mount.id) {
                    return Err(failed(Errno::NOENT.into()));
                }
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
    Ok(())
}

/// A mount of the kernel's own file systems.
struct KernelMount {
    id: String,
    point: PathBuf,
}

/// All of procfs and sysfs in this namespace that are not below `inside`.
fn kernel_mounts(inside: &Path) -> io::Result<Vec<KernelMount>> {
    let mut found = Vec::new();
    let table = std::fs::read("/proc/self/mountinfo")?;
    for line in String::from_utf8_lossy(&table).lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let mut fields = front.split(' ');
        let (Some(id), Some(point)) = (fields.next(), fields.nth(3)) else { continue };
        let point = mountinfo::unescape(point);
        let kind = back.split(' ').next().unwrap_or_default();
        if matches!(kind, "proc" | "sysfs") && !point.starts_with(inside) {
            found.push(KernelMount { id: id.to_owned(), point });
        }
    }
    Ok(found)
}
