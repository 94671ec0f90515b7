//! `berth oci-step`: what Slurm's own `--container` starts, a bundle or an image.
//!
//! A site's `oci.conf` says
//!
//! ```ini
//! IgnoreFileConfigJson=true
//! CreateEnvFile=null
//! RunTimeRun="exec berth oci-step --env-file=%e --job=%j --step=%s --task=%t"
//! ```
//!
//! so that nothing that a person wrote is pasted into a shell's line. The job's environment is in the file; in it are the
//! container ([`CONTAINER`]) and the command ([`berth_slurm::argv`], put there by the plugin). Where a site has no
//! `oci.conf`, the plugin calls with both on the line and the environment as the process'.
//!
//! This process becomes the command, or for a bundle its parent that passes signals on: what Slurm sends arrives, and
//! exit codes come back.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use berth_container::environment::HOST_OWNED;
use berth_container::launch::sealed;
use berth_container::oci::{Mount, Spec};
use berth_container::runtime::{self, Birth, Ended, Root};
use berth_slurm::argv;
use berth_slurm::request::Request;

use super::arguments::Arguments;
use super::container;
use crate::cli::Global;
use crate::{CommandError, Context, ExitCode};

/// The variable by which Slurm tells the container.
const CONTAINER: &str = "SLURM_CONTAINER";
/// Slurm's number of a batch step.
const BATCH_STEP: u32 = 0xffff_fffb;
/// The largest environment file that is read, in bytes.
const MAX_FILE: u64 = 32 << 20;

/// What is said on the line.
#[derive(Debug, Default)]
struct Call {
    container: Option<String>,
    env_file: Option<PathBuf>,
    job: u32,
    step: u32,
    task: String,
    command: Vec<OsString>,
}

/// Starts the container. Comes back only with what went wrong, or when it was waited for.
pub fn run(words: &[OsString]) -> Result<ExitCode, CommandError> {
    let call = parse(words)?;
    match &call.env_file {
        Some(file) => Err(again(&call, file)),
        None => {
            sealed::ensure_sealed()?;
            let container = call.container.clone().filter(|text| !text.is_empty()).ok_or_else(|| {
                CommandError::usage(
                    "oci-step: no --container: this is for Slurm's oci.conf, see the administrator's guide",
                )
            })?;
            if Path::new(&container).join("config.json").exists() {
                bundle(&call, &container)
            } else {
                image(&call, container)
            }
        }
    }
}

fn parse(words: &[OsString]) -> Result<Call, CommandError> {
    let mut call = Call::default();
    for (at, word) in words.iter().enumerate() {
        if word == "--" {
            call.command = words[at + 1..].to_vec();
            break;
        }
        let text = word.to_string_lossy();
        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
        let wrong = || CommandError::usage(format!("oci-step: {key}: not a number: {value}"));
        match key {
            "--container" => call.container = Some(value.to_owned()),
            "--env-file" => call.env_file = Some(PathBuf::from(value)),
            "--job" => call.job = value.parse().map_err(|_| wrong())?,
            "--step" => call.step = value.parse().map_err(|_| wrong())?,
            // Minus one, where Slurm cleans up.
            "--task" => call.task = value.to_owned(),
            _ => return Err(CommandError::usage(format!("oci-step: unknown option {key}"))),
        }
    }
    Ok(call)
}

/// Becomes this program again, with the job's environment as its own and all on the line.
fn again(call: &Call, file: &Path) -> CommandError {
    let content = match read(file) {
        Ok(content) => content,
        Err(error) => return error,
    };
    // A value may have a newline; with `CreateEnvFile=newline` the file could not be read for sure.
    if !content.contains(&0) {
        return CommandError::failure(format!(
            "{}: not an environment file that ends its entries with NUL",
            file.display()
        ))
        .with_hint("oci.conf needs the line `CreateEnvFile=null`");
    }
    let entries: Vec<&[u8]> = content.split(|&byte| byte == 0).filter(|entry| !entry.is_empty()).collect();
    let value = |name: &str| entries.iter().find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let Some(container) = value(CONTAINER) else {
        return CommandError::failure("Slurm did not say which container this step wants: SLURM_CONTAINER is not set")
            .with_hint("oci.conf's EnvExclude must not match SLURM_CONTAINER");
    };
    let Some(command) = value(argv::VARIABLE).and_then(argv::decode) else {
        return CommandError::failure(format!(
            "Slurm did not say which command this step wants: {} is not set",
            argv::VARIABLE
        ))
        .with_hint("berth's plugin sets it: plugstack.conf must have `required …/spank_berth.so` on this node");
    };
    let mut words: Vec<Vec<u8>> = vec![
        b"berth".to_vec(),
        b"oci-step".to_vec(),
        format!("--job={}", call.job).into_bytes(),
        format!("--step={}", call.step).into_bytes(),
        format!("--task={}", call.task).into_bytes(),
        [b"--container=".as_slice(), container].concat(),
        b"--".to_vec(),
    ];
    words.extend(command);
    let hidden = |entry: &&[u8]| {
        let name = entry.split(|&byte| byte == b'=').next().unwrap_or_default();
        name == argv::VARIABLE.as_bytes() || name.starts_with(b"LD_") || name == b"GLIBC_TUNABLES"
    };
    let strings = |list: Vec<Vec<u8>>| list.into_iter().filter_map(|word| CString::new(word).ok()).collect::<Vec<_>>();
    let words = strings(words);
    let environment = strings(entries.iter().filter(|entry| !hidden(entry)).map(|entry| entry.to_vec()).collect());
    let error = sealed::execute_self(&words, &environment);
    CommandError::io("execute again", "/proc/self/exe", error)
}

fn read(file: &Path) -> Result<Vec<u8>, CommandError> {
    use std::io::Read;
    let mut content = Vec::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut content))
        .map_err(|e| CommandError::io("read", file, e))?;
    Ok(content)
}

/// As `berth run` would, with the options that variables can say.
fn image(call: &Call, text: String) -> Result<ExitCode, CommandError> {
    let mut request = Request::default()
        .with_environment(|name| std::env::var(name).ok())
        .map_err(|e| CommandError::usage(format!("pyxis: {e}")))?;
    request.image = Some(text);
    request.name = None;
    let script = (call.step == BATCH_STEP).then(|| call.command.first().map(PathBuf::from)).flatten();
    let arguments = Arguments { request, job: call.job, step: call.step, tasks: 1, script, ..Arguments::default() };
    let context = Context::new(Global { quiet: true, ..Global::default() });
    container::become_command(&arguments, &call.command, &context)
}

/// As a runtime would, with the command and environment of the step.
fn bundle(call: &Call, path: &str) -> Result<ExitCode, CommandError> {
    let words = call.command.iter().map(|word| {
        word.clone()
            .into_string()
            .map_err(|word| CommandError::usage(format!("`{}` is not valid UTF-8", word.display())))
    });
    let words: Vec<String> = words.collect::<Result<_, _>>()?;
    let host: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let is_terminal = rustix::termios::isatty(rustix::stdio::stdin());
    let script = (call.step == BATCH_STEP).then(|| words.first().cloned()).flatten();
    let adjust = |spec: &mut Spec| {
        if let Some(script) = &script {
            let mut mount = Mount::rbind(Path::new(script), Path::new(script));
            mount.options.push("ro".to_owned());
            spec.mounts.push(mount);
        }
        let Some(process) = &mut spec.process else { return };
        process.env = compose(&host, &process.env);
        process.args.clone_from(&words);
        process.terminal = is_terminal;
    };
    let root = Root::of_user();
    let uid = rustix::process::geteuid().as_raw();
    let task = if call.task.is_empty() { std::env::var("SLURM_PROCID").unwrap_or_default() } else { call.task.clone() };
    let id = format!("step.{uid}.{}.{}.{task}.{}", call.job, call.step, std::process::id());
    let warn = |message: &str| eprintln!("berth: warning: {message}");
    let birth = Birth {
        root: &root,
        id: &id,
        bundle: Path::new(path),
        config: Path::new("config.json"),
        cgroups: berth_container::cgroup::Manager::Disabled,
        pid_file: None,
        console_socket: None,
        preserve_fds: 0,
        no_pivot: false,
        no_new_keyring: true,
        keep: false,
        adjust: Some(&adjust),
        warn: &warn as runtime::Warn<'_>,
    };
    match birth.run(false)? {
        Ended::Code(code) => Ok(ExitCode::from(code)),
        Ended::Detached => Ok(ExitCode::SUCCESS),
    }
}

/// The job's environment, under the bundle's: its `PATH` and the like win, but what says which job it is stays true.
fn compose(host: &[(OsString, OsString)], bundle: &[String]) -> Vec<String> {
    let owned = |name: &str| {
        HOST_OWNED.iter().any(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *pattern,
        })
    };
    let set_by_bundle = |name: &OsStr| {
        bundle.iter().any(|entry| entry.split('=').next().is_some_and(|set| OsStr::new(set) == name && !owned(set)))
    };
    let of_host = host.iter().filter(|(name, _)| !set_by_bundle(name)).filter_map(|(name, value)| {
        let entry = [name.as_bytes(), b"=", value.as_bytes()].concat();
        OsString::from_vec(entry).into_string().ok()
    });
    let on_host = |name: &str| host.iter().any(|(known, _)| known == name);
    let of_bundle = bundle.iter().filter(|entry| {
        let name = entry.split('=').next().unwrap_or_default();
        !(owned(name) && on_host(name))
    });
    of_host.chain(of_bundle.cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundles_path_wins_and_the_jobs_number_stays() {
        let host =
            [("PATH", "/host"), ("SLURM_JOB_ID", "7"), ("A", "1")].map(|(name, value)| (name.into(), value.into()));
        let bundle = ["PATH=/bundle", "SLURM_JOB_ID=999", "B=2"].map(str::to_owned);
        assert_eq!(compose(&host, &bundle), ["SLURM_JOB_ID=7", "A=1", "PATH=/bundle", "B=2"]);
    }

    #[test]
    fn the_line_is_taken_apart() {
        let call =
            parse(&["--job=4", "--step=0", "--task=-1", "--container=x", "--", "ls", "--", "-l"].map(Into::into))
                .unwrap();
        assert_eq!((call.job, call.container.as_deref(), call.task.as_str()), (4, Some("x"), "-1"));
        assert_eq!(call.command, ["ls", "--", "-l"]);
        assert!(parse(&["--root=/x".into()]).is_err());
    }
}
