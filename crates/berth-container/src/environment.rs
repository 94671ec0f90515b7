//! The environment of the first process.
//!
//! Later sources win, with one exception:
//!
//! 1. the host's environment, without what breaks programs of another file system ([`DROPPED`]); nothing with `--clear-env`;
//! 2. the image's `Env`, except that variables which say who and where the process is stay the host's ([`HOST_OWNED`]);
//! 3. `HOME`, `USER` and `LOGNAME` of the user inside;
//! 4. `--env-file`, then `--env`, in the order given: these win over everything.
//!
//! `PATH` is the image's, or [`DEFAULT_PATH`]: the host's names directories of another system.
//!
//! Values are bytes; a name is anything without `=` and NUL, as for the kernel.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// `PATH` when the image sets none: what docker and podman give.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// When a variable of the host is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// When the path in its value is not visible inside.
    PathMissing,
}

/// A row of [`DROPPED`].
#[derive(Debug)]
pub struct DroppedRow {
    /// A name, or a prefix that ends in `*`.
    pub pattern: &'static str,
    /// The condition.
    pub when: When,
    /// Why; printed with `--verbose`.
    pub reason: &'static str,
}

const fn always(pattern: &'static str, reason: &'static str) -> DroppedRow {
    DroppedRow { pattern, when: When::Always, reason }
}

const fn if_missing(pattern: &'static str, reason: &'static str) -> DroppedRow {
    DroppedRow { pattern, when: When::PathMissing, reason }
}

/// Variables of the host that do harm inside. `--env NAME` brings any of them back.
#[rustfmt::skip] // One row a line.
pub const DROPPED: &[DroppedRow] = &[
    always("PATH",               "names the host's directories; the image has its own"),
    always("LD_*",               "makes the loader mix the host's libraries with the image's C library"),
    always("GLIBC_TUNABLES",     "tunes another C library; unknown names are fatal to some versions"),
    always("GCONV_PATH",         "modules of the host's C library"),
    always("LOCPATH",            "locales of the host's C library; formats differ between versions"),
    always("NLSPATH",            "message catalogues of the host"),
    always("PYTHONHOME",         "the host's Python installation; another one does not start with it"),
    always("PYTHONPATH",         "modules built for the host's Python"),
    always("PYTHONEXECUTABLE",   "the host's Python"),
    always("PERL5LIB",           "modules built for the host's Perl"),
    always("PERLLIB",            "modules built for the host's Perl"),
    always("RUBYLIB",            "modules built for the host's Ruby"),
    always("GEM_PATH",           "modules built for the host's Ruby"),
    always("GTK_PATH",           "modules linked with the host's libraries"),
    always("GIO_MODULE_DIR",     "modules linked with the host's libraries"),
    always("QT_PLUGIN_PATH",     "modules linked with the host's libraries"),
    always("BASH_FUNC_*",        "functions of the host's shell (such as `module`) that call the host's programs"),
    always("BASH_ENV",           "a start file of the host that every script would read"),
    always("ENV",                "a start file of the host that every sh would read"),
    always("PROMPT_COMMAND",     "calls functions of the host's shell start files"),
    always("SHELL",              "a program of the host; the image need not have it"),
    always("SHLVL",              "counts the host's shells"),
    always("PWD",                "the process has its own working directory"),
    always("OLDPWD",             "the process has its own working directory"),
    always("_",                  "the command that started berth"),
    if_missing("TMPDIR",         "the directory does not exist inside"),
    if_missing("TMP",            "the directory does not exist inside"),
    if_missing("TEMP",           "the directory does not exist inside"),
    if_missing("TEMPDIR",        "the directory does not exist inside"),
    if_missing("XDG_RUNTIME_DIR", "the directory does not exist inside"),
    if_missing("DBUS_SESSION_BUS_ADDRESS", "the socket does not exist inside"),
    if_missing("SSH_AUTH_SOCK",  "the socket does not exist inside"),
    if_missing("XAUTHORITY",     "the file does not exist inside"),
    if_missing("SSL_CERT_FILE",  "the file does not exist inside"),
    if_missing("SSL_CERT_DIR",   "the directory does not exist inside"),
    if_missing("CURL_CA_BUNDLE", "the file does not exist inside"),
    if_missing("REQUESTS_CA_BUNDLE", "the file does not exist inside"),
    if_missing("TERMINFO",       "the directory does not exist inside"),
    if_missing("TZDIR",          "the directory does not exist inside"),
];

/// Variables whose value on the host is the truth inside, too: (name or prefix with `*`, why). Everything else that an image sets
/// is the image's.
#[rustfmt::skip] // One row a line.
pub const HOST_OWNED: &[(&str, &str)] = &[
    ("USER",                    "who runs it"),
    ("LOGNAME",                 "who runs it"),
    ("TERM",                    "the terminal in front of the person"),
    ("COLORTERM",               "the terminal in front of the person"),
    ("DISPLAY",                 "the display in front of the person"),
    ("WAYLAND_DISPLAY",         "the display in front of the person"),
    ("XDG_RUNTIME_DIR",         "the person's session"),
    ("SSH_AUTH_SOCK",           "the person's agent"),
    ("KRB5CCNAME",              "the person's tickets"),
    ("SLURM_*",                 "the job, the step and the task"),
    ("SLURMD_*",                "the node of the job"),
    ("SBATCH_*",                "options of the person for jobs made inside"),
    ("SRUN_*",                  "options of the person for steps made inside"),
    ("PMIX_*",                  "the process manager's server"),
    ("PMI_*",                   "the process manager's server"),
    ("PMI2_*",                  "the process manager's server"),
    ("OMPI_COMM_WORLD_*",       "rank and size, from the process manager"),
    ("PALS_*",                  "rank and size, from the process manager"),
    ("FLUX_*",                  "the job, for the Flux scheduler"),
    ("PBS_*",                   "the job, for PBS"),
    ("CUDA_VISIBLE_DEVICES",    "GPUs given to the job"),
    ("NVIDIA_VISIBLE_DEVICES",  "GPUs given to the job; many images say `all`"),
    ("ROCR_VISIBLE_DEVICES",    "GPUs given to the job"),
    ("HIP_VISIBLE_DEVICES",     "GPUs given to the job"),
    ("GPU_DEVICE_ORDINAL",      "GPUs given to the job"),
    ("ZE_AFFINITY_MASK",        "GPUs given to the job"),
    ("http_proxy",              "the way out of this network"),
    ("https_proxy",             "the way out of this network"),
    ("ftp_proxy",               "the way out of this network"),
    ("all_proxy",               "the way out of this network"),
    ("no_proxy",                "the way out of this network"),
    ("HTTP_PROXY",              "the way out of this network"),
    ("HTTPS_PROXY",             "the way out of this network"),
    ("FTP_PROXY",               "the way out of this network"),
    ("ALL_PROXY",               "the way out of this network"),
    ("NO_PROXY",                "the way out of this network"),
];

/// A variable asked for by the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `NAME=VALUE`.
    Set(OsString, OsString),
    /// `NAME`: the host's value, even of a variable that is otherwise left out; nothing if the host has none.
    FromHost(OsString),
    /// `PREFIX*`: all of the host's variables with that prefix, as podman has it.
    FromHostPrefix(OsString),
}

/// A setting that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // Each variant is its message.
pub enum SettingError {
    #[error("environment variable `{0}`: the name is empty")]
    EmptyName(String),
    #[error("environment variable `{0}`: contains a NUL byte")]
    Nul(String),
    #[error("environment variable `{0}`: the name contains a blank")]
    BlankInName(String),
}

/// A line of an environment file that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {error}")]
pub struct EnvFileError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub error: SettingError,
}

impl Setting {
    /// Reads the argument of `--env`.
    ///
    /// # Errors
    /// [`SettingError`] for a name that no process can have, or with a blank, which is a typing error.
    pub fn parse(text: &OsStr) -> Result<Setting, SettingError> {
        let bytes = text.as_bytes();
        let show = || text.to_string_lossy().into_owned();
        if bytes.contains(&0) {
            return Err(SettingError::Nul(show()));
        }
        let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
            Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
            None => (bytes, None),
        };
        if name.is_empty() {
            return Err(SettingError::EmptyName(show()));
        }
        if name.iter().any(u8::is_ascii_whitespace) {
            return Err(SettingError::BlankInName(show()));
        }
        Ok(match (value, name.strip_suffix(b"*")) {
            (Some(value), _) => Setting::Set(os(name), os(value)),
            (None, Some(prefix)) => Setting::FromHostPrefix(os(prefix)),
            (None, None) => Setting::FromHost(os(name)),
        })
    }
}

/// Reads a file of `--env-file`, in docker's format: `NAME=VALUE` or `NAME` a line; a line that begins with `#` and an empty one
/// say nothing; quotes and everything after `#` in a value belong to it.
///
/// # Errors
/// [`EnvFileError`] for the first line with a name that no process can have.
pub fn parse_env_file(content: &[u8]) -> Result<Vec<Setting>, EnvFileError> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
    let mut settings = Vec::new();
    for (index, line) in content.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        // A name alone may have blanks behind it that nobody sees.
        let line = if line.contains(&b'=') { line } else { line.trim_ascii_end() };
        let setting =
            Setting::parse(OsStr::from_bytes(line)).map_err(|error| EnvFileError { line: index + 1, error })?;
        settings.push(setting);
    }
    Ok(settings)
}

/// Reads enroot's `/etc/environment` and `*.env` files: `NAME=VALUE` lines, one pair of quotes around a value taken off,
/// `${NAME}` replaced from `host` (nothing where it has none); lines of any other form, and `ENROOT_*`, say nothing.
pub fn parse_enroot_file(content: &[u8], host: impl Fn(&OsStr) -> Option<OsString>) -> Vec<Setting> {
    let lines = content.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_start);
    lines
        .filter_map(|line| {
            let at = line.iter().position(|&byte| byte == b'=')?;
            let (name, value) = (&line[..at], &line[at + 1..]);
            if !is_identifier(name) || name.starts_with(b"ENROOT_") || value.contains(&0) {
                return None;
            }
            let unquoted =
                [b'"', b'\''].into_iter().find_map(|quote| value.strip_prefix(&[quote])?.strip_suffix(&[quote]));
            Some(Setting::Set(os(name), os(&substitute(unquoted.unwrap_or(value), &host))))
        })
        .collect()
}

/// Replaces each `${NAME}`; anything else with a dollar is left as it is.
fn substitute(value: &[u8], host: impl Fn(&OsStr) -> Option<OsString>) -> Vec<u8> {
    let mut result = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"${") {
        let Some(length) = rest[at + 2..].iter().position(|&byte| byte == b'}') else { break };
        let name = &rest[at + 2..at + 2 + length];
        result.extend_from_slice(&rest[..at]);
        if is_identifier(name) {
            result.extend(host(OsStr::from_bytes(name)).unwrap_or_default().as_bytes());
        } else {
            result.extend_from_slice(&rest[at..at + 2 + length + 1]);
        }
        rest = &rest[at + 2 + length + 1..];
    }
    result.extend_from_slice(rest);
    result
}

fn is_identifier(name: &[u8]) -> bool {
    name.first().is_some_and(|first| first.is_ascii_alphabetic() || *first == b'_')
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// What an environment is made from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The host's variables, as of [`std::env::vars_os`].
    pub host: &'a [(OsString, OsString)],
    /// Whether they are taken over (not with `--clear-env`). Named ones are in any case.
    pub inherit: bool,
    /// `Env` of the image's configuration, `NAME=VALUE` each; entries of another form say nothing.
    pub image: &'a [String],
    /// Of `--env-file` and `--env`, in order.
    pub settings: &'a [Setting],
    /// Home directory of the user inside.
    pub home: &'a Path,
    /// Name of the user inside, for `USER` and `LOGNAME`, if it has one.
    pub user: Option<&'a str>,
    /// Whether the process gets a terminal of its own, and so needs `TERM`.
    pub terminal: bool,
}

/// The variables of a process, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: Vec<(OsString, OsString)>,
    /// Variables of the host that were left out, and why.
    pub dropped: Vec<(OsString, &'static str)>,
}

impl Environment {
    /// Puts an environment together. `is_visible` says whether an absolute path of the host is there inside, too, and is asked
    /// for a handful of variables only.
    pub fn compose(sources: Sources<'_>, is_visible: impl Fn(&Path) -> bool) -> Environment {
        let mut environment = Environment {
            variables: Vec::with_capacity(sources.host.len() + sources.image.len() + sources.settings.len() + 4),
            dropped: Vec::new(),
        };
        if sources.inherit {
            environment.add_host(sources.host, is_visible);
        }
        let host_count = environment.variables.len();
        for entry in sources.image {
            let Some((name, value)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else { continue };
            let owned = HOST_OWNED.iter().any(|(pattern, _)| matches(pattern, name.as_ref()));
            let on_host = environment.position(name.as_ref()).is_some_and(|at| at < host_count);
            if !(owned && on_host || entry.contains('\0')) {
                environment.set(name.as_ref(), value.as_ref());
            }
        }
        if environment.get("PATH").is_none_or(OsStr::is_empty) {
            environment.set("PATH".as_ref(), DEFAULT_PATH.as_ref());
        }
        environment.set("HOME".as_ref(), sources.home.as_os_str());
        if let Some(user) = sources.user {
            environment.set("USER".as_ref(), user.as_ref());
            environment.set("LOGNAME".as_ref(), user.as_ref());
        }
        if sources.terminal && environment.get("TERM").is_none() {
            // `xterm` is what podman gives; every terminfo database has it.
            let term = lookup(sources.host, "TERM".as_ref()).unwrap_or("xterm".as_ref());
            environment.set("TERM".as_ref(), term);
        }
        for setting in sources.settings {
            environment.apply(setting, sources.host);
        }
        environment
    }

    fn add_host(&mut self, host: &[(OsString, OsString)], is_visible: impl Fn(&Path) -> bool) {
        for (name, value) in host {
            let row = DROPPED.iter().find(|row| matches(row.pattern, name));
            let dropped = row.filter(|row| match row.when {
                When::Always => true,
                When::PathMissing => path_in(value).is_some_and(|path| !is_visible(path)),
            });
            match dropped {
                Some(row) => self.dropped.push((name.clone(), row.reason)),
                // Of a name that is there twice, programs see the first.
                None if name.is_empty() || self.get(name).is_some() => {}
                None => self.variables.push((name.clone(), value.clone())),
            }
        }
    }

    /// Applies one setting on top, as [`Environment::compose`] does.
    pub fn apply(&mut self, setting: &Setting, host: &[(OsString, OsString)]) {
        match setting {
            Setting::Set(name, value) => self.set(name, value),
            Setting::FromHost(name) => {
                if let Some(value) = lookup(host, name) {
                    self.set(name, value);
                }
            }
            Setting::FromHostPrefix(prefix) => {
                for (name, value) in host.iter().filter(|(name, _)| name.as_bytes().starts_with(prefix.as_bytes())) {
                    self.set(name, value);
                }
            }
        }
    }

    /// Sets one variable.
    pub fn set(&mut self, name: &OsStr, value: &OsStr) {
        match self.position(name) {
            Some(at) => value.clone_into(&mut self.variables[at].1),
            None => self.variables.push((name.to_owned(), value.to_owned())),
        }
    }

    /// The value of a variable.
    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        self.position(name.as_ref()).map(|at| self.variables[at].1.as_os_str())
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// `NAME=VALUE` each, as execve(2) and the OCI specification take them.
    pub fn into_entries(self) -> Vec<OsString> {
        let join = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            name
        };
        self.variables.into_iter().map(join).collect()
    }

    fn position(&self, name: &OsStr) -> Option<usize> {
        self.variables.iter().position(|(known, _)| known == name)
    }
}

fn lookup<'a>(host: &'a [(OsString, OsString)], name: &OsStr) -> Option<&'a OsStr> {
    host.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
}

fn matches(pattern: &str, name: &OsStr) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.as_bytes().starts_with(prefix.as_bytes()),
        None => name.as_bytes() == pattern.as_bytes(),
    }
}

/// The path that a value names: all of it, or what stands behind `unix:path=` in an address.
fn path_in(value: &OsStr) -> Option<&Path> {
    let bytes = value.as_bytes();
    let path = match bytes.strip_prefix(b"unix:path=") {
        Some(address) => address.split(|&byte| byte == b',' || byte == b';').next()?,
        None => bytes,
    };
    path.starts_with(b"/").then(|| Path::new(OsStr::from_bytes(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn sources<'a>(host: &'a [(OsString, OsString)], image: &'a [String], settings: &'a [Setting]) -> Sources<'a> {
        let home = Path::new("/home/me");
        Sources { host, inherit: true, image, settings, home, user: None, terminal: false }
    }

    fn value(environment: &Environment, name: &str) -> Option<String> {
        environment.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_image_wins_except_for_what_the_host_owns() {
        let host =
            host(&[("LANG", "de_DE"), ("TERM", "foot"), ("SLURM_JOB_ID", "7"), ("HOME", "/root"), ("EDITOR", "vi")]);
        let image: Vec<String> = [
            "LANG=C.UTF-8",
            "TERM=dumb",
            "SLURM_JOB_ID=1",
            "HOME=/x",
            "NVIDIA_VISIBLE_DEVICES=all",
            "broken",
            "=",
            "=x",
        ]
        .map(str::to_owned)
        .into();
        let environment = Environment::compose(sources(&host, &image, &[]), |_| true);
        for (name, expected) in [
            ("LANG", "C.UTF-8"),
            ("TERM", "foot"),
            ("SLURM_JOB_ID", "7"),
            ("HOME", "/home/me"),
            ("EDITOR", "vi"),
            ("NVIDIA_VISIBLE_DEVICES", "all"), // Owned by the host, which has none.
            ("PATH", DEFAULT_PATH),
        ] {
            assert_eq!(value(&environment, name).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(environment.iter().count(), 7);
    }

    #[test]
    fn what_breaks_other_systems_is_left_out_with_its_reason() {
        let host = host(&[
            ("PATH", "/opt/bin"),
            ("LD_LIBRARY_PATH", "/opt/lib"),
            ("BASH_FUNC_module%%", "() { eval; }"),
            ("PYTHONPATH", "/opt"),
            ("PYTHONUNBUFFERED", "1"),
        ]);
        let image = ["PATH=/image/bin".to_owned(), "LD_LIBRARY_PATH=/image/lib".to_owned()];
        let environment = Environment::compose(sources(&host, &image, &[]), |_| true);
        assert_eq!(value(&environment, "PATH").as_deref(), Some("/image/bin"));
        assert_eq!(value(&environment, "LD_LIBRARY_PATH").as_deref(), Some("/image/lib"));
        assert_eq!(value(&environment, "PYTHONUNBUFFERED").as_deref(), Some("1"));
        assert_eq!(environment.get("PYTHONPATH"), None);
        let dropped: Vec<_> = environment.dropped.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(dropped, ["PATH", "LD_LIBRARY_PATH", "BASH_FUNC_module%%", "PYTHONPATH"]);
        assert!(environment.dropped.iter().all(|(_, reason)| !reason.is_empty()));
    }

    #[test]
    fn paths_are_kept_where_they_exist_inside() {
        let host = host(&[
            ("TMPDIR", "/scratch/1"),
            ("TMP", "/tmp"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/tmp/bus,guid=1"),
            ("SSH_AUTH_SOCK", "relative"),
        ]);
        let environment = Environment::compose(sources(&host, &[], &[]), |path| path.starts_with("/tmp"));
        let names: Vec<_> = environment.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["TMP", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "PATH", "HOME"]);
    }

    #[test]
    fn settings_win_over_everything_in_their_order() {
        let host = host(&[("LD_PRELOAD", "/lib/x.so"), ("MY_A", "1"), ("MY_B", "2"), ("HOME", "/h")]);
        let image = ["MODE=image".to_owned(), "MY_A=image".to_owned()];
        let settings: Vec<_> = ["HOME=/elsewhere", "MODE=one", "MODE=two", "LD_PRELOAD", "ABSENT", "MY_*", "EMPTY="]
            .map(|text| Setting::parse(text.as_ref()).unwrap())
            .into();
        for inherit in [true, false] {
            let environment = Environment::compose(Sources { inherit, ..sources(&host, &image, &settings) }, |_| true);
            assert_eq!(value(&environment, "HOME").as_deref(), Some("/elsewhere"));
            assert_eq!(value(&environment, "MODE").as_deref(), Some("two"));
            assert_eq!(value(&environment, "LD_PRELOAD").as_deref(), Some("/lib/x.so"));
            assert_eq!(value(&environment, "MY_A").as_deref(), Some("1"));
            assert_eq!(value(&environment, "MY_B").as_deref(), Some("2"));
            assert_eq!(value(&environment, "EMPTY").as_deref(), Some(""));
            assert_eq!(environment.get("ABSENT"), None);
        }
    }

    #[test]
    fn a_cleared_environment_has_the_image_the_user_and_the_terminal() {
        let host = host(&[("EDITOR", "vi"), ("TERM", "foot"), ("USER", "me")]);
        let image = ["TZ=UTC".to_owned()];
        let base = Sources { inherit: false, user: Some("root"), ..sources(&host, &image, &[]) };
        let entries = Environment::compose(Sources { terminal: true, ..base }, |_| true).into_entries();
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(entries, ["TZ=UTC", &path, "HOME=/home/me", "USER=root", "LOGNAME=root", "TERM=foot"]);
        assert_eq!(Environment::compose(base, |_| true).get("TERM"), None);
    }

    #[test]
    fn settings_that_no_process_can_have_are_refused() {
        for (text, reason) in [("", "empty"), ("=x", "empty"), ("A B=1", "blank"), ("A\0=1", "NUL"), ("A=\0", "NUL")] {
            let error = Setting::parse(text.as_ref()).expect_err(text);
            assert!(error.to_string().contains(reason), "{error}");
        }
        let odd = OsStr::from_bytes(b"A.b-c=\xff\n=");
        assert_eq!(Setting::parse(odd), Ok(Setting::Set("A.b-c".into(), os(b"\xff\n="))));
    }

    #[test]
    fn docker_environment_files() {
        let text = b"\xef\xbb\xbfA=1\r\n# note\n\n  B=\"two\" # kept \n\tFROM_HOST  \nC=\xff\nD=a=b";
        let set = |name: &str, value: &[u8]| Setting::Set(name.into(), os(value));
        let expected = [
            set("A", b"1"),
            set("B", b"\"two\" # kept "),
            Setting::FromHost("FROM_HOST".into()),
            set("C", b"\xff"),
            set("D", b"a=b"),
        ];
        assert_eq!(parse_env_file(text).unwrap(), expected);
        assert_eq!(parse_env_file(b"A=1\n\nB C=2").unwrap_err().line, 3);
        assert_eq!(parse_env_file(b"").unwrap(), []);
    }

    #[test]
    fn enroot_environment_files() {
        let text = b" A='x y'\nB=${USER}/${NONE}$USER${1}\n#C=1\n1D=2\nENROOT_X=1\nE\nF=\"a\nG='";
        let settings = parse_enroot_file(text, |name| (name == "USER").then(|| "me".into()));
        let set = |name: &str, value: &str| Setting::Set(name.into(), value.into());
        assert_eq!(settings, [set("A", "x y"), set("B", "me/$USER${1}"), set("F", "\"a"), set("G", "'")]);
    }

    #[test]
    fn no_variable_is_both_dropped_always_and_owned_by_the_host() {
        for row in DROPPED.iter().filter(|row| row.when == When::Always) {
            assert!(!HOST_OWNED.iter().any(|(owned, _)| *owned == row.pattern), "{}", row.pattern);
        }
    }

    proptest! {
        #[test]
        fn every_name_is_there_once_and_the_last_setting_counts(
            pairs in proptest::collection::vec(("[A-C_]{0,2}", "[^\0]{0,3}"), 0..8),
            image in proptest::collection::vec("[A-C=]{0,4}", 0..5),
            settings in proptest::collection::vec(("[A-C]{1,2}", "[^\0]{0,3}"), 0..5),
        ) {
            let host: Vec<_> = pairs.iter().map(|(name, value)| (name.into(), value.into())).collect();
            let set: Vec<_> = settings.iter().map(|(name, value)| Setting::Set(name.into(), value.into())).collect();
            let environment = Environment::compose(sources(&host, &image, &set), |_| false);
            let mut names: Vec<_> = environment.iter().map(|(name, _)| name.to_owned()).collect();
            prop_assert!(names.iter().all(|name| !name.is_empty()));
            let count = names.len();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), count);
            for (name, _) in &settings {
                let last = settings.iter().rfind(|(other, _)| other == name).unwrap();
                prop_assert_eq!(environment.get(name).unwrap(), OsStr::new(&last.1));
            }
        }

        #[test]
        fn any_bytes_make_a_file_or_an_error(content in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_env_file(&content);
            let _ = parse_enroot_file(&content, |_| None);
        }
    }
}
