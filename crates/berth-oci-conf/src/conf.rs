//! A file's values, as a release that takes the file has them.

use crate::document::Document;
use crate::document::Entry;
use crate::document::Position;
use crate::document::Trouble;
use crate::keys::COMMANDS;
use crate::keys::EnvFile;
use crate::keys::Form;
use crate::keys::Key;
use crate::keys::boolean;
use crate::patterns;
use crate::patterns::NotExpanded;
use crate::patterns::Piece;
use crate::regex::NoRegex;
use crate::regex::Regex;
use crate::release::Release;

/// What a file sets. Everything that it does not set has Slurm's default.
#[derive(Debug, Default)]
pub struct Conf {
    /// `RunTimeCreate`.
    pub create: Option<String>,
    /// `RunTimeStart`.
    pub start: Option<String>,
    /// `RunTimeRun`.
    pub run: Option<String>,
    /// `RunTimeQuery`.
    pub query: Option<String>,
    /// `RunTimeKill`.
    pub kill: Option<String>,
    /// `RunTimeDelete`.
    pub delete: Option<String>,
    /// `ContainerPath`.
    pub container_path: Option<String>,
    /// `CreateEnvFile`.
    pub env_file: EnvFile,
    /// `MountSpoolDir`.
    pub mount_spool_dir: Option<String>,
    /// `DisableCleanup`.
    pub disable_cleanup: bool,
    /// `DisableHooks`.
    pub disable_hooks: Vec<String>,
    /// `EnvExclude`.
    pub env_exclude: Option<Regex>,
    /// `RunTimeEnvExclude`.
    pub runtime_env_exclude: Option<Regex>,
    /// `IgnoreFileConfigJson`.
    pub ignore_config_json: bool,
    /// `SrunPath`.
    pub srun_path: Option<String>,
    /// `SrunArgs`.
    pub srun_args: Vec<String>,
}

/// How containers are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By one command.
    Run,
    /// By two, between which there is a created container.
    CreateStart,
}

/// Why a release does not take a file: the first reason that it meets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be read.
    #[error("`{1}` cannot be read")]
    Unreadable(Position, String),
    /// A key that it does not know.
    #[error("there is no key {1} in this release")]
    Key(Position, String),
    /// A value that the key cannot have.
    #[error("{1} cannot be `{2}`")]
    Value(Position, &'static str, String),
    /// An expression that cannot be compiled.
    #[error("{1} is no regular expression: {2}")]
    Regex(Position, &'static str, NoRegex),
    /// A pattern that it does not know. Slurm finds out when a task starts.
    #[error("{1}: {2}")]
    Pattern(Position, &'static str, NotExpanded),
    /// No command at all.
    #[error("none of the commands RunTimeRun, RunTimeCreate, … is set")]
    Nothing,
    /// The commands that are set do not make a way to run a container.
    #[error("RunTimeRun excludes RunTimeCreate and RunTimeStart, and all others have to be set")]
    Commands,
    /// `IgnoreFileConfigJson` without `RunTimeRun`. Slurm finds out when a task starts.
    #[error("IgnoreFileConfigJson needs RunTimeRun")]
    IgnoreWithoutRun,
}

impl Conf {
    /// What a release makes of a file.
    pub fn of(document: &Document, release: Release) -> Result<Conf, Refused> {
        // Slurm says nothing of bytes that are no text, and nothing of zeros, which hide the rest of their line.
        let accepted = [Trouble::Zero, Trouble::NoText];
        if let Some(mistake) = document.mistakes.iter().find(|mistake| !accepted.contains(&mistake.what)) {
            return Err(Refused::Unreadable(mistake.at, mistake.text.clone()));
        }
        let mut conf = Conf::default();
        for entry in &document.entries {
            let key = Key::named(&entry.key).filter(|key| key.since <= release);
            let key = key.ok_or_else(|| Refused::Key(entry.key_at, entry.key.clone()))?;
            conf.set(key, entry, release)?;
        }
        conf.mode(release)?;
        Ok(conf)
    }

    fn set(&mut self, key: &'static Key, entry: &Entry, release: Release) -> Result<(), Refused> {
        let wrong = || Refused::Value(entry.at(0), key.name, entry.value.clone());
        let regex = || {
            let regex = Regex::new(&entry.value);
            regex.map(Some).map_err(|error| Refused::Regex(entry.at(0), key.name, error))
        };
        if matches!(key.form, Form::Command | Form::Path) {
            for piece in patterns::pieces(&entry.value) {
                if let Piece::Pattern(letter, at) = piece {
                    patterns::known(letter, release)
                        .map_err(|error| Refused::Pattern(entry.at(at), key.name, error))?;
                }
            }
        }
        let text = Some(entry.value.clone());
        match key.name {
            "RunTimeCreate" => self.create = text,
            "RunTimeStart" => self.start = text,
            "RunTimeRun" => self.run = text,
            "RunTimeQuery" => self.query = text,
            "RunTimeKill" => self.kill = text,
            "RunTimeDelete" => self.delete = text,
            "ContainerPath" => self.container_path = text,
            "CreateEnvFile" => self.env_file = EnvFile::parse(&entry.value, release).ok_or_else(wrong)?,
            "MountSpoolDir" => self.mount_spool_dir = text,
            "DisableCleanup" => self.disable_cleanup = boolean(&entry.value).ok_or_else(wrong)?,
            "DisableHooks" => self.disable_hooks = entry.value.split(',').map(str::to_owned).collect(),
            "EnvExclude" => self.env_exclude = regex()?,
            "RunTimeEnvExclude" => self.runtime_env_exclude = regex()?,
            "IgnoreFileConfigJson" => self.ignore_config_json = boolean(&entry.value).ok_or_else(wrong)?,
            "SrunPath" => self.srun_path = text,
            "SrunArgs" => self.srun_args.extend(text),
            // What scrun tells is not berth's to say.
            _ => {}
        }
        Ok(())
    }

    /// A command, by its key.
    pub fn command(&self, key: &str) -> Option<&str> {
        let all = [&self.create, &self.start, &self.run, &self.query, &self.kill, &self.delete];
        let index = COMMANDS.iter().position(|name| name.eq_ignore_ascii_case(key))?;
        all[index].as_deref()
    }

    /// How containers are run, by the rules of a release. An empty command counts as one.
    pub fn mode(&self, release: Release) -> Result<Mode, Refused> {
        let set = |key| self.command(key).is_some();
        let (run, create, start) = (set("RunTimeRun"), set("RunTimeCreate"), set("RunTimeStart"));
        let (query, kill, delete) = (set("RunTimeQuery"), set("RunTimeKill"), set("RunTimeDelete"));
        if self.ignore_config_json {
            return if run { Ok(Mode::Run) } else { Err(Refused::IgnoreWithoutRun) };
        }
        if !COMMANDS.iter().any(|key| set(key)) {
            return Err(Refused::Nothing);
        }
        match () {
            () if create && start && query && kill && delete && !run => Ok(Mode::CreateStart),
            () if run && kill && delete && !create && !start && (query || release.rewrites_per_task()) => Ok(Mode::Run),
            () => Err(Refused::Commands),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "RunTimeQuery=q\nRunTimeKill=k\nRunTimeDelete=d\n";

    fn of(text: &str, release: Release) -> Result<Conf, Refused> {
        Conf::of(&Document::of_text(text), release)
    }

    #[test]
    fn the_last_value_counts_and_arrays_gather() {
        let text = format!(
            "RunTimeRun=a\n{REST}runtimerun=\"b %j\"\nSrunArgs=-x\nSrunArgs=\"-y z\"\nDisableHooks=prestart,poststop\n\
             CreateEnvFile=newline\nIgnoreFileConfigJson=UP\nEnvExclude=^A=\nContainerPath=/c\nDisableCleanup=1\n"
        );
        let conf = of(&text, Release(24, 11)).unwrap();
        assert_eq!((conf.run.as_deref(), conf.kill.as_deref()), (Some("b %j"), Some("k")));
        assert_eq!(
            (conf.srun_args, conf.disable_hooks),
            (vec!["-x".into(), "-y z".into()], vec!["prestart".to_owned(), "poststop".to_owned()])
        );
        assert_eq!((conf.env_file, conf.ignore_config_json, conf.disable_cleanup), (EnvFile::Newline, true, true));
        assert!(conf.env_exclude.unwrap().is_match("A=b"));
    }

    #[test]
    fn the_ways_to_run_a_container_are_the_releases() {
        let (old, new) = (Release(22, 5), Release(24, 11));
        let create = "RunTimeCreate=c\nRunTimeStart=s\n";
        for (text, release, expected) in [
            (format!("RunTimeRun=r\n{REST}"), old, Ok(Mode::Run)),
            (format!("{create}{REST}"), new, Ok(Mode::CreateStart)),
            ("RunTimeRun=r\nRunTimeKill=k\nRunTimeDelete=d\n".to_owned(), new, Ok(Mode::Run)),
            ("RunTimeRun=r\nRunTimeKill=k\nRunTimeDelete=d\n".to_owned(), old, Err(Refused::Commands)),
            (format!("RunTimeRun=r\nRunTimeStart=s\n{REST}"), new, Err(Refused::Commands)),
            (REST.to_owned(), new, Err(Refused::Commands)),
            (String::new(), new, Err(Refused::Nothing)),
            (format!("RunTimeRun=\"\"\n{REST}"), new, Ok(Mode::Run)),
            ("IgnoreFileConfigJson=yes\nRunTimeRun=r\n".to_owned(), new, Ok(Mode::Run)),
            (format!("IgnoreFileConfigJson=yes\n{create}{REST}"), new, Err(Refused::IgnoreWithoutRun)),
        ] {
            let mode = of(&text, release).and_then(|conf| conf.mode(release));
            assert_eq!(mode, expected, "{release}\n{text}");
        }
    }

    #[test]
    fn what_a_release_does_not_take_is_refused() {
        let (old, new) = (Release(22, 5), Release(24, 11));
        for (line, release, expected) in [
            ("hello", new, "`hello` cannot be read"),
            ("EnvExclude=x", old, "there is no key EnvExclude in this release"),
            ("Other=x", new, "there is no key Other in this release"),
            ("DisableCleanup=on", new, "DisableCleanup cannot be `on`"),
            ("CreateEnvFile=null", old, "CreateEnvFile cannot be `null`"),
            ("ContainerPath=/c/%U", old, "ContainerPath: %U came with Slurm 23.02"),
        ] {
            let error = of(&format!("{line}\nRunTimeRun=r\n{REST}"), release).unwrap_err();
            assert_eq!(error.to_string(), expected, "{line}");
        }
        assert!(matches!(of(&format!("RunTimeRun=r\n{REST}EnvExclude=\"(\""), new), Err(Refused::Regex(..))));
    }
}
