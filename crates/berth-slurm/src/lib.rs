//! What berth's plugin for Slurm and its command have in common.
//!
//! The plugin takes a person's options apart inside of `srun` and `slurmstepd`, and the command starts the container that
//! they describe. Both use one [`request::Request`], so that a line that `srun` accepts is one that the node understands;
//! and what comes back to each task, its way into the container, is one [`answer::Answer`].
//!
//! The options, their words and the texts of their errors are those of pyxis 0.24, so that scripts that were written for
//! it go on working: where a message here begins with `pyxis: `, other programs look for it.

pub mod answer;
pub mod argv;
pub mod mounts;
pub mod options;
pub mod request;
pub mod settings;
pub mod task;
