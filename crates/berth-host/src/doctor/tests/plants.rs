//! One fault each.

use super::super::Attempt;
use super::world::World;
use super::world::fails;
use super::world::says;

/// What `--fix` does about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Nothing: it only tells.
    Nothing,
    /// It is gone.
    Now,
    /// Files are written and a daemon or the kernel told, which a folder does not have.
    Prepared,
}

/// A fault.
pub struct Plant {
    /// The kind that has to be found, and no other.
    pub kind: &'static str,
    /// What `--fix` does about it.
    pub fix: Promise,
    /// Plants it.
    pub plant: fn(&mut World),
}

const fn found(kind: &'static str, plant: fn(&mut World)) -> Plant {
    Plant { kind, fix: Promise::Nothing, plant }
}

const fn mended(kind: &'static str, plant: fn(&mut World)) -> Plant {
    Plant { kind, fix: Promise::Now, plant }
}

const fn prepared(kind: &'static str, plant: fn(&mut World)) -> Plant {
    Plant { kind, fix: Promise::Prepared, plant }
}

const OCI: &str = "/etc/slurm/oci.conf";
const SLURM: &str = "/etc/slurm/slurm.conf";
const STACK: &str = "/etc/slurm/plugstack.conf";
const OWN_STACK: &str = "/etc/slurm/plugstack.conf.d/berth.conf";
const PLUGIN: &str = "/usr/lib/berth/spank_berth.so";
const DOCKER: &str = "/etc/docker/daemon.json";

/// All of them.
pub const PLANTS: &[Plant] = &[
    // The kernel.
    found("kernel-old", |w| w.write("/proc/sys/kernel/osrelease", "4.18.0-553.el8\n")),
    mended("userns-off", |w| w.write("/proc/sys/user/max_user_namespaces", "0\n")),
    mended("userns-few", |w| w.write("/proc/sys/user/max_user_namespaces", "10\n")),
    mended("namespaces-few", |w| w.write("/proc/sys/user/max_net_namespaces", "0\n")),
    mended("userns-clone", |w| w.write("/proc/sys/kernel/unprivileged_userns_clone", "0\n")),
    found("userns-fails", |w| w.breaks(Attempt::UserNamespace, "Permission denied")),
    found("overlay-fails", |w| w.breaks(Attempt::Overlay, "Invalid argument")),
    found("container-fails", |w| w.breaks(Attempt::Container, "cannot mount proc")),
    found("fuse-missing", |w| w.remove("/dev/fuse")),
    found("fuse-fails", |w| w.breaks(Attempt::Fuse, "Operation not permitted")),
    mended("fuse-closed", |w| w.mode("/dev/fuse", 0o600)),
    found("cgroup-v1", |w| {
        w.remove("/sys/fs/cgroup/cgroup.controllers");
        w.write("/etc/slurm/cgroup.conf", "CgroupPlugin=autodetect\n");
    }),
    prepared("cgroup-delegation", |w| {
        w.write("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers", "pids\n");
    }),
    prepared("overlay-missing", |w| w.write("/proc/filesystems", "nodev\ttmpfs\n")),
    mended("apparmor-userns", |w| w.write("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")),
    found("selinux-nfs-home", |w| {
        w.write("/sys/fs/selinux/enforce", "1");
        w.write("/sys/fs/selinux/booleans/use_nfs_home_dirs", "0 0");
        w.mount("/home/alice", "nfs4", "rw");
        w.places.containers = None;
    }),
    // Ids and logins.
    found("newuidmap-missing", |w| w.remove("/usr/bin/newgidmap")),
    mended("newuidmap-powerless", |w| w.mode("/usr/bin/newuidmap", 0o755)),
    found("newuidmap-nosuid", |w| w.mount("/usr/bin/newuidmap", "ext4", "rw,nosuid")),
    found("subid-missing", |w| w.write("/etc/subuid", "bob:165536:65536\n")),
    mended("subid-no-file", |w| {
        w.write("/etc/nsswitch.conf", "subid: berth\n");
        w.remove("/etc/subgid");
    }),
    found("subid-overlap", |w| {
        w.append("/etc/subuid", "carol:170000:65536");
        w.append("/etc/subgid", "carol:170000:65536");
    }),
    found("subid-account", |w| w.append("/etc/passwd", "dave:x:100005:100::/home/dave:/bin/sh")),
    found("subid-wraps", |w| w.append("/etc/subuid", "carol:4294960000:65536")),
    found("subid-malformed", |w| w.append("/etc/subuid", "carol;1")),
    found("subid-sequential", |w| {
        for file in ["/etc/subuid", "/etc/subgid"] {
            w.write(file, "alice:65536:65536\nbob:131072:65536\n");
        }
    }),
    found("subid-small", |w| w.append("/etc/subuid", "carol:300000:10")),
    mended("subid-open", |w| w.mode("/etc/subuid", 0o666)),
    found("subid-fails", |w| w.breaks(Attempt::ManyIds, "newuidmap: write to uid_map failed")),
    found("run-user-missing", |w| w.remove("/run/user/1000")),
    found("run-user-owner", |w| w.foreign("/run/user/1000", 0)),
    mended("run-user-open", |w| w.mode("/run/user/1000", 0o755)),
    // The store.
    found("config-broken", |w| w.places.mistake = Some("berth.toml: line 1: unknown field".to_owned())),
    found("store-unknown", |w| w.places.store = Err("HOME is not set".to_owned())),
    found("store-unwritable", |w| w.foreign("/home/alice/store", 0)),
    mended("store-parent", |w| {
        w.directory("/scratch", 0o755);
        w.places.store = Ok("/scratch/alice/berth".into());
    }),
    mended("store-open", |w| w.mode("/home/alice/store", 0o777)),
    found("store-read-only", |w| w.mount("/home/alice/store", "ext4", "ro")),
    found("store-noexec", |w| w.mount("/home/alice/store", "ext4", "rw,noexec")),
    found("store-locks", |w| w.mount("/home/alice/store", "nfs", "rw,nolock")),
    found("store-locks", |w| w.breaks(Attempt::Locks, "Function not implemented")),
    found("store-full", |w| w.fill("/home/alice/store")),
    found("store-files", |w| w.fake.space.files = Some(10)),
    found("store-quota", |w| {
        w.says("quota -w -p -u alice", says("     /dev/sda1  999999* 1000000 1100000  0 5 0 0\n"))
    }),
    mended("store-open", |w| w.mode("/apps/store", 0o777)),
    found("store-below-missing", |w| w.remove("/apps/store")),
    found("containers-network", |w| w.mount("/home/alice/containers", "lustre", "rw,flock")),
    found("containers-attributes", |w| w.breaks(Attempt::Attributes, "Operation not supported")),
    // Slurm.
    found("slurm-conf-missing", |w| {
        w.says("scontrol --version", says("slurm-wlm 26.05.5\n"));
        w.remove("/etc/slurm/slurm.conf");
        w.remove("/etc/slurm/gres.conf");
    }),
    found("slurm-versions", |w| w.says("slurmd -V", says("slurm 22.05.8\n"))),
    found("slurm-controller", |w| w.says("scontrol ping", fails("Slurmctld(primary) at ctl is DOWN"))),
    found("slurm-proctrack", |w| w.replace(SLURM, "proctrack/cgroup", "proctrack/linuxproc")),
    mended("slurm-cgroup-conf", |w| {
        w.remove("/etc/slurm/cgroup.conf");
        w.says("scontrol --version", says("slurm-wlm 22.05.8\n"));
        w.says("slurmd -V", says("slurm-wlm 22.05.8\n"));
        let old = World::healthy("22.05.8");
        let text = std::fs::read_to_string(old.at(OCI)).unwrap();
        w.write(OCI, &text);
    }),
    found("slurm-interactive", |w| w.replace(SLURM, "LaunchParameters=use_interactive_step", "")),
    // The plugin.
    found("plugin-missing", |w| w.remove(PLUGIN)),
    found("plugin-missing", |w| w.append(STACK, "required other.so")),
    found("plugin-broken", |w| w.write(PLUGIN, "no object")),
    mended("plugin-open", |w| w.mode(PLUGIN, 0o777)),
    found("plugin-twice", |w| w.append(STACK, &format!("optional {PLUGIN}"))),
    found("plugin-pyxis", |w| {
        let object = std::fs::read(w.at(PLUGIN)).unwrap();
        w.write("/usr/lib64/slurm/spank_pyxis.so", "");
        std::fs::write(w.at("/usr/lib64/slurm/spank_pyxis.so"), object).unwrap();
        w.append(STACK, "required spank_pyxis.so");
    }),
    found("plugin-unused", |w| w.write(STACK, "# nothing\n")),
    found("plugin-not-loaded", |w| w.says("srun --help", says("Usage: srun\n"))),
    found("plugin-setting", |w| w.write(OWN_STACK, &format!("optional {PLUGIN} runtime-path=/local\n"))),
    mended("runtime-path-missing", |w| w.write(OWN_STACK, &format!("optional {PLUGIN} runtime_path=/local/a/b\n"))),
    found("runtime-path-kind", |w| {
        w.directory("/local/real", 0o755);
        w.remove("/var/lib/berth");
        std::os::unix::fs::symlink(w.at("/local/real"), w.at("/var/lib/berth")).unwrap();
    }),
    found("runtime-path-owner", |w| w.foreign("/var/lib/berth", 1000)),
    mended("runtime-path-open", |w| w.mode("/var/lib/berth", 0o775)),
    mended("runtime-path-closed", |w| w.mode("/var/lib/berth", 0o700)),
    found("runtime-path-network", |w| w.mount("/var/lib/berth", "nfs4", "rw")),
    found("runtime-path-network", |w| {
        w.mount("/scratch", "lustre", "rw,flock");
        w.directory("/scratch", 0o755);
        w.write(OWN_STACK, &format!("optional {PLUGIN} container_scope=job runtime_path=/scratch/berth\n"));
    }),
    found("runtime-path-read-only", |w| w.mount("/var/lib", "ext4", "ro")),
    found("runtime-path-full", |w| w.fill("/var/lib")),
    found("plugstack-line", |w| w.append(STACK, "Optional /usr/lib/x.so")),
    found("plugstack-include", |w| {
        w.append(SLURM, "SlurmctldParameters=enable_configless");
        w.append(STACK, "include more.d/*.conf");
    }),
    // oci.conf.
    found("oci-missing", |w| w.remove(OCI)),
    found("oci-syntax", |w| w.append(OCI, "hello")),
    found("oci-unknown-key", |w| w.append(OCI, "RunTimeEnv=\"x\"")),
    found("oci-unknown-pattern", |w| w.replace(OCI, "%n", "%N")),
    found("oci-value", |w| w.append(OCI, "CreateEnvFile=lines")),
    found("oci-user-string", |w| w.append(OCI, "RunTimeQuery=\"crun state %b\"")),
    found("oci-no-exec", |w| w.replace(OCI, "exec berth", "berth")),
    found("oci-open-root", |w| w.append(OCI, "RunTimeDelete=\"crun --root=/tmp delete x\"")),
    found("oci-sudo", |w| w.append(OCI, "RunTimeDelete=\"sudo crun delete x\"")),
    found("oci-incomplete", |w| w.append(OCI, "RunTimeStart=\"crun start x\"")),
    found("oci-environment", |w| w.replace(OCI, "EnvExclude=", "FileDebug=")),
    found("oci-create-start", |w| {
        let text = std::fs::read_to_string(w.at(OCI)).unwrap();
        let rest: String =
            text.lines().filter(|line| !line.starts_with("RunTimeRun")).map(|line| format!("{line}\n")).collect();
        w.write(OCI, &format!("{rest}RunTimeCreate=\"crun create x\"\nRunTimeStart=\"crun start x\"\n"));
    }),
    found("oci-runtime", |w| w.append(OCI, "RunTimeDelete=\"youki delete x\"")),
    found("oci-plugin", |w| {
        w.write(OCI, "EnvExclude=^SLURM_CONF=\nRunTimeEnvExclude=^SLURM_CONF=\nIgnoreFileConfigJson=true\nCreateEnvFile=null\nRunTimeRun=\"exec berth oci-step --env-file=%e\"\n");
        w.write(STACK, "");
        w.remove(PLUGIN);
    }),
    mended("oci-open", |w| w.mode(OCI, 0o666)),
    // munge and MPI.
    found("munge-socket", |w| w.remove("/run/munge/munge.socket.2")),
    found("munge-dead", |w| {
        w.says("munge -n --socket /run/munge/munge.socket.2", fails("munge: Error: Failed to access"))
    }),
    found("munge-refuses", |w| {
        w.says("unmunge -n --socket /run/munge/munge.socket.2 <MUNGE:abc:\n", fails("Invalid credential"))
    }),
    found("munge-clock", |w| {
        w.says("unmunge -n --socket /run/munge/munge.socket.2 <MUNGE:abc:\n", fails("Rewound credential"))
    }),
    found("mpi-no-pmix", |w| w.says("srun --mpi=list", says("MPI plugin types are...\n\tnone\n\tpmi2\n"))),
    found("mpi-default", |w| w.append(SLURM, "MpiDefault=pmix_v4")),
    // Scripts and devices.
    found("script-missing", |w| w.remove("/etc/slurm/prolog.sh")),
    mended("script-mode", |w| w.mode("/etc/slurm/epilog.d/10-clean", 0o644)),
    found("script-interpreter", |w| w.write_mode("/etc/slurm/prolog.sh", "#!/bin/sh\r\ntrue\r\n", 0o755)),
    found("script-interpreter", |w| w.write_mode("/etc/slurm/prolog.sh", "true\n", 0o755)),
    mended("script-open", |w| w.mode("/etc/slurm/prolog.sh", 0o777)),
    found("gres-missing", |w| w.remove("/etc/slurm/gres.conf")),
    found("gres-device", |w| w.remove("/dev/nvidia1")),
    found("gres-device", |w| {
        w.write(
            "/etc/slurm/gres.conf",
            "NodeName=n[1,3] Name=gpu File=/dev/nvidia7\nNodeName=n2 Name=gpu File=/dev/x\n",
        )
    }),
    found("gres-autodetect", |w| w.write("/etc/slurm/gres.conf", "AutoDetect=nvml\n")),
    found("slurm-cgroup-plugin", |w| {
        w.remove("/sys/fs/cgroup/cgroup.controllers");
        w.remove("/usr/bin/podman");
    }),
    // Engines.
    found("podman-storage-conf", |w| w.write("/etc/containers/storage.conf", "[storage\n")),
    found("podman-storage-roots", |w| w.replace("/etc/containers/storage.conf", "runroot = \"/run/x\"\n", "")),
    found("podman-storage-network", |w| w.mount("/local/podman", "nfs4", "rw")),
    mended("podman-storage-missing", |w| w.remove("/local/podman")),
    mended("podman-storage-open", |w| w.mode("/local/podman", 0o777)),
    mended("podman-storage-closed", |w| w.mode("/local/podman", 0o755)),
    found("podman-containers-conf", |w| w.write("/etc/containers/containers.conf", "engine = [\n")),
    found("podman-runtime", |w| w.replace("/etc/containers/containers.conf", "crun", "kata")),
    found("podman-cgroup-manager", |w| w.remove("/run/systemd/system")),
    found("registries-conf", |w| w.write("/etc/containers/registries.conf", "= 1\n")),
    found("registry-insecure", |w| {
        w.append("/etc/containers/registries.conf", "[[registry]]\nlocation = \"registry.site\"\ninsecure = true")
    }),
    found("docker-json", |w| w.write(DOCKER, "{\"runtimes\": {},}\n")),
    found("docker-variable", |w| w.write(DOCKER, "{\"data-root\": \"/var/tmp/${USER}/storage\"}\n")),
    found("docker-network", |w| {
        w.mount("/shared", "nfs4", "rw");
        w.write(DOCKER, "{\"data-root\": \"/shared/docker\"}\n");
    }),
    found("docker-runtime", |w| w.write(DOCKER, "{\"runtimes\": {\"kata\": {\"path\": \"/usr/bin/kata\"}}}\n")),
    found("docker-default", |w| w.write(DOCKER, "{\"default-runtime\": \"slurm\"}\n")),
    found("apptainer-starter", |w| w.mode("/usr/libexec/apptainer/bin/starter-suid", 0o755)),
    mended("enroot-missing", |w| w.remove("/local/enroot")),
    mended("enroot-closed", |w| w.mode("/local/enroot", 0o755)),
    found("enroot-memory", |w| w.mount("/local/enroot", "tmpfs", "rw")),
    // The network and time.
    found("registry-unreachable", |w| w.fake.unreachable = ["registry.site".to_owned()].into()),
    found("proxy-unreachable", |w| {
        w.environment.insert("https_proxy".to_owned(), "http://proxy.site:3128".to_owned());
        w.fake.unreachable.insert("proxy.site".to_owned());
    }),
    found("proxy-broken", |w| drop(w.environment.insert("https_proxy".to_owned(), "proxy site".to_owned()))),
    found("certificates-missing", |w| w.remove("/etc/ssl/certs/ca-certificates.crt")),
    found("certificates-variable", |w| {
        drop(w.environment.insert("SSL_CERT_FILE".to_owned(), "/nowhere.pem".to_owned()))
    }),
    found("certificate-broken", |w| w.write("/etc/containers/certs.d/registry.site/ca.crt", "DER")),
    found("certificate-expired", |w| {
        let file = "/etc/containers/certs.d/registry.site/ca.crt";
        let mut said = fails("");
        said.stdout = "Certificate will expire\n".to_owned();
        w.says(&format!("openssl x509 -noout -checkend 0 -in {file}"), said);
    }),
    found("certificate-key", |w| {
        w.write("/etc/containers/certs.d/registry.site/client.cert", "-----BEGIN CERTIFICATE-----\n")
    }),
    found("clock", |w| w.fake.clock = 90),
];
