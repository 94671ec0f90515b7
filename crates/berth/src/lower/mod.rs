//! From a request to a bundle: what a person typed, what the configuration says, what the image says and what this host
//! is like, lowered to an OCI specification and a root file system.
//!
//! Everything here is a function of its arguments: [`host::Host`] was read before, and of the image only single entries
//! are looked at ([`image::Image::entry`]). So each rule can be tested as a table, and `berth run` has one place where it
//! meets the system (`crate::start`).

pub mod bundle;
pub mod command;
pub mod host;
pub mod ids;
pub mod image;
pub mod mounts;
pub mod place;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use berth_container::environment::{Environment, Setting, Sources};
use berth_container::etc::{self, HostFiles, ImageFiles};
use berth_container::oci::{IdMap, Linux, Namespace, NamespaceKind, Process, Spec, User};
use berth_container::volume::Volume;
use berth_container::{Bundle, Rootfs, Upper};

use crate::cli::options::{self, ContainerOptions};
use crate::command_error::{CommandError, Kind};
use crate::lower::host::Host;
use crate::lower::ids::{Ids, ImageAccounts};
use crate::lower::image::Image;
use crate::lower::mounts::Plan;

/// The command that is wanted.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// These words, or the image's own command where there are none.
    Command(&'a [OsString]),
    /// A shell.
    Shell,
}

/// What was asked for, as far as text goes: options of the command line, with those of the configuration under them.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The options; those that have a default in the configuration are filled in.
    pub options: &'a ContainerOptions,
    /// The command.
    pub what: What<'a>,
    /// `--env-file` and `--env`, in order, those of the configuration first.
    pub settings: &'a [Setting],
    /// Variables of the host that win over the image's, from the configuration.
    pub keep_env: &'a [String],
    /// Mounts of the configuration whose source exists.
    pub default_volumes: &'a [Volume],
    /// `-v` and `--mount`.
    pub volumes: &'a [Volume],
    /// Maps for `--subid`.
    pub subid: Option<(&'a [IdMap], &'a [IdMap])>,
    /// Files of the host that are taken over.
    pub host_files: HostFiles<'a>,
    /// The host's own name.
    pub host_name: &'a str,
    /// Whether the host's `/dev` has a place for message queues.
    pub host_has_mqueue: bool,
}

/// A container, ready to be launched.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The bundle.
    pub bundle: Bundle,
    /// Answer owner-changing system calls as done.
    pub fake_ownership: bool,
    /// Make the working directory where it is missing: the image names it, so it is not a typing error.
    pub create_cwd: bool,
    /// What a person may want to know about it, for `--verbose`.
    pub notes: Vec<String>,
}

impl Lowered {
    /// Sends the container's changes to a directory instead of memory.
    pub fn keep_changes(&mut self, upper: PathBuf, work: PathBuf) {
        if let Rootfs::Overlay { upper: changes @ Upper::Tmpfs { .. }, .. } = &mut self.bundle.rootfs {
            *changes = Upper::Dir { upper, work };
        }
    }
}

/// Lowers a request.
pub fn lower(request: &Request<'_>, image: &Image, host: &Host) -> Result<Lowered, CommandError> {
    let options = request.options;
    let accounts = ImageAccounts { user: &image.config.user, passwd: &image.passwd, group: &image.group };
    let wish = ids::Wish { user: options.user.as_deref(), remap_root: options.remap_root, subid: request.subid };
    let ids = ids::decide(wish, accounts, host)?;
    let args = words(request, image, host)?;
    if let Some(name) = &options.hostname {
        check_host_name(name)?;
    }
    let mounts = mounts(request, &ids, host);
    let mut notes = Vec::new();
    let env = environment(request, image, host, &ids, &mounts, &mut notes);
    let (cwd, create_cwd) = working_directory(options, image, &mounts)?;
    let spec = Spec {
        process: Some(Process {
            terminal: options.pty,
            user: User { uid: ids.uid, gid: ids.gid, umask: None, additional_gids: ids.groups.clone() },
            args,
            env,
            cwd,
            no_new_privileges: ids.no_new_privileges,
            ..Process::default()
        }),
        hostname: options.hostname.clone(),
        mounts: mounts.mounts,
        annotations: annotations(image),
        linux: Some(Linux {
            namespaces: namespaces(options),
            uid_mappings: ids.uid_map.clone(),
            gid_mappings: ids.gid_map.clone(),
            ..Linux::default()
        }),
        ..Spec::default()
    };
    let rootfs = rootfs(request, image, &ids, host);
    Ok(Lowered { bundle: Bundle { spec, rootfs }, fake_ownership: ids.fake_ownership, create_cwd, notes })
}

/// Whether an option asks for a namespace of the container's own.
fn private(option: Option<options::Namespace>) -> bool {
    option == Some(options::Namespace::Private)
}

fn namespaces(options: &ContainerOptions) -> Vec<Namespace> {
    let wanted = [
        (true, NamespaceKind::User),
        (true, NamespaceKind::Mount),
        (private(options.pid), NamespaceKind::Pid),
        (private(options.ipc), NamespaceKind::Ipc),
        (options.hostname.is_some(), NamespaceKind::Uts),
        (private(options.net), NamespaceKind::Network),
    ];
    wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, kind)| Namespace::new(kind)).collect()
}

/// What hostname(7) allows: names elsewhere are made of it, and messages, and prompts.
fn check_host_name(name: &str) -> Result<(), CommandError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=64).contains(&name.len()) && !name.starts_with(['-', '.']) && name.bytes().all(legal) {
        return Ok(());
    }
    Err(CommandError::usage(format!("--hostname {name}: a host name has letters, digits, `-` and `.`, at most 64")))
}

fn words(request: &Request<'_>, image: &Image, host: &Host) -> Result<Vec<String>, CommandError> {
    let words = match request.what {
        What::Shell => {
            let own = host.environment.iter().find(|(name, _)| name == "SHELL").map(|(_, value)| value.as_os_str());
            command::shell(own)
        }
        What::Command(typed) => {
            let entrypoint = request.options.entrypoint.as_deref();
            command::words(&image.config, entrypoint, typed).map_err(CommandError::usage)?
        }
    };
    if words.first().is_none_or(|first| first.is_empty()) {
        return Err(CommandError::new(
            Kind::Failure,
            format!("{} says no command of its own, and none was given", image.name),
        )
        .with_hint(format!("name one: `berth run {} COMMAND`, or open a shell: `berth shell {0}`", image.name)));
    }
    let text = |word: OsString| {
        word.into_string().map_err(|word| {
            CommandError::usage(format!(
                "the argument `{}` is not valid UTF-8, which a container's configuration must be",
                word.display()
            ))
        })
    };
    words.into_iter().map(text).collect()
}

fn mounts(request: &Request<'_>, ids: &Ids, host: &Host) -> Plan {
    let options = request.options;
    // Root may be anybody. What is root's is not for another user of the host to see, and often closed to that user.
    let own_files = ids.is_person || !host.is_root();
    let home = host.home.as_deref().filter(|_| !options.contained && !options.no_home && own_files);
    mounts::plan(mounts::Wish {
        contained: options.contained,
        private_pid: private(options.pid),
        private_ipc: private(options.ipc),
        private_net: private(options.net),
        host_has_mqueue: request.host_has_mqueue,
        home,
        empty_home: (home.is_none() && ids.is_person && ids.uid != 0).then(|| Path::new(ids.home.as_str())),
        cwd: host.cwd.as_deref().filter(|_| !options.contained && !options.no_cwd && own_files),
        defaults: request.default_volumes,
        volumes: request.volumes,
    })
}

fn environment(
    request: &Request<'_>,
    image: &Image,
    host: &Host,
    ids: &Ids,
    mounts: &Plan,
    notes: &mut Vec<String>,
) -> Vec<String> {
    let options = request.options;
    let sources = Sources {
        host: &host.environment,
        inherit: !options.clear_env && !options.contained,
        image: &image.config.env,
        settings: request.settings,
        home: Path::new(&ids.home),
        user: ids.name.as_deref(),
        terminal: options.pty,
    };
    let shown = |path: &Path| mounts.shown.iter().any(|shown| path.starts_with(shown));
    let mut environment = Environment::compose(sources, shown);
    if sources.inherit {
        let asked = |name: &OsStr| {
            request.settings.iter().any(|setting| matches!(setting, Setting::Set(set, _) if set == name))
        };
        for (name, value) in &host.environment {
            let text = name.to_string_lossy();
            let kept = request.keep_env.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => text.starts_with(prefix),
                None => text == pattern.as_str(),
            });
            if kept && !asked(name) {
                environment.set(name, value);
            }
        }
    }
    notes.extend(environment.dropped.iter().map(|(name, why)| format!("variable {} left out: {why}", name.display())));
    let (text, odd): (Vec<_>, Vec<_>) =
        environment.into_entries().into_iter().map(OsString::into_string).partition(Result::is_ok);
    notes.extend(
        odd.into_iter()
            .filter_map(Result::err)
            .map(|entry| format!("variable left out, it is not valid UTF-8: {}", entry.display())),
    );
    text.into_iter().flatten().collect()
}

/// `--workdir`, else the person's current directory, else the image's, else the root; and whether to make it.
fn working_directory(
    options: &ContainerOptions,
    image: &Image,
    mounts: &Plan,
) -> Result<(PathBuf, bool), CommandError> {
    if let Some(asked) = &options.workdir {
        if !asked.starts_with('/') {
            return Err(CommandError::usage(format!("--workdir {asked}: not an absolute path of the container")));
        }
        return Ok((PathBuf::from(asked), false));
    }
    Ok(match (&mounts.start, &image.config.working_dir) {
        (Some(start), _) => (start.clone(), false),
        (None, directory) if directory.starts_with('/') => (PathBuf::from(directory), !options.read_only),
        (None, _) => (PathBuf::from("/"), false),
    })
}

fn rootfs(request: &Request<'_>, image: &Image, ids: &Ids, host: &Host) -> Rootfs {
    let options = request.options;
    if image.is_directory && options.writable && options.name.is_none() {
        // The person's own tree, and the wish to change it: nothing is laid over it.
        return Rootfs::Dir(image.layers[0].clone());
    }
    let accounts = ImageAccounts { user: &image.config.user, passwd: &image.passwd, group: &image.group };
    let stranger = ids.stranger();
    let request_etc = etc::Request {
        owner: Some(ids.owner(accounts, host, &stranger)),
        hostname: options.hostname.as_deref().unwrap_or(request.host_name),
        private_network: private(options.net),
        remap_root: ids.fake_ownership,
    };
    let files = ImageFiles { passwd: &image.passwd, group: &image.group };
    let generated = etc::generate(&request_etc, files, request.host_files, |path| image.entry(path));
    let upper = if options.read_only { Upper::None } else { Upper::Tmpfs { size: options.overlay_size } };
    Rootfs::Overlay { lowers: image.lowers(), generated, upper }
}

/// The image's labels and stop signal, under the names that the OCI image specification's conversion gives them.
fn annotations(image: &Image) -> BTreeMap<String, String> {
    let mut annotations = image.config.labels.clone();
    if !image.config.stop_signal.is_empty() {
        annotations.insert("org.opencontainers.image.stopSignal".to_owned(), image.config.stop_signal.clone());
    }
    annotations
}

#[cfg(test)]
mod tests;
