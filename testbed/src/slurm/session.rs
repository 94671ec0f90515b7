//! Someone at a shell of the cluster.

use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use super::Cluster;
use super::USERS;
use crate::process;
use crate::process::Output;

/// The search path of everything in a box.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest that one command may take: everything that a test asks of Slurm is done in seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// A user on one of the cluster's hosts: the environment of a fresh login, and a place to start commands from.
#[derive(Debug, Clone)]
pub struct Session<'a> {
    cluster: &'a Cluster,
    /// The daemon whose host it is, as the box numbers it; the host `ctl` otherwise.
    daemon: Option<i32>,
    user: Option<&'static str>,
    dir: Option<String>,
    env: Vec<(String, String)>,
}

impl<'a> Session<'a> {
    pub(super) fn new(cluster: &'a Cluster, daemon: Option<i32>, user: Option<&'static str>) -> Session<'a> {
        Session { cluster, daemon, user, dir: None, env: Vec::new() }
    }

    /// The user's name.
    pub fn name(&self) -> &'static str {
        self.user.unwrap_or("root")
    }

    /// The same for a user.
    #[must_use]
    pub fn user(mut self, name: &'static str) -> Session<'a> {
        assert!(USERS.iter().any(|(user, _)| *user == name), "a user of every box");
        self.user = Some(name);
        self
    }

    /// The same in another folder than the user's home.
    #[must_use]
    pub fn dir(mut self, dir: &str) -> Session<'a> {
        self.dir = Some(dir.to_owned());
        self
    }

    /// The same with one more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Session<'a> {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A command of this session, to be started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let init = self.cluster.init.to_string();
        command.args(["-t", &init, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]);
        if let Some(daemon) = self.daemon {
            command.args(["nsenter", "-t", &daemon.to_string(), "-m", "-u", "-i", "-n", "--"]);
        }
        let name = self.name();
        let home = self.user.map_or_else(|| "/root".to_owned(), |name| format!("/home/{name}"));
        if self.user.is_some() {
            command.args(["setpriv", "--reuid", name, "--regid", name, "--init-groups", "--"]);
        }
        command.args(["env", "-i", "--chdir", self.dir.as_ref().unwrap_or(&home)]);
        for (key, value) in [("HOME", home.as_str()), ("USER", name), ("LOGNAME", name), ("SHELL", "/bin/bash")] {
            command.arg(format!("{key}={value}"));
        }
        command.args([&format!("PATH={PATH}"), "LANG=C.UTF-8", "TERM=xterm"]);
        command.args(self.env.iter().map(|(key, value)| format!("{key}={value}")));
        command.args(words);
        command
    }

    /// Runs a command to its end with nothing on its standard input.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Output {
        self.run_with(words, b"")
    }

    /// Runs a command to its end with something on its standard input.
    #[track_caller]
    pub fn run_with(&self, words: &[&str], input: &[u8]) -> Output {
        process::run_with(&mut self.command(words), input, LIMIT)
    }

    /// Runs a line of a shell.
    #[track_caller]
    pub fn shell(&self, line: &str) -> Output {
        self.run(&["bash", "-c", line])
    }

    /// Starts a command whose output the caller reads.
    #[track_caller]
    pub fn spawn(&self, words: &[&str]) -> Child {
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process::die_with_parent(&mut command).spawn().expect("nsenter")
    }

    /// Writes a file of this user's.
    #[track_caller]
    pub fn write(&self, path: &str, content: &str) {
        self.run_with(&["sh", "-c", "cat > \"$0\"", path], content.as_bytes()).ok();
    }
}
