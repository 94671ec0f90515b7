//! The life of a container behind runc's command line: create, start, run, state, kill, delete, exec.

pub mod default_spec;
pub mod features;
