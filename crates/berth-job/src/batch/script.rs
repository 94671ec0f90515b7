//! A batch script: its files, and the process that becomes it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::started;
use crate::environment::Environment;
use crate::node::Node;
use crate::options::pattern::{self, Names};
use crate::queue::read_file;
use crate::record::Job;
use crate::step::{become_command, open_output, reset_signals};
use crate::{links, lost, step, submit};

/// In the child: becomes the script. Comes back with an exit code where it cannot.
pub fn become_script(
    job: &Job,
    node: &Node,
    directory: &Path,
    submitted: &Path,
    container: Option<&mut (dyn step::Container + 'static)>,
    error: Option<String>,
    restarts: u32,
) -> i32 {
    let _ = rustix::thread::set_name(c"berth-script");
    match started::claim(directory, restarts) {
        Ok(true) => {}
        // Another process is the script already.
        _ => return 1,
    }
    let files = Files::of(job, &node.name);
    let Ok((input, output, standard_error)) = files.open(job.append.unwrap_or(false)) else { return 1 };
    redirect(&input, &output, &standard_error);
    reset_signals();
    new_group();
    let bytes = read_file(&submitted.join("environment")).ok().flatten().unwrap_or_default();
    let mut environment = Environment::from_bytes(&bytes);
    environment.set_job(job);
    if let Some(mask) = environment.get("SLURM_UMASK").and_then(|text| u32::from_str_radix(text.to_str()?, 8).ok()) {
        submit::set_umask(mask);
    }
    environment.set_node(job, job.allocation.as_ref().map_or(1, |allocation| allocation.cpus.len()));
    for (name, value) in [
        ("ENVIRONMENT", "BATCH"),
        ("SLURM_GTIDS", "0"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_PROCID", "0"),
        ("SLURM_PRIO_PROCESS", "0"),
    ] {
        environment.set(name, value);
    }
    environment.set("SLURM_TASK_PID", std::process::id().to_string());
    environment.set(lost::MARK, lost::mark(job));
    if node.can_bind
        && let Some(allocation) = &job.allocation
    {
        step::bind(&allocation.cpus);
    }
    let say = |text: &str| eprintln!("slurmstepd-{}: error: {text}", node.name);
    if let Some(text) = error {
        text.lines().for_each(say);
        return 1;
    }
    let script = submitted.join("slurm_script");
    match container {
        None => {
            if let Some(queue) = directory.ancestors().nth(2) {
                links::add(&mut environment, queue);
            }
            step::enter_directory(&job.directory, &node.name);
        }
        Some(container) => {
            let _ = std::env::set_current_dir(&job.directory);
            if let Err(text) = container.enter(&mut environment) {
                text.lines().for_each(say);
                return 1;
            }
        }
    }
    let mut command: Vec<OsString> = vec![script.clone().into()];
    command.extend(job.command.iter().skip(1).map(OsString::from));
    let error = become_command(&command, &environment);
    let shown = match interpreter(&script) {
        Some(interpreter) if error.raw_os_error() == Some(libc::ENOENT) => format!("bad interpreter({interpreter})"),
        _ => script.display().to_string(),
    };
    say(&format!("execve(): {shown}: {}", step::reason(&error)));
    error.raw_os_error().unwrap_or(1)
}

fn interpreter(script: &Path) -> Option<String> {
    let text = fs::read(script).ok()?;
    let line = text.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    String::from_utf8_lossy(line).split_ascii_whitespace().next().map(str::to_owned)
}

#[allow(unsafe_code)]
fn redirect(input: &OwnedFd, output: &OwnedFd, error: &OwnedFd) {
    // SAFETY: descriptors that are open.
    unsafe {
        libc::dup2(input.as_raw_fd(), 0);
        libc::dup2(output.as_raw_fd(), 1);
        libc::dup2(error.as_raw_fd(), 2);
    }
}

#[allow(unsafe_code)]
fn new_group() {
    // SAFETY: numbers only.
    unsafe { libc::setpgid(0, 0) };
}

/// The files of a batch job.
#[derive(Debug)]
pub struct Files {
    /// Standard input.
    pub input: Option<PathBuf>,
    /// Standard output.
    pub output: PathBuf,
    /// Standard error, where it is another.
    pub error: Option<PathBuf>,
}

impl Files {
    /// By the job's patterns.
    pub fn of(job: &Job, node: &str) -> Files {
        let names = Names {
            job: job.id,
            array: job.array.as_ref().map_or(job.id, |array| array.job),
            element: job.array.as_ref().and_then(|array| array.task),
            step: "batch".to_owned(),
            task: None,
            node_number: 0,
            node: node.to_owned(),
            user: job.user.clone(),
            name: job.name.clone(),
        };
        let path = |pattern: &str| match pattern {
            "none" => PathBuf::from("/dev/null"),
            pattern => job.directory.join(pattern::expand(pattern, &names)),
        };
        let default = if job.array.is_some() { "slurm-%A_%a.out" } else { "slurm-%j.out" };
        Files {
            input: job.stdin.as_deref().map(path),
            output: path(job.stdout.as_deref().unwrap_or(default)),
            error: job.stderr.as_deref().map(path),
        }
    }

    fn open(&self, append: bool) -> io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_CLOEXEC);
        let input = options.open(self.input.as_deref().unwrap_or(Path::new("/dev/null")))?;
        let output = open_output(&self.output, append)?;
        let error = match self.error.as_ref().filter(|error| **error != self.output) {
            Some(error) => open_output(error, append)?,
            None => output.try_clone()?,
        };
        Ok((input.into(), output, error))
    }
}
