//! The registry client: images from servers that speak the OCI distribution protocol.
//!
//! [`open`] turns a reference into a [`RegistrySource`]. Which places are asked, and in which order, is decided by
//! `registries.conf` (short names, mirrors); who asks, by the logins of [`crate::credentials`].
//!
//! Nothing that a server says is believed: tags give what they give, but from there on every byte is checked against a
//! digest, every size is bounded, and no login follows a redirect to another host.

mod auth;
mod blob;
mod challenge;
mod client;
mod http;
mod retry;
mod tls;

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use challenge::{Challenge, parse_challenges};
pub use retry::{RetryPolicy, parse_retry_after};

use crate::credentials::{Credentials, Secret};
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::manifest::{self, Descriptor, Layer, Platform, ResolvedImage};
use crate::progress::{Event, Progress};
use crate::reference::{ImageName, Reference};
use crate::registries_conf::RegistriesConf;
use crate::source::Source;

/// How a registry is spoken to.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// `--insecure`: certificates are not checked, and plain http is used where there is no TLS.
    pub insecure: bool,
    /// `--cert-dir`: stands in for `certs.d/HOST`.
    pub cert_dir: Option<PathBuf>,
    /// `--authfile`: the only file with logins.
    pub authfile: Option<PathBuf>,
    /// `--creds USER[:PASS]`.
    pub creds: Option<Secret>,
    /// How long a connection may give nothing before it is broken off and resumed.
    pub stall_timeout: Duration,
    /// When and how often requests are repeated.
    pub retry: RetryPolicy,
    /// How many layers are fetched at once.
    pub parallel: usize,
    /// In place of the logins of the environment.
    pub credentials: Option<Credentials>,
    /// In place of the `registries.conf` of the environment.
    pub registries: Option<RegistriesConf>,
}

impl Default for RegistryOptions {
    fn default() -> RegistryOptions {
        RegistryOptions {
            insecure: false,
            cert_dir: None,
            authfile: None,
            creds: None,
            stall_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            parallel: 4,
            credentials: None,
            registries: None,
        }
    }
}

/// Opens a reference to a registry. Files are read; nothing is asked of the network yet.
///
/// # Errors
/// [`Error::BadReference`] for a reference to another kind of place, and what reading `registries.conf` gives.
pub fn open(reference: &Reference, options: &RegistryOptions) -> Result<RegistrySource> {
    let Reference::Registry(name) = reference else {
        return Err(Error::BadReference {
            text: reference.to_string(),
            reason: "it names no image in a registry".to_owned(),
        });
    };
    let registries = match &options.registries {
        Some(given) => given.clone(),
        None => RegistriesConf::load()?,
    };
    let candidates = registries.candidates(name);
    if candidates.is_empty() {
        return Err(Error::BadReference {
            text: reference.to_string(),
            reason: "it names no registry, and registries.conf names none to look in: write the registry before it"
                .to_owned(),
        });
    }
    let credentials = match &options.credentials {
        Some(given) => given.clone(),
        None => Credentials::new(options.authfile.as_deref(), options.creds.clone()),
    };
    if candidates.len() > 1 && credentials.has_password() {
        return Err(Error::BadReference {
            text: reference.to_string(),
            reason:
                "it names no registry, and the password of --creds should not be shown to several: write the registry \
                     before it"
                    .to_owned(),
        });
    }
    Ok(RegistrySource {
        candidates,
        registries,
        http: Arc::new(http::Http::new(options.insecure, options.cert_dir.clone(), options.stall_timeout)),
        credentials: Arc::new(credentials),
        retry: options.retry,
        parallel: options.parallel.max(1),
        chosen: OnceLock::new(),
    })
}

/// An image in a registry.
pub struct RegistrySource {
    candidates: Vec<ImageName>,
    registries: RegistriesConf,
    http: Arc<http::Http>,
    credentials: Arc<Credentials>,
    retry: RetryPolicy,
    parallel: usize,
    /// Which candidate it is, and who has it: the one that answered, then those after it.
    chosen: OnceLock<(ImageName, Vec<Arc<client::Client>>)>,
}

impl fmt::Debug for RegistrySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrySource").field("candidates", &self.candidates).finish_non_exhaustive()
    }
}

impl RegistrySource {
    fn clients(&self, name: &ImageName) -> Result<Vec<Arc<client::Client>>> {
        let endpoints = self.registries.endpoints(name, self.http.insecure)?;
        let client = |endpoint| {
            let auth = auth::Auth::new(self.credentials.clone(), name.user.clone());
            Arc::new(client::Client::new(endpoint, self.http.clone(), self.retry, auth))
        };
        Ok(endpoints.into_iter().map(client).collect())
    }

    /// Finds one candidate, at the first place that has it.
    fn resolve_name(
        &self,
        name: &ImageName,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<(ResolvedImage, Vec<Arc<client::Client>>)> {
        let clients = self.clients(name)?;
        let last = clients.len().saturating_sub(1);
        for (at, client) in clients.iter().enumerate() {
            match resolve_at(client, name, platform, progress) {
                Ok(image) => return Ok((image, clients[at..].to_vec())),
                Err(e) if at < last => {
                    let next = &clients[at + 1].endpoint.registry;
                    progress.event(Event::Note(&format!("{e}; trying {next}")));
                }
                Err(e) => return Err(e),
            }
        }
        Err(Error::NotFound { name: name.canonical(), reason: None })
    }
}

/// Finds an image at one place.
fn resolve_at(
    client: &client::Client,
    name: &ImageName,
    platform: &Platform,
    progress: &dyn Progress,
) -> Result<ResolvedImage> {
    let note = |text: &str| progress.event(Event::Note(text));
    let what = name.canonical();
    let (top, media_type) = client.manifest(&name.identifier(), &note)?;
    if let Some(expected) = &name.digest {
        let mut hasher = Hasher::new(expected.algorithm());
        hasher.update(&top);
        let actual = hasher.finish();
        if actual != *expected {
            let what = format!("the manifest of {what} from {}", client.endpoint.registry);
            return Err(Error::DigestMismatch { what, expected: expected.clone(), actual });
        }
    }
    let mut reader = |descriptor: &Descriptor| -> Result<Vec<u8>> {
        // An index may leave out what its entries are; only manifests are below one.
        let manifest = descriptor.media_type.is_empty() || manifest::ACCEPTED.contains(&descriptor.media_type.as_str());
        if manifest {
            match client.manifest(&descriptor.digest.to_string(), &note) {
                Err(Error::NotFound { .. }) if descriptor.media_type.is_empty() => {}
                other => return other.map(|(bytes, _)| bytes),
            }
        }
        client.small_blob(&descriptor.digest, &note)
    };
    manifest::resolve(&mut reader, top, &media_type, platform, &what)
}

impl Source for RegistrySource {
    fn name(&self) -> String {
        match (self.chosen.get(), self.candidates.first()) {
            (Some((name, _)), _) | (None, Some(name)) => name.canonical(),
            (None, None) => String::new(),
        }
    }

    fn resolve(&self, platform: &Platform, progress: &dyn Progress) -> Result<ResolvedImage> {
        let mut failures: Vec<(String, Error)> = Vec::new();
        for name in &self.candidates {
            match self.resolve_name(name, platform, progress) {
                Ok((image, clients)) => {
                    let _ = self.chosen.set((name.clone(), clients));
                    return Ok(image);
                }
                Err(e) => failures.push((name.canonical(), e)),
            }
        }
        match failures.len() {
            1 => Err(failures.remove(0).1),
            _ => Err(Error::Registry {
                registry: failures.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
                reason: format!(
                    "none of these has it: {}",
                    failures.iter().map(|(_, e)| e.to_string()).collect::<Vec<_>>().join("; ")
                ),
                hint: Some("write the registry before the name, or set an alias in registries.conf".to_owned()),
                status: None,
            }),
        }
    }

    fn open_layer(&self, layer: &Layer, progress: &dyn Progress) -> Result<Box<dyn Read + Send>> {
        let clients = match (self.chosen.get(), self.candidates.first()) {
            (Some((_, clients)), _) => clients.clone(),
            (None, Some(name)) => self.clients(name)?,
            (None, None) => Vec::new(),
        };
        let note = |text: &str| progress.event(Event::Note(text));
        let Descriptor { digest, size, .. } = &layer.descriptor;
        Ok(Box::new(blob::BlobReader::open(clients, digest.clone(), *size, &note)?))
    }

    fn parallel(&self) -> usize {
        self.parallel
    }
}
