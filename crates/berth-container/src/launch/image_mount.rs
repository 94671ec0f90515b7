//! A lowest layer that is no directory yet: somebody mounts it, once the container's namespaces are there.
//!
//! This crate knows nothing of images. Whoever has one in a form that must be mounted gives a function that does so, and may
//! have a process beside the container that serves the mount ([`orphan`]).

use std::fmt;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::Mode;
use rustix::fs::OFlags;

use super::sys;
use crate::error::Error;
use crate::error::Result;

/// Makes a mount, and gives it without a place: as `fsmount(2)` does. Runs in the user and mount namespaces of the container.
#[derive(Clone)]
pub struct ImageMount(Rc<dyn Fn() -> Result<OwnedFd, String>>);

impl ImageMount {
    /// The function says in words what keeps it from mounting.
    pub fn new(make: impl Fn() -> Result<OwnedFd, String> + 'static) -> ImageMount {
        ImageMount(Rc::new(make))
    }

    pub(super) fn make(&self) -> Result<OwnedFd> {
        (self.0)().map_err(|reason| Error::Rootfs { reason, hint: None })
    }
}

impl fmt::Debug for ImageMount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ImageMount")
    }
}

/// Runs `work` in a process that is nobody's child and has nothing of ours but `kept`: no terminal, no other open files,
/// `/dev/null` as standard input, output and error. It may start threads. Call this before there is any namespace, while
/// this process has one thread.
pub fn orphan(kept: &[BorrowedFd<'_>], work: impl FnOnce()) -> Result<()> {
    let failed = |error| Error::system("fork a process beside the container", error);
    let Some(between) = sys::fork().map_err(failed)? else {
        // The process in between ends at once, so that its child is not ours: who becomes the command expects no children.
        match sys::fork() {
            Ok(Some(_)) => sys::exit_now(0),
            Ok(None) => {
                let done = detach(kept);
                if done.is_ok() {
                    work();
                }
                sys::exit_now(u8::from(done.is_err()));
            }
            Err(_) => sys::exit_now(1),
        }
    };
    let between = i32::try_from(between).ok().and_then(rustix::process::Pid::from_raw);
    let status = rustix::process::waitpid(between, rustix::process::WaitOptions::empty());
    match status.map_err(|error| failed(error.into()))? {
        Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
        _ => Err(failed(std::io::Error::from(std::io::ErrorKind::OutOfMemory))),
    }
}

fn detach(kept: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    rustix::process::setsid()?;
    sys::reset_signals(true);
    let mut kept: Vec<_> = kept.iter().map(|fd| fd.as_raw_fd()).collect();
    sys::close_all_but(3, &mut kept)?;
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // Nothing of the host is kept busy.
    rustix::process::chdir(c"/")?;
    Ok(())
}
