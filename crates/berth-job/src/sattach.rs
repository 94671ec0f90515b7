//! `sattach`: the output of a step that runs, from the time on when it is watched.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};

use crate::control::{self, Request, To};
use crate::error::{Error, Result};
use crate::queue::Queue;
use crate::record::StepId;
use crate::step::Sink;
use crate::step::attach::paths;
use crate::step::output::Take as _;

/// The pipes, which go when nobody watches any more.
struct Pipes([PathBuf; 2]);

impl Drop for Pipes {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Watches a step until it ends; gives its exit code.
pub fn run(queue: &Queue, job: u32, number: u32) -> Result<u8> {
    let id = StepId::Number(number);
    let step = queue.step(job, id)?.filter(|step| !step.state.is_over()).ok_or(Error::NoJob)?;
    let supervisor = step.supervisor.as_ref().and_then(crate::process::Process::open).ok_or(Error::NoJob)?;
    let own = std::process::id();
    let pipes = Pipes(paths(&queue.directory(job), own));
    let open = |path: &PathBuf| -> Result<OwnedFd> {
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .map_err(|e| Error::io("make", path, e))?;
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        options.open(path).map(OwnedFd::from).map_err(|e| Error::io("open", path, e))
    };
    let ends = [(open(&pipes.0[0])?, Sink::Output), (open(&pipes.0[1])?, Sink::Error)];
    let uid = rustix::process::getuid().as_raw();
    control::ask(queue, job, To::Step(id), &Request { attach: Some(own), ..Request::end(uid) })?;
    loop {
        let mut waits: Vec<PollFd<'_>> = ends.iter().map(|(end, _)| PollFd::new(end, PollFlags::IN)).collect();
        waits.push(PollFd::new(&supervisor, PollFlags::IN));
        match poll(&mut waits, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::system("wait for the step", error)),
        }
        let is_over = !waits[2].revents().is_empty();
        let hung_up = waits[..2].iter().all(|wait| wait.revents() == PollFlags::HUP);
        for (end, sink) in &ends {
            let mut buffer = [0; 16 << 10];
            while let Ok(count @ 1..) = rustix::io::read(end, &mut buffer) {
                sink.write(&buffer[..count]);
            }
        }
        if is_over || hung_up {
            // What is written down last is how it ended.
            let _ = poll(&mut [PollFd::new(&supervisor, PollFlags::IN)], None);
            return Ok(queue.step(job, id)?.map_or(0, |step| step.exit.shell_code()));
        }
    }
}
