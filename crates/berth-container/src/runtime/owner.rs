//! Root who asks for an ordinary user's containers, as slurmstepd does at the end of each step: RunTimeQuery, RunTimeKill and
//! RunTimeDelete are run as root, with the user's `--root`.
//!
//! What lies there is the user's, and may say anything. So root becomes that user, for good, before it looks: nothing can
//! then happen that the user could not have done.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::root::Root;
use super::{Status, Warn};
use crate::launch::sys;

/// What Slurm writes for the number of a task (`%t`) when it asks for a step that has ended.
const NO_TASK: &str = ".-1";

impl Root {
    /// Where root of the host asks for containers of an ordinary user: becomes that user.
    ///
    /// The user is whoever owns the container's directory, or else the one with all of them.
    pub fn act_as_owner(&self, id: &str) {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let of = |path: &Path| {
            let meta = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_dir)?;
            (meta.uid() != 0).then(|| (meta.uid(), meta.gid()))
        };
        // An id that leads elsewhere is refused later.
        let of_container = |place: &Path| (!id.contains('/')).then(|| of(&place.join(id))).flatten();
        let owner = self.places().find_map(of_container).or_else(|| self.places().find_map(of));
        let Some((uid, gid)) = owner else { return };
        // Root of a user namespace is an ordinary user already, and sees strangers by a number that is nobody's.
        if sys::is_root_of_the_host() {
            // Who may not become that user finds nothing there: see `Container::read`.
            let _ = sys::set_groups(&[]).and_then(|()| sys::set_gid(gid)).and_then(|()| sys::set_uid(uid));
        }
    }

    /// Deletes what is left of a step of Slurm, if `id` is what Slurm calls a step that has ended: those of its containers
    /// that nobody could delete because everything was killed at once. A container that runs is left alone.
    pub fn end_step(&self, id: &str, warn: Warn<'_>) {
        let Some(step) = id.strip_suffix(NO_TASK) else { return };
        for container in self.list().unwrap_or_default() {
            let task = container.record.id.strip_prefix(step).and_then(|rest| rest.strip_prefix('.'));
            let of_step = task.is_some_and(|task| !task.is_empty() && task.bytes().all(|byte| byte.is_ascii_digit()));
            if of_step && container.status() == Status::Stopped {
                let _ = container.delete(false, warn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_becomes_somebody_else_for_what_is_his() {
        let dir = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid();
        Root::at(dir.path()).act_as_owner("x");
        // Root's own directory is no reason to become somebody else.
        Root::at("/").act_as_owner("etc");
        assert_eq!(rustix::process::geteuid(), own);
    }
}
