//! A small registry that misbehaves on demand, for tests of clients. It needs only the standard library and
//! `berth_image::Digest`, so other crates' tests can include it by `#[path]`.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use berth_image::Digest;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// A response, and how its delivery goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// In place of the body's own length.
    pub content_length: Option<u64>,
    /// Break the connection after so many bytes of the body.
    pub cut_after: Option<usize>,
    /// Send nothing more after so many bytes of the body, and keep the connection open.
    pub stall_after: Option<usize>,
    /// Send exactly this instead, and close.
    pub raw: Option<Vec<u8>>,
}

impl Response {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Response {
        Response { status, body: body.into(), ..Response::default() }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answer this instead.
    Answer(Response),
    /// Break the connection after so many bytes of the true body.
    Cut(usize),
    /// Stall after so many bytes of the true body.
    Stall(usize),
    /// Say a wrong Content-Length.
    Length(u64),
    /// Send this body under the true headers.
    Body(Vec<u8>),
    /// Ignore a Range header.
    NoRange,
    /// Close without an answer.
    Hangup,
}

/// Who may read.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    #[default]
    Nobody,
    Basic {
        user: &'static str,
        password: &'static str,
    },
    /// Tokens from `/token`, for anybody, or for one login; each serves so many requests.
    Bearer {
        login: Option<(&'static str, &'static str)>,
        uses: u32,
    },
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Vec<u8>>,
    /// By `repository:identifier`.
    manifests: HashMap<String, (String, Vec<u8>)>,
    faults: Vec<(String, Fault, u32)>,
    auth: Auth,
    /// Uses left of each token.
    tokens: HashMap<String, u32>,
    log: Vec<Request>,
}

/// The registry, on a free port of the loopback. Its threads end with the test's process.
pub struct Registry {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Registry {
    pub fn start() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), shared) = (stream, shared.clone()) else { continue };
                std::thread::spawn(move || serve(stream, address, &shared));
            }
        });
        Registry { address, state }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn auth(&self, auth: Auth) {
        self.state.lock().unwrap().auth = auth;
    }

    /// Makes the next `times` requests whose path contains `part` go wrong.
    pub fn fault(&self, part: &str, fault: Fault, times: u32) {
        self.state.lock().unwrap().faults.push((part.to_owned(), fault, times));
    }

    pub fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.state.lock().unwrap().blobs.insert(digest.to_string(), bytes.to_vec());
        digest
    }

    /// Stores a manifest under its digest and, if given, a tag.
    pub fn manifest(&self, repository: &str, tag: Option<&str>, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut state = self.state.lock().unwrap();
        for identifier in tag.map(str::to_owned).into_iter().chain([digest.to_string()]) {
            let entry = (media_type.to_owned(), bytes.to_vec());
            state.manifests.insert(format!("{repository}:{identifier}"), entry);
        }
        digest
    }

    /// Stores an image whose layers have this content (which need not be tar), and gives its manifest's digest.
    pub fn image(&self, repository: &str, tag: &str, layers: &[&[u8]]) -> Digest {
        let layers: Vec<(Digest, usize)> = layers.iter().map(|l| (self.blob(l), l.len())).collect();
        let ids: Vec<String> = layers.iter().map(|(d, _)| format!("\"{d}\"")).collect();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            ids.join(",")
        );
        let descriptors: Vec<String> = layers
            .iter()
            .map(|(d, size)| {
                format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{d}","size":{size}}}"#)
            })
            .collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{}]}}"#,
            self.blob(config.as_bytes()),
            config.len(),
            descriptors.join(",")
        );
        self.manifest(repository, Some(tag), OCI_MANIFEST, manifest.as_bytes())
    }

    /// The requests so far whose path contains `part`.
    pub fn requests(&self, part: &str) -> Vec<Request> {
        self.state.lock().unwrap().log.iter().filter(|r| r.path.contains(part)).cloned().collect()
    }
}

fn serve(stream: TcpStream, address: SocketAddr, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    // A TLS handshake is answered by going away, as a plain server does in effect.
    while let Ok([first, ..]) = reader.fill_buf()
        && *first != 0x16
    {
        let Some(request) = read_request(&mut reader) else { return };
        let response = answer(&request, address, &mut state.lock().unwrap());
        let Some(response) = response else { return };
        if !deliver(&stream, &request, &response) {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
            None => break,
        }
    }
    let mut request = Request { method, path, headers, body: Vec::new() };
    let length = request.header("Content-Length").and_then(|v| v.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut request.body).ok()?;
    Some(request)
}

/// Sends a response; `false` where the connection is over.
fn deliver(mut stream: &TcpStream, request: &Request, response: &Response) -> bool {
    if let Some(raw) = &response.raw {
        let _ = stream.write_all(raw);
        return false;
    }
    let length = response.content_length.unwrap_or(response.body.len() as u64);
    let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {length}\r\n", response.status);
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let stop = response.cut_after.or(response.stall_after).unwrap_or(usize::MAX).min(response.body.len());
    let body = if request.method == "HEAD" { &[] } else { &response.body[..stop] };
    if stream.write_all(head.as_bytes()).is_err() || stream.write_all(body).is_err() {
        return false;
    }
    if response.stall_after.is_some() {
        // Until the client gives up.
        let _ = stream.read(&mut [0]);
    }
    response.cut_after.is_none() && response.stall_after.is_none() && length == response.body.len() as u64
}

fn answer(request: &Request, address: SocketAddr, state: &mut State) -> Option<Response> {
    state.log.push(request.clone());
    let fault = state.faults.iter_mut().find(|(part, _, left)| *left > 0 && request.path.contains(part.as_str()));
    let fault = fault.map(|(_, fault, left)| {
        *left -= 1;
        fault.clone()
    });
    match &fault {
        Some(Fault::Hangup) => return None,
        Some(Fault::Answer(response)) => return Some(response.clone()),
        _ => {}
    }
    if request.path.starts_with("/token") {
        return Some(token(request, state));
    }
    if let Some(refusal) = refuse(request, address, state) {
        return Some(refusal);
    }
    let mut response = content(request, state, matches!(fault, Some(Fault::NoRange)));
    match fault {
        Some(Fault::Cut(at)) => response.cut_after = Some(at),
        Some(Fault::Stall(at)) => response.stall_after = Some(at),
        Some(Fault::Length(length)) => response.content_length = Some(length),
        Some(Fault::Body(body)) => response.body = body,
        _ => {}
    }
    Some(response)
}

fn token(request: &Request, state: &mut State) -> Response {
    let Auth::Bearer { login, uses } = state.auth.clone() else { return Response::new(404, "") };
    if login.is_some_and(|(user, password)| request.header("Authorization") != Some(&basic(user, password))) {
        return Response::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#);
    }
    let token = format!("token-{}", state.tokens.len() + 1);
    state.tokens.insert(token.clone(), uses);
    Response::new(200, format!(r#"{{"token":"{token}","expires_in":300}}"#))
}

/// The 401 of a request without the right proof.
fn refuse(request: &Request, address: SocketAddr, state: &mut State) -> Option<Response> {
    let (ok, challenge) = match state.auth.clone() {
        Auth::Nobody => return None,
        Auth::Basic { user, password } => {
            (request.header("Authorization") == Some(&basic(user, password)), "Basic realm=\"test\"".to_owned())
        }
        Auth::Bearer { .. } => {
            let shown = request.header("Authorization").and_then(|v| v.strip_prefix("Bearer "));
            let left = shown.and_then(|token| state.tokens.get_mut(token)).filter(|left| **left > 0);
            let ok = left.is_some();
            if let Some(left) = left {
                *left -= 1;
            }
            (ok, format!("Bearer realm=\"http://{address}/token\",service=\"test, one\",scope=\"repository:x:push\""))
        }
    };
    (!ok).then(|| Response::new(401, r#"{"errors":[]}"#).with("WWW-Authenticate", challenge))
}

fn content(request: &Request, state: &State, no_range: bool) -> Response {
    let Some((repository, kind, identifier)) = request.path.strip_prefix("/v2/").and_then(|path| {
        let (front, identifier) = path.rsplit_once('/')?;
        let (repository, kind) = front.rsplit_once('/')?;
        Some((repository, kind, identifier))
    }) else {
        return Response::new(200, "{}");
    };
    if kind == "manifests" {
        return match state.manifests.get(&format!("{repository}:{identifier}")) {
            // The header lies: clients must not believe it.
            Some((media_type, bytes)) => Response::new(200, bytes.clone())
                .with("Content-Type", media_type)
                .with("Docker-Content-Digest", format!("sha256:{}", "0".repeat(64))),
            None => Response::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
        };
    }
    let Some(bytes) = state.blobs.get(identifier) else {
        return Response::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#);
    };
    let start = request.header("Range").filter(|_| !no_range);
    let start = start.and_then(|v| v.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match start {
        None => Response::new(200, bytes.clone()),
        Some(start) if start >= bytes.len() => Response::new(416, ""),
        Some(start) => Response::new(206, &bytes[start..])
            .with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
    }
}

/// `Basic …`.
pub fn basic(user: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = "Basic ".to_owned();
    for chunk in format!("{user}:{password}").as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            match at <= chunk.len() {
                true => text.push(DIGITS[(bits >> (18 - 6 * at) & 63) as usize] as char),
                false => text.push('='),
            }
        }
    }
    text
}
