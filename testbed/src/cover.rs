//! Folders of the system that a test may change: what it writes there is its own, and is gone with it.

use std::ffi::CString;
use std::fs;
use std::path::PathBuf;

use rustix::mount::MountFlags;
use rustix::mount::UnmountFlags;
use rustix::mount::mount;
use rustix::mount::unmount;

/// An overlay over one folder, in the mount namespace that each test has. Needs root.
#[derive(Debug)]
#[must_use]
pub struct Cover {
    target: PathBuf,
}

impl Cover {
    /// Lays one over `target`; what is written to it goes to memory.
    pub fn over(target: &str) -> Cover {
        let layers = tempfile::tempdir().expect("a folder");
        mount("tmpfs", layers.path(), "tmpfs", MountFlags::empty(), Some(c"mode=755")).expect("a place in memory");
        let [upper, work] = ["upper", "work"].map(|name| layers.path().join(name));
        for dir in [&upper, &work] {
            fs::create_dir(dir).expect("a new folder");
        }
        let options = format!("lowerdir={target},upperdir={},workdir={}", upper.display(), work.display());
        let options = CString::new(options).expect("no NUL in a path");
        mount("overlay", target, "overlay", MountFlags::empty(), Some(options.as_c_str())).expect("an overlay");
        // The overlay holds it from now on; nobody else needs to see it.
        unmount(layers.path(), UnmountFlags::DETACH).expect("the place in memory");
        Cover { target: target.into() }
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        // With the test's namespace it would go anyway.
        let _ = unmount(&*self.target, UnmountFlags::DETACH);
    }
}
