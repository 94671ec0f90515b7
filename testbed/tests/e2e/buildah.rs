//! buildah with berth as its runtime.

use std::process::Command;

use testbed::chapter;
use testbed::engine;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::process;
use testbed::process::Output;
use testbed::terminal::Terminal;

const BUILDAH: Need = Need::Program("buildah", "buildah uidmap");

chapter!("buildah",
    [BUILDAH, Need::Namespaces, Need::SubIds]:
        an_ordinary_user_runs_commands,
        an_ordinary_user_builds_images;
    [BUILDAH, Need::Root]:
        root_runs_commands,
        root_builds_images;
);

/// buildah with storage of the test's own.
struct Buildah(Fixture);

impl Buildah {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.0.command("buildah", &[]);
        command.arg("--root").arg(self.0.path("work/buildah")).arg("--runroot").arg(self.0.path("run/buildah"));
        command.args(["--storage-driver", "vfs"]).args(words);
        command
    }

    #[track_caller]
    fn call(&self, words: &[&str]) -> Output {
        process::run(&mut self.command(words))
    }

    /// The options by which it has berth run a step.
    fn options(&self) -> Vec<String> {
        let runtime = format!("--runtime={}", engine::runtime(&self.0).display());
        vec!["--isolation=oci".to_owned(), runtime, "--network=none".to_owned()]
    }

    fn words<'a>(&'a self, verb: &'a str, own: &'a [String], rest: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec![verb];
        words.extend(own.iter().map(String::as_str));
        words.extend(rest);
        words
    }

    #[track_caller]
    fn from(&self) -> String {
        let archive = format!("docker-archive:{}", self.0.archive_of(engine::IMAGE).display());
        self.call(&["from", &archive]).ok().trim_end().to_owned()
    }
}

#[track_caller]
fn runs_commands(fixture: Fixture) {
    let buildah = Buildah(fixture);
    let name = buildah.from();
    let own = buildah.options();
    let run = |rest: &[&str]| buildah.call(&buildah.words("run", &own, rest));
    let done = run(&[&name, "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((done.code(), done.stdout.as_str()), (3, "out\n"), "{}", done.report());
    let data = buildah.0.make_dir("data", 0o755);
    buildah.0.write("data/file", "from the host\n");
    let bind = format!("{}:/data:ro", data.display());
    let script = "id -un; pwd; echo $GIVEN; cat /data/file";
    let options =
        ["--user=nobody", "--workingdir=/tmp", "--env=GIVEN=it", "-v", &bind, &name, "--", "sh", "-c", script];
    assert_eq!(run(&options).ok(), "nobody\n/tmp\nit\nfrom the host\n");
    let mut command = buildah.command(&buildah.words("run", &own, &["-t", &name, "--", "sh", "-c", "tty; exit 5"]));
    let (code, shown) = Terminal::start(&mut command).expect("a terminal").end();
    assert!(code == 5 && shown.contains("/dev/pts/"), "{code}: {shown}");
    let failed = run(&[&name, "--", "/no/such/command"]);
    assert!(!failed.status.success() && failed.stderr.contains("no such file"), "{}", failed.report());
    buildah.call(&["rm", &name]).ok();
}

#[track_caller]
fn builds_images(fixture: Fixture) {
    let buildah = Buildah(fixture);
    let archive = format!("docker-archive:{}", buildah.0.archive_of(engine::IMAGE).display());
    buildah.call(&["pull", "-q", &archive]).ok();
    let dir = buildah.0.make_dir("context", 0o755);
    let file = "FROM small\nENV STEP=one\nRUN echo $STEP > /one; chown nobody /one\nUSER nobody\nRUN id -un >> /one\n\
        RUN cat /one > /tmp/two\n";
    buildah.0.write("context/Dockerfile", file);
    let own = buildah.options();
    let path = dir.display().to_string();
    buildah.call(&buildah.words("bud", &own, &["-t", "made", &path])).ok();
    let name = buildah.call(&["from", "localhost/made"]).ok().trim_end().to_owned();
    assert_eq!(buildah.call(&buildah.words("run", &own, &[&name, "--", "cat", "/tmp/two"])).ok(), "one\nnobody\n");
    buildah.0.write("context/Dockerfile", "FROM small\nRUN echo said; exit 9\n");
    let failed = buildah.call(&buildah.words("bud", &own, &["--runtime-flag=log-format=json", &path]));
    assert!(failed.stdout.contains("said") && failed.stderr.contains("exit status 9"), "{}", failed.report());
    buildah.call(&["rm", "-a"]).ok();
}

fn an_ordinary_user_runs_commands() {
    runs_commands(Fixture::new());
}

fn an_ordinary_user_builds_images() {
    builds_images(Fixture::new());
}

fn root_runs_commands() {
    engine::own_places();
    runs_commands(Fixture::as_oneself());
}

fn root_builds_images() {
    engine::own_places();
    builds_images(Fixture::as_oneself());
}
