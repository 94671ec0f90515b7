//! FUSE for the users of a test: a machine may have the device for root alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where the kernel's side of FUSE is.
const DEVICE: &str = "/dev/fuse";
/// Its numbers, on every Linux.
const NUMBERS: (u32, u32) = (10, 229);

/// Sees to it that what this thread starts from now on may open the device, as on machines of distributions. Root does so
/// in a mount namespace of the test's own; the machine's device stays as it is. `place` is a folder for a device.
///
/// # Panics
/// Where that cannot be had: the test needs it.
#[allow(unsafe_code)]
pub fn allow_users(place: &Path) {
    let open = |mode: u32| mode & 0o006 == 0o006;
    let meta = fs::metadata(DEVICE).expect("the kernel's module `fuse`");
    if open(meta.permissions().mode()) {
        return;
    }
    assert!(rustix::process::getuid().is_root(), "{DEVICE} is closed to users, and so are these tests");
    // SAFETY: descriptors stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("a mount namespace");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private mounts");
    let own = place.join("fuse");
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, &own, FileType::CharacterDevice, mode, makedev(NUMBERS.0, NUMBERS.1)).expect("a device");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o666)).expect("its mode");
    mount_bind(&own, DEVICE).expect("the device over the machine's");
}
