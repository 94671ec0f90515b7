//! The command: where it is found, how it is started, and why it was not.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::sys::{self, PointerList};
use crate::accounts;
use crate::error::{Error, Result};
use crate::oci::Process;

/// Where commands are looked for if the environment has no `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command, ready to be started.
#[derive(Debug)]
pub struct Command {
    /// Where it may be, in this order.
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    create_cwd: bool,
    /// `HOME` is missing: whose it is to be.
    home_of: Option<u32>,
    /// What was looked through, if it was.
    path: Option<String>,
}

impl Command {
    /// Computes the candidates and the lists that the kernel takes.
    pub fn plan(process: &Process, options: &super::Options) -> Result<Command> {
        let strings = |strings: &[String], field: &str| {
            strings
                .iter()
                .map(|s| super::c_string(s.as_ref(), || format!("process.{field}")))
                .collect::<Result<Vec<_>>>()
        };
        let args = strings(&process.args, "args")?;
        let Some(name) = process.args.first().filter(|name| !name.is_empty()) else {
            return Err(Error::bad_spec("process.args", "no command"));
        };
        if !process.cwd.is_absolute() {
            return Err(Error::bad_spec("process.cwd", format!("`{}` is not absolute", process.cwd.display())));
        }
        let (candidates, path) = if name.contains('/') {
            (vec![args[0].clone()], None)
        } else {
            let path = process.env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
            let candidates = path
                .split(':')
                // An empty entry is the working directory, as ever.
                .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
                .map(|candidate| super::c_string(candidate.as_os_str(), || "process.args".to_owned()))
                .collect::<Result<_>>()?;
            (candidates, Some(path.to_owned()))
        };
        Ok(Command {
            candidates,
            args,
            env: strings(&process.env, "env")?,
            cwd: super::c_string(process.cwd.as_os_str(), || "process.cwd".to_owned())?,
            create_cwd: options.create_cwd,
            home_of: (options.set_home && !process.env.iter().any(|entry| entry.starts_with("HOME=")))
                .then_some(process.user.uid),
            path,
        })
    }

    /// Goes to the working directory, making it where that was asked for, with the power that this process still has.
    /// False where that does not suffice: a user may reach by a network what the superuser may not, so it is tried again
    /// as the user.
    pub fn try_directory(&self) -> Result<bool> {
        let mut made = rustix::process::chdir(self.cwd.as_c_str());
        if made == Err(Errno::NOENT) && self.create_cwd {
            std::fs::create_dir_all(self.directory())
                .map_err(|e| Error::io("create the working directory", self.directory(), e))?;
            made = rustix::process::chdir(self.cwd.as_c_str());
        }
        match made {
            Ok(()) => self.check_directory().map(|()| true),
            Err(Errno::ACCESS | Errno::PERM) => Ok(false),
            Err(error) => Err(Error::io("enter the working directory", self.directory(), error)),
        }
    }

    /// The same with the command's own rights.
    pub fn enter_directory(&self) -> Result<()> {
        rustix::process::chdir(self.cwd.as_c_str())
            .map_err(|e| Error::io("enter the working directory", self.directory(), e))?;
        self.check_directory()
    }

    fn directory(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.cwd.to_bytes()))
    }

    /// Links of `/proc` lead to directories of the host, if a process has one open: that is no place for a command.
    fn check_directory(&self) -> Result<()> {
        match rustix::process::getcwd(Vec::new()) {
            Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
            // What was removed, or lies too deep for a path, is inside all the same only if the kernel says so.
            Ok(_) | Err(Errno::NOENT) => Err(Error::io(
                "enter the working directory",
                self.directory(),
                io::Error::other("it is not inside the container"),
            )),
            Err(error) => Err(Error::io("enter the working directory", self.directory(), error)),
        }
    }

    /// `HOME`, where it is missing and asked for: by the container's `/etc/passwd`.
    pub fn home(&self) -> Option<CString> {
        let uid = self.home_of?;
        let found = passwd().and_then(|text| accounts::users(&text).find(|user| user.uid == uid));
        let home = found.map(|user| user.home).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
        CString::new(format!("HOME={home}")).ok()
    }

    /// Whether there is something to become, as far as can be told without doing it.
    pub fn check(&self) -> Result<()> {
        let usable = |candidate: &CString| {
            let Ok(stat) = rustix::fs::stat(candidate.as_c_str()) else { return None };
            Some(stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_mode & 0o111 != 0)
        };
        let found: Vec<(&CString, bool)> = self.candidates.iter().filter_map(|c| Some((c, usable(c)?))).collect();
        match found.first() {
            None => Err(self.not_found()),
            Some((first, _)) if !found.iter().any(|(_, usable)| *usable) => {
                Err(self.refused(first, &io::Error::from_raw_os_error(libc::EACCES)))
            }
            Some(_) => Ok(()),
        }
    }

    /// Becomes the command; returns only to say why not.
    pub fn exec(&self, home: Option<&CStr>) -> Error {
        let args = PointerList::new(self.args.iter().map(CString::as_c_str));
        let env = PointerList::new(self.env.iter().map(CString::as_c_str).chain(home));
        // As execvp(3): a candidate that may not be run is remembered, and the search goes on.
        let mut denied = None;
        for candidate in &self.candidates {
            let error = sys::execve(candidate, &args, &env);
            match error.raw_os_error() {
                Some(libc::ENOENT) if exists(candidate) => return self.missing_interpreter(candidate),
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => denied = denied.or(Some(candidate)),
                _ => return self.refused(candidate, &error),
            }
        }
        match denied {
            Some(candidate) => self.refused(candidate, &io::Error::from_raw_os_error(libc::EACCES)),
            None => self.not_found(),
        }
    }

    fn not_found(&self) -> Error {
        Error::CommandNotFound {
            command: self.name(),
            // Engines look for these words.
            reason: Some(match &self.path {
                Some(path) => format!("executable file not found in $PATH ({path})"),
                None => "no such file or directory".to_owned(),
            }),
            hint: None,
        }
    }

    fn name(&self) -> String {
        self.args[0].to_string_lossy().into_owned()
    }

    fn refused(&self, candidate: &CStr, error: &io::Error) -> Error {
        let command = candidate.to_string_lossy().into_owned();
        let directory = std::fs::metadata(&command).is_ok_and(|meta| meta.is_dir());
        let (reason, hint) = match error.raw_os_error() {
            // Engines look for the first words.
            _ if directory => ("permission denied (it is a directory)".to_owned(), None),
            Some(libc::EACCES) => (
                "permission denied".to_owned(),
                Some("the file is not executable for you, or its file system is mounted `noexec`".to_owned()),
            ),
            Some(libc::ENOEXEC) => not_executable(candidate),
            Some(libc::E2BIG) => (
                "its arguments and environment are too long".to_owned(),
                Some("shorten them; `--clear-env` leaves the host's environment out".to_owned()),
            ),
            _ => (error.to_string(), None),
        };
        Error::CommandNotInvokable { command, reason, hint }
    }

    /// The file is there but what shall run it is not: the kernel says "not found" for both.
    fn missing_interpreter(&self, candidate: &CStr) -> Error {
        let head = head(candidate);
        let (reason, hint) = match head.strip_prefix(b"#!") {
            Some(line) => {
                let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
                let carriage_return = line.ends_with(b"\r");
                let line = String::from_utf8_lossy(line);
                let interpreter = line.split_whitespace().next().unwrap_or_default().to_owned();
                let hint = carriage_return
                    .then(|| "the script has Windows line endings: convert it with `sed -i 's/\\r$//'`".to_owned());
                (
                    format!(
                        "the script's interpreter {interpreter} does not exist in the container (no such file or directory)"
                    ),
                    hint,
                )
            }
            None => {
                let loader = elf_interpreter(&head).unwrap_or_else(|| "its program loader".to_owned());
                (
                    format!(
                        "{loader}, which it is linked with, does not exist in the container (no such file or directory)"
                    ),
                    Some("it was built for another C library or another machine".to_owned()),
                )
            }
        };
        Error::CommandNotFound { command: candidate.to_string_lossy().into_owned(), reason: Some(reason), hint }
    }
}

/// The container's `/etc/passwd`, as far as one is read: a file, of a size that such files have.
fn passwd() -> Option<Vec<u8>> {
    const LARGEST: u64 = 1 << 20;
    let how = ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = loop {
        match rustix::fs::openat2(CWD, c"/etc/passwd", flags, Mode::empty(), how) {
            Err(Errno::AGAIN) => {}
            answer => break answer.ok()?,
        }
    };
    let regular = rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG);
    let mut text = Vec::new();
    (regular && File::from(file).take(LARGEST).read_to_end(&mut text).is_ok()).then_some(text)
}

fn exists(path: &CStr) -> bool {
    rustix::fs::stat(path).is_ok()
}

/// The beginning of a file, enough for its program headers.
fn head(path: &CStr) -> Vec<u8> {
    let mut head = Vec::new();
    if let Ok(file) = File::open(&*path.to_string_lossy()) {
        let _ = file.take(4096).read_to_end(&mut head);
    }
    head
}

fn not_executable(candidate: &CStr) -> (String, Option<String>) {
    /// ELF machine numbers (`e_machine`) one meets.
    const MACHINES: &[(u16, &str)] = &[
        (3, "i386"),
        (21, "ppc64"),
        (22, "s390x"),
        (40, "arm"),
        (62, "amd64"),
        (183, "arm64"),
        (243, "riscv64"),
        (258, "loong64"),
    ];
    let head = head(candidate);
    if head.starts_with(b"\x7fELF") && head.len() > 20 {
        let bytes = [head[18], head[19]];
        let number = if head[5] == 2 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
        let machine = MACHINES.iter().find(|row| row.0 == number).map_or("another machine", |row| row.1);
        return (
            format!("exec format error: a program for {machine}, on {}", std::env::consts::ARCH),
            Some("pull the image for this machine's architecture (`--platform`)".to_owned()),
        );
    }
    if head.is_empty() {
        return ("exec format error: the file is empty".to_owned(), None);
    }
    (
        "exec format error: neither a program nor a script that starts with `#!`".to_owned(),
        Some("name the interpreter: `sh FILE`".to_owned()),
    )
}

/// The path in the `PT_INTERP` segment of a little-endian 64-bit ELF file.
fn elf_interpreter(head: &[u8]) -> Option<String> {
    const PT_INTERP: u32 = 3;
    if head.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let u16_at = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let u64_at =
        |at: usize| usize::try_from(u64::from_le_bytes(head.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok();
    let (table, entry_size, entries) = (u64_at(32)?, usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for index in 0..entries {
        let entry = table.checked_add(index.checked_mul(entry_size)?)?;
        if u32_at(entry)? == PT_INTERP {
            let (offset, size) = (u64_at(entry.checked_add(8)?)?, u64_at(entry.checked_add(32)?)?);
            let text = head.get(offset..offset.checked_add(size)?)?;
            return Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(args: &[&str], env: &[&str]) -> Result<Command> {
        let owned = |strings: &[&str]| strings.iter().map(|&s| s.to_owned()).collect();
        Command::plan(
            &Process { args: owned(args), env: owned(env), cwd: "/".into(), ..Process::default() },
            &super::super::Options::default(),
        )
    }

    #[test]
    fn a_plain_name_is_looked_for_in_the_containers_path_in_order() {
        let plan = command(&["tool"], &["A=b", "PATH=/a:/b/c::/d"]).unwrap();
        let candidates: Vec<_> = plan.candidates.iter().map(|c| c.to_str().unwrap()).collect();
        assert_eq!(candidates, ["/a/tool", "/b/c/tool", "./tool", "/d/tool"]);
    }

    #[test]
    fn a_name_with_a_slash_is_taken_as_it_is() {
        let plan = command(&["./tool"], &["PATH=/a"]).unwrap();
        assert_eq!(plan.candidates, [c"./tool".to_owned()]);
    }

    #[test]
    fn what_the_kernel_cannot_take_is_refused_early() {
        assert!(command(&[], &[]).is_err());
        assert!(command(&[""], &[]).is_err());
        assert!(command(&["a\0b"], &[]).is_err());
        assert!(command(&["a"], &["A=\0"]).is_err());
    }

    #[test]
    fn the_loader_of_a_program_is_read_from_its_headers() {
        let head = head(&CString::new(std::env::current_exe().unwrap().to_str().unwrap()).unwrap());
        assert!(elf_interpreter(&head).unwrap().contains("ld-"));
    }

    #[test]
    fn broken_headers_are_no_loader() {
        assert_eq!(elf_interpreter(b""), None);
        let mut head = b"\x7fELF\x02\x01".to_vec();
        head.resize(64, 0xff);
        assert_eq!(elf_interpreter(&head), None);
    }
}
