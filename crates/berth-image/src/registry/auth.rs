//! Proving who we are: Basic, and the token protocol of Docker's and the distribution specification's registries.
//!
//! A token is asked for reading this one repository, whatever scope the registry names; it goes to the registry only, and
//! a password goes only to the registry or to the token service that the registry names, by https.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::Uri;

use super::challenge::{Challenge, parse_challenges};
use super::client::{Note, explain, lock, printable, read_limited};
use super::http::{Failure, Http};
use super::retry::RetryPolicy;
use crate::credentials::{Credentials, Login, Secret};
use crate::error::{Error, Result};
use crate::registries_conf::Endpoint;

/// The largest answer of a token service, in bytes.
const MAX_ANSWER: u64 = 256 << 10;
/// How long a token serves where its service does not say: the specification's 60 seconds.
const DEFAULT_LIFE: u64 = 60;

/// What is put into a request.
#[derive(Clone)]
pub(super) struct Authorization {
    pub header: Secret,
    expires: Option<Instant>,
}

/// The state of one repository's authentication, shared by the threads that fetch from it.
pub(super) struct Auth {
    credentials: Arc<Credentials>,
    user: Option<String>,
    current: Mutex<Option<Authorization>>,
    /// The name of the login that was used, for errors.
    used: Mutex<Option<String>>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Auth {
    pub fn new(credentials: Arc<Credentials>, user: Option<String>) -> Auth {
        Auth { credentials, user, current: Mutex::default(), used: Mutex::default() }
    }

    /// What to send now, if anything is known that has not run out.
    pub fn current(&self) -> Option<Authorization> {
        lock(&self.current).clone().filter(|a| a.expires.is_none_or(|at| Instant::now() < at))
    }

    /// The login's name, once one was used.
    pub fn user(&self) -> Option<String> {
        lock(&self.used).clone()
    }

    /// Answers a challenge to a request that was made with `sent`. `false`: there is nothing to answer it with.
    #[expect(clippy::too_many_arguments, reason = "the parts of one exchange, used once")]
    pub fn renew(
        &self,
        http: &Http,
        endpoint: &Endpoint,
        plain: bool,
        challenge: &str,
        sent: Option<Authorization>,
        retry: &RetryPolicy,
        note: Note<'_>,
    ) -> Result<bool> {
        // Held while the token is fetched: of several threads that meet an old token, one renews it.
        let mut current = lock(&self.current);
        if let Some(now) = &*current
            && sent.as_ref().map(|s| s.header.expose()) != Some(now.header.expose())
            && now.expires.is_none_or(|at| Instant::now() < at)
        {
            return Ok(true);
        }
        let challenges = parse_challenges(challenge);
        let find = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        // A mirror that the site set up is another registry: it has its own login or none, never that of `USER@`.
        let login = match endpoint.mirror {
            true => self.credentials.stored().login(&endpoint.registry, &endpoint.repository, None),
            false => self.credentials.login(&endpoint.registry, &endpoint.repository, self.user.as_deref()),
        };
        let fresh = match (find("bearer"), find("basic")) {
            (Some(bearer), _) => Some(self.token(http, endpoint, plain, bearer, login, retry, note)?),
            (None, Some(_)) => match login? {
                Some(login @ Login::Basic { .. }) => {
                    *lock(&self.used) = login.user().map(str::to_owned);
                    Some(Authorization { header: Secret::new(basic(&login)), expires: None })
                }
                _ => None,
            },
            (None, None) => None,
        };
        // The same password again will not be liked better.
        let changed = fresh.as_ref().is_some_and(|f| {
            f.expires.is_some() || sent.as_ref().map(|s| s.header.expose()) != Some(f.header.expose())
        });
        *current = fresh;
        Ok(changed)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one exchange, used once")]
    fn token(
        &self,
        http: &Http,
        endpoint: &Endpoint,
        plain: bool,
        challenge: &Challenge,
        login: Result<Option<Login>>,
        retry: &RetryPolicy,
        note: Note<'_>,
    ) -> Result<Authorization> {
        let fail = |reason: String, hint: Option<&str>, status| Error::Registry {
            registry: endpoint.registry.clone(),
            reason: format!("cannot get permission to read {}: {reason}", endpoint.repository),
            hint: hint.map(str::to_owned),
            status,
        };
        let realm = challenge.parameters.get("realm").map(String::as_str).unwrap_or_default();
        let uri: Uri = realm
            .parse()
            .ok()
            .filter(|uri: &Uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")))
            .filter(|uri| !uri.authority().is_some_and(|a| a.as_str().contains('@')))
            .ok_or_else(|| fail(format!("it names no usable token service (`{}`)", printable(realm)), None, None))?;
        let authority = uri.authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
        let service_host = uri.host().unwrap_or_default();
        let own = authority == endpoint.registry;
        let login = match login {
            Ok(Some(login)) => Some(login),
            other if related(service_host, &endpoint.registry) => {
                match self.credentials.token_service_login(service_host, self.user.as_deref())? {
                    Some(login) => Some(login),
                    None => other?,
                }
            }
            other => other?,
        };
        if let Some(Login::Bearer(token)) = &login {
            return Ok(Authorization { header: Secret::new(format!("Bearer {}", token.expose())), expires: None });
        }
        let insecure = http.trusts(&authority) || (own && endpoint.insecure);
        // An insecure registry that is spoken to by http has no secrets left; any other may not have them sent openly.
        if uri.scheme_str() != Some("https") && !insecure && !(own && plain) {
            return Err(fail(
                format!("its token service {} speaks plain http", printable(&authority)),
                Some("give --insecure if the network between is yours"),
                None,
            ));
        }
        *lock(&self.used) = login.as_ref().map(|l| l.user().unwrap_or("<token>").to_owned());
        let scope = format!("repository:{}:pull", endpoint.repository);
        let mut query = vec![("scope", scope.as_str())];
        if let Some(service) = challenge.parameters.get("service") {
            query.push(("service", service));
        }
        let authorization = login.as_ref().filter(|l| l.user().is_some()).map(basic);
        if let Some(user) = login.as_ref().and_then(Login::user) {
            query.push(("account", user));
        }
        let post = match &login {
            Some(Login::Identity(token)) => Some(form(
                &[
                    &query[..],
                    &[("grant_type", "refresh_token"), ("client_id", "berth"), ("refresh_token", token.expose())],
                ]
                .concat(),
            )),
            _ => None,
        };
        let separator = if realm.contains('?') { '&' } else { '?' };
        let full: Uri =
            format!("{}{separator}{}", realm.split('#').next().unwrap_or_default(), form(&query))
                .parse()
                .map_err(|_| fail("its token service has an address that makes no request".to_owned(), None, None))?;
        for attempt in 1.. {
            let result = match &post {
                Some(body) => http.post(&uri, body, insecure),
                None => http.get(&full, authorization.as_deref(), &[], insecure),
            };
            let (reason, again, hint, status) = match result {
                Ok(answer) => {
                    let status = answer.response.status().as_u16();
                    match status {
                        200 => match read_limited(answer.response, MAX_ANSWER) {
                            Ok(Some(bytes)) => return parse_token(&bytes).map_err(|r| fail(r.to_owned(), None, None)),
                            Ok(None) => ("its token service sends too much".to_owned(), false, None, None),
                            Err(e) => (super::client::describe_io(&e), true, None, None),
                        },
                        408 | 429 | 500 | 502..=504 => {
                            (format!("its token service {authority} answers {status}"), true, None, Some(status))
                        }
                        _ => {
                            let hint = match login {
                                Some(_) => "the login is not accepted: it may have expired; log in again",
                                None => "check the image's name; if it is private, log in first",
                            };
                            let reason = format!("its token service {authority} answers {status}");
                            (reason, false, Some(hint.to_owned()), Some(status))
                        }
                    }
                }
                Err(Failure::Setup(e)) => return Err(e),
                Err(Failure::Redirect(reason)) => (reason, false, None, None),
                Err(Failure::Transport(e)) => {
                    let (reason, again, hint) = explain(&e, &authority, http.stall_timeout);
                    (format!("its token service {authority}: {reason}"), again, hint, None)
                }
            };
            if !again || attempt >= retry.attempts {
                return Err(fail(reason, hint.as_deref(), status));
            }
            note(&format!("{}: {reason}; trying again", endpoint.registry));
            std::thread::sleep(retry.wait(attempt));
        }
        Err(fail("it was not tried".to_owned(), None, None))
    }
}

/// Reads the answer of a token service.
fn parse_token(bytes: &[u8]) -> std::result::Result<Authorization, &'static str> {
    // Not serde's message: it could quote the token.
    let answer: Token = serde_json::from_slice(bytes).map_err(|_| "its token service answers with something else")?;
    let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token).unwrap_or_default();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("its token service sends no usable token");
    }
    // A token that lives for years need not be believed to; one that ends now still serves the next request.
    let life = answer.expires_in.unwrap_or(DEFAULT_LIFE).clamp(1, 86_400);
    let expires = Some(Instant::now() + Duration::from_secs(life));
    Ok(Authorization { header: Secret::new(format!("Bearer {token}")), expires })
}

fn basic(login: &Login) -> String {
    match login {
        Login::Basic { user, password } => {
            format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose())))
        }
        _ => String::new(),
    }
}

/// Whether a token service may be shown the login that is kept under its own host: it must be in the registry's domain.
/// Else any registry could name a stranger's service and be handed the token that the stranger's login buys.
fn related(service: &str, registry: &str) -> bool {
    let host = crate::reference::split_port(registry).0;
    let domain = |host: &str| host.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
    service == host || (host.contains('.') && service[domain(service)..] == host[domain(host)..])
}

/// `application/x-www-form-urlencoded`.
fn form(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte as char),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}
