//! podman with storage and configuration of a test's own.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use super::Engine;
use super::IMAGE;
use crate::fixture::Fixture;
use crate::process;

/// podman.
#[derive(Debug)]
pub struct Podman {
    fixture: Fixture,
    first_mounts: BTreeSet<String>,
    group: Option<String>,
}

impl Podman {
    /// podman for an ordinary user with subordinate ids. It has no control groups: without systemd nobody gives it any.
    pub fn rootless() -> Podman {
        Podman::with(Fixture::new(), None)
    }

    /// The same with the control groups of the host as they are, old ones where it has them.
    pub fn rootless_on_the_hosts_groups() -> Podman {
        super::own_places();
        Podman::with(Fixture::new(), None)
    }

    /// podman for root, on the host's control groups.
    pub fn rootful() -> Podman {
        super::own_places();
        let group = format!("berth-e2e-podman-{}", std::process::id());
        Podman::with(Fixture::as_oneself(), Some(group))
    }

    /// podman for root on the new control groups alone, with whatever controllers they have here: none, where the old ones
    /// have them all.
    pub fn rootful_on_new_groups() -> Podman {
        super::own_run();
        let group = format!("berth-e2e-podman-{}", std::process::id());
        Podman::with(Fixture::as_oneself(), Some(group))
    }

    fn with(fixture: Fixture, group: Option<String>) -> Podman {
        let runtime = super::runtime(&fixture);
        let name = super::state_name(&runtime);
        // What podman asks for by default is more than some have; `runtime_supports…` lists only what it knows itself.
        let conf = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1000:2000\", \"nproc=4000:4000\"]\n\
             init_path = \"/usr/bin/tini-static\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"{name}\"\n\
             runtime_supports_json = [\"{name}\"]\nruntime_supports_nocgroup = [\"{name}\"]\n\
             [engine.runtimes]\n{name} = [\"{}\"]\n",
            runtime.display()
        );
        fixture.write("containers.conf", conf);
        process::reap_for_ever("conmon");
        let mut podman = Podman { fixture, first_mounts: BTreeSet::new(), group };
        let archive = podman.fixture.archive_of(IMAGE);
        process::run(podman.command(&["load", "-q", "-i"]).arg(&archive)).ok();
        podman.first_mounts = super::mounts();
        // Its storage, mounted for itself by whichever command comes first.
        podman.first_mounts.insert(podman.fixture.path("work/podman/overlay").display().to_string());
        podman
    }
}

impl Engine for Podman {
    fn fixture(&self) -> &Fixture {
        &self.fixture
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.fixture.command("podman", &[]);
        command.env("CONTAINERS_CONF", self.fixture.path("containers.conf"));
        // As options, not in a file: podman hands options on to the podman that cleans up behind a container.
        command
            .arg("--root")
            .arg(self.fixture.path("work/podman"))
            .arg("--runroot")
            .arg(self.fixture.path("run/podman"));
        command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"]).args(words);
        command
    }

    fn options(&self) -> Vec<String> {
        let group = self.group.iter().map(|group| format!("--cgroup-parent=/{group}"));
        // No time to end for those that a test removes.
        ["--network=none", "--stop-timeout=0"].map(str::to_owned).into_iter().chain(group).collect()
    }

    fn state(&self) -> PathBuf {
        let runtime = super::state_name(&super::runtime(&self.fixture));
        if self.group.is_some() { PathBuf::from("/run").join(runtime) } else { self.fixture.path("run").join(runtime) }
    }

    fn control_group(&self) -> Option<String> {
        self.group.clone()
    }

    fn is_own(&self, pid: i32) -> bool {
        // The process that keeps an ordinary user's namespaces for the next command.
        let name = process::name(pid);
        self.group.is_none() && (name == "podman" || name.starts_with("podman pause") || name.contains("catatonit"))
    }

    fn first_mounts(&self) -> &BTreeSet<String> {
        &self.first_mounts
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        super::unmount_below(&self.fixture.path("work"));
        super::unmount_below(&self.fixture.path("run"));
        if let Some(group) = &self.group {
            super::remove_control_group(group);
        }
    }
}
