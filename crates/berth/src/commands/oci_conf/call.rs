//! One command of `oci.conf`, run by `/bin/sh` as slurmstepd runs it: with slurmd's environment, nothing on standard input, and
//! output and errors in one.

use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use serde::Serialize;

/// Most that is kept of a command's output, in bytes.
const MAX_OUTPUT: u64 = 1 << 20;

/// What a command may take, and what it gets.
pub struct Shell {
    /// Its variables.
    pub environment: Vec<String>,
    /// Where it starts.
    pub dir: PathBuf,
    /// Longest that it may take.
    pub limit: Duration,
}

/// When slurmstepd goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The process is gone: what runs a container is a task.
    Exit,
    /// Everybody who has its output is gone, too: everything else is asked through a pipe.
    EndOfOutput,
}

/// What came of a command.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Call {
    /// Its key.
    pub key: &'static str,
    /// What was run.
    pub line: String,
    /// Its exit code, or `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its output and errors.
    pub output: String,
    /// How long it took.
    pub seconds: f64,
    /// Whether it was ended by us.
    pub timed_out: bool,
}

impl Call {
    /// What is wrong, if something is.
    pub fn fault(&self) -> Option<String> {
        match (self.timed_out, self.code) {
            (true, _) => Some("takes longer than --limit".to_owned()),
            (false, Some(0)) => None,
            (false, Some(code)) => Some(format!("ends with exit code {code}")),
            (false, None) => Some("is ended by a signal".to_owned()),
        }
    }
}

impl Shell {
    /// Runs a line.
    pub fn call(&self, key: &'static str, line: String, until: Until) -> io::Result<Call> {
        let start = Instant::now();
        let deadline = start + self.limit;
        let (status, output) = match until {
            Until::Exit => self.until_exit(&line, deadline)?,
            Until::EndOfOutput => self.until_end_of_output(&line, deadline)?,
        };
        Ok(Call {
            key,
            line,
            code: status.and_then(|status| status.code()),
            output: String::from_utf8_lossy(&output).into_owned(),
            seconds: start.elapsed().as_secs_f64(),
            timed_out: status.is_none(),
        })
    }

    fn start(&self, line: &str, out: OwnedFd, error: OwnedFd) -> io::Result<Child> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(line).current_dir(&self.dir).process_group(0).env_clear();
        command.envs(self.environment.iter().filter_map(|variable| variable.split_once('=')));
        command.stdin(Stdio::null()).stdout(out).stderr(error).spawn()
    }

    fn until_exit(&self, line: &str, deadline: Instant) -> io::Result<(Option<ExitStatus>, Vec<u8>)> {
        let file = rustix::fs::memfd_create("output", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut child = self.start(line, file.try_clone()?, file.try_clone()?)?;
        let status = wait(&mut child, deadline)?;
        let mut output = Vec::new();
        let mut file = std::fs::File::from(file);
        file.rewind()?;
        file.take(MAX_OUTPUT).read_to_end(&mut output)?;
        Ok((status, output))
    }

    fn until_end_of_output(&self, line: &str, deadline: Instant) -> io::Result<(Option<ExitStatus>, Vec<u8>)> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut child = self.start(line, write.try_clone()?, write)?;
        let mut output = Vec::new();
        let mut buffer = [0_u8; 4096];
        let ended = loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break false };
            let timeout = rustix::event::Timespec::try_from(left).map_err(io::Error::other)?;
            let mut ready = [PollFd::new(&read, PollFlags::IN)];
            match rustix::event::poll(&mut ready, Some(&timeout)) {
                Ok(0) => break false,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let length = rustix::io::read(&read, &mut buffer)?;
            if length == 0 {
                break true;
            }
            let room = (MAX_OUTPUT as usize).saturating_sub(output.len());
            output.extend_from_slice(&buffer[..length.min(room)]);
        };
        if !ended {
            // Before the process is waited for, so that the group's number is nobody else's.
            kill_group(&child);
        }
        let status = wait(&mut child, deadline)?;
        Ok((status.filter(|_| ended), output))
    }
}

/// Kills what a command has started, as slurmstepd does. What has made a session of its own goes on, a container for one.
fn kill_group(child: &Child) {
    let group = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
}

/// Waits for a process; kills it and its group when the time is over, and gives `None`.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            kill_group(child);
            let status = child.wait()?;
            // It may have ended by itself in between.
            return Ok(Some(status).filter(|status| status.signal() != Some(libc::SIGKILL)));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
