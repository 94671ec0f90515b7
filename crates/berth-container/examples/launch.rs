//! Launches what a JSON document describes: `launch FILE`, or `launch -` for standard input.
//!
//! The document is `{"bundle": …}` as [`berth_container::Bundle`] is serialised. The tests use it, because a test has
//! threads and a launcher must not; and it is the smallest program that starts a container.

use std::io::Read;
use std::process::ExitCode;

use berth_container::launch::{Options, Plan};
use berth_container::{Bundle, Error};

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
    let bundle: Bundle = serde_json::from_slice(&text).map_err(|e| Error::bad_spec("document", e.to_string()))?;
    let options = Options { create_cwd: true, ..Options::default() };
    Err(Plan::new(&bundle, &options)?.execute())
}
