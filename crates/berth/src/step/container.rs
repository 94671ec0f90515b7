//! From the wish to a container that can be made: image, name, bundle, and what the tasks do.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use berth_container::launch::{self, Plan};
use berth_container::oci::{Mount, Process};
use berth_container::state::{self, Container, Containers, Lock, Record};
use berth_image::store::Lease;
use berth_slurm::answer::Way;
use berth_slurm::request::NameFlag;

use super::arguments::Arguments;
use super::entrypoint::Entrypoint;
use super::options::{self, Wish};
use super::{Kind, slurm_tools};
use crate::cli::PullPolicy;
use crate::fetch;
use crate::lower::host::Host;
use crate::lower::image::Image;
use crate::lower::{self, Lowered, What};
use crate::start::named::{self, Named, State};
use crate::start::{devices, gather, ownership_filter};
use crate::{CommandError, Context, slurm};

/// What is left to do when all is decided.
pub struct Prepared {
    /// How the container comes to be.
    pub kind: Kind,
    /// What the tasks do.
    pub way: Way,
    /// Where they go.
    pub cwd: PathBuf,
    /// Whether that is made where it is missing.
    pub create_cwd: bool,
    /// The named container, locked.
    pub container: Option<Kept>,
    /// Keeps the image in the store.
    pub lease: Option<Lease>,
    /// What runs before the tasks.
    pub entrypoint: Option<Entrypoint>,
    /// The image, as it was asked for.
    pub image: String,
    /// Its digest.
    pub digest: Option<String>,
}

/// A named container that is about to be started.
pub struct Kept {
    /// It.
    pub container: Container,
    /// Held until it runs.
    #[allow(dead_code)] // Dropped, which opens it.
    pub lock: Lock,
}

/// What is known of the container before its image is looked at.
enum Found {
    /// None: it is made.
    Fresh,
    /// It does not run.
    Stopped(Box<Named>),
    /// It runs; this is one of its processes.
    Running { pid: u32, record: Option<Box<Record>> },
}

/// What stands in for the command that Slurm starts.
const NOTHING: &str = "true";

/// Becomes a command in a container of its own, without Slurm's help. Comes back only with what went wrong.
pub fn become_command(
    arguments: &Arguments,
    command: &[OsString],
    context: &Context,
) -> Result<crate::ExitCode, CommandError> {
    let prepared = prepare_for(arguments, command, context)?;
    if let Some(mut telling) = super::record::write(arguments, &prepared) {
        let _ = telling.wait();
    }
    if let Some(lease) = prepared.lease {
        lease.keep();
    }
    let Kind::New(plan) = prepared.kind else {
        return Err(CommandError::failure("a container that runs cannot be started"));
    };
    Ok(crate::ExitCode::from(plan.execute(&mut |_| Ok(()))?))
}

/// Decides everything, and fetches the image.
pub fn prepare(arguments: &Arguments, context: &Context) -> Result<Prepared, CommandError> {
    prepare_for(arguments, &[OsString::from(NOTHING)], context)
}

fn prepare_for(arguments: &Arguments, command: &[OsString], context: &Context) -> Result<Prepared, CommandError> {
    let wish = options::wish(arguments)?;
    let request = &wish.request;
    if request.stage {
        // What is read once the node's memory keeps, of images in one file too.
        eprintln!("berth: --container-stage says nothing here yet: images are read from where they are");
    }
    let name = request.container_name().map(|(name, flag)| (scoped(arguments, name), flag));
    let mut found = match &name {
        None => Found::Fresh,
        Some((name, flag)) => {
            let typed = request.container_name().map_or("", |(name, _)| name);
            find(&containers(arguments, context)?, name, typed, *flag, request.image.is_some())?
        }
    };
    let text = match &found {
        Found::Fresh => image_text(&wish)?,
        Found::Stopped(named) => image_of_record(&named.record),
        Found::Running { record, .. } => record.as_ref().map(|record| image_of_record(record)).unwrap_or_default(),
    };
    let (image, lease) = match &found {
        Found::Running { pid, record } => (running_image(*pid, record.as_deref(), &text, context), None),
        _ => fetch_image(&text, arguments, &wish, context)?,
    };
    if let (Found::Fresh, Some((name, _))) = (&found, &name) {
        check_quota(arguments)?;
        found = create(&containers(arguments, context)?, name, &image)?;
    }
    let tell = |text: &str| {
        if request.verbose {
            eprintln!("pyxis: {text}");
        }
    };
    match &found {
        Found::Stopped(_) => tell("reusing existing container filesystem"),
        Found::Running { .. } => {
            tell("reusing existing container namespaces");
            if request.mounts.is_some() {
                eprintln!("pyxis: ignoring --container-mounts when attaching to a running container");
            }
        }
        Found::Fresh => {}
    }
    assemble(arguments, command, &wish, image, lease, found, context)
}

/// Lowers the wish, and plans.
fn assemble(
    arguments: &Arguments,
    command: &[OsString],
    wish: &Wish,
    image: Image,
    lease: Option<Lease>,
    found: Found,
    context: &Context,
) -> Result<Prepared, CommandError> {
    let host = Host::read();
    let defaults = &context.config()?.run;
    let mut typed = wish.options.clone();
    surroundings(arguments, &mut typed.mounts);
    if wish.request.slurm {
        slurm_tools::mounts(&mut typed.mounts);
    }
    let options = gather::with_defaults(&typed, defaults)?;
    let inputs = gather::Inputs::read(&options, defaults, &host)?;
    let mut lowered = lower::lower(&inputs.request(&options, What::Command(command)), &image, &host)?;
    for note in lowered.notes.drain(..) {
        context.explain(|| note);
    }
    adjust(wish, &image, &host, &mut lowered);
    let gpus = gpus(arguments, &host, context)?;
    devices::add(
        &[options.devices.clone(), gpus].concat(),
        &context.config()?.cdi_directories(),
        &mut lowered.bundle.spec,
    )?;
    if wish.request.slurm {
        slurm_tools::add(&mut lowered);
    }
    let entrypoint = if wish.entrypoint && !image.config.entrypoint.is_empty() {
        let process = process(&lowered);
        Some(Entrypoint::new(&image.config.entrypoint, process, wish.request.entrypoint_log))
    } else {
        None
    };
    let mut way = Way { filter: filter_bytes(lowered.fake_ownership), ..Way::default() };
    way.no_new_privileges = process(&lowered).no_new_privileges;
    let (cwd, create_cwd) = (process(&lowered).cwd.clone(), lowered.create_cwd);
    way.cwd = cwd.as_os_str().as_bytes().to_vec();
    (way.set, way.unset) = difference(&host.environment, &process(&lowered).env);
    let (kind, container) = match found {
        Found::Running { pid, record } => {
            if let Some(record) = record {
                // Who may do what was decided when it was made.
                way.filter = filter_bytes(record.fake_ownership);
            }
            let apart = matches!(wish.request.container_name(), Some((_, NameFlag::NoExec)));
            (Kind::Running { pid, apart }, None)
        }
        Found::Stopped(named) => {
            let mut named = *named;
            named.prepare(&mut lowered, &image)?;
            let label = named.record.label();
            let plan = plan(arguments, label, &image, &lowered)?;
            (Kind::New(Box::new(plan)), Some(Kept { container: named.container, lock: named.lock }))
        }
        Found::Fresh => (Kind::New(Box::new(plan(arguments, "berth".to_owned(), &image, &lowered)?)), None),
    };
    if let Kind::New(plan) = &kind {
        way.namespaces = plan.namespaces();
    }
    Ok(Prepared {
        kind,
        way,
        cwd,
        create_cwd,
        container,
        lease,
        entrypoint,
        digest: image.digest.as_ref().map(ToString::to_string),
        image: image.name,
    })
}

fn process(lowered: &Lowered) -> &Process {
    // Lowering always makes one.
    static NONE: std::sync::LazyLock<Process> = std::sync::LazyLock::new(Process::default);
    lowered.bundle.spec.process.as_ref().unwrap_or(&NONE)
}

fn plan(arguments: &Arguments, mut label: String, image: &Image, lowered: &Lowered) -> Result<Plan, CommandError> {
    label.push_str(&state::step_mark(&arguments.step_name()));
    label.push_str(&image.mount_mark());
    let options = launch::Options {
        filter: ownership_filter(lowered.fake_ownership),
        keep_groups: true,
        create_cwd: lowered.create_cwd,
        label: Some(label),
        mounted_layers: image.mounted_layers(),
        ..launch::Options::default()
    };
    Ok(Plan::new(&lowered.bundle, &options)?)
}

/// The directory of this node's named containers. It may be on a file system that nodes share.
fn containers(arguments: &Arguments, context: &Context) -> Result<Containers, CommandError> {
    match &arguments.containers {
        Some(directory) => Ok(Containers::at(directory.join(node_name()).join("containers"))),
        None => context.containers(),
    }
}

/// What this node's part of a directory is called. It is the machine's name, not Slurm's: the end of a job and the start of
/// a machine must find it too.
pub fn node_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A container of a job is told from others' by the job's number, which stays when the job is queued again.
fn scoped(arguments: &Arguments, name: &str) -> String {
    if arguments.job_scope { format!("{}{name}", job_prefix(arguments.job)) } else { name.to_owned() }
}

/// What the names of a job's containers begin with.
pub fn job_prefix(job: u32) -> String {
    format!("{JOB}{job}.")
}

/// What the names of all jobs' containers begin with, before the job's number.
pub const JOB: &str = "job";

fn find(
    containers: &Containers,
    name: &str,
    typed: &str,
    flag: NameFlag,
    has_image: bool,
) -> Result<Found, CommandError> {
    containers.sweep();
    let refused = |text: &str| CommandError::failure(format!("pyxis: error: {text}"));
    let state = match containers.get(name) {
        Ok(container) => Some(named::open(container)?),
        Err(berth_container::Error::NoContainer { .. }) => None,
        Err(other) => return Err(other.into()),
    };
    Ok(match (state, flag) {
        (Some(_), NameFlag::Create) => {
            return Err(refused("\"create\" flag was passed to --container-name but the container already exists"));
        }
        (Some(State::Running(named, pid)), _) => Found::Running { pid, record: Some(Box::new(named.record)) },
        (Some(State::Stopped(_)) | None, NameFlag::Exec) => {
            return Err(refused("\"exec\" flag was passed to --container-name but the container is not running"));
        }
        (Some(State::Stopped(named)), _) => Found::Stopped(Box::new(named)),
        (None, _) if has_image => Found::Fresh,
        // A container without a name is called by its step.
        (None, _) => match member_of_step(typed) {
            Some(pid) => Found::Running { pid, record: None },
            None => {
                let message =
                    format!("a container with name \"pyxis_{name}\" does not exist, and --container-image is not set");
                return Err(refused(&message).with_hint("`berth ps` on the node lists the named containers"));
            }
        },
    })
}

/// A process in the container of a step that is named as `JOB.STEP`.
fn member_of_step(name: &str) -> Option<u32> {
    let step = name.parse::<slurm::Name>().ok().filter(|name| name.step.is_some())?;
    slurm::members(&step).first().map(|member| member.rooted.pid)
}

fn create(containers: &Containers, name: &str, image: &Image) -> Result<Found, CommandError> {
    loop {
        match containers.create(&named::new_record(name, image)) {
            // Somebody else made it meanwhile: then it is as good as ours.
            Ok(_) | Err(berth_container::Error::ContainerState { .. }) => {}
            Err(other) => return Err(other.into()),
        }
        match containers.get(name).and_then(named::open) {
            Ok(State::Stopped(named)) => return Ok(Found::Stopped(Box::new(named))),
            Ok(State::Running(named, pid)) => return Ok(Found::Running { pid, record: Some(Box::new(named.record)) }),
            Err(berth_container::Error::NoContainer { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
}

/// What the user's named containers take on this node must be less than the site allows.
fn check_quota(arguments: &Arguments) -> Result<(), CommandError> {
    let (Some(quota), Some(directory)) = (arguments.quota, &arguments.containers) else { return Ok(()) };
    let used = size_of(directory);
    if used < quota {
        return Ok(());
    }
    Err(CommandError::failure(format!(
        "pyxis: named containers of yours take {} on this node, and the site allows {}",
        crate::units::format_size(used),
        crate::units::format_size(quota)
    ))
    .with_hint("remove some of them: `berth ps` and `berth rm` in a job on this node"))
}

/// Bytes on disk below a directory, links not followed.
fn size_of(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    let mut rest = vec![directory.to_owned()];
    while let Some(directory) = rest.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            sum += metadata.blocks() * 512;
            if metadata.is_dir() {
                rest.push(entry.path());
            }
        }
    }
    sum
}

fn image_text(wish: &Wish) -> Result<String, CommandError> {
    let missing =
        || CommandError::failure("pyxis: error: no image: neither --container-image nor --container-conf names one");
    let text = wish.request.image.clone().ok_or_else(missing)?;
    if !wish.request.image_is_path() {
        return Ok(text);
    }
    options::image_of_path(&text).map_err(|error| not_imported(wish, &text, &error))
}

fn image_of_record(record: &Record) -> String {
    record.digest.clone().unwrap_or_else(|| record.image.clone())
}

fn fetch_image(
    text: &str,
    arguments: &Arguments,
    wish: &Wish,
    context: &Context,
) -> Result<(Image, Option<Lease>), CommandError> {
    let asked = wish.request.image.as_deref().unwrap_or(text);
    let mut fetched = false;
    let single = std::env::var("SLURM_NTASKS").is_ok_and(|count| count == "1") || arguments.script.is_some();
    let mut tell = || {
        fetched = true;
        if single {
            eprintln!("pyxis: importing docker image: {asked}");
        }
    };
    let how = fetch::Wish { policy: PullPolicy::Missing, holder: arguments.lease, on_fetch: Some(&mut tell) };
    let policy = context.config()?.run.pull.unwrap_or_default();
    let outcome = fetch::image_for(text, fetch::Wish { policy, ..how }, &wish.options.source, context);
    match outcome {
        Ok(found) => {
            if fetched {
                eprintln!("pyxis: imported docker image: {asked}");
            }
            Ok(found)
        }
        Err(error) => Err(not_imported(wish, asked, &error)),
    }
}

/// An error behind the sentence that scripts look for.
fn not_imported(wish: &Wish, asked: &str, error: &CommandError) -> CommandError {
    let what =
        if wish.request.image_is_path() { "create container filesystem for image" } else { "import docker image" };
    CommandError::failure(format!("pyxis: failed to {what}: {asked}\n{}", error.lines().join("\n")))
}

/// The image of a container that runs, as far as a process that joins it needs it. It is in use, so it is there, or as
/// much of it as the running process tells.
fn running_image(pid: u32, record: Option<&Record>, text: &str, context: &Context) -> Image {
    let stored =
        (!text.is_empty()).then(|| fetch::image(text, PullPolicy::Never, &Default::default(), context).ok()).flatten();
    if let Some((image, _)) = stored {
        return image;
    }
    let process = match record.and_then(|record| record.bundle.spec.process.clone()) {
        Some(process) => process,
        None => crate::running::like_process(pid).map(|like| like.process).unwrap_or_default(),
    };
    let mut image = Image { name: record.map(|record| record.image.clone()).unwrap_or_default(), ..Image::default() };
    image.config.env = process.env;
    image.config.working_dir = process.cwd.display().to_string();
    image.layers = vec![PathBuf::from("/")];
    image
}

/// What a job has around it, and expects to find inside.
fn surroundings(arguments: &Arguments, mounts: &mut Vec<String>) {
    let same = |path: &Path, flags: &str| options::volume_text(&path.display().to_string(), path, flags);
    if let Some(script) = &arguments.script {
        mounts.push(same(script, "ro+x-create=file"));
    }
    mounts.extend(slurm_tools::task_prolog().map(|program| same(&program, "ro+x-create=file")));
    // Directories of MPI's process manager, of the job's scratch data and of the session; the key of an X display.
    for name in ["PMIX_SERVER_TMPDIR", "PMIX_SYSTEM_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR", "XAUTHORITY"] {
        let Some(path) = std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute()) else { continue };
        // They are there already.
        let shown = ["/tmp", "/dev"].iter().any(|shown| path.starts_with(shown));
        if !shown && path.exists() && path.parent().is_some() {
            mounts.push(same(&path, ""));
        }
    }
    // What PMIx's server takes for a proof of who a rank is.
    let by_munge = std::env::var("PMIX_SECURITY_MODE").is_ok_and(|modes| modes.split(',').any(|mode| mode == "munge"));
    if by_munge && Path::new(slurm_tools::MUNGE).is_dir() {
        mounts.push(same(Path::new(slurm_tools::MUNGE), "ro"));
    }
}

/// What a step wants otherwise than `berth run`.
fn adjust(wish: &Wish, image: &Image, host: &Host, lowered: &mut Lowered) {
    let hidden = |mount: &Mount| wish.without.iter().any(|target| mount.destination.starts_with(target));
    lowered.bundle.spec.mounts.retain(|mount| !hidden(mount));
    let read_only = wish.options.read_only;
    let Some(process) = &mut lowered.bundle.spec.process else { return };
    // Scripts for pyxis count on the image's own directory. Most images name none: then the job's is the best there is.
    let own = &image.config.working_dir;
    if wish.request.workdir.is_none() && own.starts_with('/') && own != "/" {
        process.cwd = PathBuf::from(own);
        lowered.create_cwd = !read_only;
    }
    if wish.without.iter().any(|target| process.cwd.starts_with(target)) && wish.request.workdir.is_none() {
        process.cwd = PathBuf::from("/");
    }
    let asked = |name: &str| {
        wish.request.env_names().any(|asked| asked == name)
            || wish.options.env.iter().any(|setting| setting.split('=').next() == Some(name))
    };
    process.env.retain(|entry| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        let from_host = || host.environment.iter().any(|(known, known_value)| known == name && known_value == value);
        let strange = is_locale(name) && from_host() && !has_locale(image, value);
        asked(name) || !(strange || wish.unset.iter().any(|unset| unset == name))
    });
}

fn is_locale(name: &str) -> bool {
    name == "LANG" || name == "LANGUAGE" || name.starts_with("LC_")
}

/// Whether an image can speak as the person is used to. A language that it does not have makes its programs complain.
fn has_locale(image: &Image, value: &str) -> bool {
    if matches!(value, "C" | "POSIX" | "C.UTF-8" | "C.utf8" | "") {
        return true;
    }
    let plain = value.split(['@', '.']).next().unwrap_or(value);
    [
        "/usr/lib/locale/locale-archive".to_owned(),
        format!("/usr/lib/locale/{value}"),
        format!("/usr/lib/locale/{plain}.utf8"),
    ]
    .iter()
    .any(|path| image.entry(path).is_some())
}

/// The step's GPUs, by their CDI names: the numbers that Slurm gives them, for the kind of GPU that the node has.
fn gpus(arguments: &Arguments, host: &Host, context: &Context) -> Result<Vec<String>, CommandError> {
    let variable = |wanted: &str| {
        let found = host.environment.iter().find(|(name, _)| name == wanted);
        found.and_then(|(_, value)| value.to_str()).filter(|value| !value.is_empty())
    };
    // The numbers of the node, not those that a control group leaves. A step without GPUs still has the variable of its job,
    // which is for the job's script.
    let of_job = || variable("SLURM_JOB_GPUS").filter(|_| arguments.script.is_some());
    let Some(numbers) = variable("SLURM_STEP_GPUS").or_else(of_job) else {
        return Ok(Vec::new());
    };
    let registry = berth_container::cdi::Registry::load(&context.config()?.cdi_directories());
    let known: HashSet<String> = registry.devices().into_iter().collect();
    let kinds: HashSet<&str> = known
        .iter()
        .filter_map(|name| name.split_once('='))
        .map(|(kind, _)| kind)
        .filter(|kind| kind.ends_with("/gpu"))
        .collect();
    let mut names: Vec<String> = Vec::new();
    for kind in kinds {
        for number in numbers.split(',') {
            let name = format!("{kind}={number}");
            if known.contains(&name) {
                names.push(name);
            } else {
                context.explain(|| format!("no CDI specification describes {name}"));
            }
        }
    }
    names.sort();
    Ok(names)
}

/// What a task has to change in its environment: what to set, what to take away.
fn difference(host: &[(OsString, OsString)], inside: &[String]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    // Jobs with tens of thousands of variables exist.
    let known: HashSet<(&OsStr, &OsStr)> =
        host.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())).collect();
    let same = |entry: &&String| {
        let Some((name, value)) = entry.split_once('=') else { return true };
        known.contains(&(OsStr::new(name), OsStr::new(value)))
    };
    // A bundle has text alone, but the task's environment is Slurm's, and what is no text may stay there.
    let no_text = |name: &OsStr, value: &OsStr| name.to_str().is_none() || value.to_str().is_none();
    let set = inside.iter().filter(|entry| !same(entry)).map(|entry| entry.clone().into_bytes()).collect();
    let names: HashSet<&OsStr> =
        inside.iter().filter_map(|entry| entry.split_once('=')).map(|(name, _)| OsStr::new(name)).collect();
    let unset = host
        .iter()
        .filter(|(name, value)| !names.contains(name.as_os_str()) && !no_text(name, value))
        .map(|(name, _)| name.as_bytes().to_vec())
        .collect();
    (set, unset)
}

/// The filter's instructions as the kernel reads them.
fn filter_bytes(wanted: bool) -> Vec<u8> {
    let bytes = |instruction: &libc::sock_filter| {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&instruction.code.to_ne_bytes());
        bytes[2] = instruction.jt;
        bytes[3] = instruction.jf;
        bytes[4..].copy_from_slice(&instruction.k.to_ne_bytes());
        bytes
    };
    ownership_filter(wanted).iter().flat_map(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_changes_only_what_differs() {
        let host = [("A", "1"), ("B", "2"), ("C", "3")].map(|(name, value)| (name.into(), value.into()));
        let inside = ["A=1", "B=other", "D=4"].map(str::to_owned);
        let (set, unset) = difference(&host, &inside);
        assert_eq!(set, [b"B=other".to_vec(), b"D=4".to_vec()]);
        assert_eq!(unset, [b"C".to_vec()]);
    }

    #[test]
    fn a_variable_that_is_no_text_stays() {
        let value = <OsString as std::os::unix::ffi::OsStringExt>::from_vec(vec![0xff]);
        assert_eq!(difference(&[("A".into(), value)], &[]), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_language_is_kept_where_the_image_has_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/lib/locale/de_DE.utf8")).unwrap();
        let image = Image { layers: vec![dir.path().to_owned()], ..Image::default() };
        for (value, expected) in [("C.UTF-8", true), ("de_DE.UTF-8", true), ("de_DE", true), ("fr_FR.UTF-8", false)] {
            assert_eq!(has_locale(&image, value), expected, "{value}");
        }
    }

    #[test]
    fn a_filter_has_eight_bytes_an_instruction() {
        assert!(filter_bytes(false).is_empty());
        let bytes = filter_bytes(true);
        assert_eq!(bytes.len(), ownership_filter(true).len() * 8);
    }
}
