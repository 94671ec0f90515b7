//! Who watches a step's output beside its own `srun`: a pair of named pipes that `sattach` has made in the job's directory.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::output::{Sink, Take};

/// The pipes' paths, by the number of who watches.
pub fn paths(directory: &Path, number: u32) -> [PathBuf; 2] {
    ["out", "err"].map(|end| directory.join(format!("attach.{number}.{end}")))
}

/// One who watches.
#[derive(Debug)]
pub struct Listener {
    output: OwnedFd,
    error: OwnedFd,
}

impl Listener {
    /// Opens its pipes; nothing where it has gone.
    pub fn open(directory: &Path, number: u32) -> Option<Listener> {
        let open = |path: &PathBuf| {
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
            options.open(path).ok().map(OwnedFd::from)
        };
        let [output, error] = paths(directory, number);
        Some(Listener { output: open(&output)?, error: open(&error)? })
    }
}

/// Output that goes where it goes anyway, and to all who watch. Who does not read as fast as it comes misses some: the step
/// waits for nobody.
#[derive(Debug)]
pub struct Copied<'a> {
    sink: &'a Sink,
    listeners: RefCell<&'a mut Vec<Listener>>,
    is_error: bool,
}

impl<'a> Copied<'a> {
    /// For one of a task's outputs.
    pub fn new(sink: &'a Sink, listeners: &'a mut Vec<Listener>, is_error: bool) -> Copied<'a> {
        Copied { sink, listeners: RefCell::new(listeners), is_error }
    }
}

impl Take for Copied<'_> {
    fn write(&self, bytes: &[u8]) {
        self.sink.write(bytes);
        self.listeners.borrow_mut().retain(|listener| {
            let pipe = if self.is_error { &listener.error } else { &listener.output };
            !matches!(rustix::io::write(pipe, bytes), Err(rustix::io::Errno::PIPE))
        });
    }
}
