//! podman's `auth.json` and docker's `config.json`: the same format, but for keys that podman may narrow to a namespace.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::{Login, Secret, helper};
use crate::error::Result;
use crate::reference::DEFAULT_REGISTRY;

/// A parsed file. The old `.dockercfg`, which is the member `auths` alone, is understood too.
#[derive(Clone, Debug, Default)]
pub struct AuthFile {
    /// By normalised key: `quay.io`, `quay.io/team`.
    auths: BTreeMap<String, Login>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: Option<BTreeMap<String, Auth>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl AuthFile {
    /// Parses a file.
    ///
    /// # Errors
    /// What is wrong with it, without a word of what is in it.
    pub fn parse(bytes: &[u8]) -> std::result::Result<AuthFile, String> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(AuthFile::default());
        }
        // serde's own message may quote a value, which can be a secret: only the place is passed on.
        let place = |e: &serde_json::Error| format!("it is not valid JSON at line {}, column {}", e.line(), e.column());
        let file: File = serde_json::from_slice(bytes).map_err(|e| place(&e))?;
        let auths = match file.auths {
            Some(auths) => auths,
            None if file.cred_helpers.is_some() || file.creds_store.is_some() => BTreeMap::new(),
            // Any other object is a config.json without logins unless it reads as the old format.
            None => serde_json::from_slice(bytes).unwrap_or_default(),
        };
        let mut logins = BTreeMap::new();
        for (key, auth) in auths {
            if let Some(login) =
                auth.login().map_err(|reason| format!("the login for `{}` {reason}", key.escape_debug()))?
            {
                // `https://host/v1/` and `host` mean the same; the plain one is the newer.
                let plain = normal_key(&key);
                if plain == key || !logins.contains_key(plain) {
                    logins.insert(plain.to_owned(), login);
                }
            }
        }
        Ok(AuthFile {
            auths: logins,
            helpers: file.cred_helpers.unwrap_or_default(),
            store: file.creds_store.filter(|store| !store.is_empty()),
        })
    }

    /// The login for a repository: of the registry's helper, else of the most specific key, else of the store.
    ///
    /// # Errors
    /// [`crate::Error::Command`] where a helper fails.
    pub fn login(&self, registry: &str, repository: &str) -> Result<Option<Login>> {
        let hosts: &[&str] = match registry {
            DEFAULT_REGISTRY => &["docker.io", "index.docker.io", "registry-1.docker.io"],
            other => &[other],
        };
        let helper = hosts.iter().find_map(|host| Some((*host, self.helpers.get(*host)?)));
        if let Some((host, helper)) = helper
            && let Some(login) = helper::get(helper, host)?
        {
            return Ok(Some(login));
        }
        for host in hosts {
            let mut key = format!("{host}/{repository}");
            loop {
                if let Some(login) = self.auths.get(&key) {
                    return Ok(Some(login.clone()));
                }
                match key.rfind('/') {
                    Some(at) => key.truncate(at),
                    None => break,
                }
            }
        }
        let Some(store) = &self.store else { return Ok(None) };
        // Docker keeps its hub's login under this address, whatever the name says.
        helper::get(store, if registry == DEFAULT_REGISTRY { "https://index.docker.io/v1/" } else { registry })
    }
}

impl Auth {
    fn login(self) -> std::result::Result<Option<Login>, &'static str> {
        let full = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = full(self.identitytoken) {
            return Ok(Some(Login::Identity(Secret::new(token))));
        }
        if let Some(token) = full(self.registrytoken) {
            return Ok(Some(Login::Bearer(Secret::new(token))));
        }
        if let Some(auth) = full(self.auth) {
            // Files written by hand often lack the padding.
            let lenient = GeneralPurpose::new(
                &base64::alphabet::STANDARD,
                GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
            );
            let bytes = lenient.decode(auth.trim()).map_err(|_| "is not valid base64")?;
            let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text")?;
            let (user, password) = text.split_once(':').ok_or("has no colon between user and password")?;
            return Ok(Some(Login::Basic {
                user: user.to_owned(),
                password: Secret::new(password.trim_end_matches('\0')),
            }));
        }
        Ok(full(self.username)
            .map(|user| Login::Basic { user, password: Secret::new(self.password.unwrap_or_default()) }))
    }
}

/// `https://index.docker.io/v1/` → `index.docker.io`; `quay.io/team` stays.
fn normal_key(key: &str) -> &str {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    match bare {
        // Docker's keys are addresses, of which only the host counts; podman's have no scheme, and their path counts.
        Some(bare) => bare.split('/').next().unwrap_or_default(),
        None => {
            let key = key.trim_end_matches('/');
            key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
        }
    }
}
