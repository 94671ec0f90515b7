//! A terminal of a test's own: a program runs on it, and the test types and reads.

#![allow(unsafe_code)] // A new session between fork and exec.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::process;

/// Rows and columns of a new terminal: not those that anything assumes.
pub const SIZE: (u16, u16) = (41, 113);

/// A program on a terminal.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
    ended: bool,
    line: String,
}

impl Terminal {
    /// Starts a program on a terminal of [`SIZE`], as the leader of a session whose terminal it is.
    pub fn start(command: &mut Command) -> io::Result<Terminal> {
        let line = process::line(command);
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let slave = rustix::fs::open(&name, flags, rustix::fs::Mode::empty())?;
        set_size(&slave, SIZE)?;
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        // SAFETY: both calls are safe between fork and exec; descriptor 0 is the terminal by then.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        // The command holds copies of the terminal: while they are open here, it never ends.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let keyboard = File::from(master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, copy) = (keyboard.try_clone()?, Arc::clone(&shown));
        let reader = thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            // A terminal that nobody holds any more answers EIO.
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                copy.lock().expect("no panic while locked").extend_from_slice(&buffer[..length]);
            }
        });
        Ok(Terminal { child, keyboard, shown, reader, ended: false, line })
    }

    /// What it showed until now, without carriage returns.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("no panic while locked")).replace('\r', "")
    }

    /// Waits until it has shown a text.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.shown().contains(text) {
            assert!(Instant::now() < deadline, "{} never showed {text:?}, but: {}", self.line, self.shown());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("a terminal that takes keys");
    }

    /// Gives it another size; the program is told by SIGWINCH.
    pub fn resize(&self, size: (u16, u16)) {
        set_size(&self.keyboard, size).expect("a size");
    }

    /// Waits for the program's end; gives its exit code and all that was shown.
    #[track_caller]
    pub fn end(mut self) -> (i32, String) {
        let ended = process::wait(&mut self.child, Duration::from_secs(30));
        let (status, _) = ended.unwrap_or_else(|error| panic!("{}: {error}; shown: {}", self.line, self.shown()));
        self.ended = true;
        // What it left running may hold the terminal for ever: what it showed itself is read by then.
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.reader.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        (status.code().unwrap_or(-1), self.shown())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn set_size(terminal: impl std::os::fd::AsFd, (rows, columns): (u16, u16)) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
