//! `berth info`

use crate::ExitCode;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use berth_container::cdi;
use serde::Serialize;

use crate::command_error::{CommandError, Kind};
use crate::lower::host::Host;
use crate::{Context, output};

/// Show where things are and what this host can do
///
/// What the host can do is tried out, by starting containers that have nothing in them.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

/// What is found out.
#[derive(Serialize)]
struct Info {
    version: &'static str,
    store: PathBuf,
    /// Whether it can be written, or why not.
    store_state: String,
    stores_below: Vec<PathBuf>,
    containers: PathBuf,
    configuration: Vec<PathBuf>,
    user: String,
    home: Option<PathBuf>,
    kernel: String,
    /// For each ability whether it is there; where not, why not and what to do.
    abilities: BTreeMap<&'static str, Ability>,
    devices: Vec<String>,
    /// Device specifications that cannot be used, and why.
    devices_broken: Vec<String>,
}

#[derive(Serialize)]
struct Ability {
    works: bool,
    reason: Option<String>,
    hint: Option<String>,
}

/// Finds out, and prints it.
pub fn run(_: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let configuration = context.config()?;
    let options = context.store_options()?;
    let host = Host::read();
    let uname = rustix::system::uname();
    let registry = cdi::Registry::load(&configuration.cdi_directories());
    let probe = Probe::new()?;
    let info = Info {
        version: env!("CARGO_PKG_VERSION"),
        store_state: match context.store().and_then(|store| Ok(store.images()?)) {
            Ok(images) => format!("{} images", images.len()),
            Err(error) => error.to_string(),
        },
        store: options.root,
        stores_below: options.below,
        containers: context.containers_directory()?,
        configuration: configuration.files.clone(),
        user: format!("{} ({})", host.user.name, host.user.uid),
        home: host.home.clone(),
        kernel: uname.release().to_string_lossy().into_owned(),
        abilities: BTreeMap::from([
            ("containers", probe.works(&[])?),
            ("root inside (--remap-root)", probe.works(&["--remap-root"])?),
            ("many ids (--subid)", probe.works(&["--subid"])?),
            ("own processes (--pid)", probe.works(&["--pid"])?),
            ("own network (--net)", probe.works(&["--net"])?),
        ]),
        devices: registry.devices(),
        devices_broken: registry.broken().to_vec(),
    };
    if context.json() {
        output::json(&info)?
    } else {
        output::lines(lines(&info))?
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(info: &Info) -> Vec<String> {
    let paths = |paths: &[PathBuf]| match paths {
        [] => "none".to_owned(),
        paths => paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
    };
    let mut rows = vec![
        ("version", info.version.to_owned()),
        ("store", format!("{} ({})", info.store.display(), info.store_state)),
        ("stores below it", paths(&info.stores_below)),
        ("named containers", info.containers.display().to_string()),
        ("configuration", paths(&info.configuration)),
        ("user", info.user.clone()),
        ("home", info.home.as_ref().map_or_else(|| "none".to_owned(), |home| home.display().to_string())),
        ("kernel", info.kernel.clone()),
    ];
    for (name, ability) in &info.abilities {
        rows.push((name, if ability.works { "yes".to_owned() } else { "no".to_owned() }));
        rows.extend(ability.reason.clone().map(|reason| ("", reason)));
        rows.extend(ability.hint.clone().map(|hint| ("", format!("hint: {hint}"))));
    }
    rows.push(("devices", if info.devices.is_empty() { "none".to_owned() } else { info.devices.join(", ") }));
    rows.extend(info.devices_broken.iter().map(|broken| ("", format!("cannot be used: {broken}"))));
    rows.into_iter().map(|(name, value)| format!("{name:28}{value}")).collect()
}

/// A root file system with nothing in it. That its command is not found is the last thing that can go wrong in a start,
/// so everything before it has worked.
struct Probe {
    root: PathBuf,
}

impl Probe {
    fn new() -> Result<Probe, CommandError> {
        let root = env::temp_dir().join(format!("berth-info-{}", std::process::id()));
        fs::create_dir_all(root.join("bin")).map_err(|e| CommandError::io("create", &root, e))?;
        Ok(Probe { root })
    }

    fn works(&self, options: &[&str]) -> Result<Ability, CommandError> {
        let executable = Path::new("/proc/self/exe");
        let output = Command::new(executable)
            .args(["run", "--json", "--no-home", "--no-cwd"])
            .args(options)
            .arg(format!("dir:{}", self.root.display()))
            .arg("/bin/nothing")
            .env("BERTH_CONFIG", "/dev/null")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| CommandError::io("start", executable, e))?;
        if output.status.code() == Some(i32::from(Kind::CommandNotFound.exit_code())) {
            return Ok(Ability { works: true, reason: None, hint: None });
        }
        let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap_or_default();
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        let reason = text("error").or_else(|| Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        Ok(Ability { works: false, reason, hint: text("hint") })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Left behind, it is an empty directory among temporary files.
        let _ = fs::remove_dir_all(&self.root);
    }
}
