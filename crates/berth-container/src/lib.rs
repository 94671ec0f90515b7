//! The rootless launcher: from a bundle to a process.
//!
//! A [`Bundle`] (an OCI configuration and a recipe for its root file system) becomes a [`launch::Plan`] by pure
//! computation, and the plan becomes a process. The process that executes a plan must have one thread: the kernel refuses
//! a new user namespace to any other.

pub mod accounts;
pub mod bundle;
pub mod cdi;
pub mod cgroup;
pub mod environment;
pub mod error;
pub mod etc;
pub mod fake;
pub mod launch;
mod mountinfo;
pub mod oci;
pub mod runtime;
pub mod seccomp;
pub mod state;
pub mod subid;
pub mod terminal;
pub mod volume;

pub use bundle::{Bundle, GeneratedFile, Rootfs, Upper};
pub use error::{Error, Result};
