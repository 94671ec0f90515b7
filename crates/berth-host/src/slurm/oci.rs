//! oci.conf: what berth advises for each release, and what is wrong with one that is there.
//!
//! slurmstepd reads the file for each step with a container, and gives up on a key or a pattern that it does not know; the
//! user sees "Unspecified error". Query, kill and delete are run by root's shell at the end of a step.

use super::Version;
use super::conf;

/// A line to write, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The line.
    pub text: String,
    /// What it is for, in a sentence.
    pub why: &'static str,
}

/// The release that brought the environment filters, `%U`, and several tasks on a node.
const GENERATION_2: Version = Version(23, 2);

/// The file that berth advises, line by line: the only place that knows it. `plugin` says whether Slurm loads berth's
/// plugin, with which `--container` takes images, too. `None` where the plugin does everything and no file is wanted.
pub fn advised(version: Version, plugin: bool) -> Option<Vec<Line>> {
    match (version >= GENERATION_2, plugin) {
        (true, true) => Some([excludes(), images()].concat()),
        (true, false) => Some([excludes(), bundles("berth-runtime --root=/run/user/%U")].concat()),
        (false, true) => None,
        // Neither the filters nor %U are known there.
        (false, false) => Some(bundles("berth-runtime --root=/tmp/berth-runtime-$(id -u %u)")),
    }
}

fn line(text: impl Into<String>, why: &'static str) -> Line {
    Line { text: text.into(), why }
}

fn excludes() -> Vec<Line> {
    let pattern = "\"^(SLURM_CONF|SLURM_CONF_SERVER)=\"";
    vec![
        line(format!("EnvExclude={pattern}"), "slurmd's own configuration does not leak into containers"),
        line(format!("RunTimeEnvExclude={pattern}"), "nor to the runtime"),
    ]
}

/// Images and bundles. The plugin has put the command into the environment, so that no word of a person's is in a shell's line.
fn images() -> Vec<Line> {
    vec![
        line("IgnoreFileConfigJson=true", "what follows --container need not be a bundle: berth takes images, too"),
        line("CreateEnvFile=null", "the step's environment in a file, with the command that the plugin puts into it"),
        line(
            "RunTimeRun=\"exec berth oci-step --env-file=%e --job=%j --step=%s --task=%t\"",
            "with exec, berth takes the place of the shell: signals reach the program; nothing is of the user's choice",
        ),
    ]
}

/// Bundles alone.
fn bundles(runtime: &str) -> Vec<Line> {
    vec![
        line(
            format!("RunTimeRun=\"exec {runtime} run --bundle %b %n.%u.%j.%s.%t\""),
            "with exec, berth takes the place of the shell: signals reach the program, and its exit code is the step's",
        ),
        line(
            format!("RunTimeQuery=\"{runtime} state %n.%u.%j.%s.%t 2>/dev/null || echo {{}}\""),
            "asked by root at the end of a step: nothing is of the user's choice, nothing reaches the job's output",
        ),
        line(format!("RunTimeKill=\"{runtime} kill -a %n.%u.%j.%s.%t 2>/dev/null\""), "ends what a step left running"),
        line(
            format!("RunTimeDelete=\"{runtime} delete --force %n.%u.%j.%s.%t 2>/dev/null\""),
            "removes what a killed step left",
        ),
    ]
}

/// A key of the file, and the release that brought it.
const KEYS: [(&str, Version, Form); 20] = [
    ("RunTimeCreate", Version(21, 8), Form::Pattern),
    ("RunTimeStart", Version(21, 8), Form::Pattern),
    ("RunTimeRun", Version(21, 8), Form::Pattern),
    ("RunTimeQuery", Version(21, 8), Form::Pattern),
    ("RunTimeKill", Version(21, 8), Form::Pattern),
    ("RunTimeDelete", Version(21, 8), Form::Pattern),
    ("ContainerPath", Version(21, 8), Form::Pattern),
    ("CreateEnvFile", Version(21, 8), Form::EnvFile),
    ("MountSpoolDir", GENERATION_2, Form::Pattern),
    ("DisableCleanup", GENERATION_2, Form::Bool),
    ("DisableHooks", GENERATION_2, Form::Text),
    ("EnvExclude", GENERATION_2, Form::Text),
    ("RunTimeEnvExclude", GENERATION_2, Form::Text),
    ("IgnoreFileConfigJson", GENERATION_2, Form::Bool),
    ("SrunPath", GENERATION_2, Form::Text),
    ("SrunArgs", GENERATION_2, Form::Text),
    ("StdIODebug", GENERATION_2, Form::Text),
    ("SyslogDebug", GENERATION_2, Form::Text),
    ("FileDebug", GENERATION_2, Form::Text),
    ("DebugFlags", GENERATION_2, Form::Text),
];

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Pattern,
    Bool,
    EnvFile,
    Text,
}

/// Lines that root runs.
const ROOTS: [&str; 3] = ["RunTimeQuery", "RunTimeKill", "RunTimeDelete"];

/// Folders in which anybody can make a container's folder before Slurm does.
const OPEN: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Something about the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Kind of fault: see the table in `docs/doctor.md`.
    pub kind: &'static str,
    /// Whether steps fail, or worse.
    pub serious: bool,
    /// What it is.
    pub what: String,
    /// What it breaks.
    pub breaks: &'static str,
}

/// Everything that is wrong with the file for a release.
pub fn check(text: &str, version: Version) -> Vec<Fault> {
    let (entries, mistakes) = conf::parse(text);
    let mut faults = Vec::new();
    let mut add = |kind, serious, what, breaks| faults.push(Fault { kind, serious, what, breaks });
    for mistake in mistakes {
        let what = format!("line {} of oci.conf cannot be read: {}", mistake.line, mistake.text);
        add("oci-syntax", true, what, STOPS);
    }
    for entry in &entries {
        let known = KEYS.iter().find(|key| key.0.eq_ignore_ascii_case(&entry.key));
        let line = entry.line;
        let Some((key, _, form)) = known.filter(|key| key.1 <= version) else {
            if entry.key != conf::INCLUDE {
                let since = known.map(|key| format!(" (it came with {})", key.1)).unwrap_or_default();
                let what = format!(
                    "line {line} of oci.conf has the key {}, which Slurm {version} does not know{since}",
                    entry.key
                );
                add("oci-unknown-key", true, what, STOPS);
            }
            continue;
        };
        match form {
            Form::Pattern => {
                for letter in unknown_patterns(&entry.value, version) {
                    let what = format!("line {line} of oci.conf uses %{letter}, which Slurm {version} does not know");
                    add("oci-unknown-pattern", true, what, STOPS);
                }
            }
            Form::Bool if !is_bool(&entry.value) => {
                add("oci-value", true, format!("{key} in oci.conf is `{}`: it is true or false", entry.value), STOPS);
            }
            Form::EnvFile if !is_env_file(&entry.value, version) => {
                let what =
                    format!("CreateEnvFile in oci.conf is `{}`, which Slurm {version} does not take", entry.value);
                add("oci-value", true, what, STOPS);
            }
            _ => {}
        }
        if ROOTS.contains(key) {
            let found: Vec<&str> = ["%b", "%r", "%@"].into_iter().filter(|p| uses(&entry.value, p)).collect();
            if !found.is_empty() {
                let what =
                    format!("{key} in oci.conf contains {}: root's shell runs what a user typed", found.join(" and "));
                add(
                    "oci-user-string",
                    true,
                    what,
                    "every user can be root on the nodes: srun --container '/x;command;'",
                );
            }
        }
        if form == &Form::Pattern && entry.value.split_whitespace().any(|word| word.trim_start_matches('(') == "sudo") {
            let what = format!("{key} in oci.conf calls sudo");
            add("oci-sudo", true, what, "users can change what is run, and it is run as root");
        }
        if let Some(place) = root_option(&entry.value).filter(|place| OPEN.contains(&place.trim_end_matches('/'))) {
            let what = format!("{key} in oci.conf keeps the state of containers in {place}, where everybody can write");
            add(
                "oci-open-root",
                true,
                what,
                "another user can make a step's folder first, and what is in it is believed",
            );
        }
    }
    faults.extend(consistency(&entries, version));
    faults
}

/// What a mistake in the file does.
const STOPS: &str =
    "slurmstepd gives up: every step with --container fails with \"Unspecified error\", batch jobs are held";

/// What the lines together have to be.
fn consistency(entries: &[conf::Entry], version: Version) -> Vec<Fault> {
    let value = |key: &str| {
        let found = entries.iter().rev().find(|entry| entry.key.eq_ignore_ascii_case(key));
        found.map(|entry| entry.value.as_str()).filter(|value| !value.is_empty())
    };
    let mut faults = Vec::new();
    let mut add = |kind, serious, what: &str, breaks| {
        faults.push(Fault { kind, serious, what: what.to_owned(), breaks });
    };
    let ignores = value("IgnoreFileConfigJson").is_some_and(is_true);
    let (run, create, start) = (value("RunTimeRun"), value("RunTimeCreate"), value("RunTimeStart"));
    let mut needed = vec!["RunTimeKill", "RunTimeDelete"];
    if run.is_none() || version < GENERATION_2 {
        needed.push("RunTimeQuery");
    }
    let missing: Vec<&str> = needed.into_iter().filter(|key| value(key).is_none()).collect();
    if run.is_some() && (create.is_some() || start.is_some()) {
        add("oci-incomplete", true, "oci.conf has RunTimeRun together with RunTimeCreate or RunTimeStart", STOPS);
    } else if run.is_none() && (create.is_none() || start.is_none()) {
        add(
            "oci-incomplete",
            true,
            "oci.conf says neither how to run a container (RunTimeRun) nor how to create and start one",
            STOPS,
        );
    } else if !ignores && !missing.is_empty() {
        add(
            "oci-incomplete",
            true,
            &format!("oci.conf lacks {}, which Slurm {version} demands", missing.join(" and ")),
            STOPS,
        );
    }
    if create.is_some() && run.is_none() {
        let breaks = "output, input and exit codes of steps are lost, and runc and crun hang";
        add("oci-create-start", false, "oci.conf uses RunTimeCreate and RunTimeStart", breaks);
    }
    if run.is_some_and(|line| !line.trim_start().starts_with("exec ")) {
        let breaks =
            "scancel and time limits end the shell in front of the container: handlers and exit codes are lost";
        add("oci-no-exec", false, "RunTimeRun in oci.conf does not begin with exec", breaks);
    }
    if version >= GENERATION_2 && value("EnvExclude").is_none() && (run.is_some() || create.is_some()) {
        let breaks = "SLURM_CONF of slurmd leaks into containers, where Slurm's commands then fail";
        add("oci-environment", false, "oci.conf has no EnvExclude", breaks);
    }
    faults
}

/// The programs that the lines call, as far as that can be read.
pub fn programs(text: &str) -> Vec<String> {
    let entries = conf::parse(text).0;
    let is_line = |key: &str| KEYS[..6].iter().any(|known| known.0.eq_ignore_ascii_case(key));
    let mut programs: Vec<String> = entries
        .iter()
        .filter(|entry| is_line(&entry.key))
        .filter_map(|entry| {
            let mut words = entry.value.split_whitespace().skip_while(|&word| word == "exec" || word == "sudo");
            words.next().filter(|word| word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)))
        })
        .map(str::to_owned)
        .collect();
    programs.sort();
    programs.dedup();
    programs
}

/// Whether a runtime is called that finds the command in the environment, where berth's plugin puts it.
pub fn needs_plugin(text: &str) -> bool {
    conf::parse(text).0.iter().any(|entry| entry.value.contains("berth oci-step"))
}

/// Whether the state of containers is kept where only a login makes a folder.
pub fn needs_run_user(text: &str) -> bool {
    let entries = conf::parse(text).0;
    let runs = |entry: &conf::Entry| entry.key.to_ascii_lowercase().starts_with("runtime");
    entries.iter().any(|entry| {
        runs(entry)
            && root_option(&entry.value).is_some_and(|place| place.starts_with("/run/user/"))
            && !entry.value.contains("berth")
    })
}

fn root_option(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    while let Some(word) = words.next() {
        match word.strip_prefix("--root") {
            Some("") => return words.next(),
            Some(value) => return value.strip_prefix('='),
            None => {}
        }
    }
    None
}

/// Whether a pattern stands in a line; `%%b` is a percent sign and a letter.
fn uses(line: &str, pattern: &str) -> bool {
    line.replace("%%", "").contains(pattern)
}

fn unknown_patterns(line: &str, version: Version) -> Vec<char> {
    let line = line.replace("%%", "");
    let since = |letter: char| match letter {
        '@' | 'b' | 'e' | 'j' | 'n' | 'r' | 's' | 't' | 'u' => Some(Version(21, 8)),
        'U' | 'm' | 'p' => Some(GENERATION_2),
        'Z' => Some(Version(26, 5)),
        _ => None,
    };
    let letters = line.match_indices('%').filter_map(|(at, _)| line[at + 1..].chars().next());
    letters.filter(|&letter| since(letter).is_none_or(|since| since > version)).collect()
}

fn is_true(text: &str) -> bool {
    ["yes", "up", "true", "1"].contains(&text.to_ascii_lowercase().as_str())
}

fn is_bool(text: &str) -> bool {
    is_true(text) || ["no", "down", "false", "0"].contains(&text.to_ascii_lowercase().as_str())
}

fn is_env_file(text: &str, version: Version) -> bool {
    let text = text.to_ascii_lowercase();
    let words = ["null", "true", "yes", "y", "1", "newline", "disabled", "false", "no", "n", "0"];
    if version < GENERATION_2 { is_bool(&text) } else { words.contains(&text.as_str()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Version = Version(22, 5);
    const NEW: Version = Version(26, 5);

    fn kinds(text: &str, version: Version) -> Vec<&'static str> {
        check(text, version).iter().map(|fault| fault.kind).collect()
    }

    fn advised_text(version: Version) -> String {
        advised(version, false).expect("a file").iter().map(|line| format!("{}\n", line.text)).collect()
    }

    #[test]
    fn what_is_advised_has_no_fault_on_its_release() {
        for version in [OLD, Version(23, 2), Version(24, 11), NEW] {
            assert_eq!(check(&advised_text(version), version), [], "{version}");
        }
        for version in [Version(23, 2), Version(24, 11), NEW] {
            let lines = advised(version, true).expect("a file");
            let text: String = lines.iter().map(|line| format!("{}\n", line.text)).collect();
            assert_eq!(check(&text, version), [], "{version}");
            assert!(needs_plugin(&text));
            assert_eq!(programs(&text), ["berth"]);
        }
        assert_eq!(advised(OLD, true), None);
        assert_eq!(programs(&advised_text(NEW)), ["berth-runtime"]);
        assert!(!needs_run_user(&advised_text(NEW)));
    }

    #[test]
    fn the_documentation_has_what_is_advised_for_bundles() {
        let document = include_str!("../../../../docs/slurm-oci.md");
        for version in [OLD, NEW] {
            assert!(document.contains(&advised_text(version)), "docs/slurm-oci.md lacks\n{}", advised_text(version));
        }
    }

    #[test]
    fn what_is_advised_for_a_new_release_is_refused_by_an_old_one() {
        let found = kinds(&advised_text(NEW), OLD);
        assert!(found.contains(&"oci-unknown-key") && found.contains(&"oci-unknown-pattern"), "{found:?}");
    }

    #[test]
    fn each_fault_is_found_alone() {
        let good = advised_text(NEW);
        let replaced = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            good.replacen(from, to, 1)
        };
        let run = good.lines().find(|line| line.starts_with("RunTimeRun")).expect("it is there");
        for (text, version, kind) in [
            (format!("{good}RunTimeRunn=\"x\"\n"), NEW, "oci-unknown-key"),
            (format!("{good}hello\n"), NEW, "oci-syntax"),
            (replaced("%n.%u", "%q.%u"), NEW, "oci-unknown-pattern"),
            (replaced("%b", "%b %Z"), Version(25, 11), "oci-unknown-pattern"),
            (format!("{good}RunTimeKill=\"berth-runtime kill %b\"\n"), NEW, "oci-user-string"),
            (format!("{good}RunTimeQuery=\"x %@\"\n"), NEW, "oci-user-string"),
            (replaced("exec ", ""), NEW, "oci-no-exec"),
            (format!("{good}RunTimeDelete=\"x --root=/tmp/ y\"\n"), NEW, "oci-open-root"),
            (format!("{good}RunTimeDelete=\"x --root /dev/shm y\"\n"), NEW, "oci-open-root"),
            (format!("{good}RunTimeDelete=\"sudo x\"\n"), NEW, "oci-sudo"),
            (format!("{good}DisableCleanup=perhaps\n"), NEW, "oci-value"),
            (format!("{good}CreateEnvFile=lines\n"), NEW, "oci-value"),
            (format!("{good}RunTimeStart=\"x\"\n"), NEW, "oci-incomplete"),
            (replaced(run, ""), NEW, "oci-incomplete"),
            (String::new(), NEW, "oci-incomplete"),
            (format!("{run}\nEnvExclude=x\n"), NEW, "oci-incomplete"),
            (format!("{run}\nRunTimeKill=x\nRunTimeDelete=x\n").replace("%U", "%u"), OLD, "oci-incomplete"),
            (replaced("EnvExclude=", "FileDebug="), NEW, "oci-environment"),
            (replaced(run, "RunTimeCreate=\"x\"\nRunTimeStart=\"y\""), NEW, "oci-create-start"),
        ] {
            assert_eq!(kinds(&text, version), [kind], "{text}");
        }
    }

    #[test]
    fn a_doubled_percent_sign_is_none() {
        assert!(!uses("100%%b", "%b") && uses("%%%b", "%b"));
        assert_eq!(unknown_patterns("%%Q %b", OLD), []);
    }

    #[test]
    fn other_runtimes_need_a_login_for_their_folder() {
        assert!(needs_run_user("RunTimeRun=\"crun --root=/run/user/%U/ run %b\"\n"));
        assert!(!needs_run_user("RunTimeRun=\"crun --root=/var/lib/x run %b\"\n"));
    }
}
