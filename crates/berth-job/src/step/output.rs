//! Output of tasks on its way to a file or to the step's own output.
//!
//! Whole lines are written, each by one call, so that lines of several tasks never mix; with `-u` what comes is written as
//! it comes.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Longest line that is kept back until it ends, in bytes.
const LONGEST: usize = 64 << 10;

/// Where output goes.
#[derive(Debug)]
pub enum Sink {
    /// The step's own standard output.
    Output,
    /// Its standard error.
    Error,
    /// A file.
    File(OwnedFd),
}

/// What takes output.
pub trait Take {
    /// Takes all of it.
    fn write(&self, bytes: &[u8]);
}

impl Take for Sink {
    /// Writes all of it. Where nobody reads any more, it is lost, and the tasks go on.
    fn write(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = match self {
                Sink::Output => rustix::io::write(rustix::stdio::stdout(), bytes),
                Sink::Error => rustix::io::write(rustix::stdio::stderr(), bytes),
                Sink::File(file) => rustix::io::write(file, bytes),
            };
            match written {
                Ok(count) => bytes = &bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => wait_writable(self),
                Err(_) => return,
            }
        }
    }
}

/// Somebody has made our output non-blocking.
fn wait_writable(sink: &Sink) {
    use rustix::event::{PollFd, PollFlags, poll};
    let descriptor = match sink {
        Sink::Output => rustix::stdio::stdout(),
        Sink::Error => rustix::stdio::stderr(),
        Sink::File(file) => file.as_fd(),
    };
    let _ = poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)], None);
}

/// Opens an output file.
pub fn open_output(path: &Path, append: bool) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o666);
    // A file that several write to is always appended to: nobody overwrites what another has written.
    options.append(true);
    let file = options.open(path)?;
    if !append && file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    Ok(file.into())
}

/// One output of one task.
#[derive(Debug)]
pub struct Stream {
    /// The pipe's end; none when it has ended.
    pipe: Option<OwnedFd>,
    /// What goes in front of lines.
    label: Option<String>,
    unbuffered: bool,
    held: Vec<u8>,
    /// Whether it is of standard error.
    pub is_error: bool,
    /// Whether it goes nowhere: other tasks' where only one was asked for.
    pub muted: bool,
}

impl Stream {
    /// Of a pipe that does not block.
    pub fn new(pipe: OwnedFd, label: Option<String>, unbuffered: bool, is_error: bool) -> Stream {
        Stream { pipe: Some(pipe), label, unbuffered, held: Vec::new(), is_error, muted: false }
    }

    /// To wait for it.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what there is and hands it on. Returns whether there may be more right now.
    pub fn pass_on(&mut self, sink: &dyn Take) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let mut buffer = [0; 32 << 10];
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => self.finish(sink),
            Ok(count) => {
                self.take(&buffer[..count], sink);
                return count == buffer.len();
            }
            Err(rustix::io::Errno::INTR) => return true,
            Err(rustix::io::Errno::AGAIN) => {}
            // A terminal whose last user has gone.
            Err(_) => self.finish(sink),
        }
        false
    }

    /// Reads all that is left without waiting for who still has the other end.
    pub fn drain(&mut self, sink: &dyn Take) {
        while self.pass_on(sink) {}
        self.finish(sink);
    }

    fn take(&mut self, bytes: &[u8], sink: &dyn Take) {
        if self.muted {
            return;
        }
        if self.unbuffered && self.label.is_none() {
            return sink.write(bytes);
        }
        self.held.extend_from_slice(bytes);
        let end = self.held.iter().rposition(|&byte| byte == b'\n').map(|at| at + 1);
        let end = end.unwrap_or(if self.held.len() > LONGEST || self.unbuffered { self.held.len() } else { 0 });
        let ready: Vec<u8> = self.held.drain(..end).collect();
        self.write(&ready, sink);
    }

    fn write(&self, lines: &[u8], sink: &dyn Take) {
        let Some(label) = &self.label else { return sink.write(lines) };
        let mut text = Vec::with_capacity(lines.len() + 16);
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            text.extend_from_slice(label.as_bytes());
            text.extend_from_slice(line);
        }
        if !text.is_empty() && !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        sink.write(&text);
    }

    fn finish(&mut self, sink: &dyn Take) {
        self.pipe = None;
        let rest = std::mem::take(&mut self.held);
        self.write(&rest, sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed_on(label: Option<&str>, unbuffered: bool, parts: &[&str]) -> Vec<String> {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (out_reader, out_writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        rustix::io::ioctl_fionbio(&out_reader, true).unwrap();
        let sink = Sink::File(out_writer);
        let mut stream = Stream::new(reader, label.map(str::to_owned), unbuffered, false);
        let mut seen = Vec::new();
        let mut look = || {
            let mut buffer = [0; 100];
            let count = rustix::io::read(&out_reader, &mut buffer).unwrap_or(0);
            seen.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
        };
        for part in parts {
            rustix::io::write(&writer, part.as_bytes()).unwrap();
            stream.pass_on(&sink);
            look();
        }
        drop(writer);
        stream.pass_on(&sink);
        look();
        seen
    }

    #[test]
    fn lines_are_whole_unless_nothing_is_held_back() {
        assert_eq!(passed_on(None, false, &["a", "b\nc", "d"]), ["", "ab\n", "", "cd"]);
        assert_eq!(passed_on(None, true, &["a", "b\nc"]), ["a", "b\nc", ""]);
        assert_eq!(passed_on(Some("3: "), false, &["a\nb\nc"]), ["3: a\n3: b\n", "3: c\n"]);
    }
}
