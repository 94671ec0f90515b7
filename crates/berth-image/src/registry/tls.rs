//! Whom TLS trusts: the system's authorities, and what `certs.d/HOST[:PORT]/` adds for a host (containers-certs.d(5)).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::credentials::read_small;
use crate::error::{Error, Result};
use crate::reference::{DEFAULT_REGISTRY, api_host};

/// Where distributions keep the authorities of the system, in one file.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The largest bundle that is read, in bytes.
const MAX_BUNDLE: u64 = 16 << 20;

/// The configuration for a host, and whether it has a client certificate.
pub(super) fn config(host: &str, cert_dir: Option<&Path>, insecure: bool, loopback: bool) -> Result<(TlsConfig, bool)> {
    let own = match host_dir(host, cert_dir) {
        Some(dir) => HostCerts::read(&dir)?,
        None => HostCerts::default(),
    };
    // Loopback needs no authority, but one that was put there for it is heeded.
    let unverified = insecure || (loopback && own.authorities.is_empty());
    let mut builder = TlsConfig::builder().disable_verification(unverified);
    if !unverified {
        let mut roots = system_roots()?.clone();
        // With none on the system, those built in serve for public registries.
        let none = roots.is_empty() && own.authorities.is_empty();
        roots.extend(own.authorities);
        builder = builder.root_certs(if none { RootCerts::WebPki } else { RootCerts::new_with_certs(&roots) });
    }
    let has_client = own.client.is_some();
    Ok((builder.client_cert(own.client).build(), has_client))
}

#[derive(Default)]
struct HostCerts {
    authorities: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

impl HostCerts {
    /// `*.crt` are authorities; `NAME.cert` with `NAME.key` is who we are.
    fn read(dir: &Path) -> Result<HostCerts> {
        let entries = std::fs::read_dir(dir).map_err(|e| Error::io("read the directory", dir, e))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).take(256).collect();
        paths.sort();
        let mut found = HostCerts::default();
        for path in &paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => found.authorities.extend(certificates(path)?),
                Some("cert") if found.client.is_none() => {
                    let key_path = path.with_extension("key");
                    let pem = read_small(&key_path, MAX_BUNDLE)?;
                    let key = PrivateKey::from_pem(&pem).map_err(|_| Error::Config {
                        path: key_path,
                        reason: "it holds no private key in PEM".to_owned(),
                    })?;
                    found.client = Some(ClientCert::new_with_certs(&certificates(path)?, key));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn host_dir(host: &str, cert_dir: Option<&Path>) -> Option<PathBuf> {
    if let Some(dir) = cert_dir {
        return Some(dir.to_owned());
    }
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))
        .map(|config| config.join("containers/certs.d"));
    let hub = (host == api_host(DEFAULT_REGISTRY)).then_some(DEFAULT_REGISTRY);
    user.into_iter()
        .chain([PathBuf::from("/etc/containers/certs.d"), PathBuf::from("/etc/docker/certs.d")])
        .flat_map(|base| std::iter::once(host).chain(hub).map(move |name| base.join(name)))
        .find(|dir| dir.is_dir())
}

/// The authorities of this machine, read once; `SSL_CERT_FILE` stands in for them.
fn system_roots() -> Result<&'static Vec<Certificate<'static>>> {
    static ROOTS: OnceLock<Vec<Certificate<'static>>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots);
    }
    let given = std::env::var_os("SSL_CERT_FILE").filter(|v| !v.is_empty()).map(PathBuf::from);
    let path = given.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()));
    let roots = path.map(|path| certificates(&path)).transpose()?.unwrap_or_default();
    Ok(ROOTS.get_or_init(|| roots))
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let pem = read_small(path, MAX_BUNDLE)?;
    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(Error::Config { path: path.to_owned(), reason: "it holds no certificate in PEM".to_owned() });
    }
    Ok(found)
}
