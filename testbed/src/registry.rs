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
        // The port is free when asked for; should another program take it in between, the next one is tried.
        for _ in 0..5 {
            if let Some(registry) = Registry::attempt(work, storage, options)? {
                return Ok(registry);
            }
        }
        let log = fs::read_to_string(work.join("registry.log")).unwrap_or_default();
        Err(io::Error::other(format!("docker-registry did not start: {log}")))
    }

    fn attempt(work: &Path, storage: &Path, options: &Options) -> io::Result<Option<Registry>> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: false}}}}\nstorage: {{filesystem: {{rootdirectory: \
             {}}}, delete: {{enabled: true}}}}\n",
            storage.display()
        );
        config.push_str(&format!("http:\n  addr: {address}\n  secret: testbed\n"));
        if options.tls {
            certificate(work)?;
            let (cert, key) = (work.join("server.crt"), work.join("server.key"));
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
        let mut command = Command::new(options.program.as_deref().unwrap_or(Path::new("docker-registry")));
        command.arg("serve").arg(work.join("registry.yml")).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut server = Guard(process::die_with_parent(&mut command).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if server.0.try_wait()?.is_some() {
                return Ok(None);
            }
            if TcpStream::connect(address).is_ok() {
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

/// Makes an authority and a certificate for the loopback names, signed by it.
fn certificate(dir: &Path) -> io::Result<()> {
    let names = dir.join("names");
    fs::write(&names, "subjectAltName=IP:127.0.0.1,DNS:localhost\n")?;
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
