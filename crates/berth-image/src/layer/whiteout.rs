//! Deleted names: how archives write them (`.wh.NAME`, the AUFS way that OCI took over) and how overlayfs reads them.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

/// The attribute that makes a directory hide what lower layers have in its place, for mounts with `userxattr`.
pub const OPAQUE: &str = "user.overlay.opaque";
/// The attribute that makes an empty file a whiteout (Linux 6.7 and newer).
pub(crate) const WHITEOUT: &str = "user.overlay.whiteout";

/// What a name with the `.wh.` prefix means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker<'a> {
    /// The directory hides everything below.
    Opaque,
    /// This name of the lower layers is deleted.
    Hides(&'a [u8]),
    /// AUFS' own bookkeeping, of no meaning here.
    Internal,
}

/// Reads a file name as a marker, if it is one. Format: OCI image specification, "Whiteouts".
pub fn marker(name: &[u8]) -> Option<Marker<'_>> {
    let rest = name.strip_prefix(b".wh.")?;
    if rest == b".wh..opq" {
        return Some(Marker::Opaque);
    }
    if rest.starts_with(b".wh.") {
        return Some(Marker::Internal);
    }
    Some(Marker::Hides(rest))
}

/// Marks `name` as deleted. Since Linux 5.8 any user may make the character device 0:0; where the file system refuses,
/// newer kernels take an attribute instead.
pub fn make(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(refused @ (Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL)) => {
            make_by_xattr(parent, name).map_err(|_| refused)
        }
        other => other,
    }
}

fn make_by_xattr(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
    rustix::fs::fsetxattr(&file, WHITEOUT, b"", XattrFlags::empty()).inspect_err(|_| {
        let _ = rustix::fs::unlinkat(parent, name, rustix::fs::AtFlags::empty());
    })?;
    // Overlayfs looks for such whiteouts only in directories that say they may have some.
    let directory =
        rustix::fs::openat(parent, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::fs::fsetxattr(&directory, OPAQUE, b"x", XattrFlags::CREATE) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Makes a directory opaque.
pub fn make_opaque(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_told_from_names() {
        assert_eq!(marker(b".wh.gone"), Some(Marker::Hides(b"gone")));
        assert_eq!(marker(b".wh..wh..opq"), Some(Marker::Opaque));
        assert_eq!(marker(b".wh..wh.plnk"), Some(Marker::Internal));
        assert_eq!(marker(b".wh.."), Some(Marker::Hides(b".")));
        assert_eq!(marker(b"file.wh.x"), None);
    }
}
