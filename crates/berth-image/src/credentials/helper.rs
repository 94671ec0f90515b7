//! Programs that know passwords: docker's credential helpers, and the commands in enroot's `.credentials`.
//!
//! They run as the user, with a bound on time and output, in a process group of their own so that nothing of them is
//! left behind.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::Deserialize;

use super::{Login, Secret};
use crate::error::{Error, Result};

/// How long a helper may take. Some ask a person, or a server.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// How much a helper may write, in bytes.
const MAX_OUTPUT: u64 = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks `docker-credential-<name>` for the login of a server; `None` where it has none.
pub(super) fn get(name: &str, server: &str) -> Result<Option<Login>> {
    let program = format!("docker-credential-{name}");
    let fail = |reason: String| Error::Command { command: format!("{program} get"), reason };
    // The name becomes a program's: it must not reach out of PATH.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(fail("this is no name for a credential helper".to_owned()));
    }
    let mut command = Command::new(&program);
    command.arg("get");
    let output = run(command, server.as_bytes()).map_err(fail)?;
    if !output.success {
        // The one failure that is none; helpers write it on standard output, by the protocol.
        if output.stdout.starts_with(b"credentials not found in native keychain") {
            return Ok(None);
        }
        return Err(fail(format!("it failed{}", last_words(&output.stderr))));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| fail("its answer is not what a credential helper says".to_owned()))?;
    Ok(match (answer.username.as_str(), answer.secret) {
        ("", secret) if secret.is_empty() => None,
        ("<token>", secret) => Some(Login::Identity(Secret::new(secret))),
        (_, secret) => Some(Login::Basic { user: answer.username, password: Secret::new(secret) }),
    })
}

/// Expands a password of enroot's file that begins with `$`, as enroot does: by the shell.
pub(super) fn expand(file: &Path, host: &str, text: &str) -> Result<Secret> {
    let metadata = std::fs::metadata(file).map_err(|e| Error::io("look at", file, e))?;
    let me = rustix::process::geteuid().as_raw();
    // Who can write the file chooses what runs as this user.
    if metadata.mode() & 0o022 != 0 || (metadata.uid() != me && metadata.uid() != 0) {
        return Err(Error::Config {
            path: file.to_owned(),
            reason: "it has commands to run, so it must belong to you and be writable by nobody else (chmod 600)"
                .to_owned(),
        });
    }
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("echo {text}"));
    let fail = |reason: String| Error::Command {
        command: format!("the password of machine {} in {}", host.escape_debug(), file.display()),
        reason,
    };
    let output = run(command, b"").map_err(fail)?;
    let secret = String::from_utf8(output.stdout).map_err(|_| fail("it wrote no UTF-8 text".to_owned()))?;
    let secret = secret.trim_end_matches(['\n', '\r']);
    if !output.success || secret.is_empty() || secret.contains('\n') {
        return Err(fail(format!("it did not give one line{}", last_words(&output.stderr))));
    }
    Ok(Secret::new(secret))
}

struct Output {
    success: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn run(mut command: Command, input: &[u8]) -> std::result::Result<Output, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "there is no such program in PATH".to_owned(),
        _ => e.to_string(),
    })?;
    let group = rustix::process::Pid::from_child(&child);
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else { return Err("it has no pipes".to_owned()) };
    // A server's name fits into any pipe, so this cannot block; a helper that does not read it is its own business.
    let _ = stdin.write_all(input);
    drop(stdin);
    let (sender, receiver) = mpsc::channel();
    for (which, mut pipe) in
        [(0, Box::new(stdout.take(MAX_OUTPUT)) as Box<dyn Read + Send>), (1, Box::new(stderr.take(MAX_OUTPUT)))]
    {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            let _ = sender.send((which, bytes));
        });
    }
    drop(sender);
    let deadline = std::time::Instant::now() + TIME_LIMIT;
    let mut outputs = [Vec::new(), Vec::new()];
    let mut late = false;
    for _ in 0..outputs.len() {
        match receiver.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now())) {
            Ok((which, bytes)) => outputs[which] = bytes,
            Err(_) => {
                late = true;
                break;
            }
        }
    }
    // It may close its output and go on; it is polled because there is no wait with a limit.
    while !late && child.try_wait().map_err(|e| e.to_string())?.is_none() {
        late = std::time::Instant::now() >= deadline;
        std::thread::sleep(Duration::from_millis(5));
    }
    if late {
        // The group is not reaped yet, so its number cannot belong to another.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    if late {
        return Err(format!("it took longer than {} seconds", TIME_LIMIT.as_secs()));
    }
    let [stdout, stderr] = outputs;
    Ok(Output { success: status.success(), stdout, stderr })
}

/// The last line that a program wrote for people. Its standard output is never shown: secrets come that way.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    match text.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!(": {}", line.chars().take(200).flat_map(char::escape_debug).collect::<String>()),
        None => String::new(),
    }
}
