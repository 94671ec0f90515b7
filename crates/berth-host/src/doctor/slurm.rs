//! Slurm: the release, the plugin stack, munge, MPI.

use super::Fix;
use super::Host;
use super::Notes;
use super::Role;
use crate::slurm::Version;
use crate::slurm::plugstack;

/// The name of berth's plugin.
pub const PLUGIN: &str = "spank_berth.so";

/// Where it is looked for.
pub const PLUGIN_PLACES: [&str; 4] = ["/usr/lib/berth", "/usr/local/lib/berth", "/usr/lib64/berth", "/opt/berth/lib"];

/// What a stranger's plugin does.
const ROOTS_CODE: &str = "slurmstepd loads it as root: who can change it is root on every node";

/// The release and slurm.conf.
pub fn check(host: &Host, notes: &mut Notes) {
    let Some(site) = host.slurm() else {
        if host.role == Role::Any {
            notes.fine("there is no Slurm here");
        } else {
            notes
                .fault("slurm-missing", "there is no Slurm here: scontrol cannot be run")
                .breaks("everything of Slurm")
                .mend("apt-get install slurm-client    # on a node: slurmd");
        }
        return;
    };
    if !host.exists(&site.file("slurm.conf")) {
        notes
            .fault("slurm-conf-missing", format!("there is no slurm.conf in {}", site.dir))
            .breaks("every command of Slurm, unless the controller is named in the network")
            .mend(format!("scp CONTROLLER:{0}/slurm.conf {0}/", site.dir));
    }
    if host.program("slurmd").is_some() {
        let daemon = Version::parse(&host.run(&["slurmd", "-V"]).stdout);
        if let Some(daemon) = daemon.filter(|&daemon| daemon != site.version) {
            notes
                .fault("slurm-versions", format!("slurmd is of Slurm {daemon}, the commands are of {}", site.version))
                .breaks("plugins and oci.conf: what fits one does not fit the other")
                .mend("apt-get install --only-upgrade slurmd slurm-client");
        }
    }
    let pinged = host.run(&["scontrol", "ping"]);
    if pinged.missing || !pinged.ok() || !pinged.stdout.contains("UP") {
        notes
            .fault("slurm-controller", format!("slurmctld does not answer: {}", pinged.reason()))
            .breaks("every job")
            .mend("systemctl status slurmctld    # on the controller");
    }
    tracking(host, notes);
    if site.version < Version(22, 5) {
        notes
            .fault("slurm-old", format!("Slurm {} is older than what berth is tried with (22.05)", site.version))
            .breaks("perhaps nothing; nobody knows")
            .mend("update Slurm");
    }
    if notes.findings.is_empty() {
        let how = if site.configless { ", configured by its controller" } else { "" };
        notes.fine(format!("Slurm {} in {}{how}", site.version, site.dir));
    }
}

/// Whether slurmd finds every process of a step, and finds its control groups.
fn tracking(host: &Host, notes: &mut Notes) {
    let Some(site) = host.slurm() else { return };
    if let Some(kind) = site.value("ProctrackType").filter(|kind| !kind.contains("cgroup")) {
        notes
            .advice(
                "slurm-proctrack",
                format!("ProctrackType is {kind}: slurmd loses processes that leave their parent"),
            )
            .breaks("the end of containers: some outlive scancel")
            .mend(format!("sed -i 's|^ProctrackType=.*|ProctrackType=proctrack/cgroup|' {}", site.file("slurm.conf")));
    } else if site.value("ProctrackType").is_some()
        && !host.exists(&site.file("cgroup.conf"))
        && site.version < Version(23, 2)
    {
        notes
            .fault(
                "slurm-cgroup-conf",
                format!(
                    "there is no {}, without which slurmd {} looks in the wrong folder",
                    site.file("cgroup.conf"),
                    site.version
                ),
            )
            .breaks("slurmd: \"cgroup namespace 'freezer' not mounted. aborting\"")
            .fix(Fix::Line { path: site.file("cgroup.conf"), line: "CgroupPlugin=autodetect".to_owned(), then: &[] });
    }
    let plugin = host.read(&site.file("cgroup.conf")).unwrap_or_default();
    let plugin = crate::slurm::conf::parse(&plugin).0.into_iter().find(|e| e.key.eq_ignore_ascii_case("CgroupPlugin"));
    let unified = host.exists("/sys/fs/cgroup/cgroup.controllers");
    if plugin.is_some_and(|entry| entry.value == "cgroup/v2") && !unified && host.exists("/sys/fs/cgroup") {
        notes
            .fault(
                "slurm-cgroup-plugin",
                "cgroup.conf asks for cgroup/v2, and this host has control groups of version 1",
            )
            .breaks("slurmd does not start: \"Hybrid mode is not supported\"")
            .mend(format!("sed -i 's|^CgroupPlugin=.*|CgroupPlugin=autodetect|' {}", site.file("cgroup.conf")));
    }
    // Where slurm.conf cannot be read, that is the finding.
    if !site.conf.is_empty() && site.value("LaunchParameters").is_none_or(|text| !text.contains("use_interactive_step"))
    {
        notes
            .advice("slurm-interactive", "LaunchParameters lacks use_interactive_step")
            .breaks("salloc --container and salloc --container-image: refused, or the shell is on the submitting host")
            .mend(format!(
                "echo LaunchParameters=use_interactive_step >>{} && scontrol reconfigure",
                site.file("slurm.conf")
            ));
    }
}

/// plugstack.conf, and berth's plugin in it.
pub fn plugins(host: &Host, notes: &mut Notes) {
    let Some(site) = host.slurm() else { return };
    let path = site.plugin_stack();
    let stack = plugstack::read(host, &path);
    for (file, line, text) in &stack.mistakes {
        notes
            .fault("plugstack-line", format!("line {line} of {file} is skipped by Slurm: {text}"))
            .breaks("the plugin that it was to load")
            .mend(format!("sed -n {line}p {file}    # `optional FILE.so` or `required FILE.so`, in small letters"));
    }
    for (file, line, pattern) in stack.empty_includes.iter().filter(|_| site.configless) {
        notes
            .fault(
                "plugstack-include",
                format!("line {line} of {file} includes {pattern}, which the controller does not send"),
            )
            .breaks("the plugins that it names")
            .mend(format!("write what is in {pattern} into plugstack.conf itself, on the controller"));
    }
    let is_berth = |object: &str| object.ends_with("spank_berth.so");
    for plugin in &stack.plugins {
        let object = if plugin.object.starts_with('/') {
            Some(plugin.object.clone()).filter(|path| host.exists(path))
        } else {
            site.plugin_dirs().map(|dir| format!("{dir}/{}", plugin.object)).find(|path| host.exists(path))
        };
        match object {
            None => {
                let (file, line) = (&plugin.file, plugin.line);
                let what = format!("line {line} of {file} asks for {}, which is not there", plugin.object);
                let breaks = match (plugin.required, is_berth(&plugin.object)) {
                    (true, _) => "slurmd does not start, and every command of Slurm fails",
                    (false, true) => "the options of berth: srun: unrecognized option '--container-image'",
                    (false, false) => "the options of that plugin",
                };
                let mend = if is_berth(&plugin.object) {
                    format!("install -D -m 0755 {PLUGIN} {}", plugin.object)
                } else {
                    format!("sed -i '{line}s/^/#/' {file}")
                };
                notes.fault("plugin-missing", what).breaks(breaks).mend(mend);
            }
            Some(object) => loadable(host, &object, notes),
        }
    }
    let berths = stack.plugins.iter().filter(|plugin| is_berth(&plugin.object)).count();
    if let Some(pyxis) = stack.plugins.iter().find(|plugin| plugin.object.contains("pyxis") && berths > 0) {
        notes
            .fault("plugin-pyxis", format!("both berth and pyxis are in the plugin stack ({})", pyxis.file))
            .breaks(
                "--container-image and its sisters: Slurm gives them to whoever is loaded first, and ignores the other",
            )
            .mend(format!("sed -i '{}s/^/#/' {}", pyxis.line, pyxis.file));
    }
    if berths > 1 {
        notes
            .fault("plugin-twice", "berth's plugin is in the plugin stack twice")
            .breaks("its options: Slurm ignores what is registered again, with a line of error for each")
            .mend(format!("grep -rn {PLUGIN} {}", site.dir));
    }
    if berths == 0 {
        let have = PLUGIN_PLACES.iter().map(|dir| format!("{dir}/{PLUGIN}")).find(|path| host.exists(path));
        if have.is_some() {
            notes
                .advice("plugin-unused", format!("{} names no plugin of berth", path))
                .breaks("srun --container-image")
                .mend("berth setup slurm --write");
        } else {
            notes.fine("berth's plugin is not installed; steps use oci.conf or berth run");
        }
    } else if !notes.findings.iter().any(|finding| finding.kind.starts_with("plugin-")) {
        let help = host.run(&["srun", "--help"]);
        if help.stdout.contains("--container-image") {
            notes.fine("berth's plugin is loaded: srun knows --container-image");
        } else {
            let mut lines = help.stderr.lines().filter(|line| line.contains("spank") || line.contains("ncompatible"));
            let reason = lines.next_back().map_or_else(String::new, |line| format!(": {line}"));
            notes
                .fault(
                    "plugin-not-loaded",
                    format!("srun does not know --container-image though {path} names the plugin{reason}"),
                )
                .breaks("srun --container-image")
                .mend("srun -vv true 2>&1 | grep -i spank");
        }
    }
}

/// Whether an object is root's, and something that this machine can load.
fn loadable(host: &Host, object: &str, notes: &mut Notes) {
    if let Some(who) = host.changed_by(object) {
        notes
            .fault("plugin-open", format!("{object} can be changed by {who}"))
            .breaks(ROOTS_CODE)
            .mend(format!("chown root:root {object} && chmod 0755 {object}"))
            .fix(Fix::Mode { path: object.to_owned(), mode: 0o755 });
    }
    let bytes = std::fs::read(host.path(object)).unwrap_or_default();
    let machine: [u8; 2] = if cfg!(target_arch = "aarch64") { [183, 0] } else { [62, 0] };
    let elf =
        bytes.starts_with(b"\x7fELF") && bytes.get(16..18) == Some(&[3, 0]) && bytes.get(18..20) == Some(&machine);
    let has = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    if !elf || !has(b"plugin_type") {
        notes
            .fault("plugin-broken", format!("{object} is no plugin for this machine"))
            .breaks("what it is for; all of Slurm where it is required")
            .mend(format!("file {object}    # install it again"));
    }
}

/// Whether munge answers, and understands itself.
pub fn munge(host: &Host, notes: &mut Notes) {
    let Some(site) = host.slurm() else { return };
    if site.value("AuthType").is_some_and(|kind| !kind.contains("munge")) {
        notes.fine(format!("{} instead of munge", site.value("AuthType").unwrap_or_default()));
        return;
    }
    let breaks = "every command of Slurm, and every job";
    let socket = site.value("AuthInfo").and_then(|text| text.split(',').find_map(|part| part.strip_prefix("socket=")));
    let socket = socket.unwrap_or("/run/munge/munge.socket.2");
    if !host.exists(socket) {
        notes
            .fault("munge-socket", format!("munge has no socket {socket}"))
            .breaks(breaks)
            .mend("systemctl restart munge");
        return;
    }
    let made = host.run(&["munge", "-n", "--socket", socket]);
    if made.missing {
        notes.fine(format!("munge has its socket {socket}"));
        return;
    }
    if !made.ok() {
        notes
            .fault("munge-dead", format!("munge makes no credential: {}", made.reason()))
            .breaks(breaks)
            .mend("systemctl restart munge");
        return;
    }
    let read = host.tries.run(&["unmunge", "-n", "--socket", socket], &made.stdout);
    if !read.ok() {
        let text = read.reason();
        let clock = text.contains("xpired") || text.contains("ewound");
        notes
            .fault(
                if clock { "munge-clock" } else { "munge-refuses" },
                format!("munge does not take its own credential: {text}"),
            )
            .breaks(breaks)
            .mend(if clock { "chronyc makestep" } else { "systemctl restart munge" });
        return;
    }
    notes.fine("munge made a credential and took it back");
}

/// Whether Slurm starts MPI programs.
pub fn mpi(host: &Host, notes: &mut Notes) {
    let Some(site) = host.slurm() else { return };
    let said = host.run(&["srun", "--mpi=list"]);
    let text = format!("{}{}", said.stdout, said.stderr);
    let words = || text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let default = site.value("MpiDefault").filter(|kind| *kind != "none" && said.ok());
    if let Some(kind) = default.filter(|kind| !words().any(|word| word == *kind)) {
        notes
            .fault("mpi-default", format!("MpiDefault is {kind}, which this Slurm has no plugin for (srun --mpi=list)"))
            .breaks("every step: srun ends before it starts anything")
            .mend(format!(
                "sed -i 's|^MpiDefault=.*|MpiDefault=none|' {}    # or install the plugin",
                site.file("slurm.conf")
            ));
    } else if words().any(|word| word.starts_with("pmix")) {
        notes.fine("Slurm has PMIx");
    } else if said.missing || said.late {
        notes.fine("which kinds of MPI Slurm has is not known: no srun");
    } else {
        notes
            .advice("mpi-no-pmix", "Slurm has no plugin for PMIx (srun --mpi=list)")
            .breaks("MPI programs of images with Open MPI 5, which start by PMIx alone")
            .mend("apt-get install slurm-wlm-plugins    # or Slurm built with --with-pmix");
    }
}
