//! A cluster that has the plugin, and a registry by the names of public ones.

use std::fmt::Debug;

use testbed::process::Output;
use testbed::registry::Registry;
use testbed::slurm::Cluster;
use testbed::slurm::Options;
use testbed::slurm::Release;
use testbed::slurm::Session;
use testbed::slurm::Traces;
use testbed::slurm::registries::Kind;

use crate::world::Step;

/// The image of most tests: busybox alone.
pub const SMALL: &str = "--container-image=small";

/// An image as vendors of frameworks make theirs: an entry point, variables, a working directory.
pub const FRAMEWORK: &str = "--container-image=nvcr.io#nvidia/pytorch:21.12-py3";

/// The home of the user of most tests.
pub const HOME: &str = "/home/tuser1";

pub struct World {
    pub cluster: Cluster,
    /// The registry by the names of public ones.
    pub registry: Registry,
    before: Traces,
}

impl World {
    /// One node.
    pub fn new(release: Release) -> World {
        World::with(release, Options::default().plugin(""))
    }

    /// A number of nodes.
    pub fn nodes(release: Release, nodes: usize) -> World {
        World::with(release, Options { nodes, ..Options::default() }.plugin(""))
    }

    pub fn with(release: Release, options: Options) -> World {
        let cluster = Cluster::start(release, &options).expect("a cluster");
        let registry = cluster.registry(Kind::Public);
        // The first step makes what Slurm keeps for all later ones.
        cluster.as_user("tuser1").run(&["srun", "-N", &options.nodes.to_string(), "true"]).ok();
        let before = cluster.idle_traces();
        World { cluster, registry, before }
    }

    pub fn user(&self) -> Session<'_> {
        self.cluster.as_user("tuser1")
    }

    /// `srun` with options and a command.
    #[track_caller]
    pub fn srun(&self, options: &[&str], command: &[&str]) -> Output {
        self.user().run(&[&["srun"], options, command].concat())
    }

    /// `srun` with options and a line of the container's shell.
    #[track_caller]
    pub fn shell(&self, options: &[&str], line: &str) -> Output {
        self.srun(options, &["sh", "-c", line])
    }

    /// A step that goes on while the test does something.
    pub fn start(&self, options: &[&str], line: &str) -> Step {
        Step(self.user().spawn(&[&["srun"], options, &["sh", "-c", line]].concat()))
    }

    /// What a job script that was submitted with options has written, without what is told of the fetch of an image.
    #[track_caller]
    pub fn batch(&self, options: &[&str], script: &str) -> String {
        let output = format!("{HOME}/batch.out");
        self.cluster.batch("tuser1", &[&["-o", &output], options].concat(), script);
        let text = self.user().run(&["cat", &output]).ok();
        self.user().run(&["rm", &output]).ok();
        printed(&text)
    }

    /// Waits until a file of the user's home is there.
    #[track_caller]
    pub fn wait_for(&self, name: &str) {
        let path = self.cluster.path(format!("{HOME}/{name}"));
        self.cluster.wait_until(&format!("{name} is there"), || path.exists());
    }

    /// Number of the job that runs.
    #[track_caller]
    pub fn job(&self) -> String {
        let jobs = self.cluster.root().run(&["squeue", "-h", "-t", "R", "-o", "%i"]).ok();
        assert_eq!(jobs.lines().count(), 1, "{jobs}");
        jobs.trim().to_owned()
    }

    /// Removes what named containers have left on the nodes: their files are theirs by intention.
    pub fn forget_containers(&self) {
        for node in self.cluster.node_names() {
            self.cluster.node(&node).shell("rm -rf /var/lib/berth/[0-9]*/*").ok();
        }
    }

    /// Nothing is left of any step: no process, mount, namespace, control group or file, and the nodes are fine.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.cluster.assert_clean(&self.before);
    }
}

/// The end of a step that holds this: it goes on until the file `go` is in the user's home, and has written `ready` there.
/// The container must show the home.
pub const HOLD: &str = "echo >/home/tuser1/ready; until [ -e /home/tuser1/go ]; do sleep 0.05; done";

impl World {
    /// Lets a step that holds go on, and waits for its end.
    #[track_caller]
    pub fn let_go(&self, step: Step) -> Output {
        self.user().run(&["touch", "go"]).ok();
        let said = step.end();
        self.user().run(&["rm", "go", "ready"]).ok();
        said
    }
}

/// What a job wrote, without what is told of the fetch of an image.
pub fn printed(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with("pyxis: import")).collect()
}

/// What a command said, without the words that took it into the box.
pub fn report(said: &Output) -> String {
    let text = said.report();
    text.split_once(" TERM=xterm ").map_or(text.clone(), |(_, rest)| rest.to_owned())
}

/// What was found to be otherwise than it should be: rows of a table are looked at to the last one.
#[derive(Debug, Default)]
pub struct Rows(Vec<String>);

impl Rows {
    /// Both are the same.
    pub fn same<T: PartialEq + Debug>(&mut self, what: impl Into<String>, found: T, wanted: T) {
        if found != wanted {
            self.0.push(format!("{}: {found:?} instead of {wanted:?}", what.into()));
        }
    }

    /// It is so.
    pub fn holds(&mut self, what: impl Into<String>, holds: bool) {
        if !holds {
            self.0.push(what.into());
        }
    }

    /// A command succeeded and printed this.
    pub fn prints(&mut self, said: &Output, wanted: &str) {
        if (said.code(), said.stdout.as_str()) != (0, wanted) {
            self.0.push(format!("instead of {wanted:?}: {}", report(said)));
        }
    }

    /// A command failed with a code, and each of these words is in what it said.
    pub fn fails(&mut self, said: &Output, code: i32, words: &[&str]) {
        let missing: Vec<&&str> = words.iter().filter(|word| !said.stderr.contains(**word)).collect();
        if said.code() != code || !missing.is_empty() {
            self.0.push(format!("not code {code} with the words {missing:?}: {}", report(said)));
        }
    }

    /// Panics with all rows that were wrong.
    #[track_caller]
    pub fn end(self) {
        assert!(self.0.is_empty(), "{} rows are wrong:\n- {}", self.0.len(), self.0.join("\n- "));
    }
}
