//! Logins: whose name and password a registry is shown.
//!
//! They come from, in this order: `--creds`; the file of `--authfile` or `REGISTRY_AUTH_FILE` (and then no other);
//! podman's and docker's files with their credential helpers; enroot's `.credentials`. A `USER@` in the reference picks
//! among several. Secrets are never shown: not in errors, not by `Debug`.

mod authfile;
mod helper;
mod netrc;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use authfile::AuthFile;
pub use netrc::{Machine, parse_netrc};

use crate::error::{Error, Result};
use crate::reference::DEFAULT_REGISTRY;

/// The largest file with logins that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Text that is not for people's eyes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The secret itself. Only what is sent to a registry may come from it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A user and a password, or an access token in the password's place.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token (`identitytoken`), which is exchanged for access tokens.
    Identity(Secret),
    /// A token that goes to the registry as it is (`registrytoken`).
    Bearer(Secret),
}

impl Login {
    /// The user's name, where there is one.
    pub fn user(&self) -> Option<&str> {
        match self {
            Login::Basic { user, .. } => Some(user),
            _ => None,
        }
    }
}

/// All the logins that this user has, read when they are asked for.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `--creds USER[:PASS]`.
    given: Option<Secret>,
    /// Files of podman and docker, best first.
    auth_files: Vec<PathBuf>,
    /// Whether the auth file was named and must be there.
    required: bool,
    /// enroot's files, best first.
    netrc_files: Vec<PathBuf>,
}

impl Credentials {
    /// No logins but those added.
    pub fn none() -> Credentials {
        Credentials::default()
    }

    /// The logins of the environment; `authfile` and `creds` are the options of those names.
    pub fn new(authfile: Option<&Path>, creds: Option<Secret>) -> Credentials {
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = variable("HOME");
        let config = variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let named = authfile.map(Path::to_owned).or_else(|| variable("REGISTRY_AUTH_FILE"));
        let required = named.is_some();
        let mut auth_files = Vec::new();
        match named {
            Some(path) => auth_files.push(path),
            None => {
                let uid = rustix::process::getuid().as_raw();
                let runtime = variable("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/user/{uid}").into());
                auth_files.push(runtime.join("containers/auth.json"));
                auth_files.extend(config.as_ref().map(|config| config.join("containers/auth.json")));
                let docker = variable("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
                auth_files.extend(docker.map(|docker| docker.join("config.json")));
                auth_files.extend(home.as_ref().map(|home| home.join(".dockercfg")));
            }
        }
        let enroot = variable("ENROOT_CONFIG_PATH").or_else(|| config.map(|config| config.join("enroot")));
        let netrc_files = if required { None } else { enroot.map(|enroot| enroot.join(".credentials")) };
        Credentials { given: creds, auth_files, required, netrc_files: netrc_files.into_iter().collect() }
    }

    /// Adds a file in the form of podman's `auth.json`.
    pub fn with_auth_file(mut self, path: impl Into<PathBuf>) -> Credentials {
        self.auth_files.push(path.into());
        self
    }

    /// Adds a file in the form of enroot's `.credentials`.
    pub fn with_netrc_file(mut self, path: impl Into<PathBuf>) -> Credentials {
        self.netrc_files.push(path.into());
        self
    }

    /// The same without `--creds`, which is meant for the registry that was named and for no mirror of it.
    pub fn stored(&self) -> Credentials {
        Credentials { given: None, ..self.clone() }
    }

    /// Whether `--creds` has a password.
    pub(crate) fn has_password(&self) -> bool {
        self.given.as_ref().is_some_and(|given| given.expose().contains(':'))
    }

    /// The login for a repository; `user` is who is wanted (`USER@`).
    ///
    /// # Errors
    /// [`Error::Config`] for a file with a mistake, [`Error::Command`] for a helper that fails, [`Error::Registry`] where
    /// `user` is wanted and no password is known.
    pub fn login(&self, registry: &str, repository: &str, user: Option<&str>) -> Result<Option<Login>> {
        let mut wanted = user.map(str::to_owned);
        if let Some(given) = &self.given {
            match given.expose().split_once(':') {
                Some((user, password)) => {
                    return Ok(Some(Login::Basic { user: user.to_owned(), password: Secret::new(password) }));
                }
                None => wanted = Some(given.expose().to_owned()),
            }
        }
        let fits = |login: &Login| match (&wanted, login.user()) {
            (Some(wanted), Some(user)) => wanted == user,
            // A token has no user; who asks for a user by name wants that one.
            (Some(_), None) => false,
            (None, _) => true,
        };
        for path in &self.auth_files {
            let Some(bytes) = read_if_there(path, self.required)? else { continue };
            let file = AuthFile::parse(&bytes).map_err(|reason| Error::Config { path: path.clone(), reason })?;
            if let Some(login) = file.login(registry, repository)?.filter(&fits) {
                return Ok(Some(login));
            }
        }
        if let Some(login) = self.netrc(&netrc_names(registry), wanted.as_deref())? {
            return Ok(Some(login));
        }
        match wanted {
            None => Ok(None),
            Some(user) => Err(Error::Registry {
                registry: registry.to_owned(),
                reason: format!("no password is known for the user `{}`", user.escape_debug()),
                hint: Some(format!(
                    "log in first (`podman login {registry}` or `docker login {registry}`), or give --creds USER:PASSWORD"
                )),
                status: None,
            }),
        }
    }

    /// The login that enroot's file has for the host of a registry's token service.
    ///
    /// # Errors
    /// As [`Credentials::login`].
    pub fn token_service_login(&self, host: &str, user: Option<&str>) -> Result<Option<Login>> {
        self.netrc(&[host], user)
    }

    fn netrc(&self, names: &[&str], user: Option<&str>) -> Result<Option<Login>> {
        for path in &self.netrc_files {
            let Some(bytes) = read_if_there(path, false)? else { continue };
            let text = String::from_utf8(bytes)
                .map_err(|_| Error::Config { path: path.clone(), reason: "it is not UTF-8 text".to_owned() })?;
            let machines = parse_netrc(&text);
            let found = names
                .iter()
                .find_map(|name| machines.iter().find(|m| m.host == *name && user.is_none_or(|user| m.login == user)));
            let Some(machine) = found else { continue };
            let secret = machine.password.expose();
            let password = match secret.starts_with('$') {
                true => helper::expand(path, &machine.host, secret)?,
                false => Secret::new(secret),
            };
            return Ok(Some(Login::Basic { user: machine.login.clone(), password }));
        }
        Ok(None)
    }
}

/// The names by which enroot's file may know a registry: without the port, and Docker Hub by any of its hosts.
fn netrc_names(registry: &str) -> Vec<&str> {
    if registry == DEFAULT_REGISTRY {
        return vec!["registry-1.docker.io", "docker.io", "index.docker.io", "auth.docker.io"];
    }
    vec![registry, crate::reference::split_port(registry).0]
}

fn read_if_there(path: &Path, required: bool) -> Result<Option<Vec<u8>>> {
    match read_small(path, MAX_FILE) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Io { source, .. })
            if !required
                && matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        // Another user's runtime directory may be left in the environment by su or sudo.
        Err(Error::Io { source, .. }) if !required && source.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
        Err(other) => Err(other),
    }
}

/// Reads a configuration file that must be small.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge {
            what: path.display().to_string(),
            reason: format!("the limit is {limit} bytes"),
        });
    }
    Ok(bytes)
}
