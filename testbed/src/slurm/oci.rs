//! The configurations of Slurm's guide to containers with berth in the place of runc and crun, and the bundles that steps
//! are given.

use super::Release;

/// What the guide sets on releases that know it.
const EXCLUDES: &str = "\
EnvExclude=\"^(SLURM_CONF|SLURM_CONF_SERVER)=\"
RunTimeEnvExclude=\"^(SLURM_CONF|SLURM_CONF_SERVER)=\"
";

/// The runtime as every line of the guide calls it. 22.05 has no pattern for a user's number, and its guide says `/tmp/`.
fn runtime(release: Release) -> &'static str {
    match release {
        Release::Bookworm => "berth-runtime --rootless=true --root=/tmp/",
        Release::Trixie | Release::Forky => "berth-runtime --rootless=true --root=/run/user/%U/",
    }
}

fn common(release: Release) -> String {
    let excludes = if release == Release::Bookworm { "" } else { EXCLUDES };
    let runtime = runtime(release);
    format!(
        "\
{excludes}RunTimeQuery=\"{runtime} state %n.%u.%j.%s.%t\"
RunTimeKill=\"{runtime} kill -a %n.%u.%j.%s.%t\"
RunTimeDelete=\"{runtime} delete --force %n.%u.%j.%s.%t\"
"
    )
}

/// The guide's form with `run`, word for word.
pub fn guide_run(release: Release) -> String {
    format!("{}RunTimeRun=\"{} run --bundle %b %n.%u.%j.%s.%t\"\n", common(release), runtime(release))
}

/// The guide's form with `create` and `start`, word for word.
pub fn guide_create(release: Release) -> String {
    let runtime = runtime(release);
    format!(
        "{}RunTimeCreate=\"{runtime} create --bundle %b %n.%u.%j.%s.%t\"\nRunTimeStart=\"{runtime} start %n.%u.%j.%s.%t\"\n",
        common(release)
    )
}

/// The form that the documentation of berth advises (docs/slurm-oci.md).
pub fn run(release: Release) -> String {
    let excludes = if release == Release::Bookworm { "" } else { EXCLUDES };
    format!(
        "\
{excludes}RunTimeRun=\"exec berth-runtime run --bundle %b %n.%u.%j.%s.%t\"
RunTimeQuery=\"exec berth-runtime state %n.%u.%j.%s.%t\"
RunTimeKill=\"exec berth-runtime kill -a %n.%u.%j.%s.%t\"
RunTimeDelete=\"exec berth-runtime delete --force %n.%u.%j.%s.%t\"
"
    )
}
