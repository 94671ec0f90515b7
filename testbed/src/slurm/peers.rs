//! Other runtimes in a box: this machine's runc and crun, with the libraries that the box lacks.
//!
//! A box's root folder is of a release of Debian that is not older than this machine's, so that its C library will do.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use super::Options;
use super::Release;
use super::root;
use crate::process;

/// The runtimes.
pub const NAMES: [&str; 2] = ["runc", "crun"];

/// A cluster's options with the runtimes added.
pub fn add(mut options: Options, release: Release) -> io::Result<Options> {
    let root = root::find(release).ok_or_else(|| io::Error::other("there is no root folder"))?;
    for name in NAMES {
        let program = find(name).ok_or_else(|| io::Error::other(format!("{name} is not installed")))?;
        for library in libraries(&program)? {
            // Where the loader looks in any case: runc starts itself again without an environment.
            let target =
                Path::new("/usr").join(library.strip_prefix("/usr").or(library.strip_prefix("/")).unwrap_or(&library));
            let there = root.join(target.strip_prefix("/").unwrap_or(&target)).exists();
            if !there && !options.binds.iter().any(|bind| bind.target == target) {
                options = options.bind(fs::canonicalize(&library)?, target);
            }
        }
        options = options.bind(program, format!("/usr/bin/{name}"));
    }
    Ok(options)
}

fn find(name: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/usr/local/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}

/// What the program is linked with, but for the C library and its loader.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = process::run(Command::new("ldd").arg(program));
    if !listed.status.success() {
        return Err(io::Error::other(listed.report()));
    }
    let paths = listed.stdout.lines().filter_map(|line| line.split("=> ").nth(1)?.split_whitespace().next());
    Ok(paths.filter(|path| path.starts_with('/') && !path.contains("/libc.so")).map(PathBuf::from).collect())
}
