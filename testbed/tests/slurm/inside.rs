//! What jobs need inside a container: MPI, the node's devices and folders, Slurm's own commands, and ways in from outside.

use testbed::harness::Chapter;

mod devices;
mod job;
mod mpi;
mod node;
mod tools;

/// All tests of it.
pub const CHAPTERS: [[Chapter; 3]; 5] =
    [mpi::CHAPTERS, node::CHAPTERS, devices::CHAPTERS, tools::CHAPTERS, job::CHAPTERS];
