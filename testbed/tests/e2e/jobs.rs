//! Jobs on one machine: `berth srun`, `sbatch`, `salloc` and their kin without any Slurm.

pub mod bad;
pub mod kills;
pub mod many;
pub mod run;
mod world;
