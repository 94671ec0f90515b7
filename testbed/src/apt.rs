//! Packages of the distribution, by its own apt and by any user: folders of our own instead of the system's, nothing
//! installed, no maintainer script run. An archive's entries go straight into a layer, so that owners and setuid bits are
//! the package's whoever runs this.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use crate::image::LayerWriter;
use crate::process;
use crate::tar;
use crate::tar::Header;
use crate::tar::Kind;

/// Longest that one download may take.
const DOWNLOAD: Duration = Duration::from_secs(1800);

/// Lists older than this are fetched anew.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// An apt with folders of its own.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Opens (or makes) the folders, and updates the package lists once a day.
    pub fn open(dir: &Path) -> io::Result<Apt> {
        for part in ["state", "lists/partial", "cache/archives/partial", "log", "apt.conf.d"] {
            fs::create_dir_all(dir.join(part))?;
        }
        fs::write(dir.join("status"), "")?;
        // The system's settings (proxies, logins) hold, but not its hooks, which are for the system's own packages.
        for entry in fs::read_dir("/etc/apt/apt.conf.d")? {
            let entry = entry?;
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if !text.contains("Invoke") {
                fs::write(dir.join("apt.conf.d").join(entry.file_name()), text)?;
            }
        }
        // Read before the parts, unlike options on the command line.
        fs::write(dir.join("apt.conf"), format!("Dir::Etc::parts \"{}\";\n", dir.join("apt.conf.d").display()))?;
        let apt = Apt { dir: dir.to_owned() };
        let stamp = dir.join("updated");
        let age = fs::metadata(&stamp).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_none_or(|age| age > FRESH) {
            apt.get(&["update", "-qq"])?;
            fs::write(stamp, "")?;
        }
        Ok(apt)
    }

    fn get(&self, arguments: &[&str]) -> io::Result<String> {
        let mut command = Command::new("apt-get");
        let path = |part: &str| self.dir.join(part).display().to_string();
        for (option, value) in [
            ("Dir::State", path("state")),
            ("Dir::State::status", path("status")),
            ("Dir::State::lists", path("lists")),
            ("Dir::Cache", path("cache")),
            ("Dir::Cache::archives", path("cache/archives")),
            ("Dir::Log", path("log")),
            ("APT::Sandbox::User", "root".to_owned()),
            ("APT::Keep-Downloaded-Packages", "true".to_owned()),
            ("Debug::NoLocking", "true".to_owned()),
            ("Acquire::Check-Valid-Until", "false".to_owned()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command.args(arguments).env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C");
        let output = process::run_with(&mut command, b"", DOWNLOAD);
        if output.status.success() { Ok(output.stdout) } else { Err(io::Error::other(output.report())) }
    }

    /// Whether the package lists have a package of that name.
    pub fn knows(&self, package: &str) -> bool {
        self.get(&["-s", "-qq", "download", package]).is_ok()
    }

    /// Downloads packages with all that they depend on, on a system that has none; gives the archives, in apt's order.
    pub fn fetch(&self, packages: &[&str]) -> io::Result<Vec<PathBuf>> {
        let install = ["install", "-y", "-qq", "--no-install-recommends"];
        // Before the download, as --print-uris leaves out what is there already.
        let simulated = self.get(&[&["-s"], &install[..], packages].concat())?;
        self.get(&[&["-d"], &install[..], packages].concat())?;
        let archives: Vec<String> = fs::read_dir(self.dir.join("cache/archives"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let mut found = Vec::new();
        for line in simulated.lines() {
            // `Inst libc6 (2.36-9 Debian:12/stable [amd64]) […]`
            let mut words = line.split_whitespace();
            if words.next() != Some("Inst") {
                continue;
            }
            let name = words.next().unwrap_or_default().split(':').next().unwrap_or_default();
            let version = words.next().unwrap_or_default().trim_start_matches('(').replace(':', "%3a");
            let start = format!("{name}_{version}_");
            let archive = archives
                .iter()
                .find(|archive| archive.starts_with(&start))
                .ok_or_else(|| io::Error::other(format!("apt-get downloaded no {start}*.deb")))?;
            found.push(self.dir.join("cache/archives").join(archive));
        }
        Ok(found)
    }

    /// Unpacks packages without what they depend on: for a program to be run from there.
    pub fn unpack(&self, packages: &[&str], target: &Path) -> io::Result<()> {
        for archive in self.fetch(packages)? {
            let wanted = packages.iter().any(|name| {
                archive.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}_")))
            });
            if wanted {
                process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(target)).ok();
            }
        }
        Ok(())
    }
}

/// A system put together from packages, layer by layer.
#[derive(Debug, Default)]
pub struct System {
    installed: HashSet<PathBuf>,
    folders: HashSet<Vec<u8>>,
    status: String,
}

impl System {
    /// Adds those of the packages' archives that are not there yet to a layer, and dpkg's records of them, so that the
    /// image's own apt and dpkg work.
    pub fn install(&mut self, archives: &[PathBuf], layer: &mut LayerWriter<'_>) -> io::Result<()> {
        let mut written = HashSet::new();
        if self.installed.is_empty() {
            self.skeleton(layer)?;
        }
        for archive in archives {
            if self.installed.insert(archive.clone()) {
                self.add(archive, layer, &mut written)?;
            }
        }
        layer.file(&Header::file("var/lib/dpkg/status", 0o644), self.status.as_bytes())?;
        Ok(())
    }

    /// The merged /usr and the folders and files that installation scripts would make.
    fn skeleton(&mut self, layer: &mut LayerWriter<'_>) -> io::Result<()> {
        for name in ["usr/", "usr/bin/", "usr/sbin/", "usr/lib/", "usr/lib64/"] {
            self.folder(name, 0o755, layer)?;
        }
        for name in MERGED {
            layer.entry(&Header::symlink(name, format!("usr/{name}")))?;
        }
        for name in ["var/", "var/lib/", "var/lib/dpkg/", "var/lib/dpkg/info/", "var/lib/dpkg/updates/", "etc/"] {
            self.folder(name, 0o755, layer)?;
        }
        for name in ["var/lib/dpkg/available", "var/lib/dpkg/diversions", "var/lib/dpkg/statoverride"] {
            layer.file(&Header::file(name, 0o644), b"")?;
        }
        layer.file(&Header::file("var/lib/dpkg/info/format", 0o644), b"1\n")?;
        layer.file(&Header::file("etc/hostname", 0o644), b"image\n")?;
        Ok(())
    }

    fn folder(&mut self, name: &str, mode: u32, layer: &mut LayerWriter<'_>) -> io::Result<()> {
        if self.folders.insert(name.as_bytes().to_vec()) {
            layer.entry(&Header::dir(name, mode))?;
        }
        Ok(())
    }

    fn add(&mut self, archive: &Path, layer: &mut LayerWriter<'_>, written: &mut HashSet<Vec<u8>>) -> io::Result<()> {
        let control = process::run(Command::new("dpkg-deb").arg("-f").arg(archive)).ok();
        let field = |name: &str| {
            control.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap_or_default().to_owned()
        };
        let package = field("Package");
        let info = if field("Multi-Arch") == "same" {
            format!("var/lib/dpkg/info/{package}:{}", field("Architecture"))
        } else {
            format!("var/lib/dpkg/info/{package}")
        };
        let mut list = String::from("/.\n");
        let mut master = Vec::new();
        each_entry("--fsys-tarfile", archive, |mut header, content| {
            let packed = trimmed(&header.name);
            if packed.is_empty() {
                return Ok(());
            }
            list.push_str(&format!("/{}\n", String::from_utf8_lossy(packed).trim_end_matches('/')));
            let Some(name) = merged(packed) else { return Ok(()) };
            header.name = name;
            if header.kind == Kind::Hard {
                header.link = merged(trimmed(&header.link)).unwrap_or_default();
            }
            let seen = match header.kind {
                Kind::Dir => !self.folders.insert(header.name.clone()),
                _ => !written.insert(header.name.clone()),
            };
            if seen {
                return Ok(());
            }
            for (file, link) in ALTERNATIVES {
                if header.name.ends_with(file.as_bytes()) {
                    let (name, target) = alternative(&header.name, link);
                    layer.entry(&Header::symlink(name, target))?;
                }
            }
            if header.name.starts_with(b"usr/share/base-passwd/") {
                let mut text = Vec::new();
                content.read_to_end(&mut text)?;
                layer.file(&header, &text)?;
                master.push((header.name, text));
            } else {
                layer.stream(&header, content)?;
            }
            Ok(())
        })?;
        for (name, mut text) in master {
            let (file, apt): (_, &[u8]) = match name.as_slice() {
                b"usr/share/base-passwd/passwd.master" => {
                    ("etc/passwd", b"_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n")
                }
                b"usr/share/base-passwd/group.master" => ("etc/group", b""),
                _ => continue,
            };
            text.extend_from_slice(apt);
            layer.file(&Header::file(file, 0o644), &text)?;
        }
        each_entry("--ctrl-tarfile", archive, |header, content| {
            let name = String::from_utf8_lossy(trimmed(&header.name)).into_owned();
            if header.kind == Kind::File && name != "control" {
                layer.stream(&Header { name: format!("{info}.{name}").into_bytes(), ..header }, content)?;
            }
            Ok(())
        })?;
        layer.file(&Header::file(format!("{info}.list"), 0o644), list.as_bytes())?;
        let (first, rest) = control.split_once('\n').unwrap_or((&control, ""));
        self.status.push_str(&format!("{first}\nStatus: install ok installed\n{}\n\n", rest.trim_end()));
        Ok(())
    }
}

/// Folders at the top that are links into /usr on today's systems, whatever a package's archive says.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Names that installation scripts would make: the end of a file's name, and the link beside it or (`../`) one folder up.
const ALTERNATIVES: [(&str, &str); 6] = [
    ("usr/bin/mawk", "awk"),
    ("usr/bin/which.debianutils", "which"),
    ("usr/bin/gcc", "cc"),
    ("usr/bin/g++", "c++"),
    ("/blas/libblas.so.3", "../libblas.so.3"),
    ("/lapack/liblapack.so.3", "../liblapack.so.3"),
];

/// Name and target of an alternative's link.
fn alternative(file: &[u8], link: &str) -> (Vec<u8>, Vec<u8>) {
    let parts: Vec<&[u8]> = file.split(|byte| *byte == b'/').collect();
    let (up, name) = link.strip_prefix("../").map_or((0, link), |name| (1, name));
    let keep = parts.len() - 1 - up;
    ([&parts[..keep], &[name.as_bytes()]].concat().join(&b'/'), parts[keep..].join(&b'/'))
}

fn trimmed(name: &[u8]) -> &[u8] {
    let name = name.strip_prefix(b".").unwrap_or(name);
    name.strip_prefix(b"/").unwrap_or(name)
}

/// The name after the merge of /usr, or nothing for the merged folders themselves.
fn merged(name: &[u8]) -> Option<Vec<u8>> {
    let top = name.split(|byte| *byte == b'/').next().unwrap_or_default();
    if !MERGED.iter().any(|folder| folder.as_bytes() == top) {
        return Some(name.to_vec());
    }
    (name.len() > top.len() + 1).then(|| [b"usr/", name].concat())
}

fn each_entry(
    part: &str,
    archive: &Path,
    mut visit: impl FnMut(Header, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let mut child =
        Command::new("dpkg-deb").arg(part).arg(archive).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut reader = tar::Reader::new(io::BufReader::new(child.stdout.take().expect("a pipe")));
    while let Some(header) = reader.entry()? {
        let mut content = Vec::new();
        reader.content(&header, &mut content)?;
        visit(header, &mut content.as_slice())?;
    }
    if child.wait()?.success() { Ok(()) } else { Err(io::Error::other(format!("dpkg-deb cannot read {archive:?}"))) }
}
