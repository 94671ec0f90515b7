//! The verbs, one file each, all of one shape: `Args`, whose doc comments are the help, and
//! `fn run(&Args, &Context) -> Result<ExitCode, CommandError>`. They parse and print; the work is done elsewhere.

pub mod doctor;
pub mod exec;
pub mod gc;
pub mod images;
pub mod info;
pub mod inspect;
pub mod kill;
pub mod ps;
pub mod pull;
pub mod rm;
pub mod rmi;
pub mod run;
pub mod runtime;
pub mod sacct;
pub mod salloc;
pub mod sattach;
pub mod sbatch;
pub mod scancel;
pub mod scontrol;
pub mod setup;
pub mod shell;
pub mod sinfo;
pub mod squeue;
pub mod srun;
pub mod stop;
pub mod subid;
pub mod verify;
pub mod version;
