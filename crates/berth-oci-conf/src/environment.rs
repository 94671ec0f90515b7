//! Which variables a container gets, which the commands of `oci.conf`, and the file with them.

use crate::keys::EnvFile;
use crate::regex::Regex;
use crate::release::Release;

/// Variables, `NAME=value` each, from three places.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// What the job was submitted with.
    pub job: &'a [String],
    /// `process.env` of the container's configuration. A name without a value is allowed.
    pub image: &'a [String],
    /// What Slurm, plugins and prologs set for the task: `SLURM_PROCID`, `CUDA_VISIBLE_DEVICES`, …
    pub task: &'a [String],
}

/// The environment of a container, as a release composes it.
///
/// From 23.02 on, the image's values replace the job's, and Slurm's replace both. Before, the image's come first and the job's
/// after them, doubled; the last counts for most programs, so the job's. What the task has was not known yet then.
pub fn container(sources: &Sources<'_>, exclude: Option<&Regex>, release: Release) -> Vec<String> {
    if !release.rewrites_per_task() {
        return [sources.image, sources.job].concat();
    }
    let mut result: Vec<String> = Vec::new();
    for variable in [sources.job, sources.image, sources.task].into_iter().flatten() {
        let name = name(variable);
        match result.iter_mut().find(|known| self::name(known) == name) {
            Some(known) => known.clone_from(variable),
            None => result.push(variable.clone()),
        }
    }
    without(result, exclude)
}

/// The environment of the commands: that of slurmd, not the job's.
pub fn commands(slurmd: &[String], exclude: Option<&Regex>) -> Vec<String> {
    without(slurmd.to_vec(), exclude)
}

/// Without the variables in which the expression is found; it sees `NAME=value`.
fn without(mut variables: Vec<String>, exclude: Option<&Regex>) -> Vec<String> {
    if let Some(regex) = exclude {
        variables.retain(|variable| !regex.is_match(variable));
    }
    variables
}

/// What is before the first `=`.
pub fn name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

/// The file of the environment. By lines, a variable with a line break in it is left out, as nobody could tell it from two.
pub fn file(variables: &[String], kind: EnvFile) -> Option<Vec<u8>> {
    let end = match kind {
        EnvFile::None => return None,
        EnvFile::Null => b'\0',
        EnvFile::Newline => b'\n',
    };
    let mut bytes = Vec::new();
    for variable in variables.iter().filter(|variable| !variable.as_bytes().contains(&end)) {
        bytes.extend(variable.bytes());
        bytes.push(end);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn the_image_overrides_the_job_and_slurm_both() {
        let job = texts(&["PATH=/job", "HOME=/home/me", "SLURM_CONF=/etc/slurm/slurm.conf", "A=1"]);
        let image = texts(&["PATH=/image", "SLURM_JOB_ID=999", "BARE"]);
        let task = texts(&["SLURM_JOB_ID=7", "SLURM_PROCID=0"]);
        let sources = Sources { job: &job, image: &image, task: &task };
        let exclude = Regex::new("^(SLURM_CONF|SLURM_CONF_SERVER)=").unwrap();
        assert_eq!(
            container(&sources, Some(&exclude), Release(24, 11)),
            ["PATH=/image", "HOME=/home/me", "A=1", "SLURM_JOB_ID=7", "BARE", "SLURM_PROCID=0"]
        );
        assert_eq!(
            container(&sources, None, Release(22, 5)),
            [
                "PATH=/image",
                "SLURM_JOB_ID=999",
                "BARE",
                "PATH=/job",
                "HOME=/home/me",
                "SLURM_CONF=/etc/slurm/slurm.conf",
                "A=1"
            ]
        );
    }

    #[test]
    fn an_expression_is_found_anywhere_in_name_and_value() {
        let slurmd = texts(&["HOME=/root", "TOKEN=x", "NOTE=my TOKEN"]);
        assert_eq!(commands(&slurmd, Some(&Regex::new("TOKEN").unwrap())), ["HOME=/root"]);
        assert_eq!(commands(&slurmd, Some(&Regex::new("^TOKEN=").unwrap())), ["HOME=/root", "NOTE=my TOKEN"]);
    }

    #[test]
    fn the_file_ends_each_variable() {
        let variables = texts(&["A=1", "B=two\nlines"]);
        assert_eq!(file(&variables, EnvFile::None), None);
        assert_eq!(file(&variables, EnvFile::Newline).unwrap(), b"A=1\n");
        assert_eq!(file(&variables, EnvFile::Null).unwrap(), b"A=1\0B=two\nlines\0");
    }
}
