//! The configurations of Slurm's guide to containers with berth in the place of runc and crun, and the bundles that steps
//! are given.

use serde_json::Value;
use serde_json::json;

use super::Release;
use super::Session;
use super::USERS;

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
    common(release) + &create_lines(runtime(release))
}

fn create_lines(runtime: &str) -> String {
    format!(
        "\
RunTimeCreate=\"{runtime} create --bundle %b %n.%u.%j.%s.%t\"
RunTimeStart=\"{runtime} start %n.%u.%j.%s.%t\"
"
    )
}

/// The form that the documentation of berth advises (docs/slurm-oci.md): the runtime takes the place of the shell, so that
/// signals reach it, and what Slurm asks at the end says nothing into a job's output.
pub fn run(release: Release) -> String {
    let (excludes, runtime) = match release {
        Release::Bookworm => ("", "berth-runtime --root=/tmp/berth-runtime-$(id -u %u)"),
        Release::Trixie | Release::Forky => (EXCLUDES, "berth-runtime --root=/run/user/%U"),
    };
    format!(
        "\
{excludes}RunTimeRun=\"exec {runtime} run --bundle %b %n.%u.%j.%s.%t\"
RunTimeQuery=\"{runtime} state %n.%u.%j.%s.%t 2>/dev/null || echo {{}}\"
RunTimeKill=\"{runtime} kill -a %n.%u.%j.%s.%t 2>/dev/null\"
RunTimeDelete=\"{runtime} delete --force %n.%u.%j.%s.%t 2>/dev/null\"
"
    )
}

/// The form in which `--container` takes images too: berth reads the step's environment from Slurm's file, and nothing that
/// a person wrote is in a shell's line. 22.05 has no such form: without an `oci.conf` the plugin serves `--container` there.
pub fn images(release: Release) -> Option<String> {
    (release != Release::Bookworm).then(|| {
        format!(
            "\
{EXCLUDES}IgnoreFileConfigJson=true
CreateEnvFile=null
RunTimeRun=\"exec berth oci-step --env-file=%e --job=%j --step=%s --task=%t\"
"
        )
    })
}

/// What the documentation shows to begin with: a bundle, and a step in it.
pub fn first_steps() -> &'static str {
    "\
mkdir -p ~/bundle/rootfs/bin && cd ~/bundle
cp /bin/busybox rootfs/bin/sh
berth-runtime spec --rootless
srun --container ~/bundle /bin/sh -c 'echo \"user $(id -u) in a container\"'
"
}

/// Makes a bundle of busybox in a new folder, as a user's `runc spec --rootless` would have it: the user is root in it,
/// and has new user, mount, pid, IPC and host name namespaces. The folder `out` beside it is `/out` in the container.
pub fn make_bundle(session: &Session<'_>, dir: &str) {
    let name = session.name();
    let id = USERS.iter().find(|(user, _)| *user == name).expect("an ordinary user").1;
    let line = "mkdir -p \"$0\" && cd \"$0\" && mkdir -p out rootfs/bin rootfs/etc rootfs/out rootfs/proc rootfs/dev \
                rootfs/sys rootfs/tmp && chmod 1777 rootfs/tmp && cp /bin/busybox rootfs/bin && \
                rootfs/bin/busybox --list | grep -vx busybox | while read name; do ln -sf busybox \"rootfs/bin/$name\"; done && \
                echo 'root:x:0:0::/:/bin/sh' >rootfs/etc/passwd && echo 'no program' >rootfs/etc/text";
    session.run(&["sh", "-c", line, dir]).ok();
    let mount = |to: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": source, "options": options});
    let mapping = json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let namespaces: Vec<Value> =
        ["user", "mount", "pid", "ipc", "uts"].iter().map(|kind| json!({"type": kind})).collect();
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/bin", "FROM_BUNDLE=yes"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"},
        "hostname": "in-a-bundle",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]),
            mount("/out", "none", &format!("{dir}/out"), &["bind"]),
        ],
        "linux": {
            "uidMappings": mapping,
            "gidMappings": mapping,
            "namespaces": namespaces,
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    session.write(&format!("{dir}/config.json"), &config.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/slurm-oci.md");

    #[test]
    fn the_documentation_has_what_is_tested() {
        for text in [
            run(Release::Forky),
            run(Release::Bookworm),
            guide_run(Release::Forky),
            create_lines(runtime(Release::Forky)),
            first_steps().to_owned(),
            images(Release::Forky).expect("a form"),
        ] {
            assert!(DOCUMENT.contains(&text), "docs/slurm-oci.md lacks\n{text}");
        }
        assert_eq!(run(Release::Trixie), run(Release::Forky));
    }

    #[test]
    fn roots_lines_have_nothing_of_the_users_choice() {
        for conf in [run, guide_run, guide_create].iter().flat_map(|form| Release::ALL.map(form)) {
            for line in conf.lines().filter(|line| ["Query", "Kill", "Delete"].iter().any(|verb| line.contains(verb))) {
                assert!(!["%b", "%r", "%@"].iter().any(|pattern| line.contains(pattern)), "{line}");
            }
        }
    }
}
