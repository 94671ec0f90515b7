//! `berth subid migrate`

use std::io::Write as _;
use std::path::PathBuf;

use berth_host::subid::files::FileError;
use berth_host::subid::migrate::{JOURNAL, Migration, Watch, prepare};
use berth_host::subid::plan::plan;
use berth_host::subid::scheme::{self, Scheme, recognize};
use berth_host::subid::shift::{Owners, Report};
use berth_host::subid::users::{Source, User};
use serde_json::json;

use crate::command_error::CommandError;
use crate::{Context, ExitCode, output};

use super::{FileOptions, From, findings};

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    files: FileOptions,
    /// What users had is this file, and not what is in --subuid now
    #[arg(long, value_name = "FILE")]
    old_subuid: Option<PathBuf>,
    /// Likewise of group ids
    #[arg(long, value_name = "FILE")]
    old_subgid: Option<PathBuf>,
    /// What users had follows from a published scheme, and not from the files
    #[arg(long, value_name = "SCHEME", conflicts_with_all = ["old_subuid", "old_subgid"])]
    from_scheme: Option<SchemeName>,
    /// The users of the time of --from-scheme, where they were others: a file as for --users
    #[arg(long, value_name = "FILE", requires = "from_scheme", value_parser = Source::parse)]
    old_users: Option<Source>,
    /// Where a user's files are; may be repeated. %h is the home, %u the name, %U the uid
    #[arg(long, value_name = "DIR", default_value = "%h")]
    tree: Vec<String>,
    /// Print every file whose owner is to change
    #[arg(long)]
    list: bool,
    /// Do it
    #[arg(long)]
    apply: bool,
    /// Even while processes run with ids that move
    #[arg(long)]
    force: bool,
    /// Where the state of a migration is kept
    #[arg(long, value_name = "FILE", default_value = JOURNAL)]
    journal: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SchemeName {
    /// First id is uid × 10000 + 1
    #[value(name = "uid-times-10000")]
    TimesTenThousand,
    /// Ranges from 65536 on, in the order of the users
    Sequential,
}

pub(super) fn run(options: &Options, context: &Context) -> Result<ExitCode, CommandError> {
    let mut left = Vec::new();
    let mut migration = match Migration::begun(&options.journal)? {
        Some(migration) => {
            context.note(&format!("going on with the migration in {}", options.journal.display()));
            migration
        }
        None => {
            let (migration, others) = prepared(options, context)?;
            left = others;
            migration
        }
    };
    for (name, reason) in &left {
        context.note(&format!("{name} stays as is: {reason}"));
    }
    let mut printer = Printer { list: options.list, json: context.json(), apply: options.apply, rows: Vec::new() };
    if !options.apply {
        migration.scan(&mut printer)?;
        printer.finish(&migration)?;
        return Ok(findings(!left.is_empty()));
    }
    if let Some(busy) = migration.busy().filter(|_| !options.force) {
        return Err(CommandError::from(busy));
    }
    let conflicts = migration.apply(&options.journal, &mut printer)?;
    for conflict in &conflicts {
        context.note(&format!("line {}: {} {}", conflict.line, conflict.name, conflict.reason));
    }
    printer.finish(&migration)?;
    let untouched = printer.rows.iter().any(|(_, report)| !report.not_theirs.is_empty() || !report.linked.is_empty());
    Ok(findings(untouched || !left.is_empty() || !conflicts.is_empty()))
}

fn prepared(options: &Options, context: &Context) -> Result<(Migration, Vec<(String, String)>), CommandError> {
    let (rule, accounts, files) = (options.from.rule.load()?, options.from.accounts()?, options.files.files());
    let mut old = files.texts()?;
    for (text, path) in old.iter_mut().zip([&options.old_subuid, &options.old_subgid]) {
        if let Some(path) = path {
            let read = std::fs::read_to_string(path);
            *text = read.map_err(|source| FileError::Read { path: path.clone(), source })?;
        }
    }
    let scheme = options.from_scheme.map(|name| match name {
        SchemeName::TimesTenThousand => Scheme::TimesTenThousand,
        SchemeName::Sequential => Scheme::Sequential,
    });
    if let Some(scheme) = scheme {
        old = match &options.old_users {
            Some(source) => scheme::texts(scheme, &source.accounts()?),
            None => scheme::texts(scheme, &options.from.users.accounts()?),
        };
    }
    match recognize(&old[0], &accounts.users) {
        Some(Scheme::TimesTenThousand) => context.note("the entries follow uid x 10000: neighbours share ids"),
        Some(Scheme::Sequential) => {
            context.note("the entries are numbered one after the other: they move with the list of users")
        }
        None => {}
    }
    let trees = |user: &User| {
        let place = |template: &String| {
            let text =
                template.replace("%U", &user.uid.to_string()).replace("%u", &user.name).replace("%h", &user.home);
            PathBuf::from(text)
        };
        options.tree.iter().map(place).filter(|tree| tree.is_absolute()).collect()
    };
    let plan = plan(&rule, &accounts.users);
    Ok(prepare(&files, [&old[0], &old[1]], &plan, &accounts, trees))
}

struct Printer {
    list: bool,
    json: bool,
    apply: bool,
    rows: Vec<(String, Report)>,
}

impl Watch for Printer {
    fn file(&mut self, user: &str, owners: &Owners) {
        if self.list && !self.json {
            let Owners { path, from, to } = owners;
            // A reader that has gone misses the list, not the migration.
            let _ = writeln!(
                std::io::stdout().lock(),
                "{user}  {}:{} -> {}:{}  {}",
                from.0,
                from.1,
                to.0,
                to.1,
                path.display().to_string().replace(char::is_control, "?")
            );
        }
    }

    fn user(&mut self, user: &str, report: &Report) {
        self.rows.push((user.to_owned(), report.clone()));
    }
}

impl Printer {
    fn finish(&self, migration: &Migration) -> Result<(), CommandError> {
        if self.json {
            let row = |(name, report): &(String, Report)| {
                let part = migration.parts.iter().find(|part| part.name == *name);
                json!({ "name": name, "first": part.map(|part| part.new.0), "trees": part.map(|part| &part.trees), "files": report })
            };
            return output::json(
                &json!({ "applied": self.apply, "users": self.rows.iter().map(row).collect::<Vec<_>>() }),
            );
        }
        let mut lines = Vec::new();
        for (name, report) in &self.rows {
            let verb = if self.apply { "given" } else { "to give" };
            lines.push(format!("{name}: {} of {} files {verb} to the new ids", report.shifted, report.seen));
            lines.extend(
                report.not_theirs.iter().map(|path| format!("    left alone, it is not {name}'s: {}", path.display())),
            );
            lines.extend(
                report
                    .linked
                    .iter()
                    .map(|path| format!("    left alone, it has links from elsewhere: {}", path.display())),
            );
            if report.foreign_count > 0 {
                lines.push(format!(
                    "    {} files have ids that are not {name}'s, for example {}",
                    report.foreign_count,
                    report.foreign[0].display()
                ));
            }
        }
        if self.rows.is_empty() {
            lines.push("everybody has the range of the rule".to_owned());
        } else if !self.apply {
            lines.push("nothing was changed: --apply does it".to_owned());
        }
        output::lines(lines)
    }
}
