//! Launches what a JSON document describes: `launch FILE`.
//!
//! The tests use it, because a test has threads and a launcher must not; and it is the smallest program that starts
//! containers, joins them and keeps them by name.

use std::path::PathBuf;
use std::process::ExitCode;

use berth_container::launch::join::Target;
use berth_container::launch::{Options, Plan};
use berth_container::state::{Containers, Member, Record};
use berth_container::{Bundle, Error};

/// The document.
#[derive(serde::Deserialize)]
struct Document {
    /// What to launch; its process is what joins, where a running container is joined.
    bundle: Bundle,
    /// Protect the own program first.
    #[serde(default)]
    seal: bool,
    /// Set `HOME` if it is missing.
    #[serde(default)]
    home: bool,
    #[serde(default)]
    no_pivot: bool,
    #[serde(default)]
    supervise: bool,
    #[serde(default)]
    init: bool,
    #[serde(default)]
    preserve_fds: u32,
    /// Where to write the process id of the command.
    pid_file: Option<PathBuf>,
    /// Join this process.
    join: Option<u32>,
    /// Directory of named containers, and a name: created, started again, or joined.
    named: Option<(PathBuf, String)>,
    /// Remove that container instead.
    #[serde(default)]
    remove: bool,
}

fn main() -> ExitCode {
    let Some(file) = std::env::args_os().nth(1) else {
        eprintln!("usage: launch FILE");
        return ExitCode::from(125);
    };
    let outcome = std::fs::read(&file)
        .map_err(|e| Error::io("read", &file, e))
        .and_then(|text| {
            serde_json::from_slice(&text).map_err(|e| Error::io("understand", &file, std::io::Error::other(e)))
        })
        .and_then(run);
    match outcome {
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

fn run(document: Document) -> Result<u8, Error> {
    if document.seal {
        berth_container::launch::sealed::ensure_sealed()?;
    }
    let mut options = Options {
        create_cwd: true,
        set_home: document.home,
        no_pivot: document.no_pivot,
        supervise: document.supervise,
        init: document.init,
        preserve_fds: document.preserve_fds,
        ..Options::default()
    };
    let mut write_pid = |pid: u32| match &document.pid_file {
        Some(path) => std::fs::write(path, pid.to_string()).map_err(|e| Error::io("write", path, e)),
        None => Ok(()),
    };
    let bundle = &document.bundle;
    let process = || bundle.spec.process.as_ref().ok_or_else(|| Error::bad_spec("process", "missing"));
    if let Some(pid) = document.join {
        return Target::of_process(pid)?.execute(process()?, &options, &mut write_pid);
    }
    let Some((directory, name)) = &document.named else {
        return Plan::new(bundle, &options)?.execute(&mut write_pid);
    };

    let containers = Containers::at(directory);
    if document.remove {
        return containers.get(name)?.remove(false).map(|()| 0);
    }
    let container = match containers.get(name) {
        Err(Error::NoContainer { .. }) => containers.create(&Record {
            name: name.clone(),
            created: 0,
            id: std::process::id().to_string(),
            image: "test".to_owned(),
            digest: None,
            bundle: bundle.clone(),
            fake_ownership: false,
            stop_signal: None,
        })?,
        other => other?,
    };
    let mut lock = Some(container.lock()?);
    let mut started = |pid: u32| {
        container.register(pid)?;
        write_pid(pid)?;
        if let Some(lock) = lock.take() {
            lock.hand_over(pid);
        }
        Ok(())
    };
    options.label = Some(container.record()?.label());
    match container.members()?.first() {
        Some(Member::Here(pid)) => Target::of_process(*pid)?.execute(process()?, &options, &mut started),
        _ => Plan::new(bundle, &options)?.execute(&mut started),
    }
}
