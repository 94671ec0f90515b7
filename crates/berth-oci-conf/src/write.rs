//! Files in which nothing is wrong: for each runtime of Slurm's guide and for berth, for each release.
//!
//! What they have in common, and why:
//! * the command begins with `exec`, or ends with it, so that signals reach the runtime, and its exit code is the step's;
//! * nothing that a user typed is in a line that root runs, and root calls no runtime but berth's: others believe what a user
//!   has written into the folder where they keep the state of containers, and would run hooks named there, as root;
//! * nothing says anything into a job's output.

use std::fmt;
use std::str::FromStr;

use crate::conf::Mode;
use crate::release::Release;

/// A line to write, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The line.
    pub text: String,
    /// What it is for, in a sentence.
    pub why: &'static str,
}

/// A runtime to write a file for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// runc.
    Runc,
    /// crun.
    Crun,
    /// NVIDIA's wrapper of runc.
    Nvidia,
    /// Apptainer, in its own form.
    Apptainer,
    /// Singularity, in its own form: its OCI mode wants root.
    Singularity,
    /// Charliecloud's `ch-run`.
    Charliecloud,
    /// enroot, by a script.
    Enroot,
    /// berth.
    Berth,
}

impl Runtime {
    /// All of them, by their names.
    pub const ALL: [(&'static str, Runtime); 8] = [
        ("runc", Runtime::Runc),
        ("crun", Runtime::Crun),
        ("nvidia", Runtime::Nvidia),
        ("apptainer", Runtime::Apptainer),
        ("singularity", Runtime::Singularity),
        ("charliecloud", Runtime::Charliecloud),
        ("enroot", Runtime::Enroot),
        ("berth", Runtime::Berth),
    ];

    /// Whether it runs bundles, with runc's command line.
    fn takes_bundles(self) -> bool {
        matches!(self, Runtime::Runc | Runtime::Crun | Runtime::Nvidia | Runtime::Berth)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Runtime::ALL.iter().find(|(_, runtime)| runtime == self).expect("it is one of them").0)
    }
}

impl FromStr for Runtime {
    type Err = String;

    fn from_str(text: &str) -> Result<Runtime, String> {
        let found = Runtime::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, runtime)| *runtime).ok_or_else(|| {
            let names: Vec<&str> = Runtime::ALL.iter().map(|(name, _)| *name).collect();
            format!("`{text}` is none of {}", names.join(", "))
        })
    }
}

/// What there is no file for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWritten {
    /// The runtime reads no config.json.
    #[error("{0} reads no config.json, and Slurm before 23.02 cannot run it: IgnoreFileConfigJson came then")]
    TooOld(Runtime),
    /// The runtime has no such operations.
    #[error("{0} has no create and start")]
    NoCreate(Runtime),
    /// The plugin does it.
    #[error("with berth's plugin, Slurm {0} wants no oci.conf: the plugin serves --container itself")]
    NoneWanted(Release),
}

/// The file for a runtime.
pub fn write(runtime: Runtime, mode: Mode, release: Release) -> Result<Vec<Line>, NotWritten> {
    if mode == Mode::CreateStart && !runtime.takes_bundles() {
        return Err(NotWritten::NoCreate(runtime));
    }
    if !runtime.takes_bundles() && !release.rewrites_per_task() {
        return Err(NotWritten::TooOld(runtime));
    }
    let excludes = if release.rewrites_per_task() { excludes() } else { Vec::new() };
    let lines = match (runtime, mode) {
        (Runtime::Berth, Mode::Run) => bundles(berths(release)),
        (Runtime::Berth, Mode::CreateStart) => created_by_berth(berths(release)),
        (Runtime::Runc | Runtime::Crun | Runtime::Nvidia, _) => {
            let program =
                if runtime == Runtime::Nvidia { "nvidia-container-runtime".to_owned() } else { runtime.to_string() };
            // %U is not known to the first releases.
            let uid = if release.rewrites_per_task() { "%U" } else { "$(id -u %u)" };
            let call = format!("{program} --rootless=true --root=/run/user/{uid}");
            if mode == Mode::Run { run(&call) } else { created(&call) }
        }
        (Runtime::Apptainer | Runtime::Singularity, _) => vec![
            ignore(),
            line(
                format!("RunTimeRun=\"exec {runtime} exec --userns '%r' %@\""),
                "with user namespaces, no setuid program; what stands behind --container is one word to the shell",
            ),
        ],
        (Runtime::Charliecloud, _) => vec![
            ignore(),
            line("CreateEnvFile=newline", "ch-run reads variables by lines; those with a line break are left out"),
            line(
                "RunTimeRun=\"exec env USER=%u HOME=$(getent passwd %u | cut -d: -f6) ch-run --unset-env='*' --set-env='%e' '%r' \
                 -- %@\"",
                "ch-run wants to know the user; in the container are the job's variables and none of slurmd's; it takes a directory",
            ),
        ],
        (Runtime::Enroot, _) => vec![
            ignore(),
            line("CreateEnvFile=newline", "enroot reads variables by lines; those with a line break are left out"),
            line(
                format!("RunTimeRun=\"exec {ENROOT_SCRIPT} '%b' '%m' '%e' -- %@\""),
                "a script that makes, starts and removes the container",
            ),
        ],
    };
    Ok([excludes, lines].concat())
}

/// Where the script for enroot is expected.
pub const ENROOT_SCRIPT: &str = "/usr/local/libexec/slurm-enroot";

/// The script that the file for enroot calls. It keeps everything below the task's spool folder, and removes it.
pub const ENROOT: &str = r#"#!/bin/bash
# Called by slurmstepd, as the user, with slurmd's environment: IMAGE SPOOL ENVIRONMENT -- COMMAND...
# IMAGE is a squashfs file or a URI that `enroot import` takes.
set -u
image=$1 spool=$2 environment=$3
shift 4
USER=$(id -un)
HOME=$(getent passwd "$USER" | cut -d: -f6)
work=$(mktemp -d "$spool/enroot.XXXXXX") || exit 125
trap 'rm -rf "$work"' EXIT
export USER HOME ENROOT_ENVIRON="$environment" ENROOT_RUNTIME_PATH="$work/run" ENROOT_DATA_PATH="$work/data"
export ENROOT_TEMP_PATH="$work" ENROOT_CACHE_PATH="$HOME/.cache/enroot" ENROOT_ROOTFS_WRITABLE=y ENROOT_REMAP_ROOT=y
mkdir -p "$ENROOT_RUNTIME_PATH" "$ENROOT_DATA_PATH" "$ENROOT_CACHE_PATH"
if [ ! -f "$image" ]; then
  enroot import -o "$work/image.sqsh" -- "$image" >&2 || exit 125
  image=$work/image.sqsh
fi
enroot create -n step "$image" >&2 || exit 125
enroot start step "$@" <&0 &
child=$!
trap 'kill -TERM $child' TERM
trap 'kill -INT $child' INT
trap 'kill -USR1 $child' USR1
trap 'kill -USR2 $child' USR2
# A signal that was passed on ends `wait`, not the container.
while wait $child; status=$?; kill -0 $child 2>/dev/null; do :; done
exit $status
"#;

/// The release that brought the environment filters, `%U`, and several tasks on a node decides which of two forms of berth's own
/// is advised. `plugin` says whether Slurm loads berth's plugin, with which `--container` takes images, too. `None` where the
/// plugin does everything and no file is wanted.
pub fn advised(release: Release, plugin: bool) -> Option<Vec<Line>> {
    match (release.rewrites_per_task(), plugin) {
        (true, true) => Some([excludes(), images()].concat()),
        (false, true) => None,
        (_, false) => Some(write(Runtime::Berth, Mode::Run, release).expect("it takes bundles")),
    }
}

/// The lines as they stand in a file, with nothing between them.
pub fn text(lines: &[Line]) -> String {
    lines.iter().map(|line| format!("{}\n", line.text)).collect()
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

fn ignore() -> Line {
    line("IgnoreFileConfigJson=true", "what follows --container need not be a bundle")
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

/// berth's runtime. Neither the filters nor %U are known to the first releases.
fn berths(release: Release) -> &'static str {
    match release.rewrites_per_task() {
        true => "berth-runtime --root=/run/user/%U",
        false => "berth-runtime --root=/tmp/berth-runtime-$(id -u %u)",
    }
}

/// Bundles alone, by berth.
fn bundles(runtime: &str) -> Vec<Line> {
    let run = line(
        format!("RunTimeRun=\"exec {runtime} run --bundle %b %n.%u.%j.%s.%t\""),
        "with exec, berth takes the place of the shell: signals reach the program, and its exit code is the step's",
    );
    [vec![run], asked_of_berth(runtime)].concat()
}

fn asked_of_berth(runtime: &str) -> Vec<Line> {
    vec![
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

fn created_by_berth(runtime: &str) -> Vec<Line> {
    let mut lines = vec![
        line(
            format!("RunTimeCreate=\"{runtime} create --bundle %b %n.%u.%j.%s.%t\""),
            "berth does not hang on Slurm's pipe",
        ),
        line(
            format!("RunTimeStart=\"exec {runtime} start %n.%u.%j.%s.%t\""),
            "Slurm keeps its exit code, and no other",
        ),
    ];
    lines.extend(asked_of_berth(runtime));
    lines
}

/// A runtime with runc's command line.
fn run(runtime: &str) -> Vec<Line> {
    let id = "%n.%u.%j.%s.%t";
    vec![
        line(
            format!(
                "RunTimeRun=\"{runtime} delete --force {id} >/dev/null 2>&1; exec {runtime} run --bundle %b {id}\""
            ),
            "first what a killed run of the same job left; with exec signals reach the runtime, and its exit code is the step's",
        ),
        line(
            "RunTimeQuery=\"echo {}\"",
            "asked by root at the end of a step: a runtime would believe what a user wrote for it",
        ),
        line("RunTimeKill=true", "for the same reason; Slurm itself ends every process of a step"),
        line("RunTimeDelete=true", "for the same reason"),
    ]
}

fn created(runtime: &str) -> Vec<Line> {
    let id = "%n.%u.%j.%s.%t";
    // The shell of the task is the user's, the one at the end of the step is root's.
    let mine = "[ $(id -un) = %u ] &&";
    vec![
        line(
            format!("RunTimeCreate=\"{runtime} create --bundle %b {id} </dev/null >/dev/null 2>&1\""),
            "without a container that holds Slurm's pipe open, for which it would wait for ever; output is lost in any case",
        ),
        line(format!("RunTimeStart=\"{runtime} start {id}\""), "Slurm keeps its exit code, and no other"),
        line(
            format!("RunTimeQuery=\"{mine} {runtime} state {id} 2>/dev/null || echo {{}}\""),
            "as the user; at the end of a step it is root's, and a runtime would believe what a user wrote for it",
        ),
        line(format!("RunTimeKill=\"{mine} {runtime} kill {id} KILL 2>/dev/null\""), "as the user, and not as root"),
        line(
            format!("RunTimeDelete=\"{mine} {runtime} delete --force {id} 2>/dev/null\""),
            "as the user, and not as root",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conf;
    use crate::Document;
    use crate::check::Severity;
    use crate::check::check;

    #[test]
    fn nothing_is_wrong_with_what_is_written() {
        for release in Release::KNOWN {
            for (name, runtime) in Runtime::ALL {
                for mode in [Mode::Run, Mode::CreateStart] {
                    let lines = match write(runtime, mode, release) {
                        Ok(lines) => lines,
                        Err(NotWritten::NoCreate(_)) => {
                            assert!(mode == Mode::CreateStart && !runtime.takes_bundles(), "{name}");
                            continue;
                        }
                        Err(error) => {
                            assert_eq!(error, NotWritten::TooOld(runtime));
                            assert!(release < Release(23, 2) && !runtime.takes_bundles(), "{name} {release}");
                            continue;
                        }
                    };
                    let document = Document::of_text(&text(&lines));
                    let conf = Conf::of(&document, release).expect("the release takes it");
                    assert_eq!(conf.mode(release), Ok(mode), "{name} {release}");
                    let found = check(&document, release);
                    let rules: Vec<_> = found.iter().map(|finding| (finding.severity, finding.rule)).collect();
                    // That output is lost is so with any runtime.
                    let expected: &[_] = if mode == Mode::Run { &[] } else { &[(Severity::Warning, "create-start")] };
                    assert_eq!(rules, expected, "{name} {release}\n{}\n{found:#?}", text(&lines));
                }
            }
        }
    }

    #[test]
    fn nothing_is_wrong_with_what_is_advised_for_berth() {
        for release in Release::KNOWN {
            for plugin in [false, true] {
                let Some(lines) = advised(release, plugin) else {
                    assert!(plugin && release < Release(23, 2));
                    continue;
                };
                assert_eq!(check(&Document::of_text(&text(&lines)), release), [], "{release} {plugin}");
            }
        }
    }

    #[test]
    fn runtimes_have_names() {
        for (name, runtime) in Runtime::ALL {
            assert_eq!((name.parse(), runtime.to_string().as_str()), (Ok(runtime), name));
        }
        assert!("docker".parse::<Runtime>().unwrap_err().contains("charliecloud"));
    }
}
