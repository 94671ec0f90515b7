//! The little HTTP that the fixtures speak, with servers on loopback only.

use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

/// A server's answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first field of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Sends one request over a new connection.
pub fn request(
    server: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Option<(&mut dyn Read, u64)>,
) -> io::Result<Response> {
    assert!(server.ip().is_loopback(), "the fixtures talk to loopback only");
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = body.as_ref().map_or(0, |(_, length)| *length);
    head.push_str(&format!("Content-Length: {length}\r\n\r\n"));
    stream.write_all(head.as_bytes())?;
    if let Some((content, length)) = body {
        io::copy(&mut content.take(length), &mut stream)?;
    }
    stream.flush()?;
    read_response(&mut BufReader::new(stream), method == "HEAD")
}

fn read_response(input: &mut impl BufRead, head_only: bool) -> io::Result<Response> {
    let bad = |what: &str| io::Error::other(format!("bad HTTP answer: {what}"));
    let mut line = String::new();
    input.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| bad(&line))?;
    let headers = read_fields(input)?;
    let mut response = Response { status, headers, body: Vec::new() };
    if head_only {
        return Ok(response);
    }
    if response.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            input.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16).map_err(|_| bad("chunk size"))?;
            input.take(size).read_to_end(&mut response.body)?;
            input.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(response);
            }
        }
    }
    match response.header("content-length").and_then(|length| length.parse().ok()) {
        Some(length) => input.take(length).read_to_end(&mut response.body)?,
        None => input.read_to_end(&mut response.body)?,
    };
    Ok(response)
}

/// Reads header fields up to the empty line; names in lower case.
pub fn read_fields(input: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            return Ok(fields);
        }
        if let Some((name, value)) = line.trim_end().split_once(':') {
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}
