//! The reference: one page of Markdown for each verb, and one that lists them.

use std::fmt::Write as _;

use clap::{Arg, Command};

use crate::Files;

/// The pages, by file name.
pub fn pages() -> Files {
    let mut root = berth::cli::command();
    root.build();
    let mut files = Files::new();
    files.insert("README.md".to_owned(), overview(&root).into_bytes());
    files.insert("slurm-options.md".to_owned(), slurm_options().into_bytes());
    for verb in verbs(&root) {
        files.insert(format!("berth-{}.md", verb.get_name()), page(verb).into_bytes());
    }
    files
}

/// The options that the plugin adds to Slurm's commands.
fn slurm_options() -> String {
    let mut text = String::from(
        "<!-- Made by `cargo xtask reference` from the table of the options. -->\n\
         # Options of srun, sbatch and salloc\n\nThose that berth's plugin adds; [how to use them](../slurm.md).\n\n\
         | option | variable | what it does |\n|---|---|---|\n",
    );
    for row in berth_slurm::options::OPTIONS {
        let value = row.argument.map(|argument| format!("={}", argument.replace('|', "\\|"))).unwrap_or_default();
        let variable = row.variable.map(|name| format!("`PYXIS_CONTAINER_{name}`")).unwrap_or_default();
        let _ = writeln!(text, "| `--{}{value}` | {variable} | {} |", row.name, row.usage);
    }
    text
}

fn verbs(root: &Command) -> impl Iterator<Item = &Command> {
    root.get_subcommands().filter(|verb| verb.get_name() != "help")
}

fn overview(root: &Command) -> String {
    let mut text = String::from(
        "<!-- Made by `cargo xtask reference` from the definition of the command line. -->\n# The command line\n\n| verb | what it does |\n|---|---|\n",
    );
    for verb in verbs(root) {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "| [`berth {0}`](berth-{0}.md) | {about} |", verb.get_name());
    }
    text.push_str("\n## Options of every verb\n\nBefore the verb or after it.\n\n");
    for argument in root.get_arguments().filter(|argument| is_global(argument)) {
        option(&mut text, argument);
    }
    text.push_str(
        "## Exit codes\n\n| code | meaning |\n|---|---|\n\
        | 125 | berth itself failed; nothing ran |\n\
        | 126 | the command exists in the container and cannot be invoked |\n\
        | 127 | the command does not exist in the container |\n\
        | 128 + N | signal N ended the command (where berth had to wait for it) |\n\
        | any other | the command's own |\n",
    );
    text
}

fn page(verb: &Command) -> String {
    let mut text = String::from("<!-- Made by `cargo xtask reference` from the definition of the command line. -->\n");
    section(&mut text, verb, &format!("berth {}", verb.get_name()), "#");
    for nested in verbs(verb) {
        text.push('\n');
        section(&mut text, nested, &format!("berth {} {}", verb.get_name(), nested.get_name()), "##");
    }
    if verb.get_arguments().any(is_global) {
        text.push_str("[Options of every verb](README.md#options-of-every-verb) may be given, too.\n");
    }
    if let Some(examples) = verb.get_after_help() {
        let examples = examples.to_string();
        if let Some(lines) = examples.strip_prefix("Examples:\n") {
            let lines: Vec<&str> = lines.lines().map(str::trim).collect();
            let _ = writeln!(text, "\n## Examples\n\n```sh\n{}\n```", lines.join("\n"));
        }
    }
    text
}

/// What there is to say of a verb, under a heading of this level.
fn section(text: &mut String, verb: &Command, name: &str, level: &str) {
    let _ = writeln!(text, "{level} {name}\n");
    let about = verb.get_long_about().or(verb.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(text, "{about}\n");
    let usage = verb.clone().render_usage().to_string();
    let _ = writeln!(text, "```text\n{}\n```\n", usage.trim_start_matches("Usage: "));
    let operands: Vec<&Arg> = verb.get_positionals().filter(|operand| !operand.is_hide_set()).collect();
    if !operands.is_empty() {
        let _ = writeln!(text, "{level}# Operands\n");
        for operand in operands {
            let placeholder = operand.get_value_names().and_then(|names| names.first()).map(|name| name.as_str());
            let _ = writeln!(text, "**{}**\n\n{}\n", placeholder.unwrap_or(operand.get_id().as_str()), help(operand));
        }
    }
    let mut headings: Vec<Option<&str>> = Vec::new();
    let shown = |argument: &&Arg| {
        let told_elsewhere = is_global(argument) || ["help", "version"].contains(&argument.get_id().as_str());
        !argument.is_positional() && !argument.is_hide_set() && !told_elsewhere
    };
    for argument in verb.get_arguments().filter(shown) {
        if !headings.contains(&argument.get_help_heading()) {
            headings.push(argument.get_help_heading());
        }
    }
    for heading in headings {
        let _ = writeln!(text, "{level}# {}\n", heading.unwrap_or("Options"));
        let of_heading = |argument: &&Arg| shown(argument) && argument.get_help_heading() == heading;
        for argument in verb.get_arguments().filter(of_heading) {
            option(text, argument);
        }
    }
}

fn is_global(argument: &Arg) -> bool {
    argument.get_help_heading() == Some("Options of every verb")
}

fn option(text: &mut String, argument: &Arg) {
    let value = argument.get_action().takes_values().then(|| {
        let name = argument.get_value_names().and_then(|names| names.first()).map_or("VALUE", |name| name.as_str());
        match argument.get_num_args() {
            Some(count) if count.min_values() == 0 => format!("[={name}]"),
            _ => format!(" {name}"),
        }
    });
    let value = value.unwrap_or_default();
    let mut names = Vec::new();
    names.extend(argument.get_short().map(|short| format!("`-{short}{value}`")));
    names.extend(argument.get_long().map(|long| format!("`--{long}{value}`")));
    names.extend(argument.get_visible_aliases().unwrap_or_default().iter().map(|alias| format!("`--{alias}{value}`")));
    let _ = writeln!(text, "**{}**\n\n{}\n", names.join(", "), help(argument));
}

/// The long help, or the short one, with the values that there are.
fn help(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut text = help.trim().replace('<', "&lt;");
    if !text.ends_with('.') {
        text.push('.');
    }
    let values: Vec<String> = match argument.get_action().takes_values() {
        true => argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect(),
        false => Vec::new(),
    };
    if !values.is_empty() {
        let _ = write!(text, " One of {}.", values.join(", "));
    }
    let defaults: Vec<_> = argument.get_default_values().iter().filter_map(|value| value.to_str()).collect();
    if !defaults.is_empty() && argument.get_action().takes_values() {
        let _ = write!(text, " The default is `{}`.", defaults.join(" "));
    }
    text
}
