//! This host, really.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::net::ToSocketAddrs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use rustix::process::Pid;
use rustix::process::Signal;

use super::Attempt;
use super::Host;
use super::LIMIT;
use super::Person;
use super::Places;
use super::Ran;
use super::Role;
use super::Space;
use super::Tries;
use super::probe;

/// Longest that one program may take, and one connection, in tenths of what all checks may.
const PROGRAM: u32 = 8;
const CONNECTION: u32 = 5;

/// How often it is looked whether a program has ended.
const STEP: Duration = Duration::from_millis(3);

/// The exit code by which `berth run` says that a command is not there: everything before it has worked.
const NOT_FOUND: i32 = 127;

/// The account of a name or a number; `None` where there is none.
pub fn account(name: &str) -> Option<Person> {
    let mut command = Command::new("getent");
    command.args(["passwd", name]);
    let ran = finish(command, "", LIMIT);
    let fields: Vec<&str> = ran.stdout.lines().next()?.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
    Some(Person {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: Some(home.to_owned()).filter(|home| !home.is_empty()),
        named: true,
    })
}

/// Who asks. Root asks for somebody without rights, as what root can do tells nothing of what users can.
pub fn whoever_asks() -> Person {
    let uid = rustix::process::geteuid().as_raw();
    if uid == 0 {
        let nobody = Person { name: "nobody".to_owned(), uid: NOBODY, gid: NOBODY, home: None, named: false };
        return nobody;
    }
    let gid = rustix::process::getegid().as_raw();
    let unknown = || Person { name: uid.to_string(), uid, gid, home: std::env::var("HOME").ok(), named: true };
    account(&uid.to_string()).unwrap_or_else(unknown)
}

/// This host.
///
/// # Errors
/// No folder can be made among temporary files.
pub fn host(role: Role, person: Person, places: Places, limit: Duration) -> std::io::Result<Host> {
    Ok(Host {
        root: PathBuf::from("/"),
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        role,
        tries: Box::new(Live::new(&person, limit)?),
        person,
        places,
        limit,
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        site: std::sync::OnceLock::new(),
    })
}

/// The number of nobody.
const NOBODY: u32 = 65534;

/// Tries things on this host, as somebody.
#[derive(Debug)]
pub struct Live {
    /// Whom: other ids than ours only where we are root.
    ids: Option<(u32, u32)>,
    home: Option<String>,
    /// An empty folder for what needs one, removed at the end.
    scratch: PathBuf,
    limit: Duration,
}

impl Live {
    /// As the person; root may try things as anybody.
    ///
    /// # Errors
    /// No folder can be made among temporary files.
    pub fn new(person: &Person, limit: Duration) -> std::io::Result<Live> {
        let own = rustix::process::geteuid().as_raw();
        let ids = (own == 0 && person.uid != 0).then_some((person.uid, person.gid));
        // Among temporary files anybody may have taken a name that can be guessed.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let scratch = std::env::temp_dir().join(format!("berth-doctor-{}-{now}", std::process::id()));
        fs::create_dir(&scratch)?;
        let live = Live { ids, home: person.home.clone(), scratch, limit };
        for name in ["overlay", "root", "root/bin", "home"] {
            fs::create_dir(live.scratch.join(name))?;
        }
        if let Some((uid, gid)) = ids {
            for name in ["", "overlay", "root", "root/bin", "home"] {
                std::os::unix::fs::chown(live.scratch.join(name), Some(uid), Some(gid))?;
            }
        }
        Ok(live)
    }

    fn program(&self) -> Duration {
        self.limit * PROGRAM / 10
    }

    /// A command of berth's own, as the person.
    fn own(&self, words: &[&str]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args(words).env("BERTH_CONFIG", "/dev/null").current_dir("/");
        let home = self.home.as_ref().map(PathBuf::from).filter(|home| home.is_dir());
        command.env("HOME", home.unwrap_or_else(|| self.scratch.join("home")));
        if let Some((uid, gid)) = self.ids {
            // Dropping root's groups comes with another uid.
            command
                .uid(uid)
                .gid(gid)
                .env_remove("XDG_RUNTIME_DIR")
                .env_remove("XDG_DATA_HOME")
                .env_remove("XDG_CONFIG_HOME");
        }
        command
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Left behind, it is an empty folder among temporary files.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

impl Tries for Live {
    fn run(&self, words: &[&str], input: &str) -> Ran {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        finish(command, input, self.program())
    }

    fn attempt(&self, what: Attempt, place: &Path) -> Result<(), String> {
        let ran = match (what, probe::word(what)) {
            (Attempt::Container | Attempt::ManyIds, _) => {
                let root = format!("dir:{}", self.scratch.join("root").display());
                let mut words = vec!["run", "--json", "--no-home", "--no-cwd"];
                words.extend((what == Attempt::ManyIds).then_some("--subid"));
                words.extend([root.as_str(), "/bin/nothing"]);
                let ran = finish(self.own(&words), "", self.program());
                if ran.code == Some(NOT_FOUND) {
                    return Ok(());
                }
                ran
            }
            (Attempt::Overlay, Some(word)) => finish(
                self.own(&["doctor", "--try", word, "--in", &self.scratch.join("overlay").to_string_lossy()]),
                "",
                self.program(),
            ),
            (_, Some(word)) => {
                finish(self.own(&["doctor", "--try", word, "--in", &place.to_string_lossy()]), "", self.program())
            }
            (_, None) => return Ok(()),
        };
        if ran.ok() {
            return Ok(());
        }
        let error: serde_json::Value = serde_json::from_str(ran.stderr.trim()).unwrap_or_default();
        Err(error["error"]
            .as_str()
            .map_or_else(|| ran.reason().trim_start_matches("berth: ").to_owned(), str::to_owned))
    }

    fn connect(&self, host: &str, port: u16) -> Result<(), String> {
        let (sender, receiver) = mpsc::channel();
        let limit = self.limit * CONNECTION / 10;
        let target = (host.trim_matches(['[', ']']).to_owned(), port);
        // Asking for a name has no time limit of its own.
        thread::spawn(move || {
            let addresses = target.to_socket_addrs().map_err(|_| "its name is not known".to_owned());
            let connected = addresses.and_then(|addresses| {
                let mut last = "its name has no address".to_owned();
                for address in addresses {
                    match TcpStream::connect_timeout(&address, limit) {
                        Ok(_) => return Ok(()),
                        Err(error) => last = error.kind().to_string(),
                    }
                }
                Err(last)
            });
            let _ = sender.send(connected);
        });
        receiver.recv_timeout(limit).unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    fn space(&self, path: &Path) -> Option<Space> {
        let found = rustix::fs::statvfs(path).ok()?;
        let files = (found.f_files != 0).then_some(found.f_favail);
        Some(Space { free: found.f_bavail.saturating_mul(found.f_frsize), files })
    }

    fn clock_of(&self, dir: &Path) -> Option<i64> {
        let path = dir.join(format!(".berth-doctor-{}-clock", std::process::id()));
        let made = fs::File::options().write(true).create_new(true).open(&path);
        let changed = made.and_then(|mut file| {
            file.write_all(b"x")?;
            file.sync_all()?;
            file.metadata()?.modified()
        });
        let now = SystemTime::now();
        // Left behind it would be a file of one letter with a telling name.
        let _ = fs::remove_file(path);
        let seconds =
            |time: SystemTime| time.duration_since(UNIX_EPOCH).ok().and_then(|time| i64::try_from(time.as_secs()).ok());
        Some(seconds(changed.ok()?)? - seconds(now)?)
    }

    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
    }

    fn capable(&self, path: &Path) -> bool {
        let mut value = [0u8; 64];
        rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok_and(|length| length > 0)
    }
}

/// Runs a command to its end, or to the end of its time.
fn finish(mut command: Command, input: &str, limit: Duration) -> Ran {
    let piped = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(piped).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            return Ran {
                missing: error.kind() == std::io::ErrorKind::NotFound,
                stderr: error.to_string(),
                ..Ran::default()
            };
        }
    };
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not read is judged by how it ends.
        let _ = pipe.write_all(input.as_bytes());
    }
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(pipe) = pipe {
                let _ = pipe.take(1 << 20).read_to_end(&mut text);
            }
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
        });
        receiver
    };
    let stdout = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let (code, late) = wait(&mut child, limit);
    let text = |receiver: mpsc::Receiver<String>| receiver.recv_timeout(STEP * 30).unwrap_or_default();
    Ran { code, missing: false, late, stdout: text(stdout), stderr: text(stderr) }
}

fn wait(child: &mut Child, limit: Duration) -> (Option<i32>, bool) {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return (status.code(), false),
            Ok(None) if start.elapsed() < limit => thread::sleep(STEP),
            _ => break,
        }
    }
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It has just been alive, and nobody else waits for it: the number is still its own.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
    (None, true)
}
