//! The configuration files: `/etc/berth/berth.toml` of the site and `$XDG_CONFIG_HOME/berth/berth.toml` of the person.
//!
//! Both are optional and both are read at most once, only when a verb needs them: a start with neither costs two failed
//! opens. A single value in the person's file replaces the site's; lists are joined, the site's first (`stores`: the
//! person's first, since the first store that has an image wins). `BERTH_CONFIG` names one file to read instead of
//! both, for tests and for jobs that must not depend on the host.
//!
//! A key that berth does not know is an error with its line and column: a misspelt setting that is silently ignored
//! costs its owner an afternoon.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::PullPolicy;
use crate::command_error::{CommandError, Kind, os_reason};

/// The site's file.
pub const SITE_FILE: &str = "/etc/berth/berth.toml";

/// Settings, all optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Where images are kept. `$VARIABLES` and a leading `~/` are expanded.
    pub store: Option<String>,
    /// Stores that are only read, consulted in this order after the own one.
    pub stores: Vec<String>,
    /// Where named containers and their changes are kept: a local file system. Expanded like `store`.
    pub containers: Option<String>,
    /// Where CDI specifications are, the later the stronger (built-in: /etc/cdi and /var/run/cdi).
    pub cdi_dirs: Vec<PathBuf>,
    /// Defaults of `berth run`, `shell` and `exec`.
    pub run: RunDefaults,
    /// Which files were read, for `berth info`.
    #[serde(skip)]
    pub files: Vec<PathBuf>,
}

/// The `[run]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RunDefaults {
    /// Whether the home directory is bound (built-in: yes).
    pub home: Option<bool>,
    /// Whether the current directory is bound and kept (built-in: yes).
    pub cwd: Option<bool>,
    /// Whether containers see nothing of the host unless told (built-in: no).
    pub contained: Option<bool>,
    /// Who runs: as `--user` (built-in: oneself).
    pub user: Option<String>,
    /// When images are fetched: `missing`, `always` or `never`.
    pub pull: Option<PullPolicy>,
    /// Size of the tmpfs that takes a container's changes, as `--overlay-size`.
    pub overlay_size: Option<String>,
    /// Mounts that every container gets, written as for `-v`. One whose source this host does not have is left out.
    pub mounts: Vec<String>,
    /// Devices that every container gets, written as for `--device`.
    pub devices: Vec<String>,
    /// Variables that every container gets, written as for `-e`.
    pub env: Vec<String>,
    /// Variables of the host that win over the image's; a `*` at the end stands for any ending.
    pub keep_env: Vec<String>,
}

impl Config {
    /// Reads the files that there are.
    pub fn load() -> Result<Config, CommandError> {
        if let Some(only) = env::var_os("BERTH_CONFIG").filter(|v| !v.is_empty()) {
            let path = PathBuf::from(only);
            return match read(&path)? {
                Some(config) => Ok(config),
                None => Err(CommandError::new(Kind::Config, format!("{}: no such file", path.display()))
                    .with_hint("BERTH_CONFIG names it; unset the variable to read the usual files")),
            };
        }
        let mut config = read(Path::new(SITE_FILE))?.unwrap_or_default();
        if let Some(own) = user_file().map(|path| read(&path)).transpose()?.flatten() {
            config.override_with(own);
        }
        Ok(config)
    }

    /// Where CDI specifications are.
    pub fn cdi_directories(&self) -> Vec<PathBuf> {
        match self.cdi_dirs.as_slice() {
            [] => berth_container::cdi::DEFAULT_DIRS.iter().map(PathBuf::from).collect(),
            directories => directories.to_vec(),
        }
    }

    fn override_with(&mut self, own: Config) {
        self.store = own.store.or(self.store.take());
        self.containers = own.containers.or(self.containers.take());
        self.stores = [own.stores, std::mem::take(&mut self.stores)].concat();
        self.files.extend(own.files);
        if !own.cdi_dirs.is_empty() {
            self.cdi_dirs = own.cdi_dirs;
        }
        let (site, own) = (&mut self.run, own.run);
        site.home = own.home.or(site.home);
        site.cwd = own.cwd.or(site.cwd);
        site.contained = own.contained.or(site.contained);
        site.user = own.user.or(site.user.take());
        site.pull = own.pull.or(site.pull);
        site.overlay_size = own.overlay_size.or(site.overlay_size.take());
        site.mounts.extend(own.mounts);
        site.devices.extend(own.devices);
        site.env.extend(own.env);
        site.keep_env.extend(own.keep_env);
    }
}

/// The person's file, where a home is known.
pub fn user_file() -> Option<PathBuf> {
    xdg_directory("XDG_CONFIG_HOME", ".config").map(|base| base.join("berth/berth.toml"))
}

/// A base directory of the XDG specification, which wants relative values to be ignored.
pub fn xdg_directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    absolute(env::var_os(variable)).or_else(|| home().map(|home| home.join(below_home)))
}

/// The home directory. A job may be without the variable (`srun --export=NONE`); then it is the account's.
fn home() -> Option<PathBuf> {
    absolute(env::var_os("HOME")).or_else(|| {
        let user = berth_container::accounts::host_user(rustix::process::geteuid().as_raw())?;
        absolute(Some(user.home)).filter(|home| home.is_dir() && home != Path::new("/"))
    })
}

fn absolute(value: Option<impl AsRef<OsStr>>) -> Option<PathBuf> {
    value.map(|value| PathBuf::from(value.as_ref())).filter(|path| path.is_absolute())
}

fn read(path: &Path) -> Result<Option<Config>, CommandError> {
    // A pipe in its place would have a start wait for ever.
    if fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        return Err(config_error(path, "cannot be read: it is a pipe"));
    }
    match fs::read_to_string(path) {
        Ok(text) => {
            let mut config = parse(&text, path)?;
            config.files.push(path.to_owned());
            Ok(Some(config))
        }
        // ENOTDIR: some part of the path is a file, so there is no configuration there either.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(e) => Err(config_error(path, &format!("cannot be read: {}", os_reason(&e)))),
    }
}

fn config_error(path: &Path, reason: &str) -> CommandError {
    CommandError::new(Kind::Config, format!("{}: {reason}", path.display()))
}

/// Parses a configuration; `path` is only for messages.
pub fn parse(text: &str, path: &Path) -> Result<Config, CommandError> {
    toml::from_str(text).map_err(|e| {
        let place = e.span().map(|span| line_and_column(text, span.start));
        let place = place.map(|(line, column)| format!("line {line}, column {column}: ")).unwrap_or_default();
        config_error(path, &format!("{place}{}", e.message().trim().replace('\n', ", ")))
    })
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
    (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
}

/// Expands a leading `~/` and `$NAME` or `${NAME}` by `lookup`; `$$` is a dollar sign. A variable that is not set is an
/// error: an empty one would turn `/scratch/$USER` into `/scratch/`.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let unset = |name: &str| format!("`{text}` uses the variable {name}, which is not set");
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    if text == "~" || text.starts_with("~/") {
        result.push_str(&lookup("HOME").ok_or_else(|| unset("HOME"))?);
        rest = &text[1..];
    }
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let (name, after) = match rest.strip_prefix('{') {
            Some(inner) => inner.split_once('}').ok_or_else(|| format!("`{text}` has a `${{` without its `}}`"))?,
            None => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                rest.split_at(end)
            }
        };
        if name.is_empty() {
            return Err(format!("`{text}` has a `$` without a name; write `$$` for the character itself"));
        }
        result.push_str(&lookup(name).ok_or_else(|| unset(name))?);
        rest = after;
    }
    result.push_str(rest);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Config, String> {
        parse(text, Path::new("berth.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place() {
        let error = parse_text("store = \"/x\"\n\n[run]\nhome = true\n  mount = [\"/scratch\"]\n").unwrap_err();
        assert!(error.starts_with("berth.toml: line 5, column 3: unknown field `mount`"), "{error}");
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_place() {
        let error = parse_text("[run]\nhome = \"yes\"\n").unwrap_err();
        assert!(error.starts_with("berth.toml: line 2, column 8: "), "{error}");
    }

    #[test]
    fn the_persons_values_replace_the_sites_and_lists_are_joined() {
        let mut site = parse_text(
            "store = '/site'\nstores = ['/apps/store']\n[run]\nhome = false\npull = 'never'\nmounts = ['/scratch']\n",
        )
        .unwrap();
        site.override_with(parse_text("stores = ['/own']\n[run]\nhome = true\nmounts = ['/data:/data:ro']\n").unwrap());
        assert_eq!(site.store.as_deref(), Some("/site"));
        assert_eq!(site.stores, ["/own", "/apps/store"]);
        assert_eq!(site.run.home, Some(true));
        assert_eq!(site.run.pull, Some(PullPolicy::Never));
        assert_eq!(site.run.mounts, ["/scratch", "/data:/data:ro"]);
    }

    #[test]
    fn variables_are_expanded_and_missing_ones_refused() {
        let lookup = |name: &str| match name {
            "USER" => Some("alice".to_owned()),
            "HOME" => Some("/home/alice".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("/scratch/$USER/berth", "/scratch/alice/berth"),
            ("/scratch/${USER}s", "/scratch/alices"),
            ("~/store", "/home/alice/store"),
            ("~bob/store", "~bob/store"),
            ("/cost$$", "/cost$"),
            ("/plain", "/plain"),
        ] {
            assert_eq!(expand(text, lookup).as_deref(), Ok(expected), "{text}");
        }
        for text in ["/scratch/$NOBODY", "/x$", "/x${USER", "/x${}"] {
            assert!(expand(text, lookup).is_err(), "{text}");
        }
    }

    #[test]
    fn columns_count_characters_and_not_bytes() {
        assert_eq!(line_and_column("a\néx", 4), (2, 2));
        assert_eq!(line_and_column("", 0), (1, 1));
    }
}
