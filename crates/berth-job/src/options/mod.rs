//! What a person asks for: Slurm's own command lines, `#SBATCH` lines and variables.
//!
//! Text becomes a [`request::Request`] in one direction: the [`table`] says which options there are, [`line`] takes a line
//! apart, [`script`] finds the lines of a script, and `Request` understands the values.

pub mod array;
pub mod begin;
pub mod dependency;
pub mod line;
pub mod multi_prog;
pub mod pattern;
pub mod request;
pub mod script;
pub mod table;

pub use request::Request;
pub use table::Verb;
