//! What `--fix` does: small, named mends that take nothing away.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use super::Host;

/// The file of settings of the kernel that is berth's.
const SYSCTL: &str = "/etc/sysctl.d/60-berth.conf";

/// A mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Makes a directory, with all above it.
    Directory {
        /// The directory.
        path: String,
        /// Its permissions.
        mode: u32,
        /// Whose it is to be, where not of who asks.
        owner: Option<(u32, u32)>,
    },
    /// Sets permissions.
    Mode {
        /// The file.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// Writes a file that is not there.
    File {
        /// The file.
        path: String,
        /// What is in it.
        content: String,
        /// What has to read it, where something has to.
        then: &'static [&'static str],
    },
    /// Adds a line to a file, or makes the file.
    Line {
        /// The file.
        path: String,
        /// The line.
        line: String,
        /// What has to be done now, where something has to.
        then: &'static [&'static str],
    },
    /// Sets a value of the kernel, now and at each start.
    Sysctl {
        /// With dots.
        key: &'static str,
        /// The value.
        value: &'static str,
    },
}

impl Fix {
    /// The command that does the same.
    pub fn command(&self) -> String {
        match self {
            Fix::Directory { path, mode, owner } => {
                let owner = owner.map(|(uid, gid)| format!(" -o {uid} -g {gid}")).unwrap_or_default();
                format!("install -d -m {mode:04o}{owner} {path}")
            }
            Fix::Mode { path, mode } => format!("chmod {mode:04o} {path}"),
            Fix::File { path, content, then } if content.is_empty() => format!("touch {path}{}", and(then)),
            Fix::File { path, content, then } => {
                format!("printf '%s' '{}' >{path}{}", content.replace('\'', "'\\''").replace('\n', "\\n"), and(then))
            }
            Fix::Line { path, line, then } => format!("echo '{line}' >>{path}{}", and(then)),
            Fix::Sysctl { key, value } => format!("echo '{key} = {value}' >>{SYSCTL} && sysctl -p {SYSCTL}"),
        }
    }

    /// Does it, and tells what was done.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn apply(&self, host: &Host) -> Result<String, String> {
        self.try_apply(host).map_err(|error| plain(&error))
    }

    fn try_apply(&self, host: &Host) -> io::Result<String> {
        match self {
            Fix::Directory { path, mode, owner } => {
                let target = host.path(path);
                fs::create_dir_all(&target)?;
                fs::set_permissions(&target, fs::Permissions::from_mode(*mode))?;
                if let Some((uid, gid)) = owner {
                    host.tries.give(&target, *uid, *gid)?;
                }
                Ok(format!("made the directory {path}, mode {mode:04o}"))
            }
            Fix::Mode { path, mode } => {
                fs::set_permissions(host.path(path), fs::Permissions::from_mode(*mode))?;
                Ok(format!("set the mode of {path} to {mode:04o}"))
            }
            Fix::File { path, content, then } => {
                let target = host.path(path);
                if fs::read_to_string(&target).is_ok_and(|have| have != *content) {
                    return Err(io::Error::other(format!("{path} is there already, and different")));
                }
                fs::create_dir_all(target.parent().expect("a file is in a folder"))?;
                fs::write(target, content)?;
                Ok(format!("wrote {path}{}", run(host, then)?))
            }
            Fix::Line { path, line, then } => {
                append(host, path, line)?;
                Ok(format!("added `{line}` to {path}{}", run(host, then)?))
            }
            Fix::Sysctl { key, value } => {
                append(host, SYSCTL, &format!("{key} = {value}"))?;
                fs::write(host.path(&format!("/proc/sys/{}", key.replace('.', "/"))), format!("{value}\n"))?;
                Ok(format!("set {key} to {value}, now and in {SYSCTL}"))
            }
        }
    }
}

/// What has to be done after it, for the command.
fn and(then: &[&str]) -> String {
    if then.is_empty() { String::new() } else { format!(" && {}", then.join(" ")) }
}

/// What has to be done after it.
fn run(host: &Host, then: &[&str]) -> io::Result<String> {
    if then.is_empty() {
        return Ok(String::new());
    }
    let ran = host.run(then);
    if ran.ok() {
        return Ok(format!("; ran {}", then.join(" ")));
    }
    Err(io::Error::other(format!("what was written is not in force: {}: {}", then.join(" "), ran.reason())))
}

/// The system's words for an error, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or_default().to_owned()
}

fn append(host: &Host, path: &str, line: &str) -> io::Result<()> {
    let target = host.path(path);
    fs::create_dir_all(target.parent().expect("a file is in a folder"))?;
    let mut text = match fs::read_to_string(&target) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if text.lines().any(|have| have.trim() == line) {
        return Ok(());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
    fs::write(target, text)
}
