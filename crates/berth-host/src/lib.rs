//! The host that containers run on: what an administrator prepares, checks and mends.

pub mod doctor;
pub mod setup;
pub mod slurm;
pub mod subid;
