//! The runtimes, and how each must be called.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use testbed::harness::Need;
use testbed::process;

/// The runtimes, in the order of the table's columns.
pub const NAMES: [&str; 3] = ["berth", "crun", "runc"];

/// Where the runner tells its tests that berth's binary is, copied to where every user can start it.
pub const BERTH: &str = "BERTH_CONFORMANCE_BERTH";

/// An implementation of the command line of runc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// `berth runtime`.
    Berth,
    /// crun.
    Crun,
    /// runc.
    Runc,
}

/// How a runtime is called for one test.
#[derive(Debug)]
pub struct Call<'a> {
    /// Directory of its state.
    pub root: &'a Path,
    /// Whether an ordinary user calls.
    pub rootless: bool,
    /// Whether it may leave control groups alone.
    pub without_cgroups: bool,
}

static CHOSEN: OnceLock<Runtime> = OnceLock::new();

/// Takes the runtime from the name of the test that this process is to run.
pub fn choose(test: &str) {
    let name = test.split("::").next().unwrap_or_default();
    if let Some(runtime) = Runtime::named(name) {
        let _ = CHOSEN.set(runtime);
    }
}

impl Runtime {
    /// The one that this process tests.
    pub fn chosen() -> Runtime {
        *CHOSEN.get().expect("the name of a test begins with its runtime")
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Runtime> {
        match name {
            "berth" => Some(Runtime::Berth),
            "crun" => Some(Runtime::Crun),
            "runc" => Some(Runtime::Runc),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Runtime::Berth => "berth",
            Runtime::Crun => "crun",
            Runtime::Runc => "runc",
        }
    }

    /// What the runtime of that name cannot do without.
    pub fn needs(name: &str) -> &'static [Need] {
        match Runtime::named(name) {
            Some(Runtime::Crun) => &[Need::Program("crun", "crun"), Need::ControlGroups],
            Some(Runtime::Runc) => &[Need::Program("runc", "runc")],
            _ => &[],
        }
    }

    /// Version of the runtime of that name that is installed.
    pub fn version(name: &str) -> Option<String> {
        if !testbed::harness::found(name) {
            return None;
        }
        let text = process::run(Command::new(name).arg("--version")).stdout;
        text.lines().next()?.split_whitespace().nth(2).map(str::to_owned)
    }

    /// Program and first arguments.
    pub fn line(self, call: &Call<'_>) -> (PathBuf, Vec<OsString>) {
        let mut words: Vec<OsString> = Vec::new();
        let program = match self {
            Runtime::Berth => {
                words.push("runtime".into());
                std::env::var_os(BERTH).expect("the runner sets it").into()
            }
            Runtime::Crun => "crun".into(),
            Runtime::Runc => "runc".into(),
        };
        words.extend(["--root".into(), call.root.into()]);
        match self {
            // It refuses the mixture of old and new control groups even where it is to make none.
            Runtime::Crun if call.without_cgroups => words.push("--cgroup-manager=disabled".into()),
            Runtime::Runc if call.rootless => words.push("--rootless=true".into()),
            _ => {}
        }
        (program, words)
    }
}
