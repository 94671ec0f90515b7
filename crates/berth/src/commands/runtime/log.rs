//! What the runtime says: to standard error, and to the log that its caller reads.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use super::Global;
use crate::CommandError;

/// Where to.
#[derive(Debug)]
pub struct Log<'a> {
    global: &'a Global,
}

impl<'a> Log<'a> {
    /// Opens nothing yet: most calls have nothing to say.
    pub fn new(global: &'a Global) -> Log<'a> {
        Log { global }
    }

    /// Tells what is called, where that was asked for.
    pub fn debug(&self, verb: &str) {
        if self.global.debug {
            self.write("debug", verb);
        }
    }

    /// Tells of something that stops nothing: in the log only, since standard error is often the command's own.
    pub fn warning(&self, message: &str) {
        self.write("warning", message);
        if self.global.debug && self.global.log.is_none() {
            let _ = writeln!(io::stderr(), "berth: warning: {message}");
        }
    }

    /// Tells an error: in one line, as callers quote it. podman and containerd look for certain words in it.
    pub fn error(&self, error: &CommandError) {
        let mut message = error.to_string();
        if let Some(hint) = error.hint() {
            message.push_str(" (");
            message.push_str(hint);
            message.push(')');
        }
        let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.write("error", &message);
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(io::stderr(), "berth: {message}");
    }

    fn write(&self, level: &str, message: &str) {
        let Some(path) = &self.global.log else { return };
        let time = berth_container::runtime::now();
        let line = if self.global.log_format == "json" {
            serde_json::json!({ "level": level, "msg": message, "time": time }).to_string()
        } else {
            format!("time=\"{time}\" level={level} msg={message:?}")
        };
        let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK).open(path);
        let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    }
}
