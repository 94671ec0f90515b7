//! Jobs on one machine, in Slurm's language: what is asked for ([`options`]), what is known ([`record`]), who may run
//! when ([`queue`]), and the processes that run it ([`step`], [`batch`]).
//!
//! There is no daemon. A job that waits is a record on disk; a job that runs has one process that watches over it (the
//! `srun` or `salloc` that was typed, or a supervisor for a batch script); and while batch jobs wait or run there is one
//! keeper, which starts the supervisors and sleeps in between. Every decision about the queue is made under one lock of
//! the kernel's, by whoever has a reason to make it, so that nothing has to be asked of anybody.
//!
//! Rules that hold everywhere here:
//! * A record is replaced by rename, so that it is whole whenever it is read. `kill -9` of any process leaves a state that
//!   the next one understands.
//! * A batch script starts at most once for each time that its job is started: its process says so itself, by a link that
//!   can be made once only, right before it becomes the script.
//! * A process is known by its number, its start time and the boot ([`process::Process`]), never by its number alone.
//! * Nothing polls.

pub mod allocate;
pub mod batch;
pub mod control;
pub mod environment;
pub mod error;
pub mod links;
pub mod lost;
pub mod node;
pub mod options;
pub mod process;
pub mod queue;
pub mod record;
pub mod salloc;
pub mod sattach;
pub mod sbatch;
pub mod scancel;
pub mod show;
pub mod signal;
pub mod srun;
pub mod step;
pub mod submit;
pub mod time;
pub mod tree;
pub mod user;

pub use error::{Error, Result};
