//! As much of a D-Bus client as asking systemd takes.
//!
//! Source: <https://dbus.freedesktop.org/doc/dbus-specification.html>. Messages are sent with little endian numbers.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use super::{Property, Value, runtime_bus};

pub(super) const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Systemd answers in milliseconds; what takes longer than this is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// The specification allows 128 MiB; nothing that we ask for is that long.
const MAX_MESSAGE: usize = 1 << 20;

/// Why systemd did not do it.
#[derive(Debug)]
pub(super) enum Failure {
    /// The bus could not be talked to.
    Io(io::Error),
    /// It answered with an error: its name and its text.
    Answer(String, String),
    /// It has done it in vain, with this result.
    Job(String),
}

impl Failure {
    pub(super) fn name(&self) -> &str {
        match self {
            Failure::Answer(name, _) => name,
            _ => "",
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        // What a read says that waited too long.
        if error.kind() == io::ErrorKind::WouldBlock {
            return Failure::Io(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
        }
        Failure::Io(error)
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        match failure {
            Failure::Io(error) => error,
            Failure::Answer(name, text) => io::Error::other(format!("{text} ({name})")),
            Failure::Job(result) => io::Error::other(format!("systemd tried, with the result `{result}`")),
        }
    }
}

fn malformed() -> Failure {
    Failure::Io(io::Error::new(io::ErrorKind::InvalidData, "the answer is malformed"))
}

/// The address of the system's bus.
pub(super) fn system_address() -> String {
    std::env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|_| format!("unix:path={SYSTEM_BUS}"))
}

/// The address of the user's bus.
pub(super) fn user_address() -> Option<String> {
    match std::env::var("DBUS_SESSION_BUS_ADDRESS") {
        Ok(address) if !address.is_empty() => Some(address),
        _ => {
            let mut address = "unix:path=".to_owned();
            for &byte in runtime_bus()?.as_os_str().as_bytes() {
                match byte {
                    b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'/' | b'.' => address.push(byte.into()),
                    _ => address += &format!("%{byte:02x}"),
                }
            }
            Some(address)
        }
    }
}

/// The sockets that an address names, in order.
pub(super) fn sockets(address: &str) -> Vec<SocketAddr> {
    let one = |entry: &str| {
        let keys = entry.strip_prefix("unix:")?;
        keys.split(',').find_map(|pair| match pair.split_once('=')? {
            ("path", path) => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(&unescape(path)?)).ok(),
            ("abstract", name) => SocketAddr::from_abstract_name(unescape(name)?).ok(),
            _ => None,
        })
    };
    address.split(';').filter_map(one).collect()
}

/// Values of addresses have `%` and two digits for odd bytes.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        plain.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    Some(plain)
}

/// A connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    end: Instant,
    /// Who answered last: only its signals count.
    peer: String,
    /// Signals that came while an answer was awaited.
    signals: Vec<Message>,
}

impl Bus {
    pub(super) fn connect(address: &str) -> Result<Bus, Failure> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address of a unix socket");
        for socket in sockets(address) {
            match UnixStream::connect_addr(&socket) {
                Ok(stream) => return Bus::greet(stream),
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    /// Says who we are: the bus asks the kernel, so that it is right in a user namespace as well.
    fn greet(stream: UnixStream) -> Result<Bus, Failure> {
        let mut bus =
            Bus { stream, serial: 0, end: Instant::now() + PATIENCE, peer: String::new(), signals: Vec::new() };
        bus.stream.set_write_timeout(Some(PATIENCE))?;
        bus.stream.write_all(b"\0AUTH EXTERNAL\r\n")?;
        loop {
            let line = bus.line()?;
            match line.split_whitespace().next() {
                Some("DATA") => bus.stream.write_all(b"DATA\r\n")?,
                Some("OK") => break,
                _ => {
                    let text = format!("the bus does not let us in: {line}");
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text).into());
                }
            }
        }
        bus.stream.write_all(b"BEGIN\r\n")?;
        bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", Body::default())?;
        Ok(bus)
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 1024 {
                return Err(malformed());
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Asks for a signal of systemd's.
    pub(super) fn subscribe(&mut self, interface: &str, member: &str) -> Result<(), Failure> {
        let rule = format!("type='signal',sender='{}',interface='{interface}',member='{member}'", super::SERVICE);
        let (bus, path) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
        self.call(bus, path, bus, "AddMatch", Body::default().string(&rule))?;
        // Without it systemd sends no signals to anybody, where nobody else has asked.
        self.call(super::SERVICE, super::OBJECT, super::INTERFACE, "Subscribe", Body::default())?;
        Ok(())
    }

    /// Calls a method and waits for the answer.
    pub(super) fn call(
        &mut self,
        service: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Body,
    ) -> Result<Message, Failure> {
        self.end = Instant::now() + PATIENCE;
        let fields = [(1, "o", path), (6, "s", service), (2, "s", interface), (3, "s", member)];
        let serial = self.send(METHOD_CALL, &fields, None, body)?;
        loop {
            let message = self.receive()?;
            match message.kind {
                METHOD_RETURN if message.reply_to == serial => {
                    self.peer.clone_from(&message.sender);
                    return Ok(message);
                }
                ERROR if message.reply_to == serial => {
                    let text = message.first_text().unwrap_or_default();
                    return Err(Failure::Answer(message.error, text));
                }
                // As many as systemd can have to tell of while it answers.
                SIGNAL if self.signals.len() < 4096 => self.signals.push(message),
                _ => {}
            }
        }
    }

    /// Waits for a signal.
    pub(super) fn signal(&mut self, member: &str) -> Result<Message, Failure> {
        self.end = Instant::now() + PATIENCE;
        let mut early = std::mem::take(&mut self.signals).into_iter();
        loop {
            let message = match early.next() {
                Some(message) => message,
                None => self.receive()?,
            };
            if message.kind == SIGNAL && message.member == member && message.sender == self.peer {
                self.signals = early.collect();
                return Ok(message);
            }
        }
    }

    pub(super) fn send(
        &mut self,
        kind: u8,
        fields: &[(u8, &str, &str)],
        reply_to: Option<u32>,
        body: Body,
    ) -> Result<u32, Failure> {
        self.serial += 1;
        let mut message = Body::default();
        message.bytes.extend([b'l', kind, 0, 1]);
        message.u32(u32::try_from(body.bytes.len()).map_err(|_| malformed())?);
        message.u32(self.serial);
        message.array(8, |message| {
            for &(code, signature, text) in fields {
                message.align(8);
                message.bytes.push(code);
                message.signature(signature);
                message.text(text);
            }
            if let Some(serial) = reply_to {
                message.align(8);
                message.bytes.push(5);
                message.signature("u");
                message.u32(serial);
            }
            if !body.signature.is_empty() {
                message.align(8);
                message.bytes.push(8);
                message.signature("g");
                message.signature(&body.signature);
            }
        });
        message.align(8);
        message.bytes.extend(&body.bytes);
        self.stream.write_all(&message.bytes)?;
        Ok(self.serial)
    }

    pub(super) fn receive(&mut self) -> Result<Message, Failure> {
        let mut header = [0; 16];
        self.read(&mut header)?;
        // The bus hands on what systemd sends, and that has the machine's own order.
        let big = match header[0] {
            b'l' => false,
            b'B' => true,
            _ => return Err(malformed()),
        };
        let number = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        let (body, fields) = (number(4) as usize, number(12) as usize);
        if body > MAX_MESSAGE || fields > MAX_MESSAGE {
            return Err(malformed());
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.read(&mut rest)?;
        let body = rest.split_off(fields.next_multiple_of(8));
        rest.truncate(fields);
        Message::parse(header[1], number(8), big, &rest, body)
    }

    fn read(&mut self, mut buffer: &mut [u8]) -> Result<(), Failure> {
        while !buffer.is_empty() {
            let left = self.end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from(io::ErrorKind::WouldBlock).into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

pub(super) const METHOD_CALL: u8 = 1;
pub(super) const METHOD_RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// Values about to be sent.
#[derive(Debug, Default)]
pub(super) struct Body {
    signature: String,
    bytes: Vec<u8>,
}

impl Body {
    pub(super) fn string(mut self, text: &str) -> Body {
        self.signature.push('s');
        self.text(text);
        self
    }

    /// `a(sv)`
    pub(super) fn properties(mut self, properties: &[Property]) -> Body {
        self.signature += "a(sv)";
        self.array(8, |body| {
            for Property { name, value } in properties {
                body.align(8);
                body.text(name);
                body.variant(value);
            }
        });
        self
    }

    /// `a(sa(sv))`, of which systemd has none that would be used.
    pub(super) fn no_auxiliary_units(mut self) -> Body {
        self.signature += "a(sa(sv))";
        self.array(8, |_| {});
        self
    }

    /// `uoss`, as in the signal that a job is done.
    #[cfg(test)]
    pub(super) fn job(mut self, id: u32, job: &str, unit: &str, result: &str) -> Body {
        self.signature += "uoss";
        self.u32(id);
        self.text(job);
        self.text(unit);
        self.text(result);
        self
    }

    #[cfg(test)]
    pub(super) fn number(mut self, value: u32) -> Body {
        self.signature.push('u');
        self.u32(value);
        self
    }

    #[cfg(test)]
    pub(super) fn path(mut self, path: &str) -> Body {
        self.signature.push('o');
        self.text(path);
        self
    }

    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        // No text of ours is near 4 GiB, and one with a zero in it would be refused by the bus.
        self.u32(text.len() as u32);
        self.bytes.extend(text.bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.bytes.push(signature.len() as u8);
        self.bytes.extend(signature.bytes());
        self.bytes.push(0);
    }

    fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Body)) {
        self.u32(0);
        let length = self.bytes.len() - 4;
        self.align(alignment);
        let start = self.bytes.len();
        elements(self);
        let count = (self.bytes.len() - start) as u32;
        self.bytes[length..length + 4].copy_from_slice(&count.to_le_bytes());
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Bool(value) => {
                self.signature("b");
                self.u32((*value).into());
            }
            Value::U64(value) => {
                self.signature("t");
                self.align(8);
                self.bytes.extend(value.to_le_bytes());
            }
            Value::Text(value) => {
                self.signature("s");
                self.text(value);
            }
            Value::Bytes(value) => {
                self.signature("ay");
                self.array(1, |body| body.bytes.extend(value));
            }
            Value::Ids(value) => {
                self.signature("au");
                self.array(4, |body| value.iter().for_each(|&id| body.u32(id)));
            }
            Value::Pairs(value) => {
                self.signature("a(ss)");
                self.array(8, |body| {
                    for (first, second) in value {
                        body.align(8);
                        body.text(first);
                        body.text(second);
                    }
                });
            }
        }
    }
}

/// A message that came.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) kind: u8,
    #[cfg(test)]
    pub(super) serial: u32,
    pub(super) reply_to: u32,
    pub(super) member: String,
    pub(super) sender: String,
    error: String,
    big: bool,
    pub(super) body: Vec<u8>,
}

impl Message {
    pub(super) fn parse(kind: u8, _serial: u32, big: bool, fields: &[u8], body: Vec<u8>) -> Result<Message, Failure> {
        let mut message = Message {
            kind,
            #[cfg(test)]
            serial: _serial,
            big,
            body,
            ..Message::default()
        };
        let mut reader = Reader { bytes: fields, at: 0, big };
        while reader.at < fields.len() {
            reader.align(8)?;
            let code = reader.byte()?;
            let signature = reader.signature()?;
            match (code, signature.as_str()) {
                (5, "u") => message.reply_to = reader.u32()?,
                (3, "s") => message.member = reader.text()?,
                (4, "s") => message.error = reader.text()?,
                (7, "s") => message.sender = reader.text()?,
                (_, "s" | "o") => drop(reader.text()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.u32()?),
                _ => return Err(malformed()),
            }
        }
        Ok(message)
    }

    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0, big: self.big }
    }

    /// The text that the message begins with.
    pub(super) fn first_text(&self) -> Result<String, Failure> {
        self.reader().text()
    }

    /// The job and its result, of `JobRemoved`.
    pub(super) fn job(&self) -> Result<(String, String), Failure> {
        let mut reader = self.reader();
        reader.u32()?;
        let (job, _unit, result) = (reader.text()?, reader.text()?, reader.text()?);
        Ok((job, result))
    }
}

/// Reads values; what is cut short is malformed.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl Reader<'_> {
    #[cfg(test)]
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&[u8], Failure> {
        let end = self.at.checked_add(count).ok_or_else(malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(malformed)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn align(&mut self, to: usize) -> Result<(), Failure> {
        let padding = self.at.next_multiple_of(to) - self.at;
        self.take(padding).map(drop)
    }

    fn byte(&mut self) -> Result<u8, Failure> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Failure> {
        self.align(4)?;
        let big = self.big;
        let bytes = self.take(4)?.try_into().map_err(|_| malformed())?;
        Ok(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    pub(super) fn text(&mut self) -> Result<String, Failure> {
        let length = self.u32()? as usize;
        let text = String::from_utf8(self.take(length)?.to_vec()).map_err(|_| malformed())?;
        self.take(1)?;
        Ok(text)
    }

    pub(super) fn signature(&mut self) -> Result<String, Failure> {
        let length = self.byte()?.into();
        let text = String::from_utf8(self.take(length)?.to_vec()).map_err(|_| malformed())?;
        self.take(1)?;
        Ok(text)
    }
}
