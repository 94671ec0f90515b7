//! `--container-conf`: a project's environment as one file.
//!
//! ```toml
//! image = "nvcr.io#nvidia/pytorch:24.01-py3"
//! mounts = ["/scratch:/scratch", "./data:/data:ro"]
//! workdir = "/workspace"
//! entrypoint = false
//! writable = true
//! devices = ["nvidia.com/gpu=all"]
//! base_environment = "common"        # what this file does not say is taken from there
//!
//! [env]
//! OMP_NUM_THREADS = "8"
//! DEBUG = ""                          # unset
//!
//! [annotations]                       # for other tools
//! ```
//!
//! The keys are those of CSCS' Environment Definition Files. A file is named by its path, or by its name without `.toml`
//! where it lies in a directory of `EDF_PATH`, in `~/.edf` or in `$XDG_CONFIG_HOME/berth/environments`.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::command_error::Kind;
use crate::{CommandError, config};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most files that may build upon each other.
const MAX_DEPTH: usize = 10;

/// One or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// A file's content. A key that is none is an error: a misspelt one would be missed for long.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conf {
    base_environment: Option<OneOrMore>,
    /// As `--container-image`.
    pub image: Option<String>,
    /// Each as one mount of `--container-mounts`.
    #[serde(default)]
    pub mounts: Vec<String>,
    /// As `--container-workdir`.
    pub workdir: Option<String>,
    /// As `--container-entrypoint`.
    pub entrypoint: Option<bool>,
    /// As `--container-writable`.
    pub writable: Option<bool>,
    /// Variables, which win over the image's and the job's; an empty one is taken away.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Each as one of `--container-device`.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Said to other tools.
    #[serde(default)]
    #[allow(dead_code)] // Accepted, so that one file serves all.
    annotations: toml::Table,
}

impl Conf {
    /// Reads the file, and those that it builds upon.
    pub fn load(name: &str) -> Result<Conf, CommandError> {
        Conf::load_at(&find(name)?, 0)
    }

    fn load_at(path: &Path, depth: usize) -> Result<Conf, CommandError> {
        let wrong = |reason: String| CommandError::new(Kind::Config, format!("{}: {reason}", path.display()));
        if depth > MAX_DEPTH {
            return Err(wrong("base_environment leads in a circle, or further than 10 files".to_owned()));
        }
        let metadata = std::fs::metadata(path).map_err(|e| CommandError::io("read", path, e))?;
        // A pipe or a device might never end.
        if !metadata.is_file() {
            return Err(wrong("not a file".to_owned()));
        }
        if metadata.len() > MAX_FILE {
            return Err(wrong("larger than 1 MB, which no environment file is".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|e| CommandError::io("read", path, e))?;
        let own: Conf = toml::from_str(&text).map_err(|e| wrong(e.to_string().trim_end().to_owned()))?;
        let bases = match own.base_environment.clone() {
            None => Vec::new(),
            Some(OneOrMore::One(name)) => vec![name],
            Some(OneOrMore::More(names)) => names,
        };
        let mut result = Conf::default();
        for base in &bases {
            let near = path.parent().map(|directory| directory.join(format!("{base}.toml")));
            let base = match near.filter(|near| !base.contains('/') && near.is_file()) {
                Some(near) => near,
                None => find(base)?,
            };
            result = Conf::load_at(&base, depth + 1)?.over(result);
        }
        Ok(own.over(result))
    }

    /// This one's answers, and another's where it has none. Lists and variables are joined.
    fn over(self, base: Conf) -> Conf {
        let mut env = base.env;
        env.extend(self.env);
        Conf {
            base_environment: None,
            image: self.image.or(base.image),
            mounts: [base.mounts, self.mounts].concat(),
            workdir: self.workdir.or(base.workdir),
            entrypoint: self.entrypoint.or(base.entrypoint),
            writable: self.writable.or(base.writable),
            env,
            devices: [base.devices, self.devices].concat(),
            annotations: toml::Table::new(),
        }
    }
}

/// Where a file is.
fn find(name: &str) -> Result<PathBuf, CommandError> {
    if name.contains('/') || name.ends_with(".toml") {
        return Ok(PathBuf::from(name));
    }
    let mut directories: Vec<PathBuf> = env::var_os("EDF_PATH").iter().flat_map(env::split_paths).collect();
    directories.extend(env::var_os("HOME").map(|home| Path::new(&home).join(".edf")));
    directories.extend(config::xdg_directory("XDG_CONFIG_HOME", ".config").map(|base| base.join("berth/environments")));
    let file = format!("{name}.toml");
    directories.iter().map(|directory| directory.join(&file)).find(|path| path.is_file()).ok_or_else(|| {
        let looked: Vec<String> = directories.iter().map(|directory| directory.display().to_string()).collect();
        CommandError::failure(format!("--container-conf {name}: there is no {file} in {}", looked.join(", ")))
            .with_hint("name the file by its path, such as ./environment.toml")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_builds_upon_others_and_wins_over_them() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        write("base.toml", "image = 'a'\nmounts = ['/x:/x']\n[env]\nA = '1'\nB = '1'\n");
        let path = write("own.toml", "base_environment = 'base'\nmounts = ['/y']\nworkdir = '/w'\n[env]\nB = ''\n");
        let conf = Conf::load(path.to_str().unwrap()).unwrap();
        assert_eq!((conf.image.as_deref(), conf.workdir.as_deref()), (Some("a"), Some("/w")));
        assert_eq!(conf.mounts, ["/x:/x", "/y"]);
        assert_eq!(conf.env.get("B").map(String::as_str), Some(""));
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own.toml");
        std::fs::write(&path, "image = 'a'\nmuonts = []\n").unwrap();
        let error = Conf::load(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("muonts"), "{error}");
        std::fs::write(&path, "base_environment = 'own'\n").unwrap();
        assert!(Conf::load(path.to_str().unwrap()).unwrap_err().to_string().contains("circle"));
        assert!(Conf::load("no-such-environment").is_err());
    }
}
