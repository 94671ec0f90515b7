//! Runs programs with a limit on their time, and ends whatever a test started.

#![allow(unsafe_code)] // prctl, kill, wait4 and what must happen between fork and exec.

use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Longest that one program of a test may run, unless the test says otherwise.
pub const LIMIT: Duration = Duration::from_secs(120);

/// What a program left behind.
#[must_use]
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Wall time from start to end.
    pub wall: Duration,
    /// Largest resident memory in bytes.
    pub peak: u64,
    /// The command line, for messages.
    pub line: String,
}

impl Output {
    /// Exit code as a shell has it: 128 and the signal's number for one ended by a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Standard output of a program that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{}", self.report());
        self.stdout
    }

    /// The error of a program that must have failed with that code: what it said from its first `berth: ` on, without
    /// the progress before it.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code(), code, "{}", self.report());
        let start =
            if self.stderr.starts_with("berth: ") { Some(0) } else { self.stderr.find("\nberth: ").map(|at| at + 1) };
        self.stderr[start.unwrap_or(0)..].to_owned()
    }

    /// Everything about it, for a failed assertion.
    pub fn report(&self) -> String {
        format!("{} ended with {}\nstdout: {}\nstderr: {}", self.line, self.code(), self.stdout, self.stderr)
    }
}

/// Runs a command to its end with nothing on its standard input; one that takes longer than [`LIMIT`] is killed, and the
/// test fails.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    run_with(command, b"", LIMIT)
}

/// Runs a command to its end with `input` on its standard input.
#[track_caller]
pub fn run_with(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let line = line(command);
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    thread::spawn(move || {
        // One that does not read its input closes it: not an error.
        let _ = stdin.write_all(&input);
    });
    let stdout = collect(child.stdout.take().expect("a pipe"));
    let stderr = collect(child.stderr.take().expect("a pipe"));
    let (status, peak) = wait(&mut child, limit).unwrap_or_else(|error| panic!("{line}: {error}"));
    let wall = start.elapsed();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output {
        status,
        stdout: text(stdout.join().expect("the reader does not panic")),
        stderr: text(stderr.join().expect("the reader does not panic")),
        wall,
        peak,
        line,
    }
}

/// Waits for a child that this process alone waits for; kills it when the limit is over. Gives its status and the largest
/// resident memory, in bytes, of it and of the children it waited for.
pub fn wait(child: &mut Child, limit: Duration) -> io::Result<(ExitStatus, u64)> {
    let pid = child.id() as libc::pid_t;
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    loop {
        let mut status = 0;
        // SAFETY: rusage is plain data, for which all zero is a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live locals; the child is ours and was not waited for yet.
        let ended = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
        if ended == pid {
            return Ok((ExitStatus::from_raw(status), usage.ru_maxrss as u64 * 1024));
        }
        if ended < 0 {
            return Err(io::Error::last_os_error());
        }
        if Instant::now() > deadline {
            end_all(&descendants(pid));
            kill(pid, libc::SIGKILL);
            child.wait()?;
            return Err(io::Error::other(format!("killed after {} s", limit.as_secs())));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// A command as one would type it.
pub fn line(command: &Command) -> String {
    let words: Vec<String> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into())
        .collect();
    words.join(" ")
}

/// Sends a signal to one process; one that is gone already is no error.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: kill takes numbers only.
    unsafe { libc::kill(pid, signal) };
}

/// Makes this process the parent of every orphan below it, so that [`descendants`] misses none.
pub fn adopt_orphans() {
    // SAFETY: prctl with these arguments takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// All processes below `pid` that still run, with the nearest first; zombies are left out.
pub fn descendants(pid: i32) -> Vec<i32> {
    let parents = table();
    let mut found = Vec::new();
    let mut queue = vec![pid];
    while let Some(next) = queue.pop() {
        for (child, parent, _, alive) in &parents {
            if *parent == next {
                queue.push(*child);
                if *alive {
                    found.push(*child);
                }
            }
        }
    }
    found
}

/// Waits, from now on, for adopted children of that name as soon as they end. As a rule nobody does that here, but what
/// watches whether such a process is still there takes a zombie for a living one.
pub fn reap_for_ever(wanted: &'static str) {
    let own = std::process::id() as i32;
    thread::spawn(move || {
        loop {
            for (pid, parent, name, alive) in table() {
                if parent == own && !alive && name == wanted {
                    // SAFETY: waitpid may be told to give no status.
                    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
}

/// All processes: number, parent, name, and whether it is more than a zombie.
fn table() -> Vec<(i32, i32, String, bool)> {
    let mut table = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The command's name may hold anything, but the last parenthesis ends it.
        let Some((start, rest)) = stat.rsplit_once(") ") else { continue };
        let name = start.split_once('(').map_or("", |(_, name)| name).to_owned();
        let mut fields = rest.split(' ');
        let state = fields.next().unwrap_or("Z");
        let parent = fields.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        table.push((pid, parent, name, state != "Z"));
    }
    table
}

/// Kills processes.
pub fn end_all(pids: &[i32]) {
    for pid in pids {
        kill(*pid, libc::SIGKILL);
    }
}

/// Kills those processes below this one whose command line contains a word.
pub fn end_descendants(word: &str) {
    let mut pids = descendants(std::process::id() as i32);
    pids.retain(|pid| name(*pid).contains(word));
    end_all(&pids);
}

/// What a process calls itself, for messages.
pub fn name(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ").trim().to_owned()
}

/// Makes the kernel end the command when the thread that started it ends, however it ends.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: prctl is safe to call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            Ok(())
        })
    }
}

/// A child that is killed when it goes out of scope.
#[derive(Debug)]
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
