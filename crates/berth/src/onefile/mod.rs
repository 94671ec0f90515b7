//! Images in one file (squashfs, EROFS), mounted without privilege.
//!
//! ```text
//!  berth run X.sqsh ──connect──► server of X.sqsh ◄──FUSE──► kernel
//!         ▲                          │ its own user and mount namespace, in which X.sqsh is mounted
//!         └── a copy of the mount ───┘
//! ```
//!
//! A server is a process of the user's ([`server`]) that whoever needs it first starts. Others find it by the name of its
//! socket ([`name`]), which says which file is meant, in which state, and for whom. Each client gets a copy of the mount as
//! a descriptor, and puts it into its container's mount namespace as a layer ([`client`]).
//!
//! * **The name is a name of the abstract kind**: it is taken by one process, and free again when that process is gone,
//!   however it went. Nothing is written to any directory, so nothing is left behind, and there is nothing to plant.
//!   Another user who takes the name first is told by the kernel (`SO_PEERCRED`); the image is served apart then.
//! * **A server lives as long as it is used**, by the kernel's word: a client's connection ends with its `exec` at the
//!   latest, and from then on the containers' root mounts, which are marked with the mount's device number, tell
//!   ([`holders`]). When nobody is left, the server waits for a few seconds, closes its door and takes its own mount off.
//!   The kernel ends it when the last copy of the mount is gone, whatever the server believes.
//! * **It is the kernel's word too that containers of one user may read**: the mount is open to processes of this user and
//!   group, and overlayfs reads its layers as the one who mounted it.

pub mod client;
pub mod config;
pub mod holders;
pub mod message;
pub mod name;
pub mod reporting;
pub mod server;
pub mod write;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::CommandError;
use crate::lower::image::{Image, MountedFile};

/// The first bytes of a squashfs image.
const SQUASHFS: &[u8; 4] = b"hsqs";
/// EROFS' magic number, and where it is.
const EROFS: (&[u8; 4], u64) = (&[0xe2, 0xe1, 0xf5, 0xe0], 1024);
/// What names of such files end in. A name without a slash is one of a registry unless it ends so and the file is there.
const ENDINGS: [&str; 3] = [".sqsh", ".squashfs", ".erofs"];

/// Whether a text names an image in one file: it is a path (it begins with `/` or `.`) or ends as such files do, and what
/// is there is one.
pub fn is_meant(text: &str) -> bool {
    let by_name = ENDINGS.iter().any(|ending| text.ends_with(ending));
    let is_path = text.starts_with(['/', '.']);
    (is_path || by_name) && open_file(Path::new(text)).is_ok_and(|file| is_image(&file))
}

/// Why a text that can only be meant as the path of such a file does not lead to one.
pub fn not_there(text: &str) -> Option<CommandError> {
    if !ENDINGS.iter().any(|ending| text.ends_with(ending)) || text.contains(':') {
        return None;
    }
    let path = Path::new(text);
    Some(match open_file(path) {
        Ok(_) => CommandError::failure(format!("{text} is neither a squashfs nor an EROFS image")),
        Err(error) => CommandError::io("open the image", path, error),
    })
}

/// Whether a file begins as images in one file do.
pub fn is_image(file: &File) -> bool {
    let has = |bytes: &[u8; 4], at| {
        let mut found = [0; 4];
        file.read_exact_at(&mut found, at).is_ok() && found == *bytes
    };
    has(SQUASHFS, 0) || has(EROFS.0, EROFS.1)
}

/// Mounts an image and says how it is to be started.
pub fn image(text: &str) -> Result<Image, CommandError> {
    let path = std::path::absolute(text).map_err(|e| CommandError::io("find", text, e))?;
    let file = open_file(&path).map_err(|e| CommandError::io("open the image", &path, e))?;
    let mounted = client::mount(file, &path)?;
    let config = config::of_image(&mounted.mount);
    Ok(Image {
        name: path.display().to_string(),
        passwd: config::file_in(&mounted.mount, "etc/passwd"),
        group: config::file_in(&mounted.mount, "etc/group"),
        // By this the image is looked at; the container has the mount itself.
        layers: vec![PathBuf::from(format!("/proc/self/fd/{}", mounted.mount.as_raw_fd()))],
        config,
        file: Some(MountedFile { path, mount: Arc::new(mounted.mount), device: mounted.device }),
        ..Image::default()
    })
}

/// Opens a file that may be an image. A pipe or a device is none, and nothing is waited for.
fn open_file(path: &Path) -> std::io::Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_dir() {
        return Err(std::io::Error::other("not a regular file"));
    }
    File::open(path)
}

/// Ends the source of a container's root mount, so that the server of its image knows it to be in use.
pub fn mount_mark(device: (u32, u32)) -> String {
    format!("{MARK}{}:{}", device.0, device.1)
}

/// What stands between the name of a root mount and the device number of the image's mount.
const MARK: &str = ",file=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_an_image_by_its_first_bytes_and_a_name_by_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("x.sqsh"), b"hsqs....").unwrap();
        std::fs::write(path("plain"), b"hsqs....").unwrap();
        std::fs::write(path("x.erofs"), [&[0; 1024][..], &[0xe2, 0xe1, 0xf5, 0xe0]].concat()).unwrap();
        std::fs::write(path("text.sqsh"), b"hello").unwrap();
        for (name, expected) in [("x.sqsh", true), ("plain", true), ("x.erofs", true), ("text.sqsh", false)] {
            assert_eq!(is_meant(&path(name)), expected, "{name}");
        }
        for text in ["/", "/dev/null", "debian", "x.sqsh", "/no/such.sqsh"] {
            assert!(!is_meant(text), "{text}");
        }
    }
}
