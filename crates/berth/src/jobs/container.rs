//! The container of a step or a batch script, from the side of its tasks: what the plugin does in slurmstepd, done by
//! `berth srun` and by supervisors ([`berth_slurm::task`]).

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use berth_job::environment::Environment;
use berth_job::queue::Queue;
use berth_job::record::{Job, Step, StepId};
use berth_job::step::{Contained, Container};
use berth_slurm::request::Request;
use berth_slurm::task::{self, Call, Change};

/// Slurm's number of the step that a batch script is.
const BATCH_STEP: u32 = 0xffff_fffb;

/// This program, also where its file was replaced meanwhile.
const PROGRAM: &str = "/proc/self/exe";

struct StepContainer {
    request: Request,
    job: u32,
    step: StepId,
    tasks: u32,
    /// The process that lives as long as the step.
    lease: u32,
    script: Option<PathBuf>,
    socket: Option<OwnedFd>,
}

/// The container that a step asks for, if it does.
pub fn of(job: &Job, step: &Step) -> Contained {
    let mut request = Request::default();
    for argument in &step.container {
        request.set_argument(argument).map_err(|e| format!("pyxis: {e}"))?;
    }
    if !request.wants_container() {
        return Ok(None);
    }
    if let Some(path) = &request.save {
        return Err(format!(
            "pyxis: --container-save: cannot save to {path}: this version of berth writes no image files yet\n\
             berth: keep the container by its name instead: --container-name"
        ));
    }
    let script = match step.id {
        StepId::Batch => {
            let queue = Queue::open().map_err(|e| e.to_string())?;
            Some(queue.directory(job.array.as_ref().map_or(job.id, |array| array.job)).join("slurm_script"))
        }
        StepId::Number(_) => None,
    };
    Ok(Some(Box::new(StepContainer {
        request,
        job: job.id,
        step: step.id,
        tasks: step.tasks,
        lease: std::process::id(),
        script,
        socket: None,
    })))
}

impl Container for StepContainer {
    fn prepare(&mut self, tasks: u32) -> Result<(), String> {
        self.tasks = tasks;
        self.socket = Some(task::meeting().map_err(|e| format!("berth: cannot make the tasks' socket: {e}"))?);
        Ok(())
    }

    fn forked(&mut self) {
        // Only tasks have it from here on, so that its end tells `berth step` that nobody waits any more.
        self.socket = None;
    }

    fn enter(&mut self, environment: &mut Environment) -> Result<(), String> {
        let socket = self.socket.take().ok_or("berth: the tasks' socket is gone")?;
        let entries = environment.entries();
        let way = task::enter(&socket, |end| self.call(&entries, end))?;
        let asked = |name: &[u8]| self.request.env_names().any(|asked| asked.as_bytes() == name);
        for change in task::changes(entries.iter().map(|entry| entry.to_bytes()), asked, &way) {
            match change {
                Change::Unset(name) => environment.unset(std::ffi::OsStr::from_bytes(&name)),
                Change::Set(name, value) => {
                    environment.set(std::ffi::OsStr::from_bytes(&name), std::ffi::OsStr::from_bytes(&value));
                }
            }
        }
        Ok(())
    }
}

impl StepContainer {
    /// Calls `berth step`, with the task's environment.
    fn call(&self, environment: &[CString], end: OwnedFd) -> Result<(), String> {
        let step = match self.step {
            StepId::Batch => BATCH_STEP,
            StepId::Number(number) => number,
        };
        let mut words = vec![
            PROGRAM.to_owned(),
            "step".to_owned(),
            format!("--job={}", self.job),
            format!("--step={step}"),
            format!("--tasks={}", self.tasks),
            format!("--lease={}", self.lease),
        ];
        words.extend(self.script.as_ref().map(|script| format!("--script={}", script.display())));
        words.extend(self.request.to_arguments());
        let words: Vec<CString> = words.into_iter().filter_map(|word| CString::new(word).ok()).collect();
        let environment: Vec<CString> =
            environment.iter().filter(|entry| !task::is_withheld(entry.to_bytes())).cloned().collect();
        task::call(&words, &environment, end).map_err(|error| match error {
            Call::Missing => "berth: cannot run this program again".to_owned(),
            Call::Failed(text) => text,
        })
    }
}
