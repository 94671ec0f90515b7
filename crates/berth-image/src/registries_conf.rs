//! `registries.conf` (containers-registries.conf(5), version 2, and what is left of version 1): where short names are
//! looked for, which mirrors stand before a registry, which registries are insecure or blocked.
//!
//! One main file is read, the user's before the system's, then drop-ins on top. `CONTAINERS_REGISTRIES_CONF` names the
//! main file and leaves the drop-ins out. Parsing takes text and does no I/O.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::reference::{DEFAULT_REGISTRY, ImageName, is_loopback};

/// The largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// The largest number of drop-ins that are read.
const MAX_DROP_INS: usize = 256;

/// The merged configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistriesConf {
    search: Option<Vec<String>>,
    aliases: BTreeMap<String, String>,
    registries: BTreeMap<String, Registry>,
}

/// One `[[registry]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

/// One `[[registry.mirror]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

/// A file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    aliases: BTreeMap<String, String>,
    registry: Vec<Registry>,
    /// Version 1.
    registries: BTreeMap<String, V1>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct V1 {
    registries: Vec<String>,
}

/// One place to ask for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port.
    pub registry: String,
    /// The repository there.
    pub repository: String,
    /// TLS is not verified, and plain http is used where there is no TLS.
    pub insecure: bool,
    /// It stands before the registry that the name says.
    pub mirror: bool,
}

impl RegistriesConf {
    /// Parses one file.
    ///
    /// # Errors
    /// What is wrong, with line and column where known.
    pub fn parse(text: &str) -> std::result::Result<RegistriesConf, String> {
        let file: File = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
        let mut conf = RegistriesConf {
            search: file.unqualified_search_registries.filter(|list| !list.is_empty()),
            aliases: file.aliases,
            registries: BTreeMap::new(),
        };
        for (section, v1) in file.registries {
            match section.as_str() {
                "search" if conf.search.is_none() => conf.search = Some(v1.registries),
                "insecure" | "block" => {
                    for name in v1.registries {
                        let entry = conf.registries.entry(name.clone()).or_insert_with(|| Registry {
                            prefix: name.clone(),
                            location: name,
                            ..Registry::default()
                        });
                        entry.insecure |= section == "insecure";
                        entry.blocked |= section == "block";
                    }
                }
                _ => {}
            }
        }
        for mut registry in file.registry {
            if registry.prefix.is_empty() {
                registry.prefix.clone_from(&registry.location);
            }
            if registry.prefix.is_empty() {
                return Err("a [[registry]] has neither `prefix` nor `location`".to_owned());
            }
            for mirror in &registry.mirror {
                if mirror.location.is_empty() {
                    return Err(format!("a mirror of `{}` has no `location`", registry.prefix));
                }
                if !matches!(mirror.pull_from_mirror.as_str(), "" | "all" | "digest-only" | "tag-only") {
                    return Err(format!(
                        "pull-from-mirror of `{}` is `{}`: it is all, digest-only or tag-only",
                        mirror.location, mirror.pull_from_mirror
                    ));
                }
            }
            conf.registries.insert(registry.prefix.clone(), registry);
        }
        Ok(conf)
    }

    /// Puts another file on top: what it has replaces what is here, name by name.
    pub fn merge(&mut self, over: RegistriesConf) {
        if over.search.is_some() {
            self.search = over.search;
        }
        for (name, target) in over.aliases {
            // An empty target takes an alias away.
            if target.is_empty() {
                self.aliases.remove(&name);
            } else {
                self.aliases.insert(name, target);
            }
        }
        self.registries.extend(over.registries);
    }

    /// Reads the files of this machine and user.
    ///
    /// # Errors
    /// [`Error::Config`] for a file with a mistake, [`Error::Io`] for one that cannot be read.
    pub fn load() -> Result<RegistriesConf> {
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(path) = variable("CONTAINERS_REGISTRIES_CONF") {
            return read(&path);
        }
        let user = variable("XDG_CONFIG_HOME")
            .or_else(|| variable("HOME").map(|home| home.join(".config")))
            .map(|config| config.join("containers"));
        RegistriesConf::load_from(user.as_deref(), &[Path::new("/etc/containers"), Path::new("/usr/share/containers")])
    }

    /// As [`RegistriesConf::load`], with the places given: the user's directory, and the system's, best first.
    ///
    /// # Errors
    /// As there.
    pub fn load_from(user: Option<&Path>, system: &[&Path]) -> Result<RegistriesConf> {
        let main = user.into_iter().chain(system.iter().copied()).map(|dir| dir.join("registries.conf"));
        let mut conf = match main.into_iter().find(|path| path.exists()) {
            Some(path) => read(&path)?,
            None => RegistriesConf::default(),
        };
        for dir in system.iter().rev().copied().chain(user) {
            for path in drop_ins(&dir.join("registries.conf.d"))? {
                conf.merge(read(&path)?);
            }
        }
        Ok(conf)
    }

    /// The full names that a short name may mean, in the order in which they are tried; a full name means itself.
    pub fn candidates(&self, name: &ImageName) -> Vec<ImageName> {
        if let Some(registry) = &name.registry {
            return vec![name.in_registry(registry)];
        }
        let alias = self.aliases.get(&name.repository).and_then(|target| ImageName::parse(target).ok());
        if let Some(ImageName { registry: Some(registry), repository, .. }) = alias {
            return vec![ImageName { repository, ..name.clone() }.in_registry(&registry)];
        }
        match &self.search {
            Some(list) => list.iter().map(|registry| name.in_registry(registry)).collect(),
            None => vec![name.in_registry(DEFAULT_REGISTRY)],
        }
    }

    /// The places to ask for a full name, in order: mirrors first.
    ///
    /// # Errors
    /// [`Error::Registry`] where the configuration blocks the registry, or sends the name nowhere.
    pub fn endpoints(&self, name: &ImageName, insecure: bool) -> Result<Vec<Endpoint>> {
        let full = format!("{}/{}", name.registry(), name.repository);
        let own = |insecure| Endpoint {
            registry: name.registry().to_owned(),
            repository: name.repository.clone(),
            insecure: insecure || is_loopback(name.registry()),
            mirror: false,
        };
        let Some((entry, matched)) = self.find(&full) else { return Ok(vec![own(insecure)]) };
        if entry.blocked {
            return Err(Error::Registry {
                registry: name.registry().to_owned(),
                reason: format!("registries.conf blocks `{}`", entry.prefix),
                hint: Some("ask who runs this machine which registry to use instead".to_owned()),
                status: None,
            });
        }
        let rewrite = |location: &str| -> Result<(String, String)> {
            let full = if location.is_empty() { full.clone() } else { format!("{location}{}", &full[matched..]) };
            let (registry, repository) = full.split_once('/').unwrap_or((&full, ""));
            let bad = |reason: String| Error::Registry {
                registry: name.registry().to_owned(),
                reason: format!(
                    "registries.conf sends `{}` to `{location}`, which is no place for images: {reason}",
                    entry.prefix
                ),
                hint: Some("correct that location in registries.conf".to_owned()),
                status: None,
            };
            if repository.is_empty() {
                return Err(bad("there is no repository name".to_owned()));
            }
            Ok((crate::reference::parse_registry(registry).map_err(bad)?, repository.to_owned()))
        };
        let mut endpoints = Vec::new();
        for mirror in &entry.mirror {
            let by_digest = name.digest.is_some();
            let skip = match mirror.pull_from_mirror.as_str() {
                "digest-only" => !by_digest,
                "tag-only" => by_digest,
                _ => entry.mirror_by_digest_only && !by_digest,
            };
            if !skip {
                let (registry, repository) = rewrite(&mirror.location)?;
                let insecure = mirror.insecure || insecure || is_loopback(&registry);
                endpoints.push(Endpoint { registry, repository, insecure, mirror: true });
            }
        }
        let (registry, repository) = rewrite(&entry.location)?;
        let insecure = entry.insecure || insecure || is_loopback(&registry);
        endpoints.push(Endpoint { registry, repository, insecure, mirror: false });
        Ok(endpoints)
    }

    /// The entry with the longest prefix that fits, and how many bytes of the name it covers.
    fn find(&self, full: &str) -> Option<(&Registry, usize)> {
        self.registries
            .values()
            .filter_map(|entry| Some((entry, matches(&entry.prefix, full)?)))
            .max_by_key(|(entry, matched)| (*matched, !entry.prefix.starts_with("*."), entry.prefix.len()))
    }
}

/// How many bytes of `name` a prefix covers, if it fits at a border: `quay.io/a` fits `quay.io/a/b`, not `quay.io/ab`.
fn matches(prefix: &str, name: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = &name[..name.find('/').unwrap_or(name.len())];
        return (domain.len() > 1 && host.len() > domain.len() && host.ends_with(domain)).then_some(host.len());
    }
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(prefix.len())
}

fn read(path: &Path) -> Result<RegistriesConf> {
    let text = crate::credentials::read_small(path, MAX_FILE)?;
    let text = String::from_utf8(text)
        .map_err(|_| Error::Config { path: path.to_owned(), reason: "it is not UTF-8 text".to_owned() })?;
    RegistriesConf::parse(&text).map_err(|reason| Error::Config { path: path.to_owned(), reason })
}

/// The `*.conf` files of a directory in the order of their names; none where there is no directory.
fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(Error::io("read the directory", dir, e)),
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .take(MAX_DROP_INS)
        .collect();
    paths.sort();
    Ok(paths)
}
