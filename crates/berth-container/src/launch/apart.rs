//! A process that has nothing to do with the one that starts it: what serves several containers must outlive each of them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::{in_child, sealed, sys};
use crate::error::{Error, Result};

/// The first descriptor that is passed on.
pub const FIRST: u32 = 3;

/// Starts this program again with this line, as a process of its own: a session without a terminal, no parent that waits
/// for it, no environment, `/` as its directory, all signals blocked that can be. Nothing is open there but `/dev/null` as
/// the first three descriptors, and these from [`FIRST`] on, in this order.
///
/// # Errors
/// If there can be no process. That its program cannot be executed is told by its end alone.
pub fn start_apart(words: &[CString], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let failed = |e: io::Error| Error::system("start a process", e);
    let between = in_child(|| {
        // The session's first process could get a terminal, and its end is the session's end: the one after it stays.
        let session = rustix::process::setsid();
        let started = session.is_ok() && in_child(|| become_apart(words, descriptors)).is_ok();
        u8::from(!started)
    })?;
    let between = i32::try_from(between).ok().and_then(Pid::from_raw);
    loop {
        match waitpid(between, WaitOptions::empty()) {
            Ok(Some((_, status))) if status.exit_status() == Some(0) => return Ok(()),
            Ok(_) => return Err(failed(io::Error::from(rustix::io::Errno::AGAIN))),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

fn become_apart(words: &[CString], descriptors: &[BorrowedFd<'_>]) -> u8 {
    let _ = keep_only(descriptors).map(|()| {
        sys::block_signals();
        sealed::execute_self(words, &[])
    });
    127
}

fn keep_only(descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    rustix::process::chdir(c"/")?;
    // First out of the way of the numbers that they shall have.
    let apart = FIRST + descriptors.len() as u32;
    let copies: Vec<OwnedFd> = descriptors
        .iter()
        .map(|descriptor| rustix::io::fcntl_dupfd_cloexec(descriptor, apart as i32))
        .collect::<rustix::io::Result<_>>()?;
    let nothing = {
        let low = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::fcntl_dupfd_cloexec(&low, apart as i32)?
    };
    for number in 0..FIRST {
        sys::put_descriptor(nothing.as_raw_fd(), number)?;
    }
    for (copy, number) in copies.iter().zip(FIRST..) {
        sys::put_descriptor(copy.as_raw_fd(), number)?;
    }
    // What this process inherited, and what is ours: the program is executed next, or the process ends.
    std::mem::forget((copies, nothing));
    sys::close_all_but(apart, &mut [])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_descriptors_do_not_get_into_each_others_way() {
        use std::io::{Read, Seek, Write};
        use std::os::fd::AsFd;
        // In a child: it closes what the other tests have open.
        let mut told = tempfile::tempfile().unwrap();
        let files: Vec<std::fs::File> = (0..2).map(|_| tempfile::tempfile().unwrap()).collect();
        for (number, mut file) in files.iter().enumerate() {
            write!(file, "{number}").unwrap();
            file.rewind().unwrap();
        }
        let order = [files[1].as_fd(), files[0].as_fd(), told.as_fd()];
        let child = in_child(|| {
            if keep_only(&order).is_err() {
                return 1;
            }
            let script = c"cat <&3 >&5; cat <&4 >&5; ls /proc/self/fd | tr '\\n' ' ' >&5";
            let words = [c"sh".to_owned(), c"-c".to_owned(), script.to_owned()];
            let words = sys::PointerList::new(words.iter().map(CString::as_c_str));
            sys::execve(c"/bin/sh", &words, &sys::PointerList::new(std::iter::empty()));
            2
        });
        let child = i32::try_from(child.unwrap()).ok().and_then(Pid::from_raw);
        let (_, status) = waitpid(child, WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
        let mut text = String::new();
        told.rewind().unwrap();
        told.read_to_string(&mut text).unwrap();
        // The last one is the directory that ls reads.
        assert_eq!(text, "100 1 2 3 4 5 6 ");
    }
}
