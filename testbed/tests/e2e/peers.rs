//! The tools that berth is compared with.

use std::path::PathBuf;
use std::process::Command;

use testbed::fixture::Fixture;
use testbed::process;
use testbed::process::Output;
use testbed::recipes::Recipe;
use testbed::tree::Tree;

/// The folder that umoci unpacks an image into, as the test's user.
pub fn umoci_rootfs(fixture: &Fixture, recipe: Recipe) -> PathBuf {
    let layout = fixture.layout_of(recipe);
    let bundle = fixture.path("work").join(format!("umoci-{}", recipe.name()));
    let image = format!("{}:{}", layout.dir().display(), recipe.name());
    let mut command = fixture.command("umoci", &["unpack", "--rootless", "--image", &image]);
    process::run(command.arg(&bundle)).ok();
    bundle.join("rootfs")
}

/// podman with storage of the test's own.
pub struct Podman<'a> {
    fixture: &'a Fixture,
}

impl Podman<'_> {
    pub fn new(fixture: &Fixture) -> Podman<'_> {
        Podman { fixture }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.fixture.command("podman", &[]);
        command.arg("--root").arg(self.fixture.path("work").join("podman"));
        command.arg("--runroot").arg(self.fixture.path("run").join("podman"));
        command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"]);
        command.args(arguments);
        command
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Output {
        process::run(&mut self.command(arguments))
    }

    /// `podman run` with the least that it can do here: no network, no control group.
    pub fn container(&self, arguments: &[&str]) -> Command {
        self.command(&[&["run", "--rm", "--net=none", "--cgroups=disabled"], arguments].concat())
    }

    /// Pulls one of the images; gives its id.
    #[track_caller]
    pub fn pull(&self, recipe: Recipe) -> String {
        let layout = self.fixture.layout_of(recipe);
        let source = format!("oci:{}:{}", layout.dir().display(), recipe.name());
        let id = self.run(&["pull", "-q", &source]).ok();
        id.lines().last().unwrap_or_default().to_owned()
    }

    /// The tree of a pulled image, with owners as a container sees them.
    #[track_caller]
    pub fn tree(&self, id: &str) -> Tree {
        let testbed = self.fixture.testbed();
        // Words of the command line that podman runs again inside its user namespace.
        let podman = process::line(&self.command(&["image", "mount", id]));
        let script = format!("{} tree \"$({podman})\"", testbed.display());
        Tree::parse(&self.run(&["unshare", "sh", "-c", &script]).ok())
    }
}
