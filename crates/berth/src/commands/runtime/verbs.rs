//! What each verb does: a call of the library, and what is printed of its answer.

use std::io::{Read, Write};
use std::path::Path;

use berth_container::launch::{self, Outcome};
use berth_container::oci::{Capabilities, Process, User};
use berth_container::runtime::{self, Container, Ended};

use super::{Call, arguments};
use crate::output::{self, Table};
use crate::{CommandError, ExitCode, signals};

type Answer = Result<ExitCode, CommandError>;

fn birth<'a>(
    arguments: &'a arguments::Birth,
    call: &Call<'_>,
    root: &'a runtime::Root,
    warn: runtime::Warn<'a>,
) -> runtime::Birth<'a> {
    runtime::Birth {
        root,
        id: &arguments.id,
        bundle: &arguments.bundle,
        config: &arguments.config,
        cgroups: call.global.cgroups(),
        pid_file: arguments.pid_file.as_deref(),
        console_socket: arguments.console_socket.as_deref(),
        preserve_fds: arguments.preserve_fds,
        no_pivot: arguments.no_pivot,
        no_new_keyring: arguments.no_new_keyring,
        keep: false,
        adjust: None,
        warn,
    }
}

pub fn create(arguments: &arguments::Create, call: &Call<'_>) -> Answer {
    launch::sealed::ensure_sealed()?;
    let warn = |message: &str| call.log.warning(message);
    birth(&arguments.birth, call, &call.global.root(), &warn).create()?;
    Ok(ExitCode::SUCCESS)
}

pub fn start(arguments: &arguments::Start, call: &Call<'_>) -> Answer {
    call.global.root().get(&arguments.id)?.start()?;
    Ok(ExitCode::SUCCESS)
}

pub fn run(arguments: &arguments::Run, call: &Call<'_>) -> Answer {
    launch::sealed::ensure_sealed()?;
    let root = call.global.root();
    let warn = |message: &str| call.log.warning(message);
    let birth = runtime::Birth { keep: arguments.keep, ..birth(&arguments.birth, call, &root, &warn) };
    match birth.run(arguments.detach)? {
        Ended::Code(code) => Ok(ExitCode::from(code)),
        Ended::Detached => Ok(ExitCode::SUCCESS),
    }
}

pub fn state(arguments: &arguments::State, call: &Call<'_>) -> Answer {
    let root = call.global.root();
    let is_root = rustix::process::geteuid().is_root();
    root.act_as_owner(&arguments.id);
    let container = root.get(&arguments.id);
    if is_root && container.is_err() {
        root.end_step(&arguments.id, &|message| call.log.warning(message));
    }
    output::json(&container?.state())?;
    Ok(ExitCode::SUCCESS)
}

pub fn kill(arguments: &arguments::Kill, call: &Call<'_>) -> Answer {
    let signal = signals::number(&arguments.signal).ok_or_else(|| {
        CommandError::usage(format!("`{}` is no signal: write a name such as TERM, or a number", arguments.signal))
    })?;
    let root = call.global.root();
    root.act_as_owner(&arguments.id);
    root.get(&arguments.id)?.kill(signal, arguments.all)?;
    Ok(ExitCode::SUCCESS)
}

pub fn delete(arguments: &arguments::Delete, call: &Call<'_>) -> Answer {
    let root = call.global.root();
    let mut outcome = Ok(ExitCode::SUCCESS);
    for id in &arguments.ids {
        root.act_as_owner(id);
        let deleted = match root.get(id) {
            // Callers delete once more to be sure, and after a creation that was killed.
            Err(berth_container::Error::ContainerState { .. }) if arguments.force => {
                root.forget(id);
                Ok(())
            }
            Err(error) => Err(error),
            Ok(container) => container.delete(arguments.force, &|message| call.log.warning(message)),
        };
        if let Err(error) = deleted {
            outcome = Err(error.into());
        }
    }
    outcome
}

pub fn exec(arguments: &arguments::Exec, call: &Call<'_>) -> Answer {
    launch::sealed::ensure_sealed()?;
    let container = call.global.root().get(&arguments.id)?;
    let process = process(arguments, &container)?;
    let outcome = container.exec(&runtime::Exec {
        process,
        detach: arguments.detach,
        pid_file: arguments.pid_file.as_deref(),
        console_socket: arguments.console_socket.as_deref(),
        preserve_fds: arguments.preserve_fds,
        cgroup: arguments.cgroup.as_deref(),
        ignore_paused: arguments.ignore_paused,
        no_new_keyring: arguments.no_new_keyring,
    })?;
    Ok(match outcome {
        Outcome::Ended(code) => ExitCode::from(code),
        Outcome::Left(_) => ExitCode::SUCCESS,
    })
}

/// The process that the options describe: the one in the file, or one like the container's own.
fn process(arguments: &arguments::Exec, container: &Container) -> Result<Process, CommandError> {
    let mut process = match &arguments.process {
        Some(path) => runtime::parse(path, &runtime::read_bounded(path)?)?,
        None => {
            let like = container.spec()?.process.unwrap_or_default();
            let args: Result<Vec<String>, _> = arguments.command.iter().cloned().map(|a| a.into_string()).collect();
            let args = args.map_err(|_| CommandError::usage("an argument of the command is not UTF-8"))?;
            if args.is_empty() {
                return Err(CommandError::usage("there is no command to run").with_hint("write it after the id"));
            }
            // Its terminal is the container's own matter.
            Process { args, terminal: false, console_size: None, ..like }
        }
    };
    process.terminal |= arguments.tty;
    process.no_new_privileges |= arguments.no_new_privs;
    for variable in &arguments.env {
        let name = variable.split('=').next().unwrap_or_default();
        process.env.retain(|entry| entry.split('=').next() != Some(name));
        process.env.push(variable.clone());
    }
    if let Some(cwd) = &arguments.cwd {
        process.cwd = cwd.clone();
    }
    if let Some(user) = &arguments.user {
        let wrong = || CommandError::usage(format!("`{user}` is no user: write UID or UID:GID, numbers"));
        let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
        process.user =
            User { uid: uid.parse().map_err(|_| wrong())?, gid: gid.parse().map_err(|_| wrong())?, ..User::default() };
    }
    process.user.additional_gids.extend(&arguments.additional_gids);
    if !arguments.cap.is_empty() {
        let capabilities = process.capabilities.get_or_insert_with(Capabilities::default);
        for set in [
            &mut capabilities.bounding,
            &mut capabilities.effective,
            &mut capabilities.permitted,
            &mut capabilities.ambient,
        ] {
            set.extend(arguments.cap.iter().cloned());
        }
    }
    process.apparmor_profile = arguments.apparmor.clone().or(process.apparmor_profile);
    process.selinux_label = arguments.process_label.clone().or(process.selinux_label);
    Ok(process)
}

pub fn list(arguments: &arguments::List, call: &Call<'_>) -> Answer {
    let containers = call.global.root().list()?;
    if arguments.quiet {
        output::lines(containers.iter().map(|container| &container.record.id))?;
    } else if arguments.format == "json" {
        output::json(&containers.iter().map(Container::state).collect::<Vec<_>>())?;
    } else {
        let mut table = Table::new(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
        for state in containers.iter().map(Container::state) {
            let cell = |key: &str| state[key].as_str().map_or_else(|| state[key].to_string(), str::to_owned);
            table.row(["id", "pid", "status", "bundle", "created", "owner"].map(cell));
        }
        table.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn ps(arguments: &arguments::Ps, call: &Call<'_>) -> Answer {
    let pids = call.global.root().get(&arguments.id)?.processes()?;
    if arguments.format == "json" {
        output::json(&pids)?;
    } else {
        let mut table = Table::new(&["PID", "COMMAND"]);
        for pid in pids {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> =
                line.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            table.row([pid.to_string(), words.join(" ").trim_end().to_owned()]);
        }
        table.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn pause(arguments: &arguments::Pause, call: &Call<'_>) -> Answer {
    call.global.root().get(&arguments.id)?.freeze(true)?;
    Ok(ExitCode::SUCCESS)
}

pub fn resume(arguments: &arguments::Resume, call: &Call<'_>) -> Answer {
    call.global.root().get(&arguments.id)?.freeze(false)?;
    Ok(ExitCode::SUCCESS)
}

pub fn update(arguments: &arguments::Update, call: &Call<'_>) -> Answer {
    let container = call.global.root().get(&arguments.id)?;
    let mut resources: serde_json::Value = match arguments.resources.as_deref() {
        Some(path) if path == Path::new("-") => {
            let mut text = Vec::new();
            std::io::stdin()
                .take(1 << 20)
                .read_to_end(&mut text)
                .map_err(|e| CommandError::io("read", "standard input", e))?;
            runtime::parse(Path::new("standard input"), &text)?
        }
        Some(path) => runtime::parse(path, &runtime::read_bounded(path)?)?,
        None => serde_json::json!({}),
    };
    let mut set = |group: &str, key: &str, value: Option<serde_json::Value>| {
        if let Some(value) = value {
            resources[group][key] = value;
        }
    };
    set("blockIO", "weight", arguments.blkio_weight.map(Into::into));
    set("cpu", "period", arguments.cpu_period.map(Into::into));
    set("cpu", "quota", arguments.cpu_quota.map(Into::into));
    set("cpu", "shares", arguments.cpu_shares.map(Into::into));
    set("cpu", "cpus", arguments.cpuset_cpus.clone().map(Into::into));
    set("cpu", "mems", arguments.cpuset_mems.clone().map(Into::into));
    set("memory", "limit", arguments.memory.map(Into::into));
    set("memory", "reservation", arguments.memory_reservation.map(Into::into));
    set("memory", "swap", arguments.memory_swap.map(Into::into));
    set("pids", "limit", arguments.pids_limit.map(Into::into));
    container
        .update(&serde_json::from_value(resources).map_err(|e| CommandError::usage(format!("the limits: {e}")))?)?;
    Ok(ExitCode::SUCCESS)
}

pub fn spec(arguments: &arguments::Spec, _call: &Call<'_>) -> Answer {
    let path = arguments.bundle.join("config.json");
    let ids = || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let spec = runtime::default_spec::default_spec(arguments.rootless.then(ids));
    let mut text = serde_json::to_vec_pretty(&spec)?;
    text.push(b'\n');
    // What somebody has written there is not for us to replace.
    let mut file = match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(CommandError::failure(format!("{} is there already", path.display()))
                .with_hint("remove it first, or choose another directory with --bundle"));
        }
        other => other.map_err(|e| CommandError::io("create", &path, e))?,
    };
    file.write_all(&text).map_err(|e| CommandError::io("write", &path, e))?;
    Ok(ExitCode::SUCCESS)
}

pub fn features(_arguments: &arguments::Features, _call: &Call<'_>) -> Answer {
    output::json(&runtime::features::features())?;
    Ok(ExitCode::SUCCESS)
}

pub fn checkpoint(_arguments: &arguments::Checkpoint, _call: &Call<'_>) -> Answer {
    Err(CommandError::failure("berth cannot write a running container to disk (checkpoint)")
        .with_hint("let the program write its own checkpoints, or use DMTCP in the container"))
}

pub fn restore(_arguments: &arguments::Restore, _call: &Call<'_>) -> Answer {
    Err(CommandError::failure("berth cannot read a container from disk (restore)"))
}
