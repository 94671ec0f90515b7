//! Groups of options that several verbs share.
#![allow(rustdoc::broken_intra_doc_links)] // Doc comments here are help texts, with the brackets of a usage.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::PullPolicy;
use crate::units::parse_size;

/// How to reach an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Options about where the image comes from")]
pub struct SourceOptions {
    /// Take the image for this machine, for example linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Accept certificates that nobody vouches for, and plain http
    #[arg(long)]
    pub insecure: bool,
    /// Take credentials from this file, which has the form of podman's auth.json
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Log in as this user, with the password that the auth file has for it where none is given
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub creds: Option<String>,
    /// Take certificate authorities (*.crt) and client certificates (*.cert, *.key) from this directory
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
}

/// Whether a namespace is the host's or the container's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Namespace {
    /// The host's
    Host,
    /// The container's own
    Private,
}

/// What a container is like: options of `run` and `shell`.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct ContainerOptions {
    /// Name the container: it keeps its changes, and `exec` and further `run`s of the name join it
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Remove the named container when its command ends
    #[arg(long)]
    pub rm: bool,
    /// Make the root file system read-only
    #[arg(long, conflicts_with = "writable")]
    pub read_only: bool,
    /// Let the container change its root file system; what it changes vanishes with it unless it has a name (the default)
    #[arg(long)]
    pub writable: bool,
    /// Let changes take at most this much memory, for example 2G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub overlay_size: Option<u64>,
    /// Show a file or directory of the host in the container
    ///
    /// SRC:DST[:OPTIONS], or the long form type=bind,source=SRC,target=DST[,readonly]. A relative SRC starts at the
    /// current directory; DST alone may be left out when it is the same. OPTIONS are ro, rw, nosuid, nodev, noexec, rbind
    /// and the other words of mount(8). type=tmpfs,target=DST makes an empty file system in memory.
    #[arg(short = 'v', long = "mount", visible_alias = "volume", value_name = "SRC:DST[:OPTIONS]")]
    pub mounts: Vec<String>,
    /// Set a variable, or take it over from here when no value is given
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Set variables from a file of NAME=VALUE lines
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Do not hand the host's environment to the container
    #[arg(long)]
    pub clear_env: bool,
    /// Start in this directory of the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run this instead of the image's entrypoint; an empty one means none
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Run as this user of the container, or as the one that the image names
    ///
    /// Numbers or names of the container's /etc/passwd. Ids other than one's own need ranges of subordinate ids: see
    /// --subid. `image` means the user that the image was made for.
    #[arg(short, long, value_name = "USER[:GROUP]|image")]
    pub user: Option<String>,
    /// Be root inside, with nothing but one's own rights outside
    ///
    /// One id is mapped. System calls that would change owners are answered as done, so that package managers work.
    #[arg(long)]
    pub remap_root: bool,
    /// Map ranges of subordinate ids (/etc/subuid, /etc/subgid), so that the container has users of its own
    #[arg(long)]
    pub subid: bool,
    /// Give the container a host name of its own
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Give the container processes of its own: it sees no others, and what it leaves running ends with it
    #[arg(long, value_name = "NAMESPACE", num_args = 0..=1, require_equals = true, default_missing_value = "private")]
    pub pid: Option<Namespace>,
    /// Give the container System V and POSIX message queues and semaphores of its own
    #[arg(long, value_name = "NAMESPACE", num_args = 0..=1, require_equals = true, default_missing_value = "private")]
    pub ipc: Option<Namespace>,
    /// Give the container a network of its own, with nothing in it but a loopback device
    #[arg(long, visible_alias = "network", value_name = "NAMESPACE", num_args = 0..=1, require_equals = true, default_missing_value = "private")]
    pub net: Option<Namespace>,
    /// Give the command a terminal of its own
    #[arg(short = 't', long = "pty", visible_alias = "tty")]
    pub pty: bool,
    /// Accepted for the sake of habit: standard input is always connected
    #[arg(short, long)]
    pub interactive: bool,
    /// Do not show the home directory in the container
    #[arg(long)]
    pub no_home: bool,
    /// Do not show the current directory in the container
    #[arg(long)]
    pub no_cwd: bool,
    /// Show nothing of the host: no home, no current directory, no /tmp, no devices, none of its environment
    #[arg(long)]
    pub contained: bool,
    /// Pass a device on: by its CDI name, such as nvidia.com/gpu=all, or by its path, such as /dev/fuse
    #[arg(long = "device", value_name = "VENDOR/CLASS=NAME|PATH")]
    pub devices: Vec<String>,
    /// When to fetch the image
    #[arg(long, value_name = "WHEN", value_enum)]
    pub pull: Option<PullPolicy>,
    /// Run a small init as process 1 that passes signals on and buries the dead; with --pid
    #[arg(long)]
    pub init: bool,
    /// Write the process id of the container's first process to this file
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Print what each phase of the start took, on standard error
    #[arg(long)]
    pub timings: bool,
    /// See [`SourceOptions`].
    #[command(flatten)]
    pub source: SourceOptions,
}

/// A command and its arguments, as bytes: they need not be text.
pub type CommandLine = Vec<OsString>;
