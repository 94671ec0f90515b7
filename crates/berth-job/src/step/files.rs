//! The files of a step, by the patterns of `-i`, `-o` and `-e`.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::{Input, Output, Sink, open_output, reason};
use crate::options::Verb;
use crate::options::pattern::{self, Names};
use crate::submit::Refusal;

/// See the module.
#[derive(Debug)]
pub struct Files<'a> {
    /// What the letters stand for.
    pub names: &'a Names,
    /// Where relative ones begin.
    pub directory: &'a Path,
    /// How many tasks there are.
    pub tasks: u32,
    /// Whether files that exist are appended to.
    pub append: bool,
}

impl Files<'_> {
    fn each(&self, pattern: &str) -> Vec<PathBuf> {
        let of = |task| pattern::expand(pattern, &Names { task: Some(task), ..self.names.clone() });
        (0..self.tasks).map(|task| self.directory.join(of(task))).collect()
    }

    /// Where standard input comes from.
    pub fn input(&self, pattern: Option<&str>, pty: bool) -> std::result::Result<Input, Refusal> {
        let own = || -> std::result::Result<OwnedFd, Refusal> {
            rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
                .map_err(|e| Refusal::error(Verb::Srun, format!("Could not open stdin: {e}")))
        };
        Ok(match pattern {
            None if pty => Input::Shared(own()?, Some(0)),
            None | Some("all") => Input::Shared(own()?, None),
            Some("none") => Input::None,
            Some(text) if text.parse::<u32>().is_ok() => Input::Shared(own()?, text.parse().ok()),
            Some(pattern) if pattern::is_per_task(pattern) => Input::Each(self.each(pattern)),
            Some(pattern) => {
                let path = self.directory.join(pattern::expand(pattern, self.names));
                let file = fs::File::open(&path)
                    .map_err(|e| Refusal::error(Verb::Srun, format!("Could not open stdin file: {}", reason(&e))))?;
                Input::Shared(file.into(), None)
            }
        })
    }

    /// Where standard output or error goes, if a file is not named: `own`.
    pub fn output(&self, pattern: Option<&str>, own: Sink, what: &str) -> std::result::Result<Output, Refusal> {
        Ok(match pattern {
            None | Some("all") => Output::Shared(own, None),
            Some("none") => Output::None,
            Some(text) if text.parse::<u32>().is_ok() => Output::Shared(own, text.parse().ok()),
            Some(pattern) if pattern::is_per_task(pattern) => Output::Each(self.each(pattern), self.append),
            Some(pattern) => {
                let path = self.directory.join(pattern::expand(pattern, self.names));
                let file = open_output(&path, self.append)
                    .map_err(|e| Refusal::error(Verb::Srun, format!("Could not open {what} file: {}", reason(&e))))?;
                Output::Shared(Sink::File(file), None)
            }
        })
    }
}
