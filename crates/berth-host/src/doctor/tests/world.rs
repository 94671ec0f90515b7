//! The healthy host.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use super::super::Attempt;
use super::super::Host;
use super::super::Person;
use super::super::Places;
use super::super::Ran;
use super::super::Role;
use super::super::Space;
use super::super::Tries;
use crate::slurm::Version;
use crate::slurm::oci;

/// Files of a healthy host: path, mode, text.
const FILES: &[(&str, u32, &str)] = &[
    ("/proc/sys/kernel/osrelease", 0o644, "6.1.0-13-amd64\n"),
    ("/proc/sys/user/max_user_namespaces", 0o644, "63414\n"),
    ("/proc/sys/kernel/unprivileged_userns_clone", 0o644, "1\n"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0o644, "0\n"),
    ("/proc/filesystems", 0o644, "nodev\ttmpfs\nnodev\toverlay\n\text4\n"),
    (
        "/proc/self/mountinfo",
        0o644,
        "1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n2 1 0:2 / /run rw,nosuid - tmpfs tmpfs rw\n",
    ),
    ("/sys/fs/cgroup/cgroup.controllers", 0o644, "cpu memory pids\n"),
    ("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers", 0o644, "cpu memory pids\n"),
    ("/run/systemd/system/x", 0o644, ""),
    ("/dev/fuse", 0o666, ""),
    (
        "/etc/passwd",
        0o644,
        "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\ncarol:x:1002:1002::/home/carol:/bin/sh\n",
    ),
    ("/etc/group", 0o644, "root:x:0:\n"),
    ("/bin/sh", 0o755, ""),
    ("/usr/bin/berth", 0o755, ""),
    ("/etc/nsswitch.conf", 0o644, "passwd: files\n"),
    ("/etc/subuid", 0o644, "alice:100000:65536\nbob:165536:65536\n"),
    ("/etc/subgid", 0o644, "alice:100000:65536\nbob:165536:65536\n"),
    ("/usr/bin/newuidmap", 0o4755, ""),
    ("/usr/bin/newgidmap", 0o4755, ""),
    ("/usr/bin/berth-runtime", 0o755, ""),
    ("/usr/bin/crun", 0o755, ""),
    ("/usr/bin/podman", 0o755, ""),
    (
        "/etc/containers/storage.conf",
        0o644,
        "[storage]\ndriver = \"overlay\"\nrunroot = \"/run/x\"\ngraphroot = \"/var/x\"\nrootless_storage_path = \"/local/podman/$USER\"\n",
    ),
    ("/etc/containers/containers.conf", 0o644, "[engine]\nruntime = \"crun\"\ncgroup_manager = \"systemd\"\n"),
    ("/etc/containers/registries.conf", 0o644, "unqualified-search-registries = [\"registry.site\"]\n"),
    ("/etc/containers/certs.d/registry.site/ca.crt", 0o644, "-----BEGIN CERTIFICATE-----\n"),
    (
        "/etc/docker/daemon.json",
        0o644,
        "{\"default-runtime\": \"berth\", \"runtimes\": {\"berth\": {\"path\": \"/usr/bin/berth-runtime\"}}}\n",
    ),
    ("/usr/bin/apptainer", 0o755, ""),
    ("/usr/libexec/apptainer/bin/starter-suid", 0o4755, ""),
    ("/etc/enroot/enroot.conf", 0o644, "# paths\nENROOT_DATA_PATH /local/enroot/data-$(id -u)\n"),
    ("/etc/ssl/certs/ca-certificates.crt", 0o644, "-----BEGIN CERTIFICATE-----\n"),
];

/// What is there where there is Slurm.
const SLURM: &[(&str, u32, &str)] = &[
    (
        "/etc/slurm/slurm.conf",
        0o644,
        "ProctrackType=proctrack/cgroup\nProlog=/etc/slurm/prolog.sh\nEpilog=/etc/slurm/epilog.d/*\nLaunchParameters=use_interactive_step\n\
         NodeName=n[1-2] CPUs=4 Gres=gpu:2\n",
    ),
    ("/etc/slurm/cgroup.conf", 0o644, "CgroupPlugin=cgroup/v2\n"),
    ("/etc/slurm/gres.conf", 0o644, "Name=gpu File=/dev/nvidia[0-1]\n"),
    ("/etc/slurm/plugstack.conf", 0o644, "include plugstack.conf.d/*.conf\n"),
    ("/etc/slurm/plugstack.conf.d/berth.conf", 0o644, "optional /usr/lib/berth/spank_berth.so\n"),
    ("/etc/slurm/prolog.sh", 0o755, "#!/bin/sh\n"),
    ("/etc/slurm/epilog.d/10-clean", 0o755, "#!/bin/sh\n"),
    ("/dev/nvidia0", 0o666, ""),
    ("/dev/nvidia1", 0o666, ""),
    ("/run/munge/munge.socket.2", 0o777, ""),
    ("/usr/sbin/slurmd", 0o755, ""),
];

/// See the module.
pub struct World {
    root: tempfile::TempDir,
    pub fake: Fake,
    pub environment: BTreeMap<String, String>,
    pub places: Places,
}

/// Everything that is tried, with its answers.
#[derive(Clone)]
pub struct Fake {
    /// What programs say, by their line; others are not there.
    pub programs: BTreeMap<String, Ran>,
    /// What does not work.
    pub fails: Vec<(Attempt, &'static str)>,
    /// Hosts that cannot be reached.
    pub unreachable: BTreeSet<String>,
    pub space: Space,
    /// Below these, there is next to no room.
    pub full: Vec<PathBuf>,
    pub clock: i64,
    /// Files that are not root's.
    pub foreign: BTreeMap<PathBuf, u32>,
    own: u32,
}

impl Tries for Fake {
    fn run(&self, words: &[&str], input: &str) -> Ran {
        let line = if input.is_empty() { words.join(" ") } else { format!("{} <{input}", words.join(" ")) };
        self.programs.get(&line).cloned().unwrap_or(Ran { missing: true, ..Ran::default() })
    }

    fn attempt(&self, what: Attempt, _: &Path) -> Result<(), String> {
        let failed = self.fails.iter().find(|(attempt, _)| *attempt == what);
        failed.map_or(Ok(()), |(_, reason)| Err((*reason).to_owned()))
    }

    fn connect(&self, host: &str, port: u16) -> Result<(), String> {
        assert!(port > 0);
        if self.unreachable.contains(host) { Err("connection refused".to_owned()) } else { Ok(()) }
    }

    fn space(&self, path: &Path) -> Option<Space> {
        let full = self.full.iter().any(|full| path.starts_with(full));
        Some(Space { free: if full { 1 << 20 } else { self.space.free }, ..self.space })
    }

    fn clock_of(&self, _: &Path) -> Option<i64> {
        Some(self.clock)
    }

    fn now(&self) -> u64 {
        1_800_000_000
    }

    fn give(&self, _: &Path, uid: u32, _: u32) -> std::io::Result<()> {
        assert_eq!(uid, 1000);
        Ok(())
    }

    fn capable(&self, _: &Path) -> bool {
        false
    }

    /// Whoever runs the tests stands for root, but in homes.
    fn owner(&self, path: &Path, said: u32) -> u32 {
        match self.foreign.get(path) {
            Some(owner) => *owner,
            None if path.components().any(|part| part.as_os_str() == "alice") => 1000,
            None if said == self.own => 0,
            None => said,
        }
    }
}

/// A program that ended well.
pub fn says(stdout: &str) -> Ran {
    Ran { code: Some(0), stdout: stdout.to_owned(), ..Ran::default() }
}

/// One that did not.
pub fn fails(stderr: &str) -> Ran {
    Ran { code: Some(1), stderr: stderr.to_owned(), ..Ran::default() }
}

impl World {
    /// Everything but Slurm.
    pub fn bare() -> World {
        let root = tempfile::tempdir().unwrap();
        let own = fs::metadata(root.path()).unwrap().uid();
        let space = Space { free: 1 << 40, files: Some(1 << 30) };
        let fake = Fake {
            programs: BTreeMap::new(),
            fails: Vec::new(),
            unreachable: BTreeSet::new(),
            space,
            full: Vec::new(),
            clock: 0,
            foreign: BTreeMap::new(),
            own,
        };
        let fake = Fake {
            programs: ["modprobe overlay", "systemctl daemon-reload", "apparmor_parser -r /etc/apparmor.d/berth"]
                .map(|line| (line.to_owned(), says("")))
                .into(),
            ..fake
        };
        let home = PathBuf::from("/home/alice");
        let places = Places {
            store: Ok(home.join("store")),
            below: vec!["/apps/store".into()],
            containers: Some(home.join("containers")),
            mistake: None,
        };
        let mut world = World { root, fake, environment: BTreeMap::new(), places };
        for (path, mode, text) in FILES {
            world.write_mode(path, text, *mode);
        }
        for (path, mode) in [
            ("/home/alice/store", 0o700),
            ("/home/alice/containers", 0o700),
            ("/apps/store", 0o755),
            ("/local/podman", 0o1777),
            ("/local/enroot", 0o1777),
            ("/run/user", 0o755),
        ] {
            world.directory(path, mode);
        }
        // The folder of a login; its name says nothing of whose it is.
        world.directory("/run/user/1000", 0o700);
        world.foreign("/run/user/1000", 1000);
        world
    }

    /// Everything as it should be, with Slurm of this version.
    pub fn healthy(version: &str) -> World {
        let mut world = World::bare();
        for (path, mode, text) in SLURM {
            world.write_mode(path, text, *mode);
        }
        world.directory("/var/lib/berth", 0o755);
        // Without the plugin's form, which has fewer lines to go wrong.
        let advised = oci::advised(Version::parse(version).unwrap(), false);
        let text: String = advised.unwrap().iter().map(|line| format!("{}\n", line.text)).collect();
        world.write("/etc/slurm/oci.conf", &text);
        let mut elf = b"\x7fELF".to_vec();
        elf.resize(16, 0);
        elf.extend([3, 0, if cfg!(target_arch = "aarch64") { 183 } else { 62 }, 0]);
        elf.extend(b"plugin_type");
        world.write("/usr/lib/berth/spank_berth.so", "");
        fs::write(world.at("/usr/lib/berth/spank_berth.so"), elf).unwrap();
        for (line, ran) in [
            ("scontrol --version", says(&format!("slurm-wlm {version}\n"))),
            ("slurmd -V", says(&format!("slurm-wlm {version}\n"))),
            ("scontrol ping", says("Slurmctld(primary) at ctl is UP\n")),
            ("munge -n --socket /run/munge/munge.socket.2", says("MUNGE:abc:\n")),
            ("unmunge -n --socket /run/munge/munge.socket.2 <MUNGE:abc:\n", says("")),
            ("srun --mpi=list", says("MPI plugin types are...\n\tnone\n\tpmix\n")),
            ("srun --help", says("      --container-image=IMAGE\n")),
        ] {
            world.fake.programs.insert(line.to_owned(), ran);
        }
        world
    }

    /// The host as the checks see it, for alice.
    pub fn host(&self) -> Host {
        Host {
            root: self.root.path().to_owned(),
            name: "n1".to_owned(),
            role: Role::Any,
            person: Person {
                name: "alice".to_owned(),
                uid: 1000,
                gid: 1000,
                home: Some("/home/alice".to_owned()),
                named: true,
            },
            places: self.places.clone(),
            // On a busy machine a thread may wait long for its turn.
            limit: std::time::Duration::from_secs(60),
            environment: self.environment.clone(),
            tries: Box::new(self.fake.clone()),
            site: Default::default(),
        }
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    pub fn write(&mut self, path: &str, text: &str) {
        self.write_mode(path, text, 0o644);
    }

    pub fn write_mode(&mut self, path: &str, text: &str, mode: u32) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn directory(&mut self, path: &str, mode: u32) {
        let path = self.at(path);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn mode(&mut self, path: &str, mode: u32) {
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn remove(&mut self, path: &str) {
        let path = self.at(path);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    pub fn replace(&mut self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.at(path)).unwrap();
        assert!(text.contains(from), "{path}: {text}");
        let mode = fs::metadata(self.at(path)).unwrap().mode() & 0o7777;
        self.write_mode(path, &text.replacen(from, to, 1), mode);
    }

    pub fn append(&mut self, path: &str, line: &str) {
        let text = fs::read_to_string(self.at(path)).unwrap();
        self.write(path, &format!("{text}{line}\n"));
    }

    pub fn foreign(&mut self, path: &str, owner: u32) {
        self.fake.foreign.insert(self.at(path), owner);
    }

    pub fn says(&mut self, line: &str, ran: Ran) {
        self.fake.programs.insert(line.to_owned(), ran);
    }

    pub fn breaks(&mut self, attempt: Attempt, reason: &'static str) {
        self.fake.fails.push((attempt, reason));
    }

    /// Next to no room below a folder.
    pub fn fill(&mut self, path: &str) {
        let path = self.at(path);
        self.fake.full.push(path);
    }

    /// A file system on a folder.
    pub fn mount(&mut self, point: &str, kind: &str, options: &str) {
        self.append("/proc/self/mountinfo", &format!("9 1 0:9 / {point} rw - {kind} server:/x {options}"));
    }

    /// Every file with its mode and text.
    pub fn files(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![self.root.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                let (path, meta) = (entry.path(), entry.metadata().unwrap());
                let text = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                if meta.is_dir() {
                    dirs.push(path.clone());
                }
                found.insert(path, (meta.mode(), text));
            }
        }
        found
    }
}
