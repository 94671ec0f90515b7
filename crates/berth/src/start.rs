//! What `run` and `shell` share: find the image, look at the host, lower, launch.
//!
//! This is the path on which every microsecond counts: with the image in the store it reads the configuration, one name,
//! one record and a handful of small files of the host, starts no thread and touches nothing of the registry client.

pub mod devices;
pub mod gather;
pub mod named;
mod timings;

use crate::ExitCode;
use std::path::Path;

use berth_container::oci::Process;
use berth_container::state::{Container, Lock};
use berth_container::{fake, launch};
use berth_image::store::{Lease, mount_mark};

use crate::cli::options::ContainerOptions;
use crate::fetch;
use crate::imagefile;
use crate::lower::host::Host;
use crate::lower::image::Image;
use crate::lower::{self, Lowered};
use crate::{CommandError, Context};

pub use crate::lower::What;
use gather::Inputs;
use named::{Named, State};
use timings::Timings;

/// Starts a container. Returns only when that fails, or when something had to wait for the command.
pub fn start(
    typed: &ContainerOptions,
    image: &str,
    what: What<'_>,
    context: &Context,
) -> Result<ExitCode, CommandError> {
    launch::sealed::ensure_sealed()?;
    let mut timings = Timings::new(typed.timings);
    let defaults = &context.config()?.run;
    let options = gather::with_defaults(typed, defaults)?;
    timings.phase("configuration");
    let (image, lease) = match imagefile::open_if_file(image)? {
        Some(image) => (image, None),
        None => fetch::image(image, options.pull.unwrap_or_default(), &options.source, context)?,
    };
    timings.phase("image");
    let host = Host::read();
    let inputs = Inputs::read(&options, defaults, &host)?;
    timings.phase("host");
    let mut lowered = lower::lower(&inputs.request(&options, what), &image, &host)?;
    for note in lowered.notes.drain(..) {
        context.explain(|| note);
    }
    devices::add(&options.devices, &context.config()?.cdi_directories(), &mut lowered.bundle.spec)?;
    timings.phase("bundle");
    let launch = Launch { options: &options, lease, timings };
    match &options.name {
        None => launch.new_container(lowered, &image, None),
        Some(name) => match named::open_or_create(&context.containers()?, name, &image)? {
            State::Stopped(named) => launch.named(named, lowered, &image),
            State::Running(named, pid) => {
                context.explain(|| format!("container `{name}` is running: joining process {pid}"));
                let process = lowered.bundle.spec.process.unwrap_or_default();
                let process = named.joining(process, options.workdir.is_some());
                let filter = ownership_filter(named.record.fake_ownership);
                join(pid, &process, filter, Some((named.container, named.lock)), options.pidfile.as_deref())
            }
        },
    }
}

/// What is left to do when all is decided.
struct Launch<'a> {
    options: &'a ContainerOptions,
    lease: Option<Lease>,
    timings: Timings,
}

impl Launch<'_> {
    fn named(self, mut named: Named, mut lowered: Lowered, image: &Image) -> Result<ExitCode, CommandError> {
        named.prepare(&mut lowered, image)?;
        let container = named.container.clone();
        let remove = self.options.rm;
        let outcome = self.new_container(lowered, image, Some(named));
        if remove {
            // What the command left running keeps the container; it says so itself.
            let removed = container.remove(false).map_err(CommandError::from);
            return outcome.and_then(|code| removed.map(|()| code));
        }
        outcome
    }

    fn new_container(
        mut self,
        lowered: Lowered,
        image: &Image,
        named: Option<Named>,
    ) -> Result<ExitCode, CommandError> {
        let mut label = named.as_ref().map_or_else(|| "berth".to_owned(), |named| named.record.label());
        // By this the store sees that the image is in use.
        if let Some(digest) = &image.digest {
            label.push_str(&mount_mark(digest));
        }
        let options = launch::Options {
            filter: ownership_filter(lowered.fake_ownership),
            keep_groups: true,
            create_cwd: lowered.create_cwd,
            init: self.options.init,
            // Somebody must be left to remove it.
            supervise: self.options.rm && named.is_some(),
            label: Some(label),
            image: imagefile::serve(image)?,
            ..launch::Options::default()
        };
        let plan = launch::Plan::new(&lowered.bundle, &options)?;
        self.timings.phase("plan");
        if let Some(line) = self.timings.report() {
            eprintln!("{line}");
        }
        // A command that takes this process' place keeps the lease until it ends.
        if !plan.is_supervised()
            && let Some(lease) = self.lease.take()
        {
            lease.keep();
        }
        let mut started =
            Started::new(named.map(|named| (named.container, named.lock)), self.options.pidfile.as_deref());
        let code = plan.execute(&mut |pid| {
            // Only if somebody else becomes the command is it still here.
            if let Some(lease) = &mut self.lease {
                lease.forked();
            }
            started.write_down(pid)
        })?;
        Ok(ExitCode::from(code))
    }
}

/// Runs a process in the container that another process is in. Returns only when that fails, or when it was waited for.
pub fn join(
    pid: u32,
    process: &Process,
    filter: Vec<libc::sock_filter>,
    container: Option<(Container, Lock)>,
    pidfile: Option<&Path>,
) -> Result<ExitCode, CommandError> {
    let options = launch::Options { filter, keep_groups: true, ..launch::Options::default() };
    let mut started = Started::new(container, pidfile);
    let code = launch::join::Target::of_process(pid)?.execute(process, &options, &mut |pid| started.write_down(pid))?;
    Ok(ExitCode::from(code))
}

/// The system call filter of `--remap-root`, if it is wanted.
pub fn ownership_filter(wanted: bool) -> Vec<libc::sock_filter> {
    if wanted { fake::program(fake::Abi::NATIVE) } else { Vec::new() }
}

/// What is written down when the process that will be the command is known.
struct Started<'a> {
    container: Option<(Container, Lock)>,
    pidfile: Option<&'a Path>,
}

impl<'a> Started<'a> {
    fn new(container: Option<(Container, Lock)>, pidfile: Option<&'a Path>) -> Started<'a> {
        Started { container, pidfile }
    }

    fn write_down(&mut self, pid: u32) -> berth_container::Result<()> {
        if let Some(path) = self.pidfile {
            let text = format!("{pid}\n");
            std::fs::write(path, text).map_err(|e| berth_container::Error::io("write the process id to", path, e))?;
        }
        if let Some((container, lock)) = self.container.take() {
            container.register(pid)?;
            lock.hand_over(pid);
        }
        Ok(())
    }
}
