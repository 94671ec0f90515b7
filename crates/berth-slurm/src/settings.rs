//! What a site writes behind the plugin's path in `plugstack.conf`: pyxis' words, and some of our own.

use std::path::PathBuf;

/// How long a named container lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// Until somebody removes it.
    #[default]
    Global,
    /// As long as its job.
    Job,
}

/// Who serves Slurm's own `--container`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Oci {
    /// The plugin, where there is no `oci.conf`: Slurm would run the command on the host then.
    #[default]
    Auto,
    /// The plugin.
    On,
    /// Slurm.
    Off,
}

/// The settings, with their defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where named containers are kept on a node.
    pub runtime_path: PathBuf,
    /// Whether the image's entrypoint is run where a step does not say.
    pub execute_entrypoint: bool,
    /// How long named containers live.
    pub container_scope: Scope,
    /// Whether `sbatch` and `salloc` have the options.
    pub sbatch_support: bool,
    /// Whether the home directory is shown where a step does not say.
    pub mount_home: bool,
    /// The command, where it is in none of the usual places.
    pub berth: Option<PathBuf>,
    /// Who serves Slurm's own `--container`.
    pub oci: Oci,
    /// What a user's named containers may take on a node, in bytes.
    pub quota: Option<u64>,
    /// Whether the job's comment names its images.
    pub comment: bool,
}

/// Where named containers are kept, unless the site says otherwise.
pub const RUNTIME_PATH: &str = "/var/lib/berth";

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            runtime_path: PathBuf::from(RUNTIME_PATH),
            execute_entrypoint: false,
            container_scope: Scope::Global,
            sbatch_support: true,
            mount_home: true,
            berth: None,
            oci: Oci::Auto,
            quota: None,
            comment: false,
        }
    }
}

impl Settings {
    /// Reads the words of the line.
    ///
    /// # Errors
    /// What is wrong, in pyxis' words where pyxis has the word.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Settings, String> {
        let mut settings = Settings::default();
        for word in words {
            let unknown = || format!("unknown configuration option: {word}");
            let (key, value) = word.split_once('=').ok_or_else(unknown)?;
            let flag = || truth(value).ok_or_else(|| format!("{key}: invalid value: {value}"));
            let path = || {
                if value.starts_with('/') {
                    Ok(PathBuf::from(value))
                } else {
                    Err(format!("{key}: not an absolute path: {value}"))
                }
            };
            match key {
                "runtime_path" => settings.runtime_path = path()?,
                "execute_entrypoint" => settings.execute_entrypoint = flag()?,
                "container_scope" => {
                    settings.container_scope = match value {
                        "job" => Scope::Job,
                        "global" => Scope::Global,
                        _ => return Err(format!("container_scope: invalid value: {value}")),
                    }
                }
                "sbatch_support" => settings.sbatch_support = flag()?,
                // They say how pyxis unpacks; there is nothing to unpack here.
                "use_enroot_load" | "use_squashfuse" => drop(flag()?),
                "importer" if value.is_empty() => {}
                "importer" => {
                    return Err(
                        "importer: berth fetches images itself, once for all nodes; take the setting out".to_owned()
                    );
                }
                "mount_home" => settings.mount_home = flag()?,
                "berth" => settings.berth = Some(path()?),
                "oci" => {
                    settings.oci = match value {
                        "auto" => Oci::Auto,
                        _ => {
                            if flag()? {
                                Oci::On
                            } else {
                                Oci::Off
                            }
                        }
                    }
                }
                "quota" => {
                    settings.quota =
                        Some(size(value).ok_or_else(|| format!("quota: not a size such as 20G: {value}"))?);
                }
                "comment" => settings.comment = flag()?,
                _ => return Err(unknown()),
            }
        }
        Ok(settings)
    }
}

/// pyxis' truth values, and `on` and `off`.
pub fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "y" | "on" => Some(true),
        "0" | "false" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

/// A number of bytes with an optional k, m, g or t, for powers of 1024.
pub fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_pyxis_and_ours_are_understood() {
        let line = "runtime_path=/run/berth execute_entrypoint=1 container_scope=job sbatch_support=no use_enroot_load=1 \
                    use_squashfuse=0 importer= mount_home=0 berth=/opt/berth/bin/berth oci=on quota=20G comment=yes";
        let settings = Settings::parse(line.split_whitespace()).unwrap();
        assert_eq!(
            settings,
            Settings {
                runtime_path: "/run/berth".into(),
                execute_entrypoint: true,
                container_scope: Scope::Job,
                sbatch_support: false,
                mount_home: false,
                berth: Some("/opt/berth/bin/berth".into()),
                oci: Oci::On,
                quota: Some(20 << 30),
                comment: true,
            }
        );
        assert_eq!(Settings::parse([]).unwrap(), Settings::default());
    }

    #[test]
    fn a_word_that_is_none_is_named() {
        for (word, error) in [
            ("colour=red", "unknown configuration option: colour=red"),
            ("execute_entrypoint", "unknown configuration option: execute_entrypoint"),
            ("sbatch_support=maybe", "sbatch_support: invalid value: maybe"),
            ("container_scope=step", "container_scope: invalid value: step"),
            ("runtime_path=run", "runtime_path: not an absolute path: run"),
        ] {
            assert_eq!(Settings::parse([word]).unwrap_err(), error);
        }
        assert!(Settings::parse(["importer=/opt/import"]).is_err());
        assert!(Settings::parse(["quota=20X"]).is_err());
    }
}
