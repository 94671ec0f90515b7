//! What `run` and `shell` share: find the image, look at the host, lower, launch.
//!
//! This is the path on which every microsecond counts: with the image in the store it reads the configuration, one name,
//! one record and a handful of small files of the host, starts no thread and touches nothing of the registry client.

mod devices;
pub mod gather;
mod timings;

use std::process::ExitCode;

use berth_container::{fake, launch};
use berth_image::store::Lease;

use crate::cli::options::ContainerOptions;
use crate::fetch;
use crate::lower::host::Host;
use crate::lower::{self, Lowered};
use crate::{CommandError, Context};

pub use crate::lower::What;
use gather::Inputs;
use timings::Timings;

/// Starts a container. Returns only when that fails, or when something had to wait for the command.
pub fn start(
    typed: &ContainerOptions,
    image: &str,
    what: What<'_>,
    context: &Context,
) -> Result<ExitCode, CommandError> {
    let mut timings = Timings::new(typed.timings);
    let defaults = &context.config()?.run;
    let options = gather::with_defaults(typed, defaults)?;
    timings.phase("configuration");
    let (image, lease) = fetch::image(image, options.pull.unwrap_or_default(), &options.source, context)?;
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
    launch(&options, lowered, lease, &timings)
}

fn launch(
    options: &ContainerOptions,
    lowered: Lowered,
    lease: Option<Lease>,
    timings: &Timings,
) -> Result<ExitCode, CommandError> {
    let launch_options = launch::Options {
        filter: if lowered.fake_ownership { fake::program(fake::Abi::NATIVE) } else { Vec::new() },
        keep_groups: true,
        create_cwd: lowered.create_cwd,
        init: options.init,
        ..launch::Options::default()
    };
    let plan = launch::Plan::new(&lowered.bundle, &launch_options)?;
    if let Some(line) = timings.report() {
        eprintln!("{line}");
    }
    // A command that takes this process' place keeps the lease until it ends.
    let lease = if plan.is_supervised() {
        lease
    } else {
        lease.and_then(|lease| {
            lease.keep();
            None
        })
    };
    let mut started = |pid: u32| match &options.pidfile {
        Some(path) => std::fs::write(path, format!("{pid}\n"))
            .map_err(|e| berth_container::Error::io("write the process id to", path, e)),
        None => Ok(()),
    };
    let code = plan.execute(&mut started)?;
    drop(lease);
    Ok(ExitCode::from(code))
}
