//! The line by which the plugin calls.

use std::ffi::OsString;
use std::path::PathBuf;

use berth_slurm::request::Request;

use crate::slurm;

/// What the plugin says.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    /// What the person asks for, options and variables together.
    pub request: Request,
    /// Number of the job.
    pub job: u32,
    /// Number of the step, as Slurm's 32 bits.
    pub step: u32,
    /// Tasks of this node.
    pub tasks: u32,
    /// The process that lives as long as the step.
    pub lease: Option<u32>,
    /// The user's directory on this node.
    pub containers: Option<PathBuf>,
    /// Most bytes that the user's named containers may take.
    pub quota: Option<u64>,
    /// The job script, which the container shows.
    pub script: Option<PathBuf>,
    /// Run the entrypoint where the person does not say.
    pub default_entrypoint: bool,
    /// Do not show the home directory where the person does not say.
    pub default_no_home: bool,
    /// Named containers are the job's.
    pub job_scope: bool,
    /// Write the image into the job's comment.
    pub comment: bool,
    /// It is the interactive step of an allocation.
    pub interactive: bool,
    /// Remove what was the job's.
    pub clean: bool,
    /// Remove what was any job's: the machine has been started anew.
    pub boot: bool,
}

impl Arguments {
    /// Reads it.
    pub fn parse(words: &[OsString]) -> Result<Arguments, String> {
        let mut arguments = Arguments::default();
        for word in words {
            let text = word.to_str().ok_or_else(|| format!("`{}` is not valid UTF-8", word.display()))?;
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            let number = || value.parse::<u32>().map_err(|_| format!("{key}: not a number: {value}"));
            match key {
                "--job" => arguments.job = number()?,
                "--step" => arguments.step = number()?,
                "--tasks" => arguments.tasks = number()?,
                "--lease" => arguments.lease = Some(number()?),
                "--containers" => arguments.containers = Some(PathBuf::from(value)),
                "--quota" => {
                    arguments.quota = Some(value.parse().map_err(|_| format!("{key}: not a number: {value}"))?)
                }
                "--script" => arguments.script = Some(PathBuf::from(value)),
                "--default-entrypoint" => arguments.default_entrypoint = true,
                "--default-no-home" => arguments.default_no_home = true,
                "--job-scope" => arguments.job_scope = true,
                "--comment" => arguments.comment = true,
                "--interactive" => arguments.interactive = true,
                "--clean" => arguments.clean = true,
                "--boot" => arguments.boot = true,
                _ => arguments.request.set_argument(text)?,
            }
        }
        Ok(arguments)
    }

    /// `JOB.STEP`, as people write it.
    pub fn step_name(&self) -> String {
        format!("{}.{}", self.job, slurm::step_name(self.step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugins_words_and_the_persons_are_told_apart() {
        let words = ["--job=12", "--step=4294967291", "--tasks=4", "--container-image=a/b:1", "--container-readonly"];
        let arguments = Arguments::parse(&words.map(OsString::from)).unwrap();
        assert_eq!((arguments.job, arguments.tasks), (12, 4));
        assert_eq!(arguments.step_name(), "12.batch");
        assert_eq!(arguments.request.image.as_deref(), Some("a/b:1"));
        assert_eq!(arguments.request.writable, Some(false));
        assert!(Arguments::parse(&["--colour=red".into()]).is_err());
    }
}
