//! Releases of Slurm, and the ones at which `oci.conf` changed.

use std::fmt;
use std::str::FromStr;

/// A release of Slurm: year and month. What comes after the second point changes little, and is told where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32);

impl Release {
    /// The first with `--container` and `oci.conf`.
    pub const FIRST: Release = Release(21, 8);
    /// Several tasks on a node, environment filters, `IgnoreFileConfigJson`, scrun: the configuration is rewritten by each
    /// task just before it runs. Before, once for the step.
    pub const GENERATION_2: Release = Release(23, 2);
    /// `ContainerPath` became the parent only, `%m` the folder of the step.
    pub const NEW_SPOOL: Release = Release(25, 5);
    /// `%Z`.
    pub const WORKING_DIR: Release = Release(26, 5);
    /// The newest whose behaviour is known here.
    pub const LAST: Release = Release(26, 5);

    /// Those whose behaviour is known, the oldest first.
    pub const KNOWN: [Release; 9] = [
        Release(21, 8),
        Release(22, 5),
        Release(23, 2),
        Release(23, 11),
        Release(24, 5),
        Release(24, 11),
        Release(25, 5),
        Release(25, 11),
        Release::LAST,
    ];

    /// The release in what `scontrol --version` and `slurmd -V` print: `slurm 26.05.5`, `slurm-wlm 22.05.8`.
    pub fn parse(text: &str) -> Option<Release> {
        let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let mut numbers = word.split('.').map(|part| part.parse().ok());
        Some(Release(numbers.next()??, numbers.next()??))
    }

    /// Whether the configuration is rewritten by each task ([`Release::GENERATION_2`]).
    pub fn rewrites_per_task(self) -> bool {
        self >= Release::GENERATION_2
    }
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Release, String> {
        let release = Release::parse(text).filter(|release| (1..=12).contains(&release.1));
        let release = release.ok_or_else(|| format!("`{text}` is no release of Slurm; write for example 24.11"))?;
        match release >= Release::FIRST {
            true => Ok(release),
            false => Err(format!("Slurm {release} has no oci.conf; it came with {}", Release::FIRST)),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}.{:02}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_from_what_the_commands_print() {
        for (text, release) in
            [("slurm-wlm 22.05.8\n", Some(Release(22, 5))), ("slurm 26.05.5", Some(Release(26, 5))), ("slurm", None)]
        {
            assert_eq!(Release::parse(text), release, "{text}");
        }
        assert!(Release(23, 2) > Release(22, 5));
        assert_eq!(Release(22, 5).to_string(), "22.05");
    }

    #[test]
    fn what_is_typed_must_be_a_release_with_an_oci_conf() {
        assert_eq!("24.11".parse(), Ok(Release(24, 11)));
        assert_eq!("24.11.5".parse(), Ok(Release(24, 11)));
        for text in ["", "24", "next", "20.11", "24.13"] {
            assert!(text.parse::<Release>().is_err(), "{text}");
        }
    }
}
