//! `spank_berth.so`: `srun --container-image=…`, inside of Slurm's own programs.
//!
//! The plugin takes options in `srun`, `sbatch` and `salloc`, and in each task of a step joins the container that `berth
//! step` has made: see [`step`]. Slurm then starts the command itself, so that accounting, control groups, binding, signals
//! and terminals stay Slurm's. The plugin does nothing slow, starts no thread, and keeps nothing but a socket.
//!
//! | in | called | what happens |
//! |---|---|---|
//! | `srun`, `sbatch`, `salloc` | `init`, `init_post_opt` | options are registered, then looked at |
//! | `slurmd` | `init` | the directory of named containers is made |
//! | `slurmstepd` | `init`, `init_post_opt` | options arrive; the tasks' socket is made |
//! | a task | `task_init` | the first calls `berth step`; each joins |
//! | `slurmstepd` | `task_post_fork`, `exit` | the socket is closed |
//! | the epilog | `job_epilog` | the job's containers are removed |
//!
//! One file serves all releases of Slurm: see [`slurm::plugin_version`].

#![allow(unsafe_code)] // The border to C: each use has its reason.

mod oci;
mod options;
mod prolog;
mod site;
mod slurm;
mod step;

use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use berth_slurm::request::Request;
use berth_slurm::settings::Settings;

use slurm::{Context, Spank};

/// What one loaded plugin knows.
#[derive(Debug, Default)]
struct State {
    settings: Settings,
    /// What options said.
    request: Request,
    /// What was wrong with an option that arrived in a step: told in the task, where the person reads it.
    mistake: Option<String>,
    /// Whether this step wants a container, so that a mistake is its business.
    is_concerned: bool,
    /// Set where this step has a container.
    step: Option<step::Step>,
}

/// Slurm calls a plugin from one thread at a time, and forks copies of it.
struct Global(UnsafeCell<Option<State>>);

// SAFETY: see above; nothing of this plugin runs at the same time as another part of it.
unsafe impl Sync for Global {}

static STATE: Global = Global(UnsafeCell::new(None));

/// What a call returns to Slurm.
type Outcome = Result<(), String>;

/// Success and failure, as Slurm wants them. Older releases notice only negative numbers.
const SUCCESS: c_int = 0;
const FAILURE: c_int = -1;

/// Runs a part of the plugin. A panic ends here: unwinding into Slurm would end it.
fn guarded(work: impl FnOnce(&mut State) -> Outcome) -> c_int {
    // SAFETY: see `Global`; no reference to it outlives a call, and no call calls another.
    let state = unsafe { &mut *STATE.0.get() };
    let state = state.get_or_insert_with(State::default);
    match catch_unwind(AssertUnwindSafe(|| work(state))) {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(message)) => {
            message.lines().for_each(slurm::error);
            FAILURE
        }
        Err(_) => {
            slurm::error("berth: internal error in the plugin (a panic); the step cannot have its container");
            FAILURE
        }
    }
}

/// Takes in the arguments of `plugstack.conf`, registers the options.
#[unsafe(no_mangle)]
extern "C" fn slurm_spank_init(spank: *mut libc::c_void, count: c_int, words: *const *const c_char) -> c_int {
    guarded(|state| {
        // SAFETY: Slurm passes its handle and as many strings as it says.
        let (spank, words) = unsafe { (Spank::new(spank), slurm::strings(count, words)) };
        let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        *state = State::default();
        match (Settings::parse(words.iter().map(String::as_str)), spank.context()) {
            (Ok(settings), _) => state.settings = settings,
            // A failure here would take the node out of service, where the file was changed while slurmd runs: the tasks
            // tell it, and the next start of slurmd.
            (Err(error), Context::Remote) => state.mistake = Some(format!("pyxis: {error}")),
            (Err(_), Context::JobScript) => {}
            (Err(error), _) => return Err(format!("pyxis: {error}")),
        }
        match spank.context() {
            Context::Slurmd => {
                site::prepare(&state.settings);
                Ok(())
            }
            Context::Allocator if !state.settings.sbatch_support => Ok(()),
            Context::Local | Context::Allocator => {
                oci::forget_outer_container();
                options::register(&spank)
            }
            Context::Remote => options::register(&spank),
            Context::JobScript | Context::Other => Ok(()),
        }
    })
}

/// All options are known.
#[unsafe(no_mangle)]
extern "C" fn slurm_spank_init_post_opt(spank: *mut libc::c_void, _: c_int, _: *const *const c_char) -> c_int {
    guarded(|state| {
        // SAFETY: Slurm's handle.
        let spank = unsafe { Spank::new(spank) };
        match spank.context() {
            Context::Local | Context::Allocator => options::check(&state.request),
            Context::Remote => {
                // A failure here would take the node out of service. What is wrong is told by the tasks.
                state.is_concerned = step::wants_container(&spank, &state.request);
                match step::Step::prepare(&spank, &state.settings, &state.request) {
                    Ok(step) => state.step = step,
                    Err(message) => drop(state.mistake.get_or_insert(message)),
                }
                Ok(())
            }
            _ => Ok(()),
        }
    })
}

/// In each task, as its user, before Slurm looks for the command.
#[unsafe(no_mangle)]
extern "C" fn slurm_spank_task_init(spank: *mut libc::c_void, _: c_int, _: *const *const c_char) -> c_int {
    guarded(|state| {
        if let Some(mistake) = state.mistake.take().filter(|_| state.is_concerned) {
            return Err(mistake);
        }
        // SAFETY: Slurm's handle.
        let spank = unsafe { Spank::new(spank) };
        match &mut state.step {
            Some(step) => step.enter(&spank, &state.settings),
            None => oci::hand_over(&spank),
        }
    })
}

/// In slurmstepd, once for each task that was forked.
#[unsafe(no_mangle)]
extern "C" fn slurm_spank_task_post_fork(_: *mut libc::c_void, _: c_int, _: *const *const c_char) -> c_int {
    guarded(|state| {
        if let Some(step) = &mut state.step {
            step.forked();
        }
        Ok(())
    })
}

/// The end of the program that loaded the plugin.
#[unsafe(no_mangle)]
extern "C" fn slurm_spank_exit(_: *mut libc::c_void, _: c_int, _: *const *const c_char) -> c_int {
    guarded(|state| {
        *state = State::default();
        Ok(())
    })
}

/// The end of a job on this node, as root.
#[unsafe(no_mangle)]
extern "C" fn slurm_spank_job_epilog(spank: *mut libc::c_void, count: c_int, words: *const *const c_char) -> c_int {
    guarded(|_| {
        // SAFETY: Slurm passes its handle and as many strings as it says. It has not called `init` in this program.
        let (spank, words) = unsafe { (Spank::new(spank), slurm::strings(count, words)) };
        let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        match Settings::parse(words.iter().map(String::as_str)) {
            Ok(settings) => site::clean_up(&spank, &settings),
            Err(error) => slurm::error(&format!("pyxis: {error}")),
        }
        // A failure would take the node out of service.
        Ok(())
    })
}
