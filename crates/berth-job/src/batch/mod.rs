//! Batch jobs: the supervisor of one, and the keeper of all.
//!
//! ```text
//!  sbatch ──► queue (files) ◄── keeper ─── fork ──► supervisor of job 12 ─── fork ──► the script
//!                                 │ guard (its parent)        └────────────────────► ...
//! ```
//!
//! Any of them may be killed at any time. The script says by itself that it was started ([`started`]); when its supervisor
//! dies, the keeper inherits it, starts another supervisor, and tells it how the script ended ([`supervisor`]); when the
//! keeper dies, its guard takes its place ([`keeper`]); when both die at once, the first supervisor that notices starts
//! new ones, and so does the next command that is typed.

pub mod keeper;
pub mod script;
pub mod started;
pub mod supervisor;
mod wait;

use crate::node::Node;
use crate::record::{Job, Step};
use crate::step::Contained;

/// What the engine needs of the command that it is part of.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "functions")]
pub struct Hooks {
    /// The machine, its GPUs included.
    pub node: fn() -> Node,
    /// Makes the container of a batch script, where one is asked for.
    pub container: fn(&Job, &Step) -> Contained,
}
