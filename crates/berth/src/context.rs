//! What every verb is given: the options of every verb, the configuration, the way to the store.

use std::cell::OnceCell;
use std::env;
use std::io::Write as _;
use std::path::PathBuf;

use berth_container::state::Containers;
use berth_image::progress::Progress;
use berth_image::store::{Store, StoreOptions};

use crate::cli::Global;
use crate::command_error::{CommandError, Kind};
use crate::config::{self, Config};
use crate::progress;

/// See the module.
#[derive(Debug)]
pub struct Context {
    global: Global,
    config: OnceCell<Config>,
}

impl Context {
    /// Reads nothing yet.
    pub fn new(global: Global) -> Context {
        Context { global, config: OnceCell::new() }
    }

    /// Whether output is for programs.
    pub fn json(&self) -> bool {
        self.global.json
    }

    /// Whether to print data only.
    pub fn quiet(&self) -> bool {
        self.global.quiet
    }

    /// Whether to tell what is being done.
    pub fn verbose(&self) -> bool {
        self.global.verbose
    }

    /// The configuration, read when first asked for.
    pub fn config(&self) -> Result<&Config, CommandError> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let config = Config::load()?;
        Ok(self.config.get_or_init(|| config))
    }

    /// Where the store is and which ones lie below it.
    pub fn store_options(&self) -> Result<StoreOptions, CommandError> {
        let config = self.config()?;
        let root = match &self.global.store {
            Some(root) => root.clone(),
            None => match env::var_os("BERTH_STORE").filter(|value| !value.is_empty()) {
                Some(root) => PathBuf::from(root),
                None => match &config.store {
                    Some(text) => expand(text)?,
                    None => config::xdg_directory("XDG_DATA_HOME", ".local/share")
                        .map(|base| base.join("berth/store"))
                        .ok_or_else(|| {
                            CommandError::failure("there is no place for the image store: HOME is not set")
                                .with_hint("give one with --store or BERTH_STORE")
                        })?,
                },
            },
        };
        let below = config.stores.iter().map(|text| absolute(expand(text)?)).collect::<Result<Vec<_>, _>>()?;
        Ok(StoreOptions { root: absolute(root)?, below, in_use: None })
    }

    /// Opens the store.
    pub fn store(&self) -> Result<Store, CommandError> {
        Ok(Store::open(&self.store_options()?)?)
    }

    /// The named containers.
    ///
    /// They are kept apart from the store: overlayfs cannot have its changes on every file system that is good enough for
    /// images (NFS, Lustre).
    pub fn containers(&self) -> Result<Containers, CommandError> {
        Ok(Containers::at(self.containers_directory()?))
    }

    /// Where the named containers are.
    pub fn containers_directory(&self) -> Result<PathBuf, CommandError> {
        if let Some(directory) = env::var_os("BERTH_CONTAINERS").filter(|value| !value.is_empty()) {
            return absolute(PathBuf::from(directory));
        }
        if let Some(text) = &self.config()?.containers {
            return absolute(expand(text)?);
        }
        config::xdg_directory("XDG_DATA_HOME", ".local/share").map(|base| base.join("berth/containers")).ok_or_else(
            || {
                CommandError::failure("there is no place for named containers: HOME is not set")
                    .with_hint("give one with BERTH_CONTAINERS")
            },
        )
    }

    /// How a long operation on `what` tells of itself.
    pub fn progress(&self, what: &str) -> Box<dyn Progress> {
        progress::new(what, self.global.quiet || self.global.json)
    }

    /// Tells something on standard error with `--verbose`.
    pub fn explain(&self, text: impl FnOnce() -> String) {
        if self.global.verbose {
            let _ = std::io::stderr().lock().write_all(format!("berth: {}\n", text()).as_bytes());
        }
    }

    /// Tells something on standard error unless `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.global.quiet {
            let _ = std::io::stderr().lock().write_all(format!("berth: {text}\n").as_bytes());
        }
    }
}

/// A relative place would be another one after a container's change of directory.
fn absolute(path: PathBuf) -> Result<PathBuf, CommandError> {
    std::path::absolute(&path).map_err(|e| CommandError::io("find", &path, e))
}

/// Expands variables in a path of the configuration.
fn expand(text: &str) -> Result<PathBuf, CommandError> {
    let expanded = config::expand(text, |name| env::var(name).ok())
        .map_err(|reason| CommandError::new(Kind::Config, format!("the configuration's {reason}")))?;
    Ok(PathBuf::from(expanded))
}
