//! A cluster whose users have a bundle and whose nodes have berth.

use std::process::Child;
use std::time::Duration;

use testbed::process;
use testbed::process::Output;
use testbed::slurm::Cluster;
use testbed::slurm::Options;
use testbed::slurm::Release;
use testbed::slurm::Session;
use testbed::slurm::Traces;
use testbed::slurm::oci;

/// Where the user's bundle is, on every node.
pub const BUNDLE: &str = "/home/tuser1/bundle";

/// A way to set up Slurm's runtime with `run`.
pub type Form = fn(Release) -> String;

/// The two forms that give output and exit codes.
pub const RUN_FORMS: [Form; 2] = [oci::run, oci::guide_run];

pub struct World {
    pub cluster: Cluster,
    before: Traces,
}

impl World {
    pub fn new(release: Release, form: Form) -> World {
        World::with(release, Options::default().file("oci.conf", form(release)))
    }

    pub fn with(release: Release, options: Options) -> World {
        let cluster = Cluster::start(release, &options).expect("a cluster");
        oci::make_bundle(&cluster.as_user("tuser1"), BUNDLE);
        // The first step makes what Slurm keeps for all later ones.
        cluster.as_user("tuser1").run(&["srun", "-N", &options.nodes.to_string(), "true"]).ok();
        let before = cluster.idle_traces();
        World { cluster, before }
    }

    pub fn user(&self) -> Session<'_> {
        self.cluster.as_user("tuser1")
    }

    /// The words of an `srun` in the bundle.
    pub fn words<'a>(options: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        [&["srun"], options, &["--container", BUNDLE], command].concat()
    }

    /// A step in the bundle.
    #[track_caller]
    pub fn srun(&self, options: &[&str], command: &[&str]) -> Output {
        self.user().run(&World::words(options, command))
    }

    /// A line of a shell in the bundle.
    #[track_caller]
    pub fn shell(&self, line: &str) -> Output {
        self.srun(&[], &["/bin/sh", "-c", line])
    }

    /// A step that goes on while the test does something.
    pub fn start(&self, options: &[&str], line: &str) -> Step {
        Step(self.user().spawn(&World::words(options, &["/bin/sh", "-c", line])))
    }

    /// Waits until a step's program has written a file into the bundle's `out`.
    #[track_caller]
    pub fn wait_for(&self, name: &str) {
        let path = self.cluster.path(format!("{BUNDLE}/out/{name}"));
        self.cluster.wait_until(&format!("{name} is there"), || path.exists());
    }

    /// What a step's program has written into a file of the bundle's `out`.
    pub fn written(&self, name: &str) -> String {
        std::fs::read_to_string(self.cluster.path(format!("{BUNDLE}/out/{name}"))).unwrap_or_default()
    }

    /// Number of the job that runs.
    #[track_caller]
    pub fn job(&self) -> String {
        let jobs = self.cluster.root().run(&["squeue", "-h", "-t", "R", "-o", "%i"]).ok();
        assert_eq!(jobs.lines().count(), 1, "{jobs}");
        jobs.trim().to_owned()
    }

    /// Nothing is left of any step: no process, mount, control group or file, and the nodes are fine.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.cluster.assert_clean(&self.before);
    }
}

/// A step that was started.
pub struct Step(pub Child);

impl Step {
    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Output {
        let (status, peak) = process::wait(&mut self.0, Duration::from_secs(120)).expect("the step ends");
        let read = |pipe: Option<&mut dyn std::io::Read>| {
            let mut text = String::new();
            pipe.expect("a pipe").read_to_string(&mut text).expect("text");
            text
        };
        let stdout = read(self.0.stdout.as_mut().map(|pipe| pipe as _));
        let stderr = read(self.0.stderr.as_mut().map(|pipe| pipe as _));
        Output { status, stdout, stderr, wall: Duration::ZERO, peak, line: "srun".to_owned() }
    }
}
