//! The root file system: put together at a stage on the host, then made the root.
//!
//! ```text
//! STAGE              a tmpfs, laid over a directory of the host that every machine has
//!   lower/           generated files: the highest lower layer
//!   image/           an image that is mounted: the lowest
//!   upper/  work/    changes, where they go to memory
//!   root/            the overlay: becomes `/`
//! ```
//!
//! Nobody else sees the stage: it is in the container's mount namespace only. What it hides of the host (`/tmp`) may be a
//! source of bind mounts, so those are opened before ([`super::mounts`]). After the switch the host's tree is detached;
//! overlayfs holds the tmpfs by itself.

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr};
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use super::image_mount::ImageMount;
use super::mount_points::MountPoint;
use super::sys::{self, MountAttr, attr};
use crate::bundle::{GeneratedFile, Rootfs, Upper};
use crate::error::{Error, Result};
use crate::oci::Spec;

/// Directories of which every machine has at least one; the first that is there is the stage.
const STAGES: &[&CStr] = &[c"/tmp", c"/run", c"/usr", c"/etc"];

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
    Overlay {
        name: CString,
        image: Option<ImageMount>,
        lowers: Vec<CString>,
        generated: Vec<Generated>,
        upper: UpperPlan,
    },
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
                let layers = lowers.len() + usize::from(options.image.is_some());
                if layers == 0 || layers >= MAX_LOWERS {
                    return Err(Error::bad_spec(
                        "rootfs.lowers",
                        format!("{layers} layers: 1 to {} are possible", MAX_LOWERS - 1),
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
                let lowers = lowers.iter().map(c).collect::<Result<_>>()?;
                Kind::Overlay { name, image: options.image.clone(), lowers, generated, upper }
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
            Kind::Overlay { name, image, lowers, generated, upper } => {
                let overlay = Overlay::prepare(name, image.as_ref(), lowers, generated, upper)?;
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
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(failed)?;
    for line in mounts.lines().rev() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let Some(point) = front.split(' ').nth(4).map(Path::new) else { continue };
        let kind = back.split(' ').next().unwrap_or_default();
        // A path with an escaped blank is no place of the system's.
        if !matches!(kind, "proc" | "sysfs") || point.starts_with(inside) {
            continue;
        }
        match unmount(point, UnmountFlags::DETACH) {
            Ok(()) => {}
            // It belongs to another user namespace and cannot be taken off: it is covered.
            Err(Errno::INVAL | Errno::PERM) => {
                mount(c"tmpfs", point, c"tmpfs", MountFlags::RDONLY, None).map_err(|e| failed(e.into()))?;
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
    Ok(())
}

/// An overlay on its stage, ready to be mounted.
#[derive(Debug)]
struct Overlay<'a> {
    name: &'a CStr,
    lowers: &'a [CString],
    upper: &'a UpperPlan,
    stage: OwnedFd,
    stage_path: &'static CStr,
    /// Layers and directories for changes: the options name them by number.
    _open: Vec<OwnedFd>,
    options: CString,
    /// Layers belong to a user who has no id here.
    foreign: bool,
}

/// What the kernel shows as the owner of a file whose owner has no id in the user namespace
/// (`/proc/sys/kernel/overflowuid`, which nobody changes).
const NO_ID: u32 = 65534;

impl<'a> Overlay<'a> {
    fn prepare(
        name: &'a CStr,
        image: Option<&ImageMount>,
        lowers: &'a [CString],
        generated: &[Generated],
        upper: &'a UpperPlan,
    ) -> Result<Overlay<'a>> {
        let open = |path: &CStr| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(|e| Error::io("open the layer", Path::new(&*path.to_string_lossy()), e))
        };
        // Everything of the host is opened before the stage hides a part of it.
        let mut opened: Vec<OwnedFd> = lowers.iter().map(|lower| open(lower)).collect::<Result<_>>()?;
        let foreign = opened.iter().any(|layer| rustix::fs::fstat(layer).is_ok_and(|stat| stat.st_uid == NO_ID));
        let on_disk = match upper {
            UpperPlan::Dir { upper, work } => Some((open(upper)?, open(work)?)),
            UpperPlan::Memory { .. } => None,
        };
        let (stage, stage_path) = mount_stage(match upper {
            UpperPlan::Memory { size } => *size,
            UpperPlan::Dir { .. } => None,
        })?;
        let make = |name: &CStr| {
            mkdirat(&stage, name, Mode::from_raw_mode(0o755))
                .map_err(|e| Error::Rootfs { reason: format!("cannot make a directory in memory: {e}"), hint: None })
        };
        make(c"root")?;
        let mut options = String::from("userxattr,lowerdir=");
        if !generated.is_empty() || foreign {
            make(c"lower")?;
            let _ = write!(options, "{}/lower:", stage.as_raw_fd());
        }
        for layer in opened.iter().rev() {
            let _ = write!(options, "{}:", layer.as_raw_fd());
        }
        if let Some(image) = image {
            make(c"image")?;
            let place = openat(&stage, c"image", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            let put = image.make().map(|mount| {
                place.and_then(|place| {
                    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
                    move_mount(&mount, "", &place, "", flags)
                })
            });
            put?.map_err(|e| Error::Rootfs { reason: format!("cannot put the image to its place: {e}"), hint: None })?;
            let _ = write!(options, "{}/image:", stage.as_raw_fd());
        }
        options.pop();
        match on_disk {
            Some((upper, work)) => {
                let _ = write!(options, ",upperdir={},workdir={}", upper.as_raw_fd(), work.as_raw_fd());
                opened.extend([upper, work]);
            }
            None => {
                make(c"upper")?;
                make(c"work")?;
                let _ = write!(options, ",upperdir={0}/upper,workdir={0}/work", stage.as_raw_fd());
            }
        }
        let options = CString::new(options).map_err(|_| Error::bad_spec("rootfs", "a path contains a NUL byte"))?;
        let overlay = Overlay { name, lowers, upper, stage, stage_path, _open: opened, options, foreign };
        if !generated.is_empty() {
            let layer = overlay.lower()?;
            for file in generated {
                file.write(layer.as_fd())
                    .map_err(|e| Error::io("write the generated file", Path::new(&*file.path.to_string_lossy()), e))?;
            }
        }
        Ok(overlay)
    }

    /// The layer of what is not the image's: generated files, mount points.
    fn lower(&self) -> Result<OwnedFd> {
        openat(&self.stage, c"lower", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::io("open", "the layer of generated files", e))
    }

    /// The mount point, relative to `/proc/self/fd`.
    fn target(&self) -> String {
        format!("{}/root", self.stage.as_raw_fd())
    }

    fn mount(&self) -> Result<OwnedFd> {
        // Layers are named by descriptor, relative to this directory: no escaping of `:` and `,`, and hundreds of them
        // fit into the one page that mount(2) takes.
        chdir(c"/proc/self/fd").map_err(|e| Error::Rootfs { reason: format!("/proc/self/fd: {e}"), hint: None })?;
        mount(self.name, self.target().as_str(), c"overlay", MountFlags::empty(), Some(self.options.as_c_str()))
            .map_err(|e| overlay_error(e, self.lowers, self.upper))?;
        openat(&self.stage, c"root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::Rootfs { reason: format!("cannot open the overlay: {e}"), hint: None })
    }
}

/// Mounts the tmpfs; returns its top directory and where that is.
fn mount_stage(size: Option<u64>) -> Result<(OwnedFd, &'static CStr)> {
    let data = match size {
        Some(size) => Cow::Owned(CString::new(format!("size={size},mode=755")).unwrap_or_default()),
        None => Cow::Borrowed(c"mode=755"),
    };
    for stage in STAGES {
        match mount(c"berth", *stage, c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(&*data)) {
            Ok(()) => {
                return rustix::fs::open(*stage, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .map(|fd| (fd, *stage))
                    .map_err(|e| Error::Rootfs { reason: format!("cannot open the tmpfs: {e}"), hint: None });
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => {
                return Err(Error::Rootfs { reason: format!("cannot mount a tmpfs: {error}"), hint: None });
            }
        }
    }
    Err(Error::Rootfs { reason: "this machine has none of /tmp, /run, /usr, /etc".to_owned(), hint: None })
}

/// Overlayfs says why only in the kernel's log, which a user cannot read: works it out.
fn overlay_error(error: Errno, lowers: &[CString], upper: &UpperPlan) -> Error {
    let (reason, hint) = match (error, upper) {
        (Errno::PERM | Errno::NODEV, _) => (
            format!("overlay mount: {error}"),
            Some("ordinary users may mount overlays since Linux 5.11, where the module `overlay` is loaded".to_owned()),
        ),
        (Errno::INVAL, UpperPlan::Dir { upper, .. }) => (
            format!("the file system of {} cannot hold the changes of an overlay", upper.to_string_lossy()),
            Some("NFS, Lustre and FUSE cannot: use a local directory, or let the changes go to memory".to_owned()),
        ),
        (Errno::BUSY, UpperPlan::Dir { upper, .. }) => (
            format!("{} is in use by another container", upper.to_string_lossy()),
            Some("join that container, or end it first".to_owned()),
        ),
        (Errno::STALE, UpperPlan::Dir { upper, .. }) => (
            format!("{} was used with other layers before", upper.to_string_lossy()),
            Some(
                "the changes belong to the image they were made on: remove the container and make it again".to_owned(),
            ),
        ),
        (Errno::LOOP, _) => (
            "overlays are nested too deeply".to_owned(),
            Some("an overlay can lie on at most one other: keep the image store on a plain file system".to_owned()),
        ),
        _ => (format!("overlay of {} layers: {error}", lowers.len()), None),
    };
    Error::Rootfs { reason, hint }
}
