//! The options of each verb, as runc and crun have them.

use std::ffi::OsString;
use std::path::PathBuf;

/// What `create` and `run` share.
#[derive(Clone, Debug, clap::Args)]
pub struct Birth {
    /// The bundle: a directory with a config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Read this file of the bundle as its configuration
    #[arg(short = 'f', long, value_name = "FILE", default_value = "config.json")]
    pub config: PathBuf,
    /// Send the container's terminal to this socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Write the process id of the container to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Hand this many open files on, beside the three standard ones
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Do not pivot: for a root file system in an initial ramdisk
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Name of the container, new among those of the user
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Create a container, which waits for its start
///
/// Where standard output and error are one pipe and no --pid-file is asked for, the container does not inherit them:
/// whoever reads that pipe to its end before going on, as Slurm does, would wait for ever.
#[derive(Clone, Debug, clap::Args)]
pub struct Create {
    #[command(flatten)]
    pub birth: Birth,
}

/// Run the command of a created container
#[derive(Clone, Debug, clap::Args)]
pub struct Start {
    /// The container
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Create a container, run its command to the end, and delete it
///
/// Ends with the command's exit code, or 128 and the number of the signal that ended it.
#[derive(Clone, Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    pub birth: Birth,
    /// Leave it to itself once it runs
    #[arg(short, long)]
    pub detach: bool,
    /// Do not delete it at its end
    #[arg(long)]
    pub keep: bool,
    /// Accepted for the sake of habit
    #[arg(long, hide = true)]
    pub no_subreaper: bool,
}

/// Print the state of a container as JSON
#[derive(Clone, Debug, clap::Args)]
pub struct State {
    /// The container
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Send a signal to a container
#[derive(Clone, Debug, clap::Args)]
pub struct Kill {
    /// To all of its processes
    #[arg(short, long)]
    pub all: bool,
    /// The container
    #[arg(value_name = "ID")]
    pub id: String,
    /// The signal, by name or number
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    pub signal: String,
}

/// Delete containers that have ended
#[derive(Clone, Debug, clap::Args)]
pub struct Delete {
    /// Kill it first; one that is not there is no error
    #[arg(short, long)]
    pub force: bool,
    /// The containers
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
}

/// Run one more process in a container
#[derive(Clone, Debug, clap::Args)]
pub struct Exec {
    /// Send its terminal to this socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set a variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// User and group id
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Supplementary group
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Read the process from this file, JSON as in config.json
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Leave it to itself once it runs
    #[arg(short, long)]
    pub detach: bool,
    /// Write its process id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// Let no program gain privileges
    #[arg(long)]
    pub no_new_privs: bool,
    /// Add a capability
    #[arg(short, long, value_name = "CAPABILITY")]
    pub cap: Vec<String>,
    /// Hand this many open files on, beside the three standard ones
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Put it into this control group below the container's
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
    /// Start it in a paused container too, where it waits
    #[arg(long)]
    pub ignore_paused: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// The container
    #[arg(value_name = "ID")]
    pub id: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// List containers
#[derive(Clone, Debug, clap::Args)]
pub struct List {
    /// In this form
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    pub format: String,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
}

/// List the processes of a container
#[derive(Clone, Debug, clap::Args)]
pub struct Ps {
    /// In this form
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    pub format: String,
    /// The container
    #[arg(value_name = "ID")]
    pub id: String,
    /// Accepted for the sake of habit
    #[arg(value_name = "PS OPTION", trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub options: Vec<String>,
}

/// Stop all processes of a container where they are
#[derive(Clone, Debug, clap::Args)]
pub struct Pause {
    /// The container
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Let a paused container go on
#[derive(Clone, Debug, clap::Args)]
pub struct Resume {
    /// The container
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Change the limits of a container
#[derive(Clone, Debug, clap::Args)]
pub struct Update {
    /// Read them from this file, JSON as in config.json; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Weight of its block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// Length of a CPU period, microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// CPU time in a period, microseconds; -1 is unlimited
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Weight of its CPU time
    #[arg(long, visible_alias = "cpu-share", value_name = "SHARES")]
    pub cpu_shares: Option<u64>,
    /// Processors that it may use
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that it may use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Memory, bytes; -1 is unlimited
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    pub memory: Option<i64>,
    /// Memory that it keeps when others want some, bytes
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    pub memory_reservation: Option<i64>,
    /// Memory and swap together, bytes; -1 is unlimited
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    pub memory_swap: Option<i64>,
    /// Processes; -1 is unlimited
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// The container
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Write a config.json to begin with
#[derive(Clone, Debug, clap::Args)]
pub struct Spec {
    /// Into this directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// For an ordinary user
    #[arg(long)]
    pub rootless: bool,
}

/// Print what this runtime can do, as JSON
#[derive(Clone, Debug, clap::Args)]
pub struct Features {}

/// Refused: a container cannot be written to disk
#[derive(Clone, Debug, clap::Args)]
pub struct Checkpoint {
    /// Whatever
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub arguments: Vec<OsString>,
}

/// Refused: a container cannot be read from disk
#[derive(Clone, Debug, clap::Args)]
pub struct Restore {
    /// Whatever
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub arguments: Vec<OsString>,
}

/// A number of bytes, as engines write it: `50M` is 50 times 1024 times 1024.
fn bytes(text: &str) -> Result<i64, String> {
    let lower = text.to_ascii_lowercase();
    let unit = lower.trim_end_matches('b').trim_end_matches('i');
    let (number, power) = match unit.char_indices().last() {
        Some((at, letter)) if letter.is_ascii_alphabetic() => {
            (&unit[..at], "kmgt".find(letter).ok_or_else(|| format!("unknown unit `{letter}`"))? + 1)
        }
        _ => (unit, 0),
    };
    let number: i64 = number.trim().parse().map_err(|_| "no whole number of bytes, with K, M, G or T".to_owned())?;
    number
        .checked_shl(10 * power as u32)
        .filter(|it| it >> (10 * power) == number)
        .ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_may_have_a_unit() {
        assert_eq!(bytes("-1"), Ok(-1));
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("50M"), Ok(50 << 20));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert!(bytes("5x").is_err() && bytes("M").is_err() && bytes("").is_err() && bytes("9999999999T").is_err());
    }
}
