//! oci.conf as the check-up looks at it. What is wrong with a file, and what to write, is known by `berth_oci_conf`; here is
//! what of it matters for a host, by the check-up's own names.

use std::io;
use std::path::Path;

use berth_oci_conf::Document;
use berth_oci_conf::check::Severity;
use berth_oci_conf::document::Entry;
use berth_oci_conf::keys::COMMANDS;
pub use berth_oci_conf::write::Line;
pub use berth_oci_conf::write::advised;

use super::Version;
use crate::doctor::Host;

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

/// What a mistake in the file does.
const STOPS: &str =
    "slurmstepd gives up: every step with --container fails with \"Unspecified error\", batch jobs are held";

/// What a user can do who is root.
const ROOT: &str = "every user can be root on the nodes";

/// Rules of `berth oci-conf check`, the kinds of faults here, and what they break. The other rules are about how well a
/// file does what it is for, which is no matter of a host.
const KINDS: [(&[&str], &str, &str); 11] = [
    (&["syntax", "comment-in-quotes", "escaped-quote", "literal-quote"], "oci-syntax", STOPS),
    (&["unknown-key"], "oci-unknown-key", STOPS),
    (&["unknown-pattern"], "oci-unknown-pattern", STOPS),
    (&["value", "regex"], "oci-value", STOPS),
    (&["incomplete", "empty-command"], "oci-incomplete", STOPS),
    (&["user-string", "user-state", "user-file"], "oci-user-string", ROOT),
    (&["sudo"], "oci-sudo", "users can change what is run, and it is run as root"),
    (
        &["open-root", "open-path"],
        "oci-open-root",
        "another user can make a step's folder first, and what is in it is believed",
    ),
    (&["no-exec"], "oci-no-exec", "handlers of programs do not run, and their exit codes are lost"),
    (&["create-start"], "oci-create-start", "output, input and exit codes of steps are lost, and runc and crun hang"),
    (&["environment"], "oci-environment", "Slurm's commands fail in containers that have no such file"),
];

/// Everything that is wrong with the file for a release. `include` reads what it includes.
pub fn check(text: &str, version: Version, include: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>) -> Vec<Fault> {
    let document = Document::parse(Path::new("oci.conf"), text.as_bytes(), include);
    let mut faults: Vec<Fault> = Vec::new();
    for finding in berth_oci_conf::check::check(&document, version) {
        let Some((_, kind, breaks)) = KINDS.iter().find(|(rules, ..)| rules.contains(&finding.rule)) else { continue };
        let what = format!("line {} of oci.conf: {}", finding.at.line, finding.message);
        let serious = finding.severity == Severity::Error;
        // One of a kind is enough for a check-up; `berth oci-conf check` has them all.
        if !faults.iter().any(|fault| fault.kind == *kind) {
            faults.push(Fault { kind, serious, what, breaks });
        }
    }
    faults
}

/// Reads files that a host's oci.conf includes.
pub fn include<'a>(host: &'a Host, dir: &'a str) -> impl FnMut(&Path) -> io::Result<Vec<u8>> + 'a {
    move |path| host.read(&Path::new(dir).join(path).to_string_lossy()).map(String::into_bytes)
}

/// The programs that the lines call, as far as that can be read.
pub fn programs(text: &str) -> Vec<String> {
    let document = Document::of_text(text);
    let is_line = |key: &str| COMMANDS.iter().any(|known| known.eq_ignore_ascii_case(key));
    let mut programs: Vec<String> = document
        .entries
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
    Document::of_text(text).entries.iter().any(|entry| entry.value.contains("berth oci-step"))
}

/// Whether the state of containers is kept where only a login makes a folder.
pub fn needs_run_user(text: &str) -> bool {
    let runs = |entry: &Entry| entry.key.to_ascii_lowercase().starts_with("runtime");
    Document::of_text(text).entries.iter().any(|entry| {
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

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Version = Version(22, 5);
    const NEW: Version = Version(26, 5);

    fn kinds(text: &str, version: Version) -> Vec<&'static str> {
        let none = |_: &Path| Err(io::ErrorKind::NotFound.into());
        check(text, version, &mut { none }).iter().map(|fault| fault.kind).collect()
    }

    fn advised_text(version: Version) -> String {
        advised(version, false).expect("a file").iter().map(|line| format!("{}\n", line.text)).collect()
    }

    #[test]
    fn what_is_advised_has_no_fault_on_its_release() {
        for version in [OLD, Version(23, 2), Version(24, 11), NEW] {
            assert_eq!(kinds(&advised_text(version), version), [""; 0], "{version}");
        }
        for version in [Version(23, 2), Version(24, 11), NEW] {
            let lines = advised(version, true).expect("a file");
            let text: String = lines.iter().map(|line| format!("{}\n", line.text)).collect();
            assert_eq!(kinds(&text, version), [""; 0], "{version}");
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
            (format!("{run}\nEnvExclude=^SLURM_CONF=\nRunTimeEnvExclude=^SLURM_CONF=\n"), NEW, "oci-incomplete"),
            (format!("{run}\nRunTimeKill=x\nRunTimeDelete=x\n").replace("%U", "%u"), OLD, "oci-incomplete"),
            (replaced("EnvExclude=", "FileDebug="), NEW, "oci-environment"),
            (replaced(run, "RunTimeCreate=\"x\"\nRunTimeStart=\"y\""), NEW, "oci-create-start"),
        ] {
            assert_eq!(kinds(&text, version), [kind], "{text}");
        }
    }

    #[test]
    fn other_runtimes_need_a_login_for_their_folder() {
        assert!(needs_run_user("RunTimeRun=\"crun --root=/run/user/%U/ run %b\"\n"));
        assert!(!needs_run_user("RunTimeRun=\"crun --root=/var/lib/x run %b\"\n"));
    }
}
