//! `berth setup`

use berth_host::doctor;
use berth_host::doctor::Host;
use berth_host::doctor::Person;
use berth_host::doctor::Places;
use berth_host::doctor::Role;
use berth_host::setup;
use berth_host::setup::Plan;
use berth_host::setup::Wishes;

use crate::ExitCode;
use crate::{CommandError, Context, output};

/// Where root's journals are.
const JOURNALS: &str = "/var/lib/berth/setup";

/// Show, write or take back the configuration of Slurm, podman, docker, or of a site that had enroot
///
/// Without --write nothing is changed: the differences to what is there are shown, with a reason below each line. What is
/// written over is kept, so that --undo restores every byte. As an ordinary user, podman and docker are set up for oneself.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  berth setup slurm\n  berth setup slurm --write\n  berth setup slurm --undo\n  \
                  berth setup podman --storage /local --registry registry.site --write")]
pub struct Args {
    /// What is set up
    #[arg(value_enum, value_name = "WHAT")]
    pub what: What,
    /// Write what is shown
    #[arg(long, conflicts_with = "undo")]
    pub write: bool,
    /// Restore what was there before
    #[arg(long)]
    pub undo: bool,
    /// slurm: the plugin, where it is not in /usr/lib/berth or its like
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<String>,
    /// slurm: let Slurm fail where the plugin cannot be loaded
    #[arg(long)]
    pub required: bool,
    /// slurm: an epilog that removes what users leave behind; changes slurm.conf
    #[arg(long)]
    pub epilog: bool,
    /// podman, docker: keep images below this folder of a local file system
    #[arg(long, value_name = "DIR")]
    pub storage: Option<String>,
    /// podman: look for names without a registry in this one (may be given several times)
    #[arg(long = "registry", value_name = "NAME")]
    pub registries: Vec<String>,
    /// docker: rootless docker stays in the host's network
    #[arg(long)]
    pub host_network: bool,
}

/// What can be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// oci.conf, the plugin, and gres.conf where there are GPUs
    Slurm,
    /// containers.conf, storage.conf, registries.conf
    Podman,
    /// daemon.json
    Docker,
    /// berth.toml from enroot.conf, and a plugin stack without pyxis
    EnrootMigration,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Slurm => "slurm",
            What::Podman => "podman",
            What::Docker => "docker",
            What::EnrootMigration => "enroot-migration",
        }
    }

    fn plan(self, host: &Host, wishes: &Wishes) -> Result<Plan, setup::Error> {
        match self {
            What::Slurm => setup::slurm(host, wishes),
            What::Podman => setup::podman(host, wishes),
            What::Docker => setup::docker(host, wishes),
            What::EnrootMigration => setup::enroot(host, wishes),
        }
    }
}

/// Shows, writes or restores.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let person = person();
    let journals = match (&person.home, person.uid) {
        (Some(home), uid) if uid != 0 => format!("{home}/.local/state/berth/setup"),
        _ => JOURNALS.to_owned(),
    };
    let places = Places { store: Err(String::new()), below: Vec::new(), containers: None, mistake: None };
    let host = doctor::live(Role::Any, person, places, doctor::LIMIT)
        .map_err(|e| CommandError::io("use", std::env::temp_dir(), e))?;
    if args.undo {
        let restored = setup::undo(&host, args.what.name(), &journals)?;
        return report(context, "restored", &restored, "there is nothing to take back");
    }
    let wishes = Wishes {
        plugin: args.plugin.clone(),
        required: args.required,
        epilog: args.epilog,
        storage: args.storage.clone(),
        registries: args.registries.clone(),
        host_network: args.host_network,
    };
    let plan = args.what.plan(&host, &wishes)?;
    if !context.json() && !context.quiet() {
        output::lines(setup::show(&host, &plan))?;
    }
    if args.write {
        let written = setup::write(&host, &plan, &journals)?;
        return report(context, "written", &written, "everything is as it should be");
    }
    if context.json() {
        let files: Vec<_> =
            plan.changes.iter().map(|c| serde_json::json!({"path": c.path, "content": c.content})).collect();
        output::json(&serde_json::json!({"files": files, "notes": plan.notes, "done": setup::is_done(&host, &plan)}))?;
    } else if !setup::is_done(&host, &plan) {
        context.note("nothing was changed: add --write");
    }
    Ok(ExitCode::SUCCESS)
}

fn report(context: &Context, verb: &str, paths: &[String], nothing: &str) -> Result<ExitCode, CommandError> {
    if context.json() {
        output::json(&serde_json::json!({ verb: paths }))?;
    } else if paths.is_empty() {
        context.note(nothing);
    } else {
        output::lines(paths.iter().map(|path| format!("{verb} {path}")))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Who asks: root sets up the system.
pub(super) fn person() -> Person {
    if rustix::process::geteuid().is_root() {
        return Person { name: "root".to_owned(), uid: 0, gid: 0, home: Some("/root".to_owned()), named: true };
    }
    doctor::whoever_asks()
}
