//! `dir:PATH`: a root file system that somebody else made, in a directory. Nothing is imported.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::manifest::RunConfig;

/// Directories of which every root file system with a distribution in it has at least one.
const TYPICAL: [&str; 8] = ["usr", "bin", "sbin", "lib", "lib64", "etc", "nix", "gnu"];

/// A root file system in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirImage {
    /// The directory, with symbolic links resolved.
    pub path: PathBuf,
}

impl DirImage {
    /// Checks that `path` is a directory that a container can have as its root.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::BadReference`] when it is something else, with what it seems to be.
    pub fn open(path: &str) -> Result<DirImage> {
        let real = std::fs::canonicalize(path).map_err(|e| Error::io("open", path, e))?;
        let bad = |reason: String| Error::BadReference { text: format!("dir:{path}"), reason };
        if !real.is_dir() {
            return Err(bad(
                "it is no directory; an archive is named `docker-archive:FILE` or `oci-archive:FILE`".into()
            ));
        }
        if real.join("oci-layout").is_file() && real.join("index.json").is_file() {
            return Err(bad(format!("it is an OCI image layout; write `oci:{path}`")));
        }
        if real.join("config.json").is_file() && real.join("rootfs").is_dir() {
            return Err(bad(format!("it is an OCI bundle; write `dir:{}`", Path::new(path).join("rootfs").display())));
        }
        let typical = TYPICAL.iter().any(|name| real.join(name).is_dir());
        if !typical && !has_program(&real)? {
            return Err(bad("it is no root file system: it has neither `usr`, `bin` or `etc` nor a program".into()));
        }
        Ok(DirImage { path: real })
    }

    /// The name for people: `dir:/srv/rootfs`.
    pub fn name(&self) -> String {
        format!("dir:{}", self.path.display())
    }

    /// How to run it: a directory says nothing about that, so the usual search path and a shell.
    pub fn config(&self) -> RunConfig {
        RunConfig {
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            cmd: vec!["/bin/sh".to_owned()],
            ..RunConfig::default()
        }
    }
}

/// Whether an executable file lies at the top: images of one static program have nothing else.
fn has_program(path: &Path) -> Result<bool> {
    let entries = std::fs::read_dir(path).map_err(|e| Error::io("list", path, e))?;
    let runs =
        |entry: std::fs::DirEntry| entry.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    Ok(entries.flatten().any(runs))
}
