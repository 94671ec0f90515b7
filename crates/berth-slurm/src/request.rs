//! What a person asks of a step's container.
//!
//! Values are kept as they were typed, and looked at where they are set: a mistake is told by `srun` before a job waits
//! in a queue for it. The node gets them as the same options again ([`Request::to_arguments`]).

use crate::mounts;
use crate::options::{self, Name, OPTIONS};
use crate::settings::{size, truth};

/// Prefixes of variables that stand for options, the stronger first.
const PREFIXES: [&str; 2] = ["PYXIS_CONTAINER_", "SLURM_CONTAINER_"];

/// Which of two opposites was asked for.
type Choice = Option<bool>;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// `--container-image`.
    pub image: Option<String>,
    /// `--container-mounts`.
    pub mounts: Option<String>,
    /// `--container-workdir`.
    pub workdir: Option<String>,
    /// `--container-name`.
    pub name: Option<String>,
    /// `--container-save`.
    pub save: Option<String>,
    /// `--container-mount-home` and its opposite.
    pub mount_home: Choice,
    /// `--container-remap-root` and its opposite.
    pub remap_root: Choice,
    /// `--container-entrypoint` and its opposite.
    pub entrypoint: Choice,
    /// `--container-entrypoint-log`.
    pub entrypoint_log: bool,
    /// `--container-writable`, and `--container-readonly` for its opposite.
    pub writable: Choice,
    /// `--container-env`.
    pub env: Option<String>,
    /// `--container-unshare`.
    pub unshare: Option<String>,
    /// `--container-conf`.
    pub conf: Option<String>,
    /// `--container-device`.
    pub device: Option<String>,
    /// `--container-stage`.
    pub stage: bool,
    /// `--container-overlay-size`.
    pub overlay_size: Option<String>,
    /// `--container-slurm`.
    pub slurm: bool,
    /// `--container-verbose`.
    pub verbose: bool,
}

/// What `--container-name` says besides the name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NameFlag {
    /// Whatever there is.
    #[default]
    Auto,
    /// There must be none of that name.
    Create,
    /// It must run.
    Exec,
    /// Whether it runs does not matter: the step gets namespaces of its own.
    NoExec,
}

impl Request {
    /// Sets an option.
    ///
    /// # Errors
    /// What is wrong with it or with both together, in pyxis' words and without its prefix.
    pub fn set(&mut self, option: Name, value: Option<&str>) -> Result<(), String> {
        let row = options::of(option);
        let name = row.name;
        if row.argument.is_some() {
            let value = value.filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| format!("--{name}: argument required"))?;
            check(option, value)?;
            let place = self.place(option).ok_or_else(|| format!("--{name}: not an option with a value"))?;
            if place.as_deref().is_some_and(|there| there != value) {
                return Err(format!("--{name} specified multiple times"));
            }
            *place = Some(value.to_owned());
            return Ok(());
        }
        let contradiction = |one: &str, other: &str| Err(format!("both --{one} and --{other} were specified"));
        let (place, wanted, pair) = match option {
            Name::MountHome | Name::NoMountHome => {
                (&mut self.mount_home, option == Name::MountHome, [Name::MountHome, Name::NoMountHome])
            }
            Name::RemapRoot | Name::NoRemapRoot => {
                (&mut self.remap_root, option == Name::RemapRoot, [Name::RemapRoot, Name::NoRemapRoot])
            }
            Name::Entrypoint | Name::NoEntrypoint => {
                (&mut self.entrypoint, option == Name::Entrypoint, [Name::Entrypoint, Name::NoEntrypoint])
            }
            Name::Writable | Name::Readonly => {
                (&mut self.writable, option == Name::Writable, [Name::Writable, Name::Readonly])
            }
            Name::EntrypointLog => {
                self.entrypoint_log = true;
                return Ok(());
            }
            Name::Stage => {
                self.stage = true;
                return Ok(());
            }
            Name::Slurm => {
                self.slurm = true;
                return Ok(());
            }
            _ => {
                self.verbose = true;
                return Ok(());
            }
        };
        if *place == Some(!wanted) {
            let [one, other] = pair.map(|option| options::of(option).name);
            return contradiction(one, other);
        }
        *place = Some(wanted);
        Ok(())
    }

    /// Takes an option back, and its opposite with it.
    pub fn clear(&mut self, option: Name) {
        match option {
            Name::MountHome | Name::NoMountHome => self.mount_home = None,
            Name::RemapRoot | Name::NoRemapRoot => self.remap_root = None,
            Name::Entrypoint | Name::NoEntrypoint => self.entrypoint = None,
            Name::Writable | Name::Readonly => self.writable = None,
            other => {
                if let Some(place) = self.place(other) {
                    *place = None;
                }
            }
        }
    }

    /// Where the value of an option with one is kept.
    fn place(&mut self, option: Name) -> Option<&mut Option<String>> {
        Some(match option {
            Name::Image => &mut self.image,
            Name::Mounts => &mut self.mounts,
            Name::Workdir => &mut self.workdir,
            Name::Container => &mut self.name,
            Name::Save => &mut self.save,
            Name::Env => &mut self.env,
            Name::Unshare => &mut self.unshare,
            Name::Conf => &mut self.conf,
            Name::Device => &mut self.device,
            Name::OverlaySize => &mut self.overlay_size,
            _ => return None,
        })
    }

    /// The same with what the environment says where no option does.
    ///
    /// # Errors
    /// As [`Request::set`].
    pub fn with_environment(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Request, String> {
        let mut request = Request::default();
        for row in OPTIONS {
            let Some(suffix) = row.variable else { continue };
            let found = PREFIXES.iter().find_map(|prefix| variable(&format!("{prefix}{suffix}")));
            let Some(value) = found.filter(|value| !value.is_empty()) else { continue };
            if row.argument.is_some() {
                request.set(row.option, Some(&value))?;
                continue;
            }
            // A variable says yes or no: the opposite of an option with one is its `no`.
            let yes = truth(&value).ok_or_else(|| format!("{}{suffix}: invalid value: {value}", PREFIXES[0]))?;
            let opposite = match row.option {
                Name::MountHome => Some(Name::NoMountHome),
                Name::RemapRoot => Some(Name::NoRemapRoot),
                Name::Entrypoint => Some(Name::NoEntrypoint),
                _ => None,
            };
            match (yes, opposite) {
                (true, _) => request.set(row.option, None)?,
                (false, Some(opposite)) => request.set(opposite, None)?,
                (false, None) => {}
            }
        }
        Ok(self.clone().or(request))
    }

    /// The same with another's answers where this one has none.
    #[must_use]
    pub fn or(self, other: Request) -> Request {
        Request {
            image: self.image.or(other.image),
            mounts: self.mounts.or(other.mounts),
            workdir: self.workdir.or(other.workdir),
            name: self.name.or(other.name),
            save: self.save.or(other.save),
            mount_home: self.mount_home.or(other.mount_home),
            remap_root: self.remap_root.or(other.remap_root),
            entrypoint: self.entrypoint.or(other.entrypoint),
            entrypoint_log: self.entrypoint_log || other.entrypoint_log,
            writable: self.writable.or(other.writable),
            env: self.env.or(other.env),
            unshare: self.unshare.or(other.unshare),
            conf: self.conf.or(other.conf),
            device: self.device.or(other.device),
            stage: self.stage || other.stage,
            overlay_size: self.overlay_size.or(other.overlay_size),
            slurm: self.slurm || other.slurm,
            verbose: self.verbose || other.verbose,
        }
    }

    /// Whether a container is asked for at all.
    pub fn wants_container(&self) -> bool {
        self.image.is_some() || self.name.is_some() || self.conf.is_some()
    }

    /// The options that say nothing because no container is asked for, as messages name them.
    pub fn ignored(&self) -> Vec<String> {
        if self.wants_container() {
            return Vec::new();
        }
        let name = |option: Name| {
            let name = options::of(option).name;
            let name = name.strip_prefix("no-").unwrap_or(name);
            let is_choice = OPTIONS.iter().any(|row| row.name.strip_prefix("no-") == Some(name));
            format!("--{}{name}", if is_choice { "[no-]" } else { "" })
        };
        self.given().into_iter().map(|(option, _)| name(option)).collect()
    }

    /// As options again: `--container-image=…`, and so on.
    pub fn to_arguments(&self) -> Vec<String> {
        let text = |(option, value): (Name, Option<&str>)| match value {
            Some(value) => format!("--{}={value}", options::of(option).name),
            None => format!("--{}", options::of(option).name),
        };
        self.given().into_iter().map(text).collect()
    }

    /// What was given, in the order of the table.
    fn given(&self) -> Vec<(Name, Option<&str>)> {
        let choice = |choice: Choice, yes: Name, no: Name| choice.map(|on| (if on { yes } else { no }, None));
        let flag = |on: bool, option: Name| on.then_some((option, None));
        let with = |option: Name| {
            let value = match option {
                Name::Image => &self.image,
                Name::Mounts => &self.mounts,
                Name::Workdir => &self.workdir,
                Name::Container => &self.name,
                Name::Save => &self.save,
                Name::Env => &self.env,
                Name::Unshare => &self.unshare,
                Name::Conf => &self.conf,
                Name::Device => &self.device,
                _ => &self.overlay_size,
            };
            value.as_deref().map(|value| (option, Some(value)))
        };
        [
            with(Name::Image),
            with(Name::Mounts),
            with(Name::Workdir),
            with(Name::Container),
            with(Name::Save),
            choice(self.mount_home, Name::MountHome, Name::NoMountHome),
            choice(self.remap_root, Name::RemapRoot, Name::NoRemapRoot),
            choice(self.entrypoint, Name::Entrypoint, Name::NoEntrypoint),
            flag(self.entrypoint_log, Name::EntrypointLog),
            choice(self.writable, Name::Writable, Name::Readonly),
            with(Name::Env),
            with(Name::Unshare),
            with(Name::Conf),
            with(Name::Device),
            flag(self.stage, Name::Stage),
            with(Name::OverlaySize),
            flag(self.slurm, Name::Slurm),
            flag(self.verbose, Name::Verbose),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Reads one argument of [`Request::to_arguments`].
    ///
    /// # Errors
    /// As [`Request::set`], and for an option that there is not.
    pub fn set_argument(&mut self, argument: &str) -> Result<(), String> {
        let text = argument.strip_prefix("--").unwrap_or(argument);
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let row = options::named(name).ok_or_else(|| format!("unknown option --{name}"))?;
        self.set(row.option, value)
    }

    /// The name without its flag, and the flag.
    pub fn container_name(&self) -> Option<(&str, NameFlag)> {
        self.name.as_deref().and_then(|text| split_name(text).ok())
    }

    /// The names of `--container-env`.
    pub fn env_names(&self) -> impl Iterator<Item = &str> {
        self.env.as_deref().unwrap_or_default().split(',').filter(|name| !name.is_empty())
    }

    /// Whether the image is a file or directory rather than a name.
    pub fn image_is_path(&self) -> bool {
        self.image.as_deref().is_some_and(|image| image.starts_with(['.', '/']))
    }
}

fn split_name(text: &str) -> Result<(&str, NameFlag), String> {
    let (name, flag) = match text.rsplit_once(':') {
        None => (text, NameFlag::Auto),
        Some((name, "auto")) => (name, NameFlag::Auto),
        Some((name, "create")) => (name, NameFlag::Create),
        Some((name, "exec")) => (name, NameFlag::Exec),
        Some((name, "no_exec")) => (name, NameFlag::NoExec),
        Some(_) => {
            return Err(r#"--container-name: flag must be "auto", "create", "exec" or "no_exec""#.to_owned());
        }
    };
    if name.is_empty() { Err("--container-name: empty name".to_owned()) } else { Ok((name, flag)) }
}

/// Looks at a value as far as text goes.
fn check(option: Name, value: &str) -> Result<(), String> {
    match option {
        Name::Mounts => mounts::parse(value).map(drop),
        Name::Container => split_name(value).map(drop),
        Name::Save if value.ends_with('/') => Err("--container-save: target is a directory".to_owned()),
        Name::Env => {
            let legal =
                |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'=');
            if value.split(',').all(legal) { Ok(()) } else { Err(format!("--container-env: invalid format: {value}")) }
        }
        Name::Unshare => match value.split(',').find(|word| !["net", "ipc", "uts"].contains(word)) {
            Some(word) => Err(format!("--container-unshare: unknown namespace '{word}'")),
            None => Ok(()),
        },
        Name::OverlaySize => match size(value) {
            Some(_) => Ok(()),
            None => Err(format!("--container-overlay-size: not a size such as 2G: {value}")),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(options: &[(&str, Option<&str>)]) -> Result<Request, String> {
        let mut request = Request::default();
        for (name, value) in options {
            request.set(options::named(name).unwrap().option, *value)?;
        }
        Ok(request)
    }

    #[test]
    fn mistakes_are_told_in_the_words_that_scripts_know() {
        for (options, error) in [
            (&[("container-image", None)][..], "--container-image: argument required"),
            (&[("container-image", Some(""))], "--container-image: argument required"),
            (
                &[("container-image", Some("a")), ("container-image", Some("b"))],
                "--container-image specified multiple times",
            ),
            (
                &[("container-mount-home", None), ("no-container-mount-home", None)],
                "both --container-mount-home and --no-container-mount-home were specified",
            ),
            (
                &[("container-readonly", None), ("container-writable", None)],
                "both --container-writable and --container-readonly were specified",
            ),
            (&[("container-name", Some(""))], "--container-name: argument required"),
            (&[("container-name", Some(":auto"))], "--container-name: empty name"),
            (
                &[("container-name", Some("a:b"))],
                r#"--container-name: flag must be "auto", "create", "exec" or "no_exec""#,
            ),
            (&[("container-save", Some("/tmp/"))], "--container-save: target is a directory"),
            (&[("container-env", Some("A,,B"))], "--container-env: invalid format: A,,B"),
            (&[("container-unshare", Some("net,user"))], "--container-unshare: unknown namespace 'user'"),
        ] {
            assert_eq!(set(options).unwrap_err(), error);
        }
        assert!(set(&[("container-image", Some("a")), ("container-image", Some("a"))]).is_ok());
    }

    #[test]
    fn variables_stand_for_options_that_were_not_given() {
        let environment = |name: &str| {
            let table = [
                ("PYXIS_CONTAINER_IMAGE", "from-pyxis"),
                ("SLURM_CONTAINER_IMAGE", "from-slurm"),
                ("SLURM_CONTAINER_WORKDIR", "/w"),
                ("PYXIS_CONTAINER_MOUNT_HOME", "0"),
                ("PYXIS_CONTAINER_READONLY", "1"),
                ("PYXIS_CONTAINER_VERBOSE", ""),
            ];
            table.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let request = Request::default().with_environment(environment).unwrap();
        assert_eq!(request.image.as_deref(), Some("from-pyxis"));
        assert_eq!(request.workdir.as_deref(), Some("/w"));
        assert_eq!((request.mount_home, request.writable, request.verbose), (Some(false), Some(false), false));
        let typed = set(&[("container-image", Some("typed")), ("container-writable", None)]).unwrap();
        let both = typed.with_environment(environment).unwrap();
        assert_eq!((both.image.as_deref(), both.writable), (Some("typed"), Some(true)));
    }

    #[test]
    fn without_a_container_the_other_options_say_nothing() {
        let ignored = set(&[("container-workdir", Some("/w")), ("no-container-remap-root", None)]).unwrap().ignored();
        assert_eq!(ignored, ["--container-workdir", "--[no-]container-remap-root"]);
        assert!(set(&[("container-workdir", Some("/w")), ("container-name", Some("n"))]).unwrap().ignored().is_empty());
    }

    #[test]
    fn a_name_has_a_flag_behind_its_last_colon() {
        let split = |text: &str| set(&[("container-name", Some(text))]).unwrap().container_name().unwrap().1;
        assert_eq!(split("one"), NameFlag::Auto);
        assert_eq!(split("one:no_exec"), NameFlag::NoExec);
    }

    proptest! {
        #[test]
        fn what_is_handed_on_is_what_was_asked_for(
            image in "[ -~]{1,20}", mounts in "/[a-z]{1,5}:/[a-z]{1,5}", home in any::<Option<bool>>(), slurm in any::<bool>(),
        ) {
            let request = Request { image: Some(image), mounts: Some(mounts), mount_home: home, slurm, ..Request::default() };
            let mut read = Request::default();
            for argument in request.to_arguments() {
                read.set_argument(&argument).unwrap();
            }
            prop_assert_eq!(read, request);
        }
    }
}
