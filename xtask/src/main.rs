//! What is made from the definition of the command line: the reference in `docs/reference`, man pages and completions.
//!
//! ```text
//! cargo xtask reference [--check]   docs/reference/*.md; with --check, fails when they are not what would be written
//! cargo xtask man                   target/man/*.1
//! cargo xtask completions           target/completions/*
//! cargo xtask dist DIR              both, in DIR/man and DIR/completions: what `make install` takes
//! ```

mod reference;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum as _};

/// Files to be, by name.
type Files = BTreeMap<String, Vec<u8>>;

/// Make what is made from the definition of the command line
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Write the reference of the command line to docs/reference
    Reference {
        /// Write nothing, and fail when something would change
        #[arg(long)]
        check: bool,
    },
    /// Write man pages to target/man
    Man,
    /// Write completions of all shells to target/completions
    Completions,
    /// Write man pages and completions to directories below this one
    Dist {
        /// Where to
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Reference { check: true } => check(&root().join("docs/reference"), &reference::pages()),
        Task::Reference { check: false } => write(&root().join("docs/reference"), &reference::pages()),
        Task::Man => man_pages().and_then(|files| write(&target().join("man"), &files)),
        Task::Completions => write(&target().join("completions"), &completions()),
        Task::Dist { directory } => man_pages()
            .and_then(|files| write(&directory.join("man"), &files))
            .and_then(|()| write(&directory.join("completions"), &completions())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A page for the command and one for each verb.
fn man_pages() -> io::Result<Files> {
    let mut command = berth::cli::command();
    command.build();
    let mut files = Files::new();
    let mut page = |name: String, command: &clap::Command| -> io::Result<()> {
        let mut bytes = Vec::new();
        clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).manual("User Commands").render(&mut bytes)?;
        files.insert(format!("{name}.1"), bytes);
        Ok(())
    };
    page("berth".to_owned(), &command)?;
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        page(format!("berth-{}", verb.get_name()), verb)?;
        for nested in verb.get_subcommands().filter(|nested| nested.get_name() != "help") {
            page(format!("berth-{}-{}", verb.get_name(), nested.get_name()), nested)?;
        }
    }
    Ok(files)
}

fn completions() -> Files {
    let mut files = Files::new();
    for shell in clap_complete::Shell::value_variants() {
        let mut bytes = Vec::new();
        clap_complete::generate(*shell, &mut berth::cli::command(), "berth", &mut bytes);
        files.insert(clap_complete::Generator::file_name(shell, "berth"), bytes);
    }
    files
}

fn write(directory: &Path, files: &Files) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, bytes) in files {
        fs::write(directory.join(name), bytes)?;
    }
    for stale in stale(directory, files)? {
        fs::remove_file(stale)?;
    }
    println!("{} files in {}", files.len(), directory.display());
    Ok(())
}

fn check(directory: &Path, files: &Files) -> io::Result<()> {
    let differs = |(name, bytes): &(&String, &Vec<u8>)| fs::read(directory.join(name)).ok().as_ref() != Some(bytes);
    let mut wrong: Vec<String> = files.iter().filter(differs).map(|(name, _)| name.clone()).collect();
    wrong.extend(stale(directory, files)?.iter().map(|path| path.display().to_string()));
    if wrong.is_empty() {
        return Ok(());
    }
    let list = wrong.join(", ");
    Err(io::Error::other(format!("out of date: {list}; run `cargo xtask reference` and commit what it writes")))
}

/// Files that an earlier definition made and this one does not.
fn stale(directory: &Path, files: &Files) -> io::Result<Vec<PathBuf>> {
    let mut stale = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !files.contains_key(&*entry.file_name().to_string_lossy()) {
            stale.push(entry.path());
        }
    }
    Ok(stale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_man_page_and_a_page_of_the_reference() {
        let (man, reference) = (man_pages().unwrap(), reference::pages());
        for verb in berth::cli::VERBS {
            assert!(man.contains_key(&format!("berth-{}.1", verb.name)), "{}", verb.name);
            assert!(reference.contains_key(&format!("berth-{}.md", verb.name)), "{}", verb.name);
        }
    }

    #[test]
    fn the_committed_reference_is_what_the_definition_says() {
        check(&root().join("docs/reference"), &reference::pages()).unwrap();
    }

    #[test]
    fn a_file_that_is_out_of_date_is_told() {
        let directory = std::env::temp_dir().join(format!("xtask-{}", std::process::id()));
        let files = Files::from([("a.md".to_owned(), b"new".to_vec())]);
        write(&directory, &files).unwrap();
        assert!(check(&directory, &files).is_ok());
        fs::write(directory.join("b.md"), "left over").unwrap();
        assert!(check(&directory, &files).unwrap_err().to_string().contains("b.md"));
        fs::remove_dir_all(&directory).unwrap();
    }
}
