//! `sbatch`: from a script to a job in the queue.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, access};

use crate::batch::keeper;
use crate::batch::script::Files;
use crate::control;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::options::{Request, Verb, script};
use crate::queue::Queue;
use crate::queue::active::Entry;
use crate::record::{Job, State};
use crate::srun::Answer;
use crate::submit::{self, Refusal};
use crate::{lost, tree};

/// What is submitted.
#[derive(Debug)]
pub struct Batch {
    /// The options: of the script, of variables and of the line.
    pub request: Request,
    /// The script.
    pub script: Vec<u8>,
    /// Its name as it was typed, and its arguments.
    pub command: Vec<OsString>,
    /// What the job is called where it has no other name.
    pub default_name: String,
    /// The machine.
    pub node: Node,
}

/// The script that `--wrap` makes.
pub fn wrap(command: &str) -> Vec<u8> {
    format!("#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{command}\n").into_bytes()
}

fn refused(text: impl AsRef<str>) -> Refusal {
    Refusal::error(Verb::Sbatch, text)
}

impl Batch {
    /// Puts it into the queue, and sees to it that it will be run.
    pub fn submit(mut self) -> Answer {
        script::check(&self.script).map_err(refused)?;
        for warning in submit::check(&self.request, Verb::Sbatch, &self.node)? {
            eprintln!("{warning}");
        }
        let queue = Queue::open().map_err(|e| refused(e.to_string()))?;
        self.request.name.get_or_insert(self.default_name.clone());
        let mut job = submit::job(&self.request, Verb::Sbatch, &self.command);
        submit::check_dependencies(&self.request, Verb::Sbatch, &queue)?;
        self.check_files(&job)?;
        if self.request.test_only {
            let next = queue.ids().ok().and_then(|ids| ids.last().copied()).unwrap_or(0) + 1;
            eprintln!("{}", submit::test_line(Verb::Sbatch, next, &job, &self.node));
            return Ok(0);
        }
        let id = self.enqueue(&queue, &mut job).map_err(|e| refused(e.to_string()))?;
        keeper::ensure(&queue).map_err(|e| refused(e.to_string()))?;
        if self.request.parsable {
            println!("{id}");
        } else if self.request.quiet == 0 {
            println!("Submitted batch job {id}");
        }
        if self.request.wait_for_job {
            return wait(&queue, id).map_err(|e| refused(e.to_string()));
        }
        Ok(0)
    }

    /// What the job could not do later, for a reason that is seen now.
    fn check_files(&self, job: &Job) -> std::result::Result<(), Refusal> {
        let told = |what: &str, path: &Path, error: &io::Error| {
            refused(format!("{what} {}: {}", path.display(), crate::step::reason(error)))
        };
        if let Err(error) = access(&job.directory, Access::EXEC_OK) {
            return Err(told("couldn't chdir to", &job.directory, &error.into()));
        }
        let files = Files::of(job, &self.node.name);
        if let Some(input) = &files.input
            && let Err(error) = access(input, Access::READ_OK)
        {
            return Err(told("Could not open stdin file", input, &error.into()));
        }
        for (what, path) in [("stdout", Some(&files.output)), ("stderr", files.error.as_ref())] {
            let Some(path) = path else { continue };
            let place = if path.exists() { path } else { path.parent().unwrap_or(path) };
            if let Err(error) = access(place, Access::WRITE_OK) {
                return Err(told(&format!("Could not open {what} file"), path, &error.into()));
            }
        }
        Ok(())
    }

    fn enqueue(&self, queue: &Queue, job: &mut Job) -> Result<u32> {
        let mut environment = Environment::own();
        environment.export(self.request.export.as_deref());
        // What belongs to a job around this one is none of the new job's.
        if environment.get(lost::MARK).is_some() {
            let names: Vec<OsString> = environment
                .iter()
                .map(|(name, _)| name.to_owned())
                .filter(|name| name.to_string_lossy().starts_with("SLURM_"))
                .collect();
            names.iter().for_each(|name| environment.unset(name));
        }
        environment.unset(lost::MARK);
        environment.unset(tree::KEEPER);
        if self.request.export.as_deref().is_some_and(|list| list.eq_ignore_ascii_case("NONE")) {
            login_environment(&mut environment);
        }
        environment.set("SLURM_SUBMIT_DIR", submit::directory(None));
        environment.set("SLURM_UMASK", format!("{:04o}", submit::umask()));
        let lock = queue.lock()?;
        job.id = queue.new_id(&lock)?;
        if let Some(array) = &mut job.array {
            array.job = job.id;
        }
        let directory = queue.directory(job.id);
        write(&directory.join("slurm_script"), &self.script, 0o700)?;
        write(&directory.join("environment"), &environment.to_bytes(), 0o600)?;
        queue.write_job(job)?;
        let mut entries = queue.active()?;
        entries.push(Entry::of(job));
        queue.write_active(&entries, &lock)?;
        Ok(job.id)
    }
}

/// What a login would set, with `--export=NONE`.
fn login_environment(environment: &mut Environment) {
    for name in ["HOME", "USER", "LOGNAME", "SHELL"] {
        if let Some(value) = std::env::var_os(name) {
            environment.set(name, value);
        }
    }
    environment.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))
    });
    written.map_err(|e| Error::io("write", path, e))
}

/// Waits for a job's end, or for that of an array's elements; gives the highest exit code.
fn wait(queue: &Queue, id: u32) -> Result<u8> {
    let watch = control::watch(queue.root())?;
    loop {
        let entries = queue.active()?;
        if !entries.iter().any(|entry| entry.id == id || entry.array == Some(id)) {
            break;
        }
        match poll(&mut [PollFd::new(&watch, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => drop(control::clear(&watch)),
            Err(error) => return Err(Error::system("wait for the job", error)),
        }
    }
    let mut ids: Vec<u32> = queue.elements(id).into_iter().map(|(_, id)| id).collect();
    ids.push(id);
    let jobs = ids.into_iter().filter_map(|id| queue.job(id).ok());
    let code = |job: Job| match job.state {
        State::Completed => 0,
        _ => job.exit.shell_code().max(1),
    };
    Ok(jobs.map(code).max().unwrap_or(0))
}
