//! `containers-storage:NAME`, `podman://NAME` and `dockerd://NAME`: images in another tool's store, through that tool.
//!
//! The formats of those stores are private to their tools, so berth asks the tool for an archive on its standard output
//! and imports it as it goes by. `podman save` and `docker save` write layers uncompressed and keep them apart.

use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::stream::{Format, Imported, LayerSink, Naming, StreamSource, import};
use crate::error::{Error, Result};
use crate::manifest::Platform;
use crate::progress::Progress;

/// How much of what a tool says on its standard error is kept: the end, where the reason is.
const MAX_STDERR: usize = 4 << 10;
/// How long a grandchild may keep standard error open after the tool itself ended, before its words are given up.
const STDERR_GRACE: Duration = Duration::from_secs(2);
/// A larger pipe halves the switches between the tool and berth. Denied to users who have many pipes: no harm.
const PIPE_SIZE: usize = 1 << 20;

/// An image that another program gives.
#[derive(Debug)]
pub struct CommandSource {
    name: String,
    /// Programs with their arguments; the first that is installed is run.
    programs: Vec<Vec<String>>,
    remedy: &'static str,
}

impl CommandSource {
    /// `podman://NAME`: an image of podman's store, by name or identifier.
    ///
    /// # Errors
    /// [`Error::BadReference`] for a name that no image can have.
    pub fn podman(name: &str) -> Result<CommandSource> {
        let remedy = "install podman";
        CommandSource::new(format!("podman://{name}"), name, vec![podman_save(name)], remedy)
    }

    /// `containers-storage:NAME`: an image of the store that podman, buildah and skopeo share, by podman or else skopeo.
    ///
    /// # Errors
    /// [`Error::BadReference`] for a name that no image can have.
    pub fn containers_storage(name: &str) -> Result<CommandSource> {
        let full = format!("containers-storage:{name}");
        let programs =
            vec![podman_save(name), words(&["skopeo", "copy", "--quiet", &full, "docker-archive:/dev/stdout"])];
        CommandSource::new(full, name, programs, "install podman or skopeo")
    }

    /// `dockerd://NAME`: an image of the Docker daemon that the `docker` command talks to.
    ///
    /// # Errors
    /// [`Error::BadReference`] for a name that no image can have.
    pub fn docker(name: &str) -> Result<CommandSource> {
        let remedy = "install the docker command, or save the image where it is: \
                      `docker save IMAGE -o image.tar`, then use `docker-archive:image.tar`";
        CommandSource::new(format!("dockerd://{name}"), name, vec![words(&["docker", "save", "--", name])], remedy)
    }

    fn new(full: String, name: &str, programs: Vec<Vec<String>>, remedy: &'static str) -> Result<CommandSource> {
        // Names are put behind `--`; that nothing but a name gets there is a second lock on the same door.
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
        let reason = match name.chars().find(|c| !allowed(*c)) {
            _ if name.is_empty() => "the name is empty".to_owned(),
            _ if name.starts_with('-') => "a name cannot begin with `-`".to_owned(),
            Some(c) => format!("a name cannot have the character {c:?}"),
            None => return Ok(CommandSource { name: full, programs, remedy }),
        };
        Err(Error::BadReference { text: full, reason })
    }

    /// Starts the first of the programs that is installed.
    fn start(&self) -> Result<Running> {
        for words in &self.programs {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            match command.spawn() {
                Ok(child) => return Ok(Running::new(child, words.join(" "))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::Command { command: words.join(" "), reason: e.to_string() }),
            }
        }
        let reason = format!("{} needs it and it is not installed or not in PATH; {}", self.name, self.remedy);
        Err(Error::Command { command: self.programs[0].join(" "), reason })
    }
}

fn podman_save(name: &str) -> Vec<String> {
    words(&["podman", "save", "--quiet", "--format", "docker-archive", "--", name])
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl StreamSource for CommandSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn import(self: Box<Self>, platform: &Platform, sink: &dyn LayerSink, progress: &dyn Progress) -> Result<Imported> {
        let mut running = self.start()?;
        let naming = Naming { what: &self.name, wanted: None, format: Format::Docker };
        let imported = import(&mut running, &naming, platform, sink, progress);
        match imported {
            // What the tool says went wrong is the reason; that its archive ends early is only the consequence.
            Err(error) if running.ended => running.finish().and(Err(error)),
            Err(error) => Err(error),
            Ok(imported) => running.finish().map(|()| imported),
        }
    }
}

/// A program that writes an archive. Dropped before its end, it is killed; it never outlives this.
struct Running {
    child: Child,
    command: String,
    stdout: Option<ChildStdout>,
    /// Whether its output was read to the end.
    ended: bool,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_ended: Receiver<()>,
}

impl Running {
    fn new(mut child: Child, command: String) -> Running {
        let stdout = child.stdout.take();
        if let Some(stdout) = &stdout {
            let _ = rustix::pipe::fcntl_setpipe_size(stdout, PIPE_SIZE);
        }
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (sender, stderr_ended) = mpsc::channel();
        if let Some(mut pipe) = child.stderr.take() {
            let kept = stderr.clone();
            // The thread is not joined: a grandchild may hold the pipe open for ever.
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                    let mut kept = kept.lock().expect("no thread panics with it");
                    kept.extend_from_slice(&buffer[..n]);
                    let surplus = kept.len().saturating_sub(MAX_STDERR);
                    kept.drain(..surplus);
                }
                let _ = sender.send(());
            });
        }
        Running { child, command, stdout, ended: false, stderr, stderr_ended }
    }

    /// Waits for the program and fails if it did.
    fn finish(mut self) -> Result<()> {
        self.stdout = None;
        let status = self.child.wait().map_err(|e| Error::io("wait for", &self.command, e))?;
        if status.success() {
            return Ok(());
        }
        let _ = self.stderr_ended.recv_timeout(STDERR_GRACE);
        let words = self.stderr.lock().expect("no thread panics with it");
        let words = printable(&String::from_utf8_lossy(&words));
        let reason = if words.is_empty() { status.to_string() } else { format!("{status}: {words}") };
        Err(Error::Command { command: self.command.clone(), reason })
    }
}

impl Read for Running {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stdout) = &mut self.stdout else { return Ok(0) };
        let got = stdout.read(buffer)?;
        self.ended |= got == 0 && !buffer.is_empty();
        Ok(got)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Closed first, so that what the program itself started finds nobody to write to.
        self.stdout = None;
        // Neither can fail in a way that matters; after `finish` the child is known to be gone, and nothing is sent.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last words of a program on one line, without what a terminal would obey.
fn printable(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(5)..].join("; ");
    last.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::digest::Digest;
    use crate::manifest::Compression;
    use crate::progress::Silent;

    /// Hashes layers and forgets them.
    struct Null;

    impl LayerSink for Null {
        fn layer(&self, blob: &mut dyn Read, _: u64, _: Compression) -> Result<Digest> {
            let mut bytes = Vec::new();
            blob.read_to_end(&mut bytes).map_err(|e| Error::io("read", "a layer", e))?;
            Ok(Digest::of(&bytes))
        }
    }

    fn source(programs: &[&[&str]]) -> Box<CommandSource> {
        let programs = programs.iter().map(|program| words(program)).collect();
        Box::new(CommandSource::new("podman://x".to_owned(), "x", programs, "install it").unwrap())
    }

    fn error(programs: &[&[&str]]) -> String {
        source(programs).import(&Platform::host(), &Null, &Silent).unwrap_err().to_string()
    }

    #[test]
    fn an_image_comes_through_a_tools_output_if_the_tool_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"
            cd "$0"; echo hello > file; tar cf layer.tar file
            printf '{"rootfs":{"diff_ids":["sha256:%s"]}}' $(sha256sum layer.tar | cut -c 1-64) > config.json
            echo '[{"Config":"config.json","RepoTags":["x:1"],"Layers":["layer.tar"]}]' > manifest.json
            tar c layer.tar config.json manifest.json; exit $1"#;
        let folder = folder.path().to_str().unwrap();
        let imported = source(&[&["sh", "-c", script, folder, "0"]]).import(&Platform::host(), &Null, &Silent).unwrap();
        assert_eq!(imported.image.layers.len(), 1);
        assert_eq!(imported.tags, ["x:1"]);
        assert!(error(&[&["sh", "-c", script, folder, "7"]]).ends_with("exit status: 7"));
    }

    #[test]
    fn what_a_failing_tool_says_is_the_error() {
        let error = error(&[&["sh", "-c", "printf 'part of a tar'; echo 'x: image not known' >&2; exit 125"]]);
        assert!(error.ends_with("exit status: 125: x: image not known"), "{error}");
    }

    #[test]
    fn an_endless_stderr_is_kept_in_part_and_does_not_block() {
        let error =
            error(&[&["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x >&2; printf '\\033[1mlast' >&2; exit 1"]]);
        assert!(error.ends_with("xxx[1mlast"), "{}", &error[error.len() - 20..]);
        assert!(error.len() < MAX_STDERR + 500);
    }

    #[test]
    fn a_tool_whose_archive_is_useless_is_told_apart_from_one_that_fails() {
        let error = error(&[&["true"]]);
        assert!(error.contains("the archive is empty"), "{error}");
    }

    #[test]
    fn a_tool_that_is_not_needed_any_more_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        // It would write for ever, and does not care that nobody reads.
        let script = format!("trap '' PIPE; echo $$ > {}; while :; do echo no tar; done 2>/dev/null", file.display());
        let error = error(&[&["sh", "-c", &script]]);
        assert!(error.contains("no tar archive"), "{error}");
        let pid = std::fs::read_to_string(file).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "process {pid} was left");
    }

    #[test]
    fn a_tool_that_is_missing_is_replaced_or_named_with_the_remedy() {
        let missing: &[&str] = &["no-such-program-of-berths-tests", "save"];
        let failing: &[&str] = &["sh", "-c", "exit 3"];
        assert!(error(&[missing, failing]).ends_with("exit status: 3"));
        let error = error(&[missing]);
        assert!(error.starts_with("`no-such-program-of-berths-tests save` failed"), "{error}");
        assert!(error.ends_with("not installed or not in PATH; install it"), "{error}");
    }

    #[test]
    fn names_that_could_be_options_or_more_are_refused() {
        for name in ["", "-o", "--output=/etc/passwd", "a b", "a\nb", "[overlay@/x]y", "a;b", "ä"] {
            for result in
                [CommandSource::podman(name), CommandSource::containers_storage(name), CommandSource::docker(name)]
            {
                assert!(matches!(result, Err(Error::BadReference { .. })), "{name:?}");
            }
        }
        let name = "localhost:5000/a/b_c:1.0-x@sha256:00";
        let source = CommandSource::containers_storage(name).unwrap();
        assert_eq!(source.name(), format!("containers-storage:{name}"));
        assert_eq!(source.programs[0].last().unwrap(), name);
        assert_eq!(source.programs[0][source.programs[0].len() - 2], "--");
    }
}
