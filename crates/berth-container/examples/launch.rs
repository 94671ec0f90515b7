//! Launches what a JSON document describes: `launch FILE`, or `launch -` for standard input.
//!
//! The document is `{"bundle": …}` as [`berth_container::Bundle`] is serialised. The tests use it, because a test has
//! threads and a launcher must not; and it is the smallest program that starts a container.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use berth_container::launch::{Options, Plan};
use berth_container::{Bundle, Error};

#[derive(serde::Deserialize)]
struct Document {
    bundle: Bundle,
    #[serde(default)]
    supervise: bool,
    #[serde(default)]
    init: bool,
    #[serde(default)]
    preserve_fds: u32,
    #[serde(default)]
    pid_file: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("launch: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run() -> Result<u8, Error> {
    let file = std::env::args_os().nth(1).unwrap_or_else(|| "-".into());
    let mut text = Vec::new();
    let read = if file == "-" {
        std::io::stdin().read_to_end(&mut text).map(drop)
    } else {
        std::fs::read(&file).map(|content| text = content)
    };
    read.map_err(|e| Error::io("read", &file, e))?;
    let document: Document = serde_json::from_slice(&text).map_err(|e| Error::bad_spec("document", e.to_string()))?;
    let options = Options {
        create_cwd: true,
        supervise: document.supervise,
        init: document.init,
        preserve_fds: document.preserve_fds,
        ..Options::default()
    };
    let mut write_pid = |pid: u32| match &document.pid_file {
        Some(path) => std::fs::write(path, pid.to_string()).map_err(|e| Error::io("write", path, e)),
        None => Ok(()),
    };
    Plan::new(&document.bundle, &options)?.execute(&mut write_pid)
}
