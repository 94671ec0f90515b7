//! One repository in one registry: requests with authentication, retries, and errors that a person can act on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use ureq::Body;
use ureq::http::{Response, Uri};

use super::auth::{Auth, Authorization};
use super::http::{Answer, Failure, Http};
use super::retry::{RetryPolicy, parse_retry_after};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{ACCEPTED, MAX_DOCUMENT};
use crate::reference::api_host;
use crate::registries_conf::Endpoint;

/// The largest error document that is read, in bytes.
const MAX_ERROR: u64 = 16 << 10;

/// Tells of a retry.
pub(super) type Note<'a> = &'a dyn Fn(&str);

/// What a blob request gave.
pub(super) enum BlobBody {
    /// The content from the offset that was asked for.
    From(ureq::BodyReader<'static>),
    /// The content from its first byte: the server does not know ranges.
    Whole(ureq::BodyReader<'static>),
    /// There is nothing at or after the offset.
    End,
}

/// A client of one [`Endpoint`].
pub(super) struct Client {
    pub endpoint: Endpoint,
    host: String,
    http: Arc<Http>,
    retry: RetryPolicy,
    auth: Auth,
    /// `https` or `http`, once one of them answered.
    scheme: Mutex<Option<&'static str>>,
}

/// How a try ended.
enum Outcome {
    Answer(Box<Answer>, Option<Authorization>),
    /// The reason, whether another try may help, and a hint.
    Failed(String, bool, Option<String>),
}

impl Client {
    pub fn new(endpoint: Endpoint, http: Arc<Http>, retry: RetryPolicy, auth: Auth) -> Client {
        let host = api_host(&endpoint.registry).to_owned();
        Client { endpoint, host, http, retry, auth, scheme: Mutex::default() }
    }

    /// Gets a manifest by tag or digest: its bytes as received, and its media type.
    pub fn manifest(&self, identifier: &str, note: Note<'_>) -> Result<(Vec<u8>, String)> {
        let what = format!("manifest `{identifier}` of {}/{}", self.endpoint.registry, self.endpoint.repository);
        let path = format!("/v2/{}/manifests/{identifier}", self.endpoint.repository);
        let headers = [("Accept", ACCEPTED.join(", "))];
        let mut tries = 0;
        loop {
            let response = self.request(&path, &headers, &what, note)?;
            let media_type = response.headers().get("Content-Type").and_then(|v| v.to_str().ok());
            let media_type = media_type.unwrap_or_default().to_owned();
            // A connection that breaks in the middle of a document is as good as none.
            match read_limited(response, MAX_DOCUMENT) {
                Ok(Some(bytes)) => return Ok((bytes, media_type)),
                Ok(None) => {
                    return Err(Error::TooLarge {
                        what,
                        reason: format!("the limit for a document is {} MiB", MAX_DOCUMENT >> 20),
                    });
                }
                Err(e) => {
                    tries += 1;
                    self.pause_or_fail(tries, &what, describe_io(&e), note)?;
                }
            }
        }
    }

    /// Gets a small blob, all of it.
    pub fn small_blob(&self, digest: &Digest, note: Note<'_>) -> Result<Vec<u8>> {
        let what = format!("blob {digest} of {}/{}", self.endpoint.registry, self.endpoint.repository);
        let mut tries = 0;
        loop {
            let response = self.request(&self.blob_path(digest), &[], &what, note)?;
            match read_limited(response, MAX_DOCUMENT) {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => {
                    return Err(Error::TooLarge {
                        what,
                        reason: format!("the limit for a document is {} MiB", MAX_DOCUMENT >> 20),
                    });
                }
                Err(e) => {
                    tries += 1;
                    self.pause_or_fail(tries, &what, describe_io(&e), note)?;
                }
            }
        }
    }

    /// Opens a blob from `offset` on.
    pub fn blob(&self, digest: &Digest, offset: u64, note: Note<'_>) -> Result<BlobBody> {
        let what = format!("layer {digest} of {}/{}", self.endpoint.registry, self.endpoint.repository);
        let range = (offset > 0).then(|| ("Range", format!("bytes={offset}-")));
        let response = self.request(&self.blob_path(digest), range.as_slice(), &what, note)?;
        let status = response.status().as_u16();
        let start = response.headers().get("Content-Range").and_then(|v| v.to_str().ok()).and_then(range_start);
        let body = |response: Response<Body>| response.into_body().into_with_config().limit(u64::MAX).reader();
        match status {
            416 if offset > 0 => Ok(BlobBody::End),
            206 if start == Some(offset) => Ok(BlobBody::From(body(response))),
            206 => Err(self.error(
                format!("cannot fetch {what}: it was asked for the bytes from {offset} on and sent others"),
                None,
                Some(206),
            )),
            _ if offset == 0 => Ok(BlobBody::From(body(response))),
            _ => Ok(BlobBody::Whole(body(response))),
        }
    }

    fn blob_path(&self, digest: &Digest) -> String {
        format!("/v2/{}/blobs/{digest}", self.endpoint.repository)
    }

    pub fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// Waits before the try after `tries` failed ones, or gives up.
    fn pause_or_fail(&self, tries: u32, what: &str, reason: String, note: Note<'_>) -> Result<()> {
        if tries >= self.retry.attempts {
            return Err(self.error(format!("cannot fetch {what}: {reason}, {tries} times"), None, None));
        }
        let wait = self.retry.wait(tries);
        note(&format!("{}: {reason}; trying again", self.endpoint.registry));
        std::thread::sleep(wait);
        Ok(())
    }

    /// Makes a request until it succeeds or cannot.
    fn request(&self, path: &str, headers: &[(&str, String)], what: &str, note: Note<'_>) -> Result<Response<Body>> {
        let mut attempt = 1;
        // Whether the credentials that a 401 answers were made for this request: then another round cannot help.
        let mut fresh = false;
        loop {
            let (reason, hint, status, asked_to_wait) = match self.attempt(path, headers, what)? {
                Outcome::Answer(answer, used) => {
                    let status = answer.response.status().as_u16();
                    match status {
                        200 | 206 | 416 => return Ok(answer.response),
                        // An object store that a redirect led to has no say about the registry's credentials.
                        401 if answer.same_origin && !fresh => {
                            let challenge = header(&answer.response, "WWW-Authenticate");
                            super::http::drain(answer.response);
                            fresh = self.authenticate(&challenge, used, note)?;
                            if fresh {
                                continue;
                            }
                            return Err(self.status_error(what, 401, String::new()));
                        }
                        408 | 429 | 500..=599 if status != 501 => {
                            let after = parse_retry_after(&header(&answer.response, "Retry-After"), SystemTime::now());
                            let said = registry_words(answer.response);
                            (format!("it answers {}{said}", status_name(status)), None, Some(status), after)
                        }
                        _ => {
                            let said = registry_words(answer.response);
                            return Err(self.status_error(what, status, said));
                        }
                    }
                }
                Outcome::Failed(reason, true, hint) => (reason, hint, None, None),
                Outcome::Failed(reason, false, hint) => {
                    return Err(self.error(format!("cannot fetch {what}: {reason}"), hint, None));
                }
            };
            let hint = hint.or_else(|| status.map(overload_hint));
            if let Some(wait) = asked_to_wait.filter(|wait| *wait > self.retry.longest) {
                let reason = format!("cannot fetch {what}: {reason}, and asks to wait {} seconds", wait.as_secs());
                return Err(self.error(reason, hint, status));
            }
            if attempt >= self.retry.attempts {
                return Err(self.error(format!("cannot fetch {what}: {reason} (tried {attempt} times)"), hint, status));
            }
            let wait = self.retry.wait(attempt).max(asked_to_wait.unwrap_or(Duration::ZERO));
            note(&format!("{}: {reason}; trying again", self.endpoint.registry));
            std::thread::sleep(wait);
            attempt += 1;
        }
    }

    /// One try; an insecure registry whose scheme is not known yet is tried by https and then by http.
    fn attempt(&self, path: &str, headers: &[(&str, String)], what: &str) -> Result<Outcome> {
        let known = *lock(&self.scheme);
        let schemes: &[&'static str] = match (known, self.endpoint.insecure) {
            (Some("http"), _) => &["http"],
            (Some(_), _) | (None, false) => &["https"],
            (None, true) => &["https", "http"],
        };
        let authorization = self.auth.current();
        let mut first = None;
        for scheme in schemes {
            let uri: Uri = format!("{scheme}://{}{path}", self.host)
                .parse()
                .map_err(|e| self.error(format!("cannot fetch {what}: this makes no address: {e}"), None, None))?;
            let value = authorization.as_ref().map(|a| a.header.expose().to_owned());
            match self.http.get(&uri, value.as_deref(), headers, self.endpoint.insecure) {
                Ok(answer) => {
                    *lock(&self.scheme) = Some(scheme);
                    return Ok(Outcome::Answer(Box::new(answer), authorization));
                }
                Err(Failure::Setup(e)) => return Err(e),
                Err(Failure::Redirect(reason)) => return Ok(Outcome::Failed(reason, false, None)),
                // What went wrong with https is what is worth telling, unless only http got anywhere.
                Err(Failure::Transport(e)) => {
                    let refused = matches!(&e, ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused);
                    let (reason, again, hint) = self.explain(&e);
                    // It does speak TLS, and what it said was not good enough: http would be a way around the check.
                    if is_about_certificates(&e) {
                        return Ok(Outcome::Failed(reason, again, hint));
                    }
                    if first.is_none() || !refused {
                        first = Some(Outcome::Failed(reason, again, hint));
                    }
                }
            }
        }
        Ok(first.unwrap_or(Outcome::Failed("nothing was tried".to_owned(), false, None)))
    }

    fn authenticate(&self, challenge: &str, used: Option<Authorization>, note: Note<'_>) -> Result<bool> {
        let plain = *lock(&self.scheme) == Some("http");
        self.auth.renew(&self.http, &self.endpoint, plain, challenge, used, &self.retry, note)
    }

    /// A network error in words: what, whether another try may help, what to do.
    fn explain(&self, e: &ureq::Error) -> (String, bool, Option<String>) {
        explain(e, &self.endpoint.registry, self.http.stall_timeout)
    }

    fn error(&self, reason: String, hint: Option<String>, status: Option<u16>) -> Error {
        Error::Registry { registry: self.endpoint.registry.clone(), reason, hint, status }
    }

    fn status_error(&self, what: &str, status: u16, said: String) -> Error {
        let Endpoint { registry, repository, .. } = &self.endpoint;
        let login = self.auth.user();
        let hint = match (status, login) {
            (401, None) => format!(
                "check the name; if the image is private, log in (`podman login {registry}` or `docker login {registry}`), or give --creds USER"
            ),
            (401, Some(user)) => format!(
                "the login of `{}` is not accepted: it may have expired; log in again, and check the image's name",
                user.escape_debug()
            ),
            (403, None) => {
                format!("{registry} wants a login for {repository}: `podman login {registry}`, or --creds USER")
            }
            (403, Some(user)) => {
                format!(
                    "the login of `{}` is known but may not read {repository}: ask its owner for access",
                    user.escape_debug()
                )
            }
            (404, _) => "check the name and the tag for typing errors".to_owned(),
            _ => "ask who runs the registry".to_owned(),
        };
        if status == 404 {
            return Error::NotFound {
                name: what.to_owned(),
                reason: Some(format!("{registry} does not have it{said}")),
            };
        }
        self.error(format!("cannot fetch {what}: it answers {}{said}", status_name(status)), Some(hint), Some(status))
    }
}

/// See [`Client::explain`].
pub(super) fn explain(e: &ureq::Error, registry: &str, stall: Duration) -> (String, bool, Option<String>) {
    let network = || {
        Some(
            "check that this node can reach it: many compute nodes need a proxy (HTTPS_PROXY), or have no way out at all; \
             then pull on a login node"
                .to_owned(),
        )
    };
    let text = e.to_string();
    match e {
        ureq::Error::HostNotFound => {
            // A resolver that is not there answers the same as a name that is not there: no reason to ask for long.
            (format!("the host name `{registry}` is not known"), false, network())
        }
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            ("it cannot be reached: no answer in time".to_owned(), true, network())
        }
        ureq::Error::Timeout(_) => (format!("nothing came for {} seconds", stall.as_secs_f32()), true, network()),
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            ("nothing listens there (connection refused)".to_owned(), true, network())
        }
        ureq::Error::Tls(why) => (
            format!("TLS failed: {why}"),
            false,
            Some("correct the files of this host in certs.d, or of --cert-dir".to_owned()),
        ),
        _ if is_about_certificates(e) && text.contains("alert") => (
            format!("it does not accept this client's certificate: {}", printable(&text)),
            false,
            Some(format!(
                "put the certificate and key that it wants into ~/.config/containers/certs.d/{registry}/client.cert and client.key"
            )),
        ),
        _ if is_about_certificates(e) => (
            format!("its TLS certificate cannot be trusted: {}", printable(&text)),
            false,
            Some(format!(
                "put the certificate of its authority into ~/.config/containers/certs.d/{registry}/ca.crt, or give --cert-dir; \
                 --insecure goes on without"
            )),
        ),
        // rustls's word for an answer that is no TLS at all.
        _ if text.contains("InvalidContentType") => (
            "it does not speak TLS".to_owned(),
            false,
            Some(format!(
                "if it is meant to speak plain http, give --insecure, or set `insecure` for {registry} in registries.conf"
            )),
        ),
        // The system's resolver, in the words of Rust's library. One that has no answer now may have one soon.
        ureq::Error::Io(_) if text.contains("failed to lookup address information") => {
            let again = text.contains("Temporary failure");
            let known = if again { "cannot be looked up now" } else { "is not known" };
            (format!("the host name `{registry}` {known}"), again, network())
        }
        ureq::Error::Io(io) => (describe_io(io), true, network()),
        ureq::Error::Rustls(_) => (
            format!("TLS failed: {}", printable(&text)),
            false,
            Some("a registry that speaks plain http needs --insecure".to_owned()),
        ),
        ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => (
            format!("the proxy failed: {}", printable(&text)),
            true,
            Some("check HTTPS_PROXY, HTTP_PROXY and NO_PROXY".to_owned()),
        ),
        _ => (format!("its answer cannot be understood: {}", printable(&text)), true, None),
    }
}

/// Whether TLS got as far as certificates, and failed on them.
fn is_about_certificates(e: &ureq::Error) -> bool {
    e.to_string().to_ascii_lowercase().contains("certificate")
}

/// What registries say about an error: distribution specification, "Error Codes".
#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry's own words, with a colon before them; empty where it has none.
fn registry_words(response: Response<Body>) -> String {
    let bytes = response.into_body().into_with_config().limit(MAX_ERROR).read_to_vec().unwrap_or_default();
    match serde_json::from_slice::<Errors>(&bytes).ok().and_then(|e| e.errors.into_iter().next()) {
        Some(OneError { code, message }) if message.is_empty() && !code.is_empty() => format!(": {}", printable(&code)),
        Some(OneError { message, .. }) if !message.is_empty() => format!(": {}", printable(&message)),
        _ => String::new(),
    }
}

fn overload_hint(status: u16) -> String {
    match status {
        429 => {
            "the registry limits how much this address or account may pull: wait, log in, or use a mirror".to_owned()
        }
        _ => "the registry has a fault of its own: try again later, or use a mirror".to_owned(),
    }
}

fn status_name(status: u16) -> String {
    match ureq::http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()) {
        Some(name) => format!("{status} {name}"),
        None => status.to_string(),
    }
}

/// `None` where there is more than `limit`.
pub(super) fn read_limited(response: Response<Body>, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// An I/O error of a body, in words.
pub(super) fn describe_io(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => "the connection ended too early".to_owned(),
        std::io::ErrorKind::TimedOut => "the connection stalled".to_owned(),
        _ => format!("the connection broke: {}", printable(&e.to_string())),
    }
}

fn header(response: &Response<Body>, name: &str) -> String {
    // Some servers send a challenge a line.
    let values = response.headers().get_all(name).iter().take(8).filter_map(|v| v.to_str().ok());
    values.collect::<Vec<_>>().join(", ")
}

/// `bytes 10-99/100` → 10.
fn range_start(text: &str) -> Option<u64> {
    text.trim().strip_prefix("bytes")?.trim_start().split_once('-')?.0.trim().parse().ok()
}

/// Text from outside, safe for a terminal and short.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(300).flat_map(char::escape_debug).collect()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
