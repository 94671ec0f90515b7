//! A registry that fails as it is told: it serves an OCI layout, breaks chosen answers, and notes every request.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::http;
use crate::image::Layout;

/// What is done instead of the right answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status with these header fields and this body.
    Status(u16, Vec<(String, String)>, String),
    /// The connection breaks after so many bytes of the body.
    Break(usize),
    /// Nothing more comes after so many bytes of the body, for as long as the server lives and is not calmed.
    Stall(usize),
    /// The byte at this place of the body is another.
    Corrupt(usize),
    /// The body ends early, with a Content-Length that fits what is sent.
    Short(usize),
    /// This body instead.
    Body(Vec<u8>),
}

/// Which answers are broken.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The request's target contains this.
    pub target: String,
    /// How often; the answers after that are right.
    pub times: usize,
    /// How.
    pub fault: Fault,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The first field of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Bearer tokens, as big registries want them.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// User and password that the token server wants; none: it gives tokens to anybody.
    pub login: Option<(String, String)>,
    /// A token opens so many requests and is refused after that.
    pub uses: usize,
}

#[derive(Debug)]
struct State {
    layout: Layout,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
    tokens: Option<Tokens>,
    issued: Mutex<Vec<usize>>,
    address: SocketAddr,
    calm: AtomicBool,
}

/// The server; its threads end with the process.
#[derive(Debug)]
pub struct FaultyRegistry {
    state: Arc<State>,
}

impl FaultyRegistry {
    /// Serves a layout: any repository name has its tags.
    pub fn start(layout: &Layout, tokens: Option<Tokens>, rules: Vec<Rule>) -> io::Result<FaultyRegistry> {
        FaultyRegistry::at(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, layout, tokens, rules)
    }

    /// The same where somebody listens already, which may be in another network.
    pub fn at(
        listener: TcpListener,
        layout: &Layout,
        tokens: Option<Tokens>,
        rules: Vec<Rule>,
    ) -> io::Result<FaultyRegistry> {
        let state = Arc::new(State {
            layout: layout.clone(),
            rules: Mutex::new(rules),
            requests: Mutex::default(),
            tokens,
            issued: Mutex::default(),
            address: listener.local_addr()?,
            calm: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that goes away in the middle is part of the game.
                thread::spawn(move || drop(state.serve(stream)));
            }
        });
        Ok(FaultyRegistry { state })
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.state.address
    }

    /// `docker://` reference of a tag of the layout.
    pub fn reference(&self, tag: &str) -> String {
        format!("docker://{}/image:{tag}", self.state.address)
    }

    /// Breaks no further answer; connections that stall end.
    pub fn calm(&self) {
        self.state.rules.lock().expect("no panic while locked").clear();
        self.state.calm.store(true, Ordering::SeqCst);
    }

    /// Requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().expect("no panic while locked").clone()
    }

    /// Targets of the GETs so far that contain a word.
    pub fn gets(&self, word: &str) -> Vec<String> {
        let requests = self.requests().into_iter();
        requests.filter(|one| one.method == "GET" && one.target.contains(word)).map(|one| one.target).collect()
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, headers: vec![("Content-Type".to_owned(), kind.to_owned())], body: body.into() }
    }

    fn error(status: u16, code: &str) -> Answer {
        Answer::new(status, "application/json", format!(r#"{{"errors":[{{"code":"{code}","message":"as told"}}]}}"#))
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut input = BufReader::new(stream.try_clone()?);
        let mut output = stream;
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut words = line.split_whitespace();
            let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
            let headers = http::read_fields(&mut input)?;
            let request = Request { method: method.to_owned(), target: target.to_owned(), headers };
            self.requests.lock().expect("no panic while locked").push(request.clone());
            let answer = self.answer(&request);
            if !self.send(&mut output, &request, answer)? {
                return output.shutdown(Shutdown::Both);
            }
        }
    }

    /// Sends the answer, broken where a rule says so; says whether the connection can go on.
    fn send(&self, output: &mut TcpStream, request: &Request, mut answer: Answer) -> io::Result<bool> {
        let mut end = None;
        let mut stall = false;
        match self.fault(&request.target) {
            None => {}
            Some(Fault::Status(status, headers, body)) => answer = Answer { status, headers, body: body.into_bytes() },
            Some(Fault::Break(at)) => end = Some(at),
            Some(Fault::Stall(at)) => (end, stall) = (Some(at), at < answer.body.len()),
            Some(Fault::Corrupt(at)) => answer.body.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x20),
            Some(Fault::Short(at)) => answer.body.truncate(at),
            Some(Fault::Body(body)) => answer.body = body,
        }
        let mut head = format!("HTTP/1.1 {} told\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        output.write_all(head.as_bytes())?;
        if request.method == "HEAD" {
            return Ok(true);
        }
        let length = end.unwrap_or(answer.body.len()).min(answer.body.len());
        output.write_all(&answer.body[..length])?;
        output.flush()?;
        if stall {
            while !self.calm.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(end.is_none())
    }

    fn fault(&self, target: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().expect("no panic while locked");
        let rule = rules.iter_mut().find(|rule| rule.times > 0 && target.contains(&rule.target))?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    fn answer(&self, request: &Request) -> Answer {
        if request.target.starts_with("/token") {
            return self.token(request);
        }
        if let Some(refusal) = self.refuse(request) {
            return refusal;
        }
        let path = request.target.split('?').next().unwrap_or_default();
        if path == "/v2/" || path == "/v2" {
            return Answer::new(200, "application/json", "{}");
        }
        if let Some((_, name)) = path.rsplit_once("/manifests/") {
            return self.manifest(name);
        }
        if let Some((_, digest)) = path.rsplit_once("/blobs/") {
            return self.blob(digest, request);
        }
        Answer::error(404, "NAME_UNKNOWN")
    }

    fn manifest(&self, name: &str) -> Answer {
        let found = if name.starts_with("sha256:") {
            fs::read(self.layout.blob(name)).ok().map(|bytes| {
                let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let kind = value["mediaType"].as_str().unwrap_or(crate::image::MANIFEST).to_owned();
                (kind, bytes)
            })
        } else {
            self.layout.find(name).ok().and_then(|descriptor| {
                Some((descriptor.media_type, fs::read(self.layout.blob(&descriptor.digest)).ok()?))
            })
        };
        match found {
            Some((kind, bytes)) => {
                let digest = crate::image::digest(&bytes);
                let mut answer = Answer::new(200, &kind, bytes);
                answer.headers.push(("Docker-Content-Digest".to_owned(), digest));
                answer
            }
            None => Answer::error(404, "MANIFEST_UNKNOWN"),
        }
    }

    fn blob(&self, digest: &str, request: &Request) -> Answer {
        let Ok(bytes) = fs::read(self.layout.blob(digest)) else { return Answer::error(404, "BLOB_UNKNOWN") };
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
        let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
            let mut answer = Answer::new(200, "application/octet-stream", bytes);
            answer.headers.push(("Accept-Ranges".to_owned(), "bytes".to_owned()));
            return answer;
        };
        let first: usize = first.parse().unwrap_or(0);
        let last = last.parse().unwrap_or(usize::MAX).min(bytes.len().saturating_sub(1));
        if first > last {
            return Answer::error(416, "RANGE_INVALID");
        }
        let mut answer = Answer::new(206, "application/octet-stream", &bytes[first..=last]);
        answer.headers.push(("Content-Range".to_owned(), format!("bytes {first}-{last}/{}", bytes.len())));
        answer
    }

    fn token(&self, request: &Request) -> Answer {
        let Some(tokens) = &self.tokens else { return Answer::error(404, "UNSUPPORTED") };
        if let Some((user, password)) = &tokens.login {
            let wanted = format!("Basic {}", base64(format!("{user}:{password}").as_bytes()));
            if request.header("authorization") != Some(&wanted) {
                return Answer::error(401, "UNAUTHORIZED");
            }
        }
        let mut issued = self.issued.lock().expect("no panic while locked");
        issued.push(tokens.uses);
        Answer::new(200, "application/json", format!(r#"{{"token":"t{}","expires_in":300}}"#, issued.len() - 1))
    }

    fn refuse(&self, request: &Request) -> Option<Answer> {
        self.tokens.as_ref()?;
        let mut issued = self.issued.lock().expect("no panic while locked");
        let left = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer t"))
            .and_then(|number| number.parse::<usize>().ok())
            .and_then(|number| issued.get_mut(number));
        if let Some(left) = left.filter(|left| **left > 0) {
            *left -= 1;
            return None;
        }
        let mut answer = Answer::error(401, "UNAUTHORIZED");
        let challenge =
            format!(r#"Bearer realm="http://{}/token",service="testbed",scope="repository:image:pull""#, self.address);
        answer.headers.push(("WWW-Authenticate".to_owned(), challenge));
        Some(answer)
    }
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Digests of the blobs that were asked for, each once.
pub fn distinct(targets: &[String]) -> usize {
    targets.iter().collect::<HashSet<_>>().len()
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_pads() {
        assert_eq!(super::base64(b"a:b"), "YTpi");
        assert_eq!(super::base64(b"user:p"), "dXNlcjpw");
        assert_eq!(super::base64(b"ab"), "YWI=");
        assert_eq!(super::base64(b"a"), "YQ==");
    }
}
