//! Debian's docker-registry on a free port of loopback, with its access log.

use std::fs;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::process;
use crate::process::Guard;

/// How a registry guards itself.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Serve https with a certificate of its own authority, which [`Registry::authority`] then names.
    pub tls: bool,
    /// Ask for this user and password.
    pub login: Option<(String, String)>,
    /// The program, where it is not docker-registry of the path.
    pub program: Option<PathBuf>,
    /// Where it serves, if not on a free port of this machine's loopback.
    pub place: Option<Place>,
}

/// An address of some network.
#[derive(Debug, Clone)]
pub struct Place {
    /// A process that is in that network.
    pub process: i32,
    /// The address and port there.
    pub address: SocketAddr,
    /// With TLS: the folder in which [`certificate`] has put its files.
    pub certificate: PathBuf,
}

/// A running registry; it ends when this goes out of scope.
#[derive(Debug)]
pub struct Registry {
    _server: Guard,
    address: SocketAddr,
    log: PathBuf,
    work: PathBuf,
}

impl Registry {
    /// Starts a registry over `storage`, with its configuration and log in `work`.
    pub fn start(work: &Path, storage: &Path, options: &Options) -> io::Result<Registry> {
        fs::create_dir_all(work)?;
        fs::create_dir_all(storage)?;
        if options.place.is_some() {
            return match Registry::attempt(work, storage, options)? {
                Some(registry) => Ok(registry),
                None => Err(Registry::not_started(work)),
            };
        }
        // The port is free when asked for; should another program take it in between, the next one is tried.
        for _ in 0..5 {
            if let Some(registry) = Registry::attempt(work, storage, options)? {
                return Ok(registry);
            }
        }
        Err(Registry::not_started(work))
    }

    fn not_started(work: &Path) -> io::Error {
        let log = fs::read_to_string(work.join("registry.log")).unwrap_or_default();
        io::Error::other(format!("docker-registry did not start: {log}"))
    }

    fn attempt(work: &Path, storage: &Path, options: &Options) -> io::Result<Option<Registry>> {
        let address = match &options.place {
            Some(place) => place.address,
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?,
        };
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: false}}}}\nstorage: {{filesystem: {{rootdirectory: \
             {}}}, delete: {{enabled: true}}}}\n",
            storage.display()
        );
        config.push_str(&format!("http:\n  addr: {address}\n  secret: testbed\n"));
        if options.tls {
            let dir = options.place.as_ref().map_or(work, |place| &place.certificate);
            if options.place.is_none() {
                certificate(work, &["IP:127.0.0.1", "DNS:localhost"])?;
            }
            let (cert, key) = (dir.join("server.crt"), dir.join("server.key"));
            config.push_str(&format!("  tls: {{certificate: {}, key: {}}}\n", cert.display(), key.display()));
        }
        if let Some((user, password)) = &options.login {
            let made = process::run(Command::new("htpasswd").args(["-Bbn", user, password]));
            let file = work.join("htpasswd");
            fs::write(&file, made.ok())?;
            config.push_str(&format!("auth: {{htpasswd: {{realm: testbed, path: {}}}}}\n", file.display()));
        }
        fs::write(work.join("registry.yml"), config)?;
        let log = work.join("registry.log");
        let output = File::create(&log)?;
        let program = options.program.as_deref().unwrap_or(Path::new("docker-registry"));
        let mut command = match &options.place {
            Some(place) => {
                let mut command = Command::new("nsenter");
                command.arg("-t").arg(place.process.to_string()).args(["-n", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("serve").arg(work.join("registry.yml")).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut server = Guard(process::die_with_parent(&mut command).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if server.0.try_wait()?.is_some() {
                return Ok(None);
            }
            let listens = match &options.place {
                Some(_) => listens(server.0.id(), address),
                None => TcpStream::connect(address).is_ok(),
            };
            if listens {
                return Ok(Some(Registry { _server: server, address, log, work: work.to_owned() }));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(None)
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `docker://` reference of a repository and tag here.
    pub fn reference(&self, name_and_tag: &str) -> String {
        format!("docker://{}/{name_and_tag}", self.address)
    }

    /// The authority that signed a TLS registry's certificate (PEM).
    pub fn authority(&self) -> PathBuf {
        self.work.join("ca.crt")
    }

    /// Requests answered so far, as `GET /v2/… 200`.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter_map(parse_access).collect()
    }

    /// How often each blob's content was sent, by digest.
    pub fn blob_fetches(&self) -> std::collections::BTreeMap<String, usize> {
        let mut counts = std::collections::BTreeMap::new();
        for request in self.requests() {
            let mut words = request.split(' ');
            if let (Some("GET"), Some(target), Some("200" | "206")) = (words.next(), words.next(), words.next())
                && let Some((_, digest)) = target.rsplit_once("/blobs/")
            {
                *counts.entry(digest.to_owned()).or_insert(0) += 1;
            }
        }
        counts
    }
}

/// `127.0.0.1 - - [date] "GET /v2/ HTTP/1.1" 200 2 "" "agent"` → `GET /v2/ 200`.
fn parse_access(line: &str) -> Option<String> {
    let mut quoted = line.split('"');
    let _client = quoted.next()?;
    let mut request = quoted.next()?.split(' ');
    let (method, target, version) = (request.next()?, request.next()?, request.next()?);
    if !version.starts_with("HTTP/") {
        return None;
    }
    let status = quoted.next()?.trim().split(' ').next()?;
    Some(format!("{method} {target} {status}"))
}

/// Whether an IPv4 address and port is listened on in the network of a process. That network may be one that this process
/// cannot reach, so the kernel's table is asked.
fn listens(process: u32, address: SocketAddr) -> bool {
    let SocketAddr::V4(address) = address else { return false };
    let number = u32::from_ne_bytes(address.ip().octets());
    let wanted = format!("{number:08X}:{:04X}", address.port());
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words[..], [_, local, _, "0A", ..] if local == wanted)
    })
}

/// Makes an authority (`ca.crt`) and a certificate for names (`DNS:…`, `IP:…`) that it signed (`server.crt`, `server.key`).
pub fn certificate(dir: &Path, names: &[&str]) -> io::Result<()> {
    fs::write(dir.join("names"), format!("subjectAltName={}\n", names.join(",")))?;
    let path = |name: &str| dir.join(name).display().to_string();
    let openssl = |args: &[&str]| process::run(Command::new("openssl").args(args)).ok();
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"];
    openssl(
        &[
            &["req"],
            &ec[..],
            &[&path("ca.key"), "-x509", "-days", "2", "-subj", "/CN=testbed authority"],
            &["-out", &path("ca.crt")],
        ]
        .concat(),
    );
    openssl(&[&["req"], &ec[..], &[&path("server.key"), "-subj", "/CN=testbed", "-out", &path("server.csr")]].concat());
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        &path("server.csr"),
        "-CA",
        &path("ca.crt"),
        "-CAkey",
        &path("ca.key"),
        "-CAcreateserial",
        "-extfile",
        &path("names"),
        "-out",
        &path("server.crt"),
    ]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_line_gives_method_target_and_status() {
        let line = r#"127.0.0.1 - - [21/Nov/2026:04:00:00 +0000] "GET /v2/a/blobs/sha256:00 HTTP/1.1" 200 5 "" "x/1""#;
        assert_eq!(parse_access(line).unwrap(), "GET /v2/a/blobs/sha256:00 200");
        assert_eq!(parse_access(r#"time="x" level=info msg="hello there you""#), None);
    }
}
