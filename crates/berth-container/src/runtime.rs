//! The life of a container behind runc's command line: create, start, run, state, kill, delete, exec.
//!
//! ```text
//!            create                     start                  ends, or kill
//!  (nothing) ──────► creating ► created ─────► running ⇄ paused ─────► stopped
//!      ▲                           │                                      │
//!      └───────────────────────────┴──────────────── delete ◄─────────────┘
//! ```
//!
//! A container is a directory below a [`Root`], which holds what later calls need to know: see [`record`]. What it says of
//! processes is checked against the kernel each time, so that nothing has to be put right after a crash: a record whose
//! machine was started anew, or whose process is gone, is of a stopped container.
//!
//! Source: <https://github.com/opencontainers/runtime-spec/blob/v1.2.0/runtime.md>

mod birth;
mod container;
pub mod default_spec;
mod exec;
pub mod features;
mod owner;
mod record;
mod root;

pub use birth::{Birth, Ended};
pub use container::{Container, Signal};
pub use exec::Exec;
pub use record::{Record, Status, now};
pub use root::Root;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::oci::Spec;

/// No configuration is larger, bytes.
const MAX_CONFIG: u64 = 8 << 20;

/// What holds for all calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Who makes cgroups.
    pub cgroups: crate::cgroup::Manager,
}

/// Reads a `config.json`; returns its text too.
///
/// # Errors
/// A file that is not there, larger than 8 MiB, or no configuration: the message has the line and the column.
pub fn read_config(path: &Path) -> Result<(Spec, Vec<u8>)> {
    let text = read_bounded(path)?;
    let spec: Spec = parse(path, &text)?;
    if !spec.oci_version.starts_with("1.") {
        let reason = format!("`{}` is not supported: this is a runtime for 1.0 to 1.2", spec.oci_version);
        return Err(Error::bad_spec("ociVersion", reason));
    }
    Ok((spec, text))
}

/// Understands a JSON document that came from `path`. A `null` is as good as nothing: Go programs write it for an empty
/// list or map.
pub fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T> {
    let without_nulls = || {
        let mut value = serde_json::from_slice(text).ok()?;
        remove_nulls(&mut value);
        serde_json::from_value(value).ok()
    };
    serde_json::from_slice(text)
        .or_else(|error| without_nulls().ok_or_else(|| Error::io("understand", path, std::io::Error::other(error))))
}

fn remove_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(remove_nulls);
        }
        serde_json::Value::Array(elements) => elements.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// Reads a document that somebody else wrote.
pub fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let wrong = |what: &str| Error::io("read", path, std::io::Error::other(what.to_owned()));
    let file = std::fs::OpenOptions::new()
        .read(true)
        // A pipe in its place would make us wait for ever.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| Error::io("read", path, e))?;
    let kind = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if kind.is_dir() || kind.len() > MAX_CONFIG {
        return Err(wrong(if kind.is_dir() { "it is a directory" } else { "it is larger than 8 MiB" }));
    }
    let mut text = Vec::with_capacity(kind.len() as usize + 1);
    file.take(MAX_CONFIG + 1).read_to_end(&mut text).map_err(|e| Error::io("read", path, e))?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(wrong("it is larger than 8 MiB"));
    }
    Ok(text)
}

/// Whether the groups of the caller are wanted inside: `podman run --group-add keep-groups`, crun's annotation. With them
/// goes what the person may read on the cluster's file systems.
fn keeps_groups(spec: &Spec) -> bool {
    spec.annotations.get("run.oci.keep_original_groups").is_some_and(|value| matches!(value.as_str(), "1" | "true"))
}

/// Makes a path absolute, as seen from the working directory, without asking what is there.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("find", path, e))
}

/// Who is told of what went wrong and stops nothing.
pub type Warn<'a> = &'a dyn Fn(&str);
