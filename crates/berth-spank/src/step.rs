//! A step's container, seen from its tasks.
//!
//! Before slurmstepd forks the tasks it makes a pair of connected sockets, and puts one message into it: a token, with the
//! socket's other end. Each task then reads a message. Who gets the token calls `berth step`, giving it that other end, and
//! reads again. `berth step` fetches the image, builds the container, and writes one answer for each task: a process in the
//! container, whose namespaces the task joins, and what else there is to do ([`Way`]).
//!
//! So the tasks need no shared memory and no lock, nobody polls, and a task cannot wait in vain: when the token's task and
//! `berth step` have died, the other end is closed, and everybody reads its end. The container lives by the tasks in it;
//! when the last one ends, the kernel takes its namespaces and mounts apart.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use berth_slurm::answer::Way;
use berth_slurm::request::Request;
use berth_slurm::settings::{Scope, Settings};
use berth_slurm::task::{self, Call, Change};

use crate::Outcome;
use crate::oci;
use crate::site;
use crate::slurm::{Item, Spank};

/// Steps that are none of the person's own, by Slurm's numbers.
const EXTERN_STEP: u32 = 0xffff_fffc;
const BATCH_STEP: u32 = 0xffff_fffb;
const INTERACTIVE_STEP: u32 = 0xffff_fffa;

/// See the module.
#[derive(Debug)]
pub struct Step {
    request: Request,
    /// What `--container` says, where the plugin serves it.
    oci: Option<String>,
    job: u32,
    number: u32,
    tasks: u32,
    forked: u32,
    /// The user's directory of named containers, where one may be needed.
    directory: Option<PathBuf>,
    socket: Option<OwnedFd>,
    /// slurmstepd, which lives as long as the step.
    daemon: u32,
}

/// What is asked for and not there yet.
pub fn refuse(request: &Request) -> Outcome {
    if let Some(path) = &request.save {
        return Err(format!(
            "pyxis: --container-save: cannot save to {path}: this version of berth writes no image files yet\n\
             berth: keep the container by its name instead: --container-name"
        ));
    }
    Ok(())
}

/// Whether a step asks for a container: one that does not is no concern of ours, whatever else is wrong.
pub fn wants_container(spank: &Spank, typed: &Request) -> bool {
    let named = |name: &str| spank.variable(name).is_some_and(|value| !value.is_empty());
    typed.wants_container()
        || ["PYXIS_CONTAINER_IMAGE", "PYXIS_CONTAINER_NAME", "PYXIS_CONTAINER_CONF"].into_iter().any(named)
        || ["SLURM_CONTAINER_IMAGE", "SLURM_CONTAINER_NAME", "SLURM_CONTAINER_CONF"].into_iter().any(named)
}

impl Step {
    /// In slurmstepd, before the tasks are forked. `None` where this step has no container.
    pub fn prepare(spank: &Spank, settings: &Settings, typed: &Request) -> Result<Option<Step>, String> {
        let number = spank.number(Item::Step).unwrap_or(EXTERN_STEP);
        if number == EXTERN_STEP {
            return Ok(None);
        }
        let request = typed.with_environment(|name| spank.variable(name)).map_err(|e| format!("pyxis: {e}"))?;
        let oci = if request.wants_container() { None } else { oci::container(spank, settings) };
        let tasks = spank.number(Item::LocalTasks).unwrap_or(0);
        if tasks == 0 || (oci.is_none() && !request.wants_container()) {
            return Ok(None);
        }
        if request.wants_container() {
            refuse(&request)?;
        }
        let cannot = |what: &str, error: io::Error| format!("berth: cannot {what}: {error}");
        let (uid, gid) = (spank.number(Item::Uid).unwrap_or(0), spank.number(Item::Gid).unwrap_or(0));
        // The name may also come from a file that the task reads; to make the directory costs nothing.
        let directory = match site::user_directory(settings, uid, gid) {
            Ok(directory) => Some(directory),
            Err(error) if request.name.is_some() => {
                return Err(cannot(
                    &format!("make a directory for named containers in {}", settings.runtime_path.display()),
                    error,
                ));
            }
            Err(_) => None,
        };
        let socket = task::meeting().map_err(|e| cannot("make the tasks' socket", e))?;
        Ok(Some(Step {
            request,
            oci,
            job: spank.number(Item::Job).unwrap_or(0),
            number,
            tasks,
            forked: 0,
            directory,
            socket: Some(socket),
            daemon: std::process::id(),
        }))
    }

    /// In slurmstepd, for each task that was forked: after the last one only tasks have the socket, so that its end tells
    /// `berth step` that nobody waits any more.
    pub fn forked(&mut self) {
        self.forked += 1;
        if self.forked >= self.tasks {
            self.socket = None;
        }
    }

    /// In a task: joins the container. Its command will be started in it.
    pub fn enter(&mut self, spank: &Spank, settings: &Settings) -> Outcome {
        if let Some(container) = self.oci.take() {
            if oci::is_bundle(&container) {
                return Err(self.become_bundle(spank, settings, &container));
            }
            self.request.image = Some(container);
        }
        let socket = self.socket.take().ok_or("berth: the tasks' socket is gone")?;
        let way = task::enter(&socket, |end| self.call_berth(spank, settings, end))?;
        self.change_environment(spank, &way);
        Ok(())
    }

    /// Calls `berth step`, which leaves a process behind that answers.
    fn call_berth(&self, spank: &Spank, settings: &Settings, end: OwnedFd) -> Outcome {
        let program = site::berth(settings)?;
        let mut words = vec![
            program.as_os_str().as_bytes().to_vec(),
            b"step".to_vec(),
            format!("--job={}", self.job).into_bytes(),
            format!("--step={}", self.number).into_bytes(),
            format!("--tasks={}", self.tasks).into_bytes(),
            format!("--lease={}", self.daemon).into_bytes(),
        ];
        let mut flag = |on: bool, word: &str| {
            if on {
                words.push(word.as_bytes().to_vec());
            }
        };
        flag(settings.execute_entrypoint, "--default-entrypoint");
        flag(!settings.mount_home, "--default-no-home");
        flag(settings.container_scope == Scope::Job, "--job-scope");
        flag(settings.comment, "--comment");
        flag(self.number == INTERACTIVE_STEP, "--interactive");
        if let Some(directory) = &self.directory {
            words.push([b"--containers=".as_slice(), directory.as_os_str().as_bytes()].concat());
        }
        if let Some(quota) = settings.quota {
            words.push(format!("--quota={quota}").into_bytes());
        }
        if self.number == BATCH_STEP
            && let Some(script) = spank.argv().into_iter().next()
        {
            words.push([b"--script=".as_slice(), &script].concat());
        }
        words.extend(self.request.to_arguments().into_iter().map(String::into_bytes));
        let words: Vec<CString> = words.into_iter().filter_map(|word| CString::new(word).ok()).collect();
        let mut environment = spank.environment();
        environment.retain(|entry| !task::is_withheld(entry.to_bytes()));
        task::call(&words, &environment, end).map_err(|error| match error {
            Call::Missing => format!(
                "berth: cannot run {} on this node; install it, or name it in plugstack.conf: berth=PATH",
                program.display()
            ),
            Call::Failed(text) => text,
        })
    }

    /// What the container's environment has that the job's has not, and the other way round.
    fn change_environment(&self, spank: &Spank, way: &Way) {
        let environment = spank.environment();
        let asked = |name: &[u8]| self.request.env_names().any(|asked| asked.as_bytes() == name);
        for change in task::changes(environment.iter().map(|entry| entry.to_bytes()), asked, way) {
            match change {
                Change::Unset(name) => unset(spank, &name),
                Change::Set(name, value) => {
                    if let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) {
                        spank.set_variable(&name, &value);
                    }
                }
            }
        }
    }

    /// Becomes the bundle's container, where Slurm has no runtime configured. Comes back only to say why not.
    fn become_bundle(&self, spank: &Spank, settings: &Settings, bundle: &str) -> String {
        let program = match site::berth(settings) {
            Ok(program) => program,
            Err(message) => return message,
        };
        let mut words = vec![
            program.as_os_str().as_bytes().to_vec(),
            b"oci-step".to_vec(),
            format!("--job={}", self.job).into_bytes(),
            format!("--step={}", self.number).into_bytes(),
            [b"--container=".as_slice(), bundle.as_bytes()].concat(),
            b"--".to_vec(),
        ];
        words.extend(spank.argv());
        let words: Vec<CString> = words.into_iter().filter_map(|word| CString::new(word).ok()).collect();
        let environment = spank.environment();
        let error = task::execute(&words, &environment);
        format!("berth: cannot call {}: {error}", program.display())
    }
}

fn unset(spank: &Spank, name: &[u8]) {
    if let Ok(name) = CString::new(name) {
        spank.unset_variable(&name);
    }
}
