//! `--container-entrypoint`: the image's entrypoint, run once before the tasks.
//!
//! As with pyxis it is run with a shell as its command, and the tasks then have the environment and the working directory
//! with which it has left that shell. The shell tells its number and waits; its environment is read in `/proc`.
//!
//! It takes as long as it takes: who has enough of it cancels the step, and then it ends with the tasks that wait for it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use berth_container::oci::Process;
use berth_slurm::answer::Way;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::CommandError;

/// Most bytes of its output that are printed.
const MAX_OUTPUT: u64 = 64 << 10;
/// Largest environment that is read.
const MAX_ENVIRONMENT: u64 = 8 << 20;

/// What the shell does: tell its number, on standard output, which nobody else has; wait until nobody wants it any more.
const SHELL: &str = "echo \"$$\" >&3; read -r _ <&4; exit 0";

/// See the module.
#[derive(Debug)]
pub struct Entrypoint {
    words: Vec<String>,
    env: Vec<String>,
    cwd: PathBuf,
    log: bool,
}

/// What it has left.
#[derive(Debug)]
pub struct Started {
    before: Vec<String>,
    environment: Vec<Vec<u8>>,
    cwd: Option<PathBuf>,
}

impl Entrypoint {
    /// Of an image, with the environment that the container has.
    pub fn new(words: &[String], process: &Process, log: bool) -> Entrypoint {
        Entrypoint { words: words.to_vec(), env: process.env.clone(), cwd: process.cwd.clone(), log }
    }

    /// Runs it, in the container, which this process is in already. `tasks` is hung up when nobody waits for it any more.
    pub fn run(&self, tasks: BorrowedFd<'_>) -> Result<Started, CommandError> {
        let failed = |what: &str, reason: String| {
            CommandError::failure(format!("pyxis: container start failed: {what}: {reason}"))
                .with_hint("if the image has an unusual entrypoint, try using --no-container-entrypoint")
        };
        let pipe = || std::io::pipe().map_err(|e| failed("cannot make a pipe", e.to_string()));
        let ((mut told, tell), (wait, go)) = (pipe()?, pipe()?);
        let output = rustix::fs::memfd_create("berth-entrypoint", MemfdFlags::CLOEXEC)
            .map_err(|e| failed("cannot keep its output", e.to_string()))?;
        let mut output = File::from(output);
        let again = || output.try_clone().map(Stdio::from).map_err(|e| failed("cannot keep its output", e.to_string()));
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(["/bin/sh", "-c", SHELL]).env_clear().current_dir(&self.cwd);
        command.envs(self.env.iter().filter_map(|entry| entry.split_once('=')));
        command.stdin(Stdio::null()).stdout(again()?).stderr(again()?).process_group(0);
        place(&mut command, OwnedFd::from(tell), 3, OwnedFd::from(wait), 4);
        let mut child = command
            .spawn()
            .map_err(|e| failed(&format!("cannot run the entrypoint {}", self.words[0]), e.to_string()))?;
        // Both ends that the shell has are gone from here with the command.
        drop(command);
        let mut number = String::new();
        let mut byte = [0];
        while is_awaited(told.as_fd(), tasks)
            && matches!(told.read(&mut byte), Ok(1))
            && byte[0] != b'\n'
            && number.len() < 12
        {
            number.push(char::from(byte[0]));
        }
        let started = number.trim().parse::<u32>().ok().and_then(|pid| self.look_at(pid));
        drop(go);
        let Some(started) = started else {
            use std::os::unix::process::ExitStatusExt;
            let status = end(&mut child, tasks).ok();
            let what = match status.and_then(|status| status.code().or(status.signal().map(|signal| 128 + signal))) {
                Some(0) | None => "container exited too soon".to_owned(),
                Some(code) => format!("container start failed with error code: {code}"),
            };
            let mut message = format!(
                "pyxis: {what}\npyxis: if the image has an unusual entrypoint, try using --no-container-entrypoint"
            );
            let text = print(&mut output);
            if !text.is_empty() {
                message
                    .push_str(&format!("\npyxis: printing entrypoint log:\npyxis:     {}", text.join("\npyxis:     ")));
            }
            return Err(CommandError::failure(message));
        };
        let _ = end(&mut child, tasks);
        if self.log {
            print(&mut output).iter().for_each(|line| eprintln!("{line}"));
        }
        Ok(started)
    }

    fn look_at(&self, pid: u32) -> Option<Started> {
        let mut environment = Vec::new();
        File::open(format!("/proc/{pid}/environ")).ok()?.take(MAX_ENVIRONMENT).read_to_end(&mut environment).ok()?;
        let entries = environment.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
        Some(Started {
            before: self.env.clone(),
            environment: entries.map(<[u8]>::to_vec).collect(),
            cwd: std::fs::read_link(format!("/proc/{pid}/cwd")).ok(),
        })
    }
}

/// Waits until something can be read; false where the tasks have gone before.
fn is_awaited(what: BorrowedFd<'_>, tasks: BorrowedFd<'_>) -> bool {
    loop {
        // Of the tasks only the hang-up counts, which is told unasked.
        let mut both =
            [PollFd::from_borrowed_fd(what, PollFlags::IN), PollFd::from_borrowed_fd(tasks, PollFlags::empty())];
        match poll(&mut both, None) {
            Ok(_) if !both[0].revents().is_empty() => return true,
            Ok(_) if both[1].revents().contains(PollFlags::HUP) => return false,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Waits for the command's end, and ends it where nobody else waits for it.
fn end(child: &mut Child, tasks: BorrowedFd<'_>) -> std::io::Result<ExitStatus> {
    let pid = Pid::from_child(child);
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    if !is_awaited(process.as_fd(), tasks) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    child.wait()
}

/// Gives the command two descriptors under the numbers that its shell uses.
#[allow(unsafe_code)]
fn place(command: &mut Command, one: OwnedFd, at_one: i32, two: OwnedFd, at_two: i32) {
    use std::os::fd::AsRawFd;
    // SAFETY: between fork and exec only system calls are made, with numbers.
    unsafe {
        command.pre_exec(move || {
            // Out of the way first, so that neither lies where the other goes.
            let high = [one.as_raw_fd(), two.as_raw_fd()].map(|fd| libc::fcntl(fd, libc::F_DUPFD, 10));
            if high.contains(&-1) || libc::dup2(high[0], at_one) < 0 || libc::dup2(high[1], at_two) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            libc::close(high[0]);
            libc::close(high[1]);
            Ok(())
        });
    }
}

fn print(output: &mut File) -> Vec<String> {
    let mut text = Vec::new();
    let _ = output.seek(SeekFrom::Start(0));
    let _ = output.take(MAX_OUTPUT).read_to_end(&mut text);
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

impl Started {
    /// Has the tasks do what the entrypoint did.
    pub fn change(self, way: &mut Way) {
        let name = |entry: &[u8]| entry.split(|&byte| byte == b'=').next().unwrap_or_default().to_vec();
        // Of a shell's own making.
        const OWN: [&str; 4] = ["PWD", "OLDPWD", "SHLVL", "_"];
        for entry in self.environment {
            let known = self.before.iter().any(|before| before.as_bytes() == entry);
            let own = OWN.iter().any(|own| own.as_bytes() == name(&entry));
            if !known && !own {
                way.set.retain(|set| name(set) != name(&entry));
                way.set.push(entry);
            }
        }
        if let Some(cwd) = self.cwd.map(OsString::from) {
            way.cwd = cwd.as_bytes().to_vec();
        }
    }
}
