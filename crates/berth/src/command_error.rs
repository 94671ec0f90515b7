//! The one way in which the command fails: a kind (which decides the exit code), a message, a hint.
//!
//! The libraries below have precise errors; every conversion into what a person reads is here, so that hints and exit
//! codes can be read in one place. Exit codes are those of podman and docker, so that scripts need not care which of
//! them ran: see [`Kind::exit_code`].

use crate::ExitCode;
use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

/// Who or what is at fault, as far as the exit code needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line cannot be understood.
    Usage,
    /// A configuration file cannot be used.
    Config,
    /// berth could not do what it was asked.
    Failure,
    /// The command exists in the container and cannot be invoked.
    CannotInvoke,
    /// The command does not exist in the container.
    CommandNotFound,
    /// A signal ended us before the command ran: 128 and its number.
    Signal(u8),
    /// Whoever read our output has gone.
    BrokenPipe,
    /// The verb did its work and reports that something is not as it should be (`berth verify`). The report is the
    /// output; nothing else is printed.
    Findings,
}

impl Kind {
    /// 125 for a failure of berth's own, 126 and 127 as a shell gives them; 1 for findings; 141 is what a shell reports
    /// for a program that SIGPIPE ended.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage | Kind::Config | Kind::Failure => 125,
            Kind::Signal(code) => code,
            Kind::CannotInvoke => 126,
            Kind::CommandNotFound => 127,
            Kind::BrokenPipe => 141,
            Kind::Findings => 1,
        }
    }
}

/// What every verb returns when it fails.
#[derive(Debug)]
pub struct CommandError {
    kind: Kind,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl CommandError {
    /// An error of this kind. The message says what failed, on what, and why, without a full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> CommandError {
        CommandError { kind, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// berth could not do something.
    pub fn failure(message: impl Into<String>) -> CommandError {
        CommandError::new(Kind::Failure, message)
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> CommandError {
        CommandError::new(Kind::Usage, message)
    }

    /// An input or output error, with what was tried and on what.
    pub fn io(action: &str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> CommandError {
        let source = source.into();
        CommandError::failure(format!("cannot {action} {}: {}", path.as_ref().display(), os_reason(&source)))
    }

    /// An error of this kind from a library's, with its chain of causes.
    pub fn from_error(kind: Kind, error: &(dyn StdError + 'static)) -> CommandError {
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            causes.push(without_number(cause.to_string()));
            next = cause.source();
        }
        CommandError { kind, message: without_number(error.to_string()), causes, hint: None }
    }

    /// Says what the person can do about it; a hint that is there already is replaced.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> CommandError {
        self.hint = Some(hint.into());
        self
    }

    /// Likewise, where there may be nothing to say; a hint that is there already stays.
    #[must_use]
    pub fn with_hint_if(mut self, hint: Option<impl Into<String>>) -> CommandError {
        if self.hint.is_none() {
            self.hint = hint.map(Into::into);
        }
        self
    }

    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The status that the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.exit_code())
    }

    /// Prints it to standard error: as text, or as one JSON object on a line.
    pub fn report(&self, json: bool) {
        if matches!(self.kind, Kind::BrokenPipe | Kind::Findings) {
            return;
        }
        // Nobody is left to tell when standard error is gone.
        let _ = io::stderr().lock().write_all(if json { self.json_line() } else { self.text() }.as_bytes());
    }

    fn text(&self) -> String {
        let mut text = format!("berth: {}", self.message);
        // A message that quotes its cause, as most do, needs no second telling.
        for cause in self.causes.iter().filter(|cause| !self.message.contains(cause.as_str())) {
            text.push_str(": ");
            text.push_str(cause);
        }
        text.push('\n');
        if let Some(hint) = &self.hint {
            text.push_str("hint: ");
            text.push_str(hint);
            text.push('\n');
        }
        text
    }

    /// The same as lines, for who prints them with something before each. What begins with the name of a program is left
    /// as it is.
    pub fn lines(&self) -> Vec<String> {
        let text = self.text();
        let text = if self.message.starts_with("pyxis: ") { text.trim_start_matches("berth: ") } else { &text };
        text.lines().map(str::to_owned).collect()
    }

    fn json_line(&self) -> String {
        let object = serde_json::json!({
            "error": self.message,
            "causes": self.causes,
            "hint": self.hint,
            "code": self.kind.exit_code(),
        });
        format!("{object}\n")
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for CommandError {}

/// The system's words for an error, without Rust's "(os error 2)": a researcher has no use for the number.
pub fn os_reason(error: &io::Error) -> String {
    without_number(error.to_string())
}

fn without_number(mut text: String) -> String {
    while let Some(start) = text.find(" (os error ") {
        let Some(length) = text[start..].find(')') else { break };
        text.replace_range(start..=start + length, "");
    }
    text
}

/// Writing to standard output failed: the only place where a bare I/O error reaches the top.
impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> CommandError {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return CommandError::new(Kind::BrokenPipe, "the reader of the output has gone");
        }
        let full = error.raw_os_error() == Some(libc::ENOSPC);
        let result = CommandError::failure(format!("cannot write the output: {}", os_reason(&error)));
        if full { result.with_hint("the disk that standard output was sent to is full") } else { result }
    }
}

impl From<serde_json::Error> for CommandError {
    fn from(error: serde_json::Error) -> CommandError {
        CommandError::from(io::Error::from(error))
    }
}

impl From<berth_image::Error> for CommandError {
    fn from(error: berth_image::Error) -> CommandError {
        use berth_image::Error;
        let kind = match &error {
            Error::Config { .. } => Kind::Config,
            _ => Kind::Failure,
        };
        let result = CommandError::from_error(kind, &error);
        let hint = error.hint().or_else(|| match &error {
            Error::BadReference { text, .. } => reference_hint(text),
            Error::NotFound { .. } => {
                Some("`berth images` lists what the store has, `berth pull` fetches more".to_owned())
            }
            _ => None,
        });
        result.with_hint_if(hint)
    }
}

impl From<berth_imagefile::Error> for CommandError {
    fn from(error: berth_imagefile::Error) -> CommandError {
        let kind = match error {
            berth_imagefile::Error::BadSetting(_) => Kind::Usage,
            _ => Kind::Failure,
        };
        CommandError::from_error(kind, &error)
    }
}

impl From<berth_container::Error> for CommandError {
    fn from(error: berth_container::Error) -> CommandError {
        let kind = match error.exit_code() {
            126 => Kind::CannotInvoke,
            127 => Kind::CommandNotFound,
            code @ 129.. => Kind::Signal(code),
            _ => Kind::Failure,
        };
        CommandError::from_error(kind, &error).with_hint_if(error.hint())
    }
}

/// The rule, and everything about the users of a site.
impl From<berth_host::subid::RuleError> for CommandError {
    fn from(error: berth_host::subid::RuleError) -> CommandError {
        CommandError::from_error(Kind::Config, &error)
            .with_hint("no ranges are given until it is mended: a guess would give away files; see docs/subids.md")
    }
}

impl From<berth_host::subid::users::UsersError> for CommandError {
    fn from(error: berth_host::subid::users::UsersError) -> CommandError {
        CommandError::from_error(Kind::Failure, &error)
    }
}

impl From<berth_host::subid::files::FileError> for CommandError {
    fn from(error: berth_host::subid::files::FileError) -> CommandError {
        CommandError::from_error(Kind::Failure, &error)
    }
}

impl From<berth_host::subid::migrate::MigrateError> for CommandError {
    fn from(error: berth_host::subid::migrate::MigrateError) -> CommandError {
        let busy = matches!(error, berth_host::subid::migrate::MigrateError::Busy { .. });
        let hint = if busy {
            "end the users' containers first, or give --force"
        } else {
            "the same command goes on from here"
        };
        CommandError::from_error(Kind::Failure, &error).with_hint(hint)
    }
}

/// People type the name of a file where an image is wanted; what is there tells what they need to write. (Parsing does
/// not look, so its message has all possibilities.)
pub fn reference_hint(text: &str) -> Option<String> {
    let path = Path::new(text);
    if path.is_dir() {
        let kind = if path.join("index.json").is_file() { "oci" } else { "dir" };
        Some(format!("`{text}` is a directory here: to use it as an image write `{kind}:{text}`"))
    } else if path.is_file() {
        Some(format!(
            "`{text}` is a file here: to use it as an image write `oci-archive:{text}` or `docker-archive:{text}`"
        ))
    } else {
        None
    }
}

impl From<berth_host::setup::Error> for CommandError {
    fn from(error: berth_host::setup::Error) -> CommandError {
        use berth_host::setup::Error;
        let hint = match &error {
            Error::Changed(_) => Some("what somebody else wrote is kept: put it aside, then undo again".to_owned()),
            Error::Write { source, .. } | Error::Journal { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("files of the system are written by root: sudo berth setup …".to_owned())
            }
            _ => None,
        };
        CommandError::from_error(Kind::Failure, &error).with_hint_if(hint)
    }
}

impl From<clap::Error> for CommandError {
    /// Only for errors; help and version are not (see `cli::print_if_help`).
    fn from(error: clap::Error) -> CommandError {
        let text = error.render().to_string();
        let mut paragraphs = text.trim().split("\n\n");
        let message = paragraphs.next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(message);
        let message = message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        let mut tip = None;
        let mut usage = None;
        for paragraph in paragraphs {
            if let Some(text) = paragraph.trim().strip_prefix("tip: ") {
                // "to pass '--x' as a value, use '-- --x'" is rarely what was meant.
                tip = text.lines().next().filter(|text| !text.starts_with("to pass")).map(str::to_owned);
            } else if let Some(text) = paragraph.trim().strip_prefix("Usage: ") {
                usage = Some(text.lines().next().unwrap_or_default().to_owned());
            }
        }
        let result = CommandError::usage(message);
        result.with_hint_if(tip).with_hint_if(usage.map(|usage| {
            let verb: Vec<&str> = usage.split(' ').take_while(|word| !word.starts_with(['[', '<'])).collect();
            format!("the usage is `{usage}`; `{} --help` tells more", verb.join(" "))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_has_what_failed_and_what_to_do_on_lines_of_their_own() {
        let error = CommandError::failure("cannot open x: no such file").with_hint("create it");
        assert_eq!(error.text(), "berth: cannot open x: no such file\nhint: create it\n");
    }

    #[test]
    fn the_json_form_is_one_line_however_many_the_message_has() {
        let error = CommandError::new(Kind::CommandNotFound, "a\nb");
        let line = error.json_line();
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["error"], "a\nb");
        assert_eq!(value["code"], 127);
        assert!(value["hint"].is_null());
        assert_eq!(value["causes"], serde_json::json!([]));
    }

    #[test]
    fn a_cause_that_the_message_quotes_is_not_told_twice() {
        let io = io::Error::from_raw_os_error(libc::EACCES);
        let error = berth_image::Error::io("read", "/x", io);
        let text = CommandError::from(error).text();
        assert_eq!(text, "berth: cannot read /x: Permission denied\n");
    }

    #[test]
    fn a_reader_that_left_is_no_failure_to_tell_about() {
        let error = CommandError::from(io::Error::from_raw_os_error(libc::EPIPE));
        assert_eq!(error.kind(), Kind::BrokenPipe);
    }

    #[test]
    fn a_file_is_told_from_a_directory_and_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image.tar");
        std::fs::write(&file, "").unwrap();
        let hint = |path: &Path| reference_hint(path.to_str().unwrap());
        assert!(hint(&file).unwrap().contains("docker-archive:/"));
        assert!(hint(dir.path()).unwrap().contains("`dir:/"));
        std::fs::write(dir.path().join("index.json"), "{}").unwrap();
        assert!(hint(dir.path()).unwrap().contains("`oci:/"));
        assert_eq!(reference_hint("ubuntu"), None);
    }
}
