//! One HTTP exchange: the right trust for each host, time limits, and redirects that carry no secret away.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use super::tls;
use crate::error::Result;
use crate::reference::is_loopback;

/// How many redirects are followed; object stores take one or two.
const MAX_REDIRECTS: usize = 5;
/// Name look-up, and the opening of a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// Why there is no response.
pub(super) enum Failure {
    /// The network, or what speaks there.
    Transport(ureq::Error),
    /// A redirect that is not followed, with why.
    Redirect(String),
    /// Ours.
    Setup(crate::Error),
}

/// A response, and whether it came from the host that was asked.
pub(super) struct Answer {
    pub response: Response<Body>,
    pub same_origin: bool,
}

/// What is common to all exchanges of a source: agents with their open connections, one a host.
pub(super) struct Http {
    pub insecure: bool,
    pub cert_dir: Option<PathBuf>,
    pub stall_timeout: Duration,
    agents: Mutex<HashMap<(String, bool), (Agent, bool)>>,
}

impl Http {
    pub fn new(insecure: bool, cert_dir: Option<PathBuf>, stall_timeout: Duration) -> Http {
        Http { insecure, cert_dir, stall_timeout, agents: Mutex::default() }
    }

    /// Whether a host need not prove who it is.
    pub fn trusts(&self, authority: &str) -> bool {
        self.insecure || is_loopback(authority)
    }

    /// Gets `uri`, through redirects. `authorization` goes to the origin of `uri` only, `headers` go everywhere.
    pub fn get(
        &self,
        uri: &Uri,
        authorization: Option<&str>,
        headers: &[(&str, String)],
        insecure: bool,
    ) -> std::result::Result<Answer, Failure> {
        let mut at = uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let same_origin = origin(&at) == origin(uri);
            let (agent, client_cert) = self.agent(&at, insecure && same_origin).map_err(Failure::Setup)?;
            let mut request = agent.get(&at).header("Accept-Encoding", "identity");
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            if let Some(authorization) = authorization.filter(|_| same_origin) {
                request = request.header("Authorization", authorization);
            }
            let response = guarded(client_cert, || request.call())?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, same_origin });
            }
            let location = response.headers().get("Location").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let next = join(&at, location)
                .ok_or_else(|| Failure::Redirect("it sent a redirect to no usable address".to_owned()))?;
            let authority = next.authority().map_or("", |authority| authority.as_str());
            if at.scheme_str() == Some("https") && next.scheme_str() != Some("https") && !self.trusts(authority) {
                return Err(Failure::Redirect(format!("it redirects from https to plain http at {authority}")));
            }
            drain(response);
            at = next;
        }
        Err(Failure::Redirect(format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    /// Posts a form.
    pub fn post(&self, uri: &Uri, form: &str, insecure: bool) -> std::result::Result<Answer, Failure> {
        let (agent, client_cert) = self.agent(uri, insecure).map_err(Failure::Setup)?;
        let request = agent.post(uri).header("Content-Type", "application/x-www-form-urlencoded");
        let response = guarded(client_cert, || request.send(form))?;
        Ok(Answer { response, same_origin: true })
    }

    fn agent(&self, uri: &Uri, insecure: bool) -> Result<(Agent, bool)> {
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        // An agent for http has no trust in it: it must not serve https to the same host later.
        let key = (format!("{}://{authority}", uri.scheme_str().unwrap_or_default()), insecure);
        let mut agents = self.agents.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = agents.get(&key) {
            return Ok(known.clone());
        }
        let loopback = is_loopback(authority);
        let unverified = self.insecure || (insecure && !loopback);
        let (tls, client_cert) = match uri.scheme_str() {
            Some("http") => (ureq::tls::TlsConfig::builder().build(), false),
            _ => tls::config(authority, self.cert_dir.as_deref(), unverified, loopback)?,
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .timeout_resolve(Some(CONNECT_LIMIT))
            .timeout_connect(Some(CONNECT_LIMIT))
            // A body may take hours; a single read of it may not.
            .timeout_per_read(Some(self.stall_timeout))
            .timeout_per_write(Some(self.stall_timeout))
            .max_idle_connections_per_host(8)
            .input_buffer_size(256 << 10);
        if loopback {
            // A proxy elsewhere cannot reach this machine's own loopback.
            config = config.proxy(None);
        }
        let agent: Agent = config.build().into();
        agents.insert(key, (agent.clone(), client_cert));
        Ok((agent, client_cert))
    }
}

/// Makes a call. ureq panics where rustls does not take the client certificate (its version, its key), which is a
/// user's mistake.
fn guarded(
    client_cert: bool,
    call: impl FnOnce() -> std::result::Result<Response<Body>, ureq::Error>,
) -> std::result::Result<Response<Body>, Failure> {
    if !client_cert {
        return call().map_err(Failure::Transport);
    }
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| {
            Err(ureq::Error::Tls(
                "the client certificate in certs.d is not of X.509 version 3, or does not belong to its key",
            ))
        })
        .map_err(Failure::Transport)
}

/// Reads the rest of a small answer, so that the connection can serve again.
pub(super) fn drain(response: Response<Body>) {
    let _ = response.into_body().into_with_config().limit(16 << 10).read_to_vec();
}

fn origin(uri: &Uri) -> (Option<String>, Option<String>, Option<u16>) {
    let port = uri.port_u16().or(match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    (uri.scheme_str().map(str::to_ascii_lowercase), uri.host().map(str::to_ascii_lowercase), port)
}

/// Where a `Location` leads from `base`: only to http and https, and never with a login in it.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let text = if location.contains("://") && !location.starts_with('/') {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.is_empty() {
        return None;
    } else {
        let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{scheme}://{authority}{dir}/{location}")
    };
    let uri: Uri = text.parse().ok()?;
    let plain = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty());
    (plain && !uri.authority()?.as_str().contains('@')).then_some(uri)
}
