//! `berth subid`: the sub-ids of a site. What it does is in `berth_host::subid`; here it is asked and printed.

mod migrate;

use std::path::{Path, PathBuf};

use berth_container::subid::IdKind;
use berth_host::subid::check::{check, unknown_owners};
use berth_host::subid::exchange::Document;
use berth_host::subid::files::{Conflict, Files, Wanted, merge, replace};
use berth_host::subid::past::inherited;
use berth_host::subid::plan::{Plan, Room, plan, propose, room};
use berth_host::subid::rule::SITE_FILE;
use berth_host::subid::users::{Accounts, Index, Source, User, text_of};
use berth_host::subid::{Range, Rule, last, nsswitch};
use serde_json::json;

use crate::command_error::CommandError;
use crate::{Context, ExitCode, output};

/// Plan, check and write the subordinate ids of a site
///
/// A user's range follows from the uid alone: 65536 ids from uid × 65536 on, unless /etc/berth/subid.toml declares bands of
/// uids. Ranges of two users never overlap, never hold an account that the rule knows of, and never move.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  berth subid check\n  berth subid write\n  berth subid explain alice\n  \
    berth subid migrate --tree '%h' --tree '/local/%u' --apply")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// Print the entries that users get by the rule
    ///
    /// Exit code 1: somebody gets none, and why is told.
    Plan {
        #[command(flatten)]
        from: From,
        /// Print bands for /etc/berth/subid.toml that serve these users instead
        #[arg(long)]
        propose: bool,
    },
    /// Find what is wrong with the entries that there are, and who can reach whose files by it
    ///
    /// Exit code 1: something is wrong.
    Check {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        files: FileOptions,
        #[command(flatten)]
        past: Past,
    },
    /// Write the entries of users to both files, beside those that are there
    ///
    /// Under the locks that useradd and usermod take, each file whole or not at all. An entry that is there is never changed:
    /// users whose range would move are told (exit code 1), and `berth subid migrate` moves them with their files.
    Write {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        files: FileOptions,
        /// Only tell what would be written
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Tell the rule, the range of a user, or whose an id is
    Explain {
        /// A login name or uid
        user: Option<String>,
        /// An id of the host, for example the owner of a file
        #[arg(long, value_name = "ID", conflicts_with = "user")]
        id: Option<u32>,
        #[command(flatten)]
        rule: RuleOption,
    },
    /// Print everybody's range as a document for nodes that cannot ask the directory
    Export {
        #[command(flatten)]
        from: From,
        /// Write it to this file, by one rename, and only if it differs
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Write the entries of a document of `export` to both files, as `write` does
    Import {
        /// The document
        document: PathBuf,
        #[command(flatten)]
        files: FileOptions,
    },
    /// Go from another scheme to the rule, and give users' files to their new ids
    ///
    /// Without --apply only tells what would be done. Interrupted, the same command goes on where it was. While it is at work
    /// the users have no ranges, so that nobody starts a container on files that are half moved. Exit code 1: something was left as
    /// it is, and what is told.
    Migrate(migrate::Options),
}

/// Whom it is about.
#[derive(Clone, Debug, clap::Args)]
struct From {
    /// Where users are: `getent`, or a file of passwd lines, LDIF, or JSON
    #[arg(long, value_name = "FROM", default_value = "getent", value_parser = Source::parse)]
    users: Source,
    /// Only this user; may be repeated. Found even where the name services do not list everybody
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,
    #[command(flatten)]
    rule: RuleOption,
}

#[derive(Clone, Debug, clap::Args)]
struct RuleOption {
    /// Take the bands from this file
    #[arg(long, value_name = "FILE", default_value = SITE_FILE)]
    rule: PathBuf,
}

/// Where the entries are.
#[derive(Clone, Debug, clap::Args)]
struct FileOptions {
    /// The file of user ids
    #[arg(long, value_name = "FILE", default_value = IdKind::User.file())]
    subuid: PathBuf,
    /// The file of group ids
    #[arg(long, value_name = "FILE", default_value = IdKind::Group.file())]
    subgid: PathBuf,
}

/// Entries of an earlier time.
#[derive(Clone, Debug, clap::Args)]
struct Past {
    /// Tell also whose user ids of then, by this file, somebody else has now
    #[arg(long, value_name = "FILE")]
    old_subuid: Option<PathBuf>,
    /// Likewise of group ids
    #[arg(long, value_name = "FILE")]
    old_subgid: Option<PathBuf>,
}

impl Past {
    /// The texts of both files; an empty one where none is named.
    fn texts(&self) -> Result<[String; 2], CommandError> {
        let read = |path: &Option<PathBuf>| match path {
            Some(path) => std::fs::read_to_string(path).map_err(|error| CommandError::io("read", path, error)),
            None => Ok(String::new()),
        };
        Ok([read(&self.old_subuid)?, read(&self.old_subgid)?])
    }
}

/// Does it, and prints what came of it.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    match &args.verb {
        Verb::Plan { from, propose: true } => print_proposal(from),
        Verb::Plan { from, .. } => print_plan(from, context),
        Verb::Check { from, files, past } => print_check(from, &files.files(), past, context),
        Verb::Write { from, files, dry_run } => write(from, &files.files(), *dry_run, context),
        Verb::Explain { user, id, rule } => explain(user.as_deref(), *id, rule, context),
        Verb::Export { from, output } => export(from, output.as_deref(), context),
        Verb::Import { document, files } => import(document, &files.files(), context),
        Verb::Migrate(options) => migrate::run(options, context),
    }
}

impl FileOptions {
    fn files(&self) -> Files {
        Files { subuid: self.subuid.clone(), subgid: self.subgid.clone() }
    }
}

impl RuleOption {
    fn load(&self) -> Result<Rule, CommandError> {
        Ok(Rule::load_from(&self.rule)?)
    }
}

impl From {
    fn accounts(&self) -> Result<Accounts, CommandError> {
        if self.user.is_empty() {
            return Ok(self.users.accounts()?);
        }
        let names: Vec<&str> = self.user.iter().map(String::as_str).collect();
        let users = self.users.named(&names)?;
        let index = Index::new(&users);
        match self.user.iter().find(|name| index.owner(name).is_none()) {
            Some(name) => Err(CommandError::failure(format!("there is no user {name}"))),
            None => Ok(Accounts { users, groups: Vec::new() }),
        }
    }
}

/// 1 where something is not as it should be.
fn findings(any: bool) -> ExitCode {
    if any { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

fn print_proposal(from: &From) -> Result<ExitCode, CommandError> {
    let accounts = from.accounts()?;
    let text = propose(&accounts.users).ok_or_else(|| {
        CommandError::failure("32 bits have no room for 65536 ids for each of these users")
            .with_hint("declare bands with a smaller `count`; docs/subids.md has the arithmetic")
    })?;
    output::lines(text.lines())?;
    Ok(ExitCode::SUCCESS)
}

/// A site has many users: rows are not copied into a tree of values before they are printed.
#[derive(serde::Serialize)]
struct Planned<'a> {
    ranges: Vec<Row<'a>>,
    refused: Vec<serde_json::Value>,
    room: Room,
}

#[derive(serde::Serialize)]
struct Row<'a> {
    name: &'a str,
    uid: u32,
    first: u32,
    last: u32,
    count: u32,
}

impl<'a> Row<'a> {
    fn of(user: &'a User, range: Range) -> Row<'a> {
        Row { name: &user.name, uid: user.uid, first: range.first, last: last(range), count: range.count }
    }
}

fn print_plan(from: &From, context: &Context) -> Result<ExitCode, CommandError> {
    let (rule, accounts) = (from.rule.load()?, from.accounts()?);
    let plan = plan(&rule, &accounts.users);
    if context.json() {
        let ranges = plan.ranges.iter().map(|planned| Row::of(planned.user, planned.range)).collect();
        let refused = |(user, reason): &(&User, berth_host::subid::Refused)| json!({ "name": user.name, "uid": user.uid, "reason": reason.to_string() });
        let refused = plan.refused.iter().map(refused).collect();
        output::json(&Planned { ranges, refused, room: room(&rule) })?;
    } else {
        let line = |planned: &berth_host::subid::Planned<'_>| {
            format!("{}:{}:{}", planned.user.name, planned.range.first, planned.range.count)
        };
        output::lines(plan.ranges.iter().map(line))?;
        tell_refused(&plan, context);
    }
    Ok(findings(!plan.refused.is_empty()))
}

fn tell_refused(plan: &Plan<'_>, context: &Context) {
    for (user, reason) in &plan.refused {
        context.note(&format!("{} gets no range: {reason}", user.name));
    }
    if !plan.refused.is_empty() {
        context.note("`berth subid plan --propose` prints bands that serve everybody, if there is room");
    }
}

fn print_check(from: &From, files: &Files, past: &Past, context: &Context) -> Result<ExitCode, CommandError> {
    let (texts, past) = (files.texts()?, past.texts()?);
    let texts = [texts[0].as_str(), texts[1].as_str()];
    // All users, whoever is asked about: those in the way may be others.
    let mut accounts = from.users.accounts()?;
    let unknown = unknown_owners(texts, &accounts);
    if !unknown.is_empty() {
        accounts.users.extend(from.users.named(&unknown)?);
    }
    let mut found = check(texts, &accounts);
    found.extend(inherited([&past[0], &past[1]], texts, &accounts));
    if !from.user.is_empty() {
        let index = Index::new(&accounts.users);
        let names = from.user.iter().filter_map(|name| index.owner(name)).map(|user| user.name.as_str());
        let names: Vec<&str> = names.collect();
        found.retain(|finding| finding.who.iter().any(|who| names.contains(&who.as_str())));
    }
    if context.json() {
        output::json(&found)?;
        return Ok(findings(!found.is_empty()));
    }
    let mut lines = Vec::new();
    for finding in &found {
        let path = if finding.file == IdKind::User { &files.subuid } else { &files.subgid };
        let at = match &finding.lines[..] {
            [] => String::new(),
            [line] => format!(" line {line}"),
            [one, two, ..] => format!(" lines {one} and {two}"),
        };
        let ids = finding.ids.map_or_else(String::new, |(first, last)| format!(" ({first}-{last})"));
        lines.push(format!("{}{at}: {}{ids}", path.display(), finding.message));
        lines.extend(finding.reach.iter().map(|reach| format!("    {reach}")));
    }
    let service = nsswitch::service(&text_of(Path::new("/etc/nsswitch.conf")).unwrap_or_default()).map(str::to_owned);
    if let Some(service) = service {
        context.note(&format!("/etc/nsswitch.conf has `subid: {service}`: the tools ask that, and not these files"));
    }
    if !context.quiet() {
        lines.push(match found.len() {
            0 => "nothing is wrong".to_owned(),
            1 => "1 finding".to_owned(),
            many => format!("{many} findings"),
        });
    }
    output::lines(lines)?;
    Ok(findings(!found.is_empty()))
}

fn write(from: &From, files: &Files, dry_run: bool, context: &Context) -> Result<ExitCode, CommandError> {
    let (rule, accounts) = (from.rule.load()?, from.accounts()?);
    let plan = plan(&rule, &accounts.users);
    let wanted: Vec<Wanted<'_>> = plan
        .ranges
        .iter()
        .map(|planned| Wanted { name: &planned.user.name, uid: planned.user.uid, range: planned.range })
        .collect();
    tell_refused(&plan, context);
    let conflicts = put(&wanted, files, dry_run, context)?;
    Ok(findings(conflicts || !plan.refused.is_empty()))
}

/// Adds entries to both files and tells of it; whether some could not be added.
fn put(wanted: &[Wanted<'_>], files: &Files, dry_run: bool, context: &Context) -> Result<bool, CommandError> {
    let mut reports: Vec<(IdKind, usize, usize, Vec<Conflict>)> = Vec::new();
    let mut one = |kind, text: &str| {
        let merged = merge(text, wanted);
        reports.push((kind, merged.added, merged.kept, merged.conflicts));
        (merged.added > 0).then_some(merged.text)
    };
    if dry_run {
        let texts = files.texts()?;
        one(IdKind::User, &texts[0]);
        one(IdKind::Group, &texts[1]);
    } else {
        files.change(one)?;
    }
    let any = reports.iter().any(|(.., conflicts)| !conflicts.is_empty());
    if context.json() {
        let report = |(kind, added, kept, conflicts): &(IdKind, usize, usize, Vec<Conflict>)| {
            let path = if *kind == IdKind::User { &files.subuid } else { &files.subgid };
            json!({ "file": path, "added": added, "kept": kept, "conflicts": conflicts, "dry_run": dry_run })
        };
        output::json(&reports.iter().map(report).collect::<Vec<_>>())?;
        return Ok(any);
    }
    for (kind, added, kept, conflicts) in &reports {
        let path = if *kind == IdKind::User { &files.subuid } else { &files.subgid };
        for conflict in conflicts {
            context.note(&format!("{} line {}: {} {}", path.display(), conflict.line, conflict.name, conflict.reason));
        }
        let verb = if dry_run { "would be added" } else { "added" };
        if !context.quiet() {
            output::lines([format!("{}: {added} {verb}, {kept} as they are", path.display())])?;
        }
    }
    if any {
        context.note("users in the way stay as they are; `berth subid migrate` moves them with their files");
    }
    Ok(any)
}

fn explain(
    user: Option<&str>,
    id: Option<u32>,
    rule: &RuleOption,
    context: &Context,
) -> Result<ExitCode, CommandError> {
    let rule = rule.load()?;
    let name_of = |uid: u32| {
        let users = Source::Getent.named(&[&uid.to_string()]).unwrap_or_default();
        users.into_iter().find(|user| user.uid == uid).map(|user| user.name)
    };
    if let Some(id) = id {
        let owner = rule.owner(id);
        if context.json() {
            let owner = owner.map(|(uid, offset)| json!({ "uid": uid, "name": name_of(uid), "offset": offset }));
            output::json(&json!({ "id": id, "owner": owner }))?;
        } else {
            output::lines([match owner {
                Some((uid, offset)) => format!(
                    "{id} is number {offset} of the range of uid {uid}{}: id {} in containers where root is the user",
                    name_of(uid).map(|name| format!(" ({name})")).unwrap_or_default(),
                    u64::from(offset) + 1
                ),
                None => format!("{id} is in nobody's range"),
            }])?;
        }
        return Ok(findings(owner.is_none()));
    }
    let Some(user) = user else {
        if context.json() {
            output::json(&json!({ "bands": rule.bands(), "room": room(&rule) }))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut lines: Vec<String> = rule
            .bands()
            .iter()
            .map(|band| {
                format!(
                    "uids {}: first id {} + (uid - {}) x {}, {} ids each",
                    band.uids, band.base, band.uids.first, band.count, band.count
                )
            })
            .collect();
        let room = room(&rule);
        lines.push(format!("room for {} users; {} of 4294967296 ids", room.users, room.ids));
        output::lines(lines)?;
        return Ok(ExitCode::SUCCESS);
    };
    let users = Source::Getent.named(&[user])?;
    let index = Index::new(&users);
    let uid = match (index.owner(user), user.parse()) {
        (Some(user), _) => user.uid,
        (None, Ok(uid)) => uid, // Not an account yet.
        _ => return Err(CommandError::failure(format!("there is no user {user}"))),
    };
    let range = rule.range(uid).map_err(|reason| {
        CommandError::failure(reason.to_string())
            .with_hint(format!("declare a band for it in {SITE_FILE}: see docs/subids.md"))
    })?;
    if context.json() {
        output::json(
            &json!({ "uid": uid, "first": range.first, "last": last(range), "count": range.count, "band": rule.band(uid) }),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = vec![format!("uid {uid}: ids {}-{}", range.first, last(range))];
    lines.extend(rule.band(uid).map(|band| {
        format!("{} + ({uid} - {}) x {} = {}; {} ids", band.base, band.uids.first, band.count, range.first, range.count)
    }));
    output::lines(lines)?;
    Ok(ExitCode::SUCCESS)
}

fn export(from: &From, file: Option<&Path>, context: &Context) -> Result<ExitCode, CommandError> {
    let (rule, accounts) = (from.rule.load()?, from.accounts()?);
    let plan = plan(&rule, &accounts.users);
    tell_refused(&plan, context);
    let document = Document::new(&plan.ranges, &accounts.groups);
    let Some(path) = file else {
        output::json(&document)?;
        return Ok(findings(!plan.refused.is_empty()));
    };
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    let write = || if std::fs::read(path).is_ok_and(|old| old == text) { Ok(()) } else { replace(path, &text) };
    write().map_err(|error| CommandError::io("write", path, error))?;
    Ok(findings(!plan.refused.is_empty()))
}

fn import(path: &Path, files: &Files, context: &Context) -> Result<ExitCode, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|error| CommandError::io("read", path, error))?;
    let refused = |error| CommandError::failure(format!("{} {error}", path.display()));
    let document = Document::parse(&text).map_err(refused)?;
    Ok(findings(put(&document.wanted().map_err(refused)?, files, false, context)?))
}
