//! Folders of the system that a test may change: everything is written to a place of the test's own and is gone with it.

use std::fs;
use std::path::Path;
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
    layers: PathBuf,
}

impl Cover {
    /// Lays one over `target`; what is written to it goes to memory, mounted on a new folder in `scratch`.
    pub fn over(target: &str, scratch: &Path) -> Cover {
        let layers = scratch.join(format!("cover{}", target.replace('/', "-")));
        fs::create_dir(&layers).expect("a new folder");
        mount("tmpfs", &layers, "tmpfs", MountFlags::empty(), Some(c"mode=755")).expect("a place in memory");
        let [upper, work] = ["upper", "work"].map(|name| layers.join(name));
        for dir in [&upper, &work] {
            fs::create_dir(dir).expect("a new folder");
        }
        let options = format!("lowerdir={target},upperdir={},workdir={}", upper.display(), work.display());
        let options = std::ffi::CString::new(options).expect("no NUL in a path");
        mount("overlay", target, "overlay", MountFlags::empty(), Some(options.as_c_str())).expect("an overlay");
        Cover { target: target.into(), layers }
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        // The test's folder cannot be removed while this is mounted.
        for place in [&self.target, &self.layers] {
            let _ = unmount(place.as_path(), UnmountFlags::DETACH);
        }
    }
}
