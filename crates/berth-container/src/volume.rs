//! What a person types to see a host directory inside: `-v` and `--mount`.
//!
//! | form | example | known from |
//! |---|---|---|
//! | short | `/data:/mnt:ro,nosuid` | docker, podman |
//! | short, with `+` | `/data:/mnt:ro+rprivate` | pyxis |
//! | path alone | `/data` (seen at the same path) | pyxis, enroot |
//! | memory | `tmpfs:/scratch:size=2G` | pyxis, enroot |
//! | keyed | `type=bind,source=/data,target=/mnt,readonly` | docker, podman |
//!
//! A relative source is relative to the directory given by the caller; `~` and variables are the shell's job. `\:` is a colon that
//! separates nothing (and `\\` a backslash before one); a keyed field with a comma is put into double quotes, as in CSV.
//!
//! Nothing here looks at the file system: whether the source exists is found out by the one system call that mounts it.

use std::path::{Component, Path, PathBuf};

use crate::oci;

/// A mount asked for, resolved as far as text goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Bind mount or memory.
    pub kind: Kind,
    /// Absolute path on the host; `None` for [`Kind::Tmpfs`].
    pub source: Option<PathBuf>,
    /// Absolute and without `.`, `..` and double slashes; never `/`.
    pub target: PathBuf,
    /// Options in the spelling of the OCI runtime specification, `rbind` or `bind` first for a bind mount.
    pub options: Vec<String>,
}

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file or directory of the host.
    Bind,
    /// Memory, empty at start, gone at the end.
    Tmpfs,
}

impl Kind {
    /// The `type` of an OCI mount.
    pub fn as_oci(self) -> &'static str {
        match self {
            Kind::Bind => "bind",
            Kind::Tmpfs => "tmpfs",
        }
    }
}

/// A mount or size that cannot be understood: what, where in the text, why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`, at character {position}: {problem}")]
pub struct VolumeError {
    /// The argument as typed.
    pub text: String,
    /// Where the offending part begins, counted in characters from 1.
    pub position: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

impl VolumeError {
    fn new(text: &str, offset: usize, problem: Problem) -> Self {
        let position = text.char_indices().take_while(|&(at, _)| at < offset).count() + 1;
        VolumeError { text: text.to_owned(), position, problem }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self.problem {
            Problem::TooManyParts => "the form is SOURCE:TARGET[:OPTIONS]; write `\\:` for a colon inside a path",
            Problem::RelativeTarget | Problem::RootTarget => {
                "the target is an absolute path inside the container, for example /mnt"
            }
            Problem::UnknownOption(_) | Problem::NotForKind(..) => {
                "options are ro, rw, [r]bind, [r]private, [r]slave, [r]shared, nosuid, nodev, noexec, noatime; size= and \
                 mode= for tmpfs"
            }
            Problem::BadSize => {
                "a size is a number of bytes with an optional k, m, g or t, for example 2G; or a share, 50%"
            }
            Problem::UnsupportedKind(_) => "bind and tmpfs mounts exist; bind a directory for data that must stay",
            _ => "the forms are SOURCE:TARGET[:OPTIONS] and type=bind,source=SOURCE,target=TARGET[,readonly]",
        }
    }
}

/// Why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // Each variant is its message.
pub enum Problem {
    #[error("nothing there")]
    Empty,
    #[error("contains a NUL byte")]
    Nul,
    #[error("more than three parts")]
    TooManyParts,
    #[error("the target is not an absolute path")]
    RelativeTarget,
    #[error("the target is the root directory itself")]
    RootTarget,
    #[error("unknown option `{0}`")]
    UnknownOption(String),
    #[error("option `{0}` is not for a {1} mount")]
    NotForKind(String, &'static str),
    #[error("option `{0}` contradicts `{1}`")]
    Contradiction(String, String),
    #[error("`{0}` is given twice")]
    Twice(&'static str),
    #[error("no `{0}` is given")]
    Missing(&'static str),
    #[error("mount type `{0}` is not supported")]
    UnsupportedKind(String),
    #[error("not a truth value: `{0}`")]
    BadBool(String),
    #[error("not a mode: octal digits, at most 7777")]
    BadMode,
    #[error("not a size")]
    BadSize,
    #[error("a double quote is not closed")]
    OpenQuote,
}

/// Which mounts an option is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Bind,
    Tmpfs,
    Both,
}

/// Options that exclude each other share a group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Access,
    Recursion,
    Propagation,
    Suid,
    Dev,
    Exec,
    AccessTime,
    Create,
    Size,
    Mode,
    Label,
}

/// An option: its name (with `=` when it takes a value), what it is for, its group, its OCI spelling; `None` = accepted for
/// compatibility, nothing to do.
struct OptionRow(&'static str, For, Group, Option<&'static str>);

#[rustfmt::skip] // One row a line.
const OPTIONS: &[OptionRow] = &[
    OptionRow("ro",           For::Both,  Group::Access,      Some("ro")),
    OptionRow("readonly",     For::Both,  Group::Access,      Some("ro")),
    OptionRow("rro",          For::Bind,  Group::Access,      Some("rro")),
    OptionRow("rw",           For::Both,  Group::Access,      Some("rw")),
    OptionRow("bind",         For::Bind,  Group::Recursion,   Some("bind")),
    OptionRow("rbind",        For::Bind,  Group::Recursion,   Some("rbind")),
    OptionRow("private",      For::Bind,  Group::Propagation, Some("private")),
    OptionRow("rprivate",     For::Bind,  Group::Propagation, Some("rprivate")),
    OptionRow("shared",       For::Bind,  Group::Propagation, Some("shared")),
    OptionRow("rshared",      For::Bind,  Group::Propagation, Some("rshared")),
    OptionRow("slave",        For::Bind,  Group::Propagation, Some("slave")),
    OptionRow("rslave",       For::Bind,  Group::Propagation, Some("rslave")),
    OptionRow("unbindable",   For::Bind,  Group::Propagation, Some("unbindable")),
    OptionRow("runbindable",  For::Bind,  Group::Propagation, Some("runbindable")),
    OptionRow("suid",         For::Both,  Group::Suid,        Some("suid")),
    OptionRow("nosuid",       For::Both,  Group::Suid,        Some("nosuid")),
    OptionRow("dev",          For::Both,  Group::Dev,         Some("dev")),
    OptionRow("nodev",        For::Both,  Group::Dev,         Some("nodev")),
    OptionRow("exec",         For::Both,  Group::Exec,        Some("exec")),
    OptionRow("noexec",       For::Both,  Group::Exec,        Some("noexec")),
    OptionRow("noatime",      For::Both,  Group::AccessTime,  Some("noatime")),
    OptionRow("relatime",     For::Both,  Group::AccessTime,  Some("relatime")),
    OptionRow("strictatime",  For::Both,  Group::AccessTime,  Some("strictatime")),
    // Of enroot: missing targets are always made here, of the source's kind.
    OptionRow("x-create=auto", For::Both, Group::Create,      None),
    OptionRow("x-create=dir", For::Both,  Group::Create,      None),
    OptionRow("x-create=file", For::Bind, Group::Create,      None),
    // SELinux labels of docker: an ordinary user's files need none in a container that runs as the user.
    OptionRow("z",            For::Bind,  Group::Label,       None),
    OptionRow("Z",            For::Bind,  Group::Label,       None),
    OptionRow("size=",        For::Tmpfs, Group::Size,        Some("size=")),
    OptionRow("mode=",        For::Tmpfs, Group::Mode,        Some("mode=")),
];

/// Keys of the keyed form that are no mount options.
const SOURCE_KEYS: &[&str] = &["source", "src"];
const TARGET_KEYS: &[&str] = &["target", "destination", "dst"];

impl Volume {
    /// Reads either form; relative sources are below `cwd`, an absolute path.
    ///
    /// # Errors
    /// [`VolumeError`] for a text of neither form.
    pub fn parse(text: &str, cwd: &Path) -> Result<Volume, VolumeError> {
        if text.is_empty() {
            return Err(VolumeError::new(text, 0, Problem::Empty));
        }
        if let Some(offset) = text.find('\0') {
            return Err(VolumeError::new(text, offset, Problem::Nul));
        }
        let first_key = text.split([',', ':']).next().and_then(|field| field.split_once('=')).map(|(key, _)| key);
        let keyed = first_key.is_some_and(|key| {
            key == "type" || key == "readonly" || SOURCE_KEYS.contains(&key) || TARGET_KEYS.contains(&key)
        });
        if keyed { parse_keyed(text, cwd) } else { parse_short(text, cwd) }
    }
}

impl From<Volume> for oci::Mount {
    fn from(volume: Volume) -> oci::Mount {
        oci::Mount {
            destination: volume.target,
            kind: Some(volume.kind.as_oci().to_owned()),
            // A mount of memory has no source; its type's name is what mount tables show.
            source: volume.source.or_else(|| Some(PathBuf::from("tmpfs"))),
            options: volume.options,
            ..oci::Mount::default()
        }
    }
}

/// Options gathered so far, one of each group.
struct Options<'a> {
    text: &'a str,
    kind: Kind,
    seen: Vec<(Group, &'a str)>,
    lowered: Vec<String>,
}

impl<'a> Options<'a> {
    fn new(text: &'a str, kind: Kind) -> Self {
        Options { text, kind, seen: Vec::new(), lowered: Vec::new() }
    }

    /// Adds the option `option`, typed at byte `offset`.
    fn add(&mut self, option: &'a str, offset: usize) -> Result<(), VolumeError> {
        let fail = |problem| VolumeError::new(self.text, offset, problem);
        let value_at = option.find('=').map_or(option.len(), |at| at + 1);
        let row = OPTIONS
            .iter()
            .find(|OptionRow(name, ..)| *name == option || (name.ends_with('=') && *name == &option[..value_at]));
        let Some(OptionRow(_, applies, group, lowered)) = row else {
            return Err(fail(Problem::UnknownOption(option.to_owned())));
        };
        let wrong = match self.kind {
            Kind::Bind => *applies == For::Tmpfs,
            Kind::Tmpfs => *applies == For::Bind,
        };
        if wrong {
            return Err(fail(Problem::NotForKind(option.to_owned(), self.kind.as_oci())));
        }
        if let Some((_, earlier)) = self.seen.iter().find(|(seen, _)| seen == group) {
            if *earlier == option {
                return Ok(());
            }
            return Err(fail(Problem::Contradiction(option.to_owned(), (*earlier).to_owned())));
        }
        self.seen.push((*group, option));
        let value = &option[value_at..];
        let lowered = match (group, lowered) {
            (_, None) => return Ok(()),
            (Group::Size, _) => format!("size={}", parse_size_at(self.text, value, offset + value_at)?),
            (Group::Mode, _) => {
                let octal = (1..=5).contains(&value.len()) && value.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
                if !octal || u32::from_str_radix(value, 8).is_ok_and(|mode| mode > 0o7777) {
                    return Err(VolumeError::new(self.text, offset + value_at, Problem::BadMode));
                }
                format!("mode={value}")
            }
            (_, Some(name)) => (*name).to_owned(),
        };
        if *group == Group::Recursion {
            self.lowered.insert(0, lowered)
        } else {
            self.lowered.push(lowered)
        }
        Ok(())
    }

    fn finish(mut self) -> Vec<String> {
        if self.kind == Kind::Bind && !self.seen.iter().any(|(group, _)| *group == Group::Recursion) {
            self.lowered.insert(0, "rbind".to_owned());
        }
        self.lowered
    }
}

fn parse_short(text: &str, cwd: &Path) -> Result<Volume, VolumeError> {
    let parts = split_colons(text);
    let (source, target, options) = match parts.as_slice() {
        [path] => (path, path, None),
        [source, target] => (source, target, None),
        [source, target, options] => (source, target, Some(options)),
        [_, _, _, extra, ..] => return Err(VolumeError::new(text, extra.offset, Problem::TooManyParts)),
        [] => return Err(VolumeError::new(text, 0, Problem::Empty)),
    };
    if source.value.is_empty() {
        return Err(VolumeError::new(text, source.offset, Problem::Empty));
    }
    let kind = match source.value.as_str() {
        "tmpfs" if parts.len() > 1 => Kind::Tmpfs,
        "umount" if parts.len() > 1 => {
            return Err(VolumeError::new(text, source.offset, Problem::UnsupportedKind("umount".to_owned())));
        }
        _ => Kind::Bind,
    };
    let target = if parts.len() == 1 {
        // The same path on both sides, so a relative one is made absolute before it is a target.
        clean_target(text, source.offset, &cwd.join(&source.value))?
    } else {
        clean_target(text, target.offset, Path::new(&target.value))?
    };
    let mut gathered = Options::new(text, kind);
    if let Some(part) = options {
        let raw = &text[part.offset..];
        let mut offset = part.offset;
        for option in raw.split([',', '+']) {
            if option.is_empty() {
                return Err(VolumeError::new(text, offset, Problem::Empty));
            }
            gathered.add(option, offset)?;
            offset += option.len() + 1;
        }
    }
    let source = (kind == Kind::Bind).then(|| cwd.join(&source.value));
    Ok(Volume { kind, source, target, options: gathered.finish() })
}

/// A part of the short form: its text without escapes, and where it begins.
struct Part {
    value: String,
    offset: usize,
}

fn split_colons(text: &str) -> Vec<Part> {
    let mut parts = vec![Part { value: String::new(), offset: 0 }];
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let escaped = match (character, characters.peek()) {
            ('\\', Some((_, next @ (':' | '\\')))) => Some(*next),
            _ => None,
        };
        let last = parts.len() - 1;
        match (escaped, character) {
            (Some(plain), _) => {
                characters.next();
                parts[last].value.push(plain);
            }
            (None, ':') => parts.push(Part { value: String::new(), offset: at + 1 }),
            (None, plain) => parts[last].value.push(plain),
        }
    }
    parts
}

fn parse_keyed(text: &str, cwd: &Path) -> Result<Volume, VolumeError> {
    let fields = split_csv(text)?;
    let (mut kind, mut source, mut target) = (None, None, None);
    let mut options: Vec<(&str, usize)> = Vec::new();
    for (field, offset) in &fields {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let fail = |problem| VolumeError::new(text, *offset, problem);
        let once = |slot: &mut Option<(String, usize)>, name| match (value, &slot) {
            (None | Some(""), _) => Err(fail(Problem::Missing(name))),
            (_, Some(_)) => Err(fail(Problem::Twice(name))),
            (Some(value), None) => {
                *slot = Some((value.to_owned(), *offset));
                Ok(())
            }
        };
        match key {
            "type" => once(&mut kind, "type")?,
            key if SOURCE_KEYS.contains(&key) => once(&mut source, "source")?,
            key if TARGET_KEYS.contains(&key) => once(&mut target, "target")?,
            "readonly" | "ro" => match value {
                None | Some("true" | "1") => options.push(("ro", *offset)),
                Some("false" | "0") => options.push(("rw", *offset)),
                Some(other) => return Err(fail(Problem::BadBool(other.to_owned()))),
            },
            "bind-propagation" => options.push((value.ok_or_else(|| fail(Problem::Missing("value")))?, *offset)),
            "tmpfs-size" | "tmpfs-mode" => options.push((field.trim_start_matches("tmpfs-"), *offset)),
            _ => options.push((field, *offset)),
        }
    }
    let kind = match kind.as_ref().map(|(kind, offset)| (kind.as_str(), offset)) {
        None | Some(("bind", _)) => Kind::Bind,
        Some(("tmpfs", _)) => Kind::Tmpfs,
        Some((other, offset)) => {
            return Err(VolumeError::new(text, *offset, Problem::UnsupportedKind(other.to_owned())));
        }
    };
    let (target, at) = target.ok_or_else(|| VolumeError::new(text, text.len(), Problem::Missing("target")))?;
    let source = match (kind, source) {
        (Kind::Bind, None) => return Err(VolumeError::new(text, text.len(), Problem::Missing("source"))),
        (Kind::Bind, Some((source, _))) => Some(cwd.join(source)),
        (Kind::Tmpfs, None) => None,
        (Kind::Tmpfs, Some((_, offset))) => {
            return Err(VolumeError::new(text, offset, Problem::NotForKind("source".to_owned(), "tmpfs")));
        }
    };
    let target = clean_target(text, at, Path::new(&target))?;
    let mut gathered = Options::new(text, kind);
    for (option, offset) in options {
        gathered.add(option, offset)?;
    }
    Ok(Volume { kind, source, target, options: gathered.finish() })
}

/// Fields between commas and where they begin; a field that begins with a double quote ends at the next single one, and `""`
/// inside stands for one (RFC 4180).
fn split_csv(text: &str) -> Result<Vec<(String, usize)>, VolumeError> {
    let mut fields = Vec::new();
    let mut offset = 0;
    loop {
        let rest = &text[offset..];
        let (field, length) = if let Some(quoted) = rest.strip_prefix('"') {
            let mut end = 0;
            loop {
                match quoted[end..].find('"') {
                    None => return Err(VolumeError::new(text, offset, Problem::OpenQuote)),
                    Some(at) if quoted[end + at + 1..].starts_with('"') => end += at + 2,
                    Some(at) => break end += at,
                }
            }
            let after = 1 + end + 1;
            if !rest[after..].is_empty() && !rest[after..].starts_with(',') {
                return Err(VolumeError::new(text, offset + after, Problem::OpenQuote));
            }
            (quoted[..end].replace("\"\"", "\""), after)
        } else {
            let length = rest.find(',').unwrap_or(rest.len());
            (rest[..length].to_owned(), length)
        };
        if field.is_empty() {
            return Err(VolumeError::new(text, offset, Problem::Empty));
        }
        fields.push((field, offset));
        offset += length + 1;
        if offset > text.len() {
            return Ok(fields);
        }
    }
}

/// The target without `.`, `..` and double slashes. Links are the launcher's matter: it resolves them inside the root.
fn clean_target(text: &str, offset: usize, target: &Path) -> Result<PathBuf, VolumeError> {
    if !target.is_absolute() {
        return Err(VolumeError::new(text, offset, Problem::RelativeTarget));
    }
    let mut clean = PathBuf::from("/");
    for component in target.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean == Path::new("/") {
        return Err(VolumeError::new(text, offset, Problem::RootTarget));
    }
    Ok(clean)
}

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// A share of the machine's memory, 1 to 100.
    Percent(u8),
}

impl Size {
    /// Reads `2G`, `512m`, `1024`, `64KiB` or `50%`. Suffixes are powers of 1024 in either case, as docker and the kernel take
    /// them.
    ///
    /// # Errors
    /// [`Problem::BadSize`] for anything else, for 0 and for more than 2⁶⁴ − 1 bytes.
    pub fn parse(text: &str) -> Result<Size, VolumeError> {
        parse_size_at(text, text, 0)
    }
}

/// As tmpfs and overlay options spell it.
impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Size::Bytes(bytes) => write!(f, "{bytes}"),
            Size::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

fn parse_size_at(text: &str, value: &str, offset: usize) -> Result<Size, VolumeError> {
    size(value).ok_or_else(|| VolumeError::new(text, offset, Problem::BadSize))
}

fn size(value: &str) -> Option<Size> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = value[..digits].parse().ok().filter(|number| *number > 0)?;
    let suffix = value[digits..].to_ascii_lowercase();
    if suffix == "%" {
        return u8::try_from(number).ok().filter(|percent| *percent <= 100).map(Size::Percent);
    }
    let unit = suffix.strip_suffix("ib").filter(|unit| !unit.is_empty()).or(suffix.strip_suffix('b'));
    let power = match unit.unwrap_or(&suffix) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    number.checked_mul(1024u64.pow(power)).map(Size::Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Volume, VolumeError> {
        Volume::parse(text, Path::new("/cwd"))
    }

    fn bind(source: &str, target: &str, options: &[&str]) -> Volume {
        Volume {
            kind: Kind::Bind,
            source: Some(source.into()),
            target: target.into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        }
    }

    fn tmpfs(target: &str, options: &[&str]) -> Volume {
        Volume { kind: Kind::Tmpfs, source: None, ..bind("", target, options) }
    }

    #[test]
    fn accepted_forms() {
        let cases = [
            ("/data", bind("/data", "/data", &["rbind"])),
            ("data", bind("/cwd/data", "/cwd/data", &["rbind"])),
            ("/a:/b", bind("/a", "/b", &["rbind"])),
            ("/a:/b/../c//d/.", bind("/a", "/c/d", &["rbind"])),
            ("./a:/b:ro", bind("/cwd/./a", "/b", &["rbind", "ro"])),
            ("~:/b", bind("/cwd/~", "/b", &["rbind"])),
            ("/a:/b:ro+rprivate", bind("/a", "/b", &["rbind", "ro", "rprivate"])),
            ("/a:/b:ro,bind,ro,Z", bind("/a", "/b", &["bind", "ro"])),
            (r"/a\:1:/b\\:rro", bind("/a:1", r"/b\", &["rbind", "rro"])),
            (r"/a\n:/b", bind(r"/a\n", "/b", &["rbind"])),
            ("/ä b:/€", bind("/ä b", "/€", &["rbind"])),
            ("tmpfs:/t", tmpfs("/t", &[])),
            ("tmpfs:/t:size=2G+mode=1777", tmpfs("/t", &["size=2147483648", "mode=1777"])),
            ("./tmpfs:/t", bind("/cwd/./tmpfs", "/t", &["rbind"])),
            ("type=bind,source=/a,target=/b,readonly", bind("/a", "/b", &["rbind", "ro"])),
            ("src=a,dst=/b,ro=false,bind-propagation=rslave", bind("/cwd/a", "/b", &["rbind", "rw", "rslave"])),
            (r#"type=bind,"src=/a,""1""",dst=/b"#, bind(r#"/a,"1""#, "/b", &["rbind"])),
            ("type=tmpfs,dst=/t,tmpfs-size=50%,tmpfs-mode=700", tmpfs("/t", &["size=50%", "mode=700"])),
            ("type=bind,src=/a:b,dst=/c:d", bind("/a:b", "/c:d", &["rbind"])),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refused_forms_name_the_place_and_the_reason() {
        let cases = [
            ("", 1, "nothing there"),
            ("/a\0:/b", 3, "NUL"),
            (":/b", 1, "nothing there"),
            ("/a:", 4, "not an absolute path"),
            ("/a:b", 4, "not an absolute path"),
            ("/a:/", 4, "root directory"),
            ("/a:/b/../..", 4, "root directory"),
            ("/", 1, "root directory"),
            ("/a:/b:", 7, "nothing there"),
            ("/ä:/b:ro,sync", 10, "unknown option `sync`"),
            ("/a:/b:ro:rw", 10, "more than three"),
            ("/a:/b:ro,rw", 10, "contradicts `ro`"),
            ("/a:/b:size=1g", 7, "not for a bind"),
            ("tmpfs:/b:rshared", 10, "not for a tmpfs"),
            ("tmpfs:/b:mode=99", 15, "not a mode"),
            ("tmpfs:/b:mode=17777", 15, "not a mode"),
            ("tmpfs:/b:size=x", 15, "not a size"),
            ("umount:/proc", 1, "`umount` is not supported"),
            ("type=volume,source=x,target=/y", 1, "`volume` is not supported"),
            ("type=bind,target=/y", 20, "no `source`"),
            ("type=bind,source=/y", 20, "no `target`"),
            ("type=bind,source=,target=/y", 11, "no `source`"),
            ("type=bind,source=/x,src=/y,target=/y", 21, "`source` is given twice"),
            ("type=tmpfs,source=/x,target=/y", 12, "not for a tmpfs"),
            ("type=bind,source=/x,target=/y,readonly=maybe", 31, "truth value"),
            ("type=bind,\"source=/x,target=/y", 11, "not closed"),
            ("type=bind,,source=/x", 11, "nothing there"),
            ("type=bind,source=/x,target=/y,", 31, "nothing there"),
        ];
        for (text, position, reason) in cases {
            let error = parse(text).expect_err(text);
            assert_eq!(error.position, position, "{error}");
            assert!(error.to_string().contains(reason), "{error}");
            assert!(!error.hint().is_empty());
        }
    }

    #[test]
    fn volumes_become_oci_mounts() {
        let mount = oci::Mount::from(parse("/a:/b:ro").unwrap());
        let expected = oci::Mount { options: vec!["rbind".into(), "ro".into()], ..oci::Mount::rbind("/a", "/b") };
        assert_eq!(mount, expected);
        let mount = oci::Mount::from(parse("tmpfs:/t:size=1k").unwrap());
        assert_eq!(mount, oci::Mount::of_type("tmpfs", "/t", &["size=1024"]));
    }

    #[test]
    fn sizes() {
        let good = [
            ("1", Size::Bytes(1)),
            ("2G", Size::Bytes(2 << 30)),
            ("512m", Size::Bytes(512 << 20)),
            ("64KiB", Size::Bytes(64 << 10)),
            ("3tb", Size::Bytes(3 << 40)),
            ("10b", Size::Bytes(10)),
            ("100%", Size::Percent(100)),
        ];
        for (text, expected) in good {
            assert_eq!(Size::parse(text), Ok(expected), "{text}");
        }
        for text in
            ["", "0", "-1", "1.5G", "G", "1x", "1ib", "101%", "0%", "99999999999999999999", "99999999p", "1 G", "+1"]
        {
            assert!(Size::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_with_a_place_inside(text in "(type=|src=|dst=|[:,+=\"\\\\/a-cä.]){0,12}") {
            match parse(&text) {
                Ok(volume) => {
                    prop_assert!(volume.target.is_absolute() && volume.target != Path::new("/"));
                    let no_dots = volume.target.components().all(|part| !matches!(part, Component::ParentDir));
                    prop_assert!(no_dots);
                    prop_assert_eq!(volume.source.is_some(), volume.kind == Kind::Bind);
                }
                Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.position)),
            }
        }

        #[test]
        fn every_path_can_be_written_with_escapes(source in "/[^\0/.]{1,9}", target in "/[^\0/.]{1,9}") {
            let escape = |path: &str| path.replace('\\', r"\\").replace(':', r"\:");
            let volume = parse(&format!("{}:{}", escape(&source), escape(&target))).unwrap();
            prop_assert_eq!(volume.source.unwrap(), PathBuf::from(source));
            prop_assert_eq!(volume.target, PathBuf::from(target));
        }
    }
}
