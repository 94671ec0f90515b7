//! Image references: what people type to name an image, in every spelling that the tools of the field have taught them.
//!
//! ```text
//! docker://[USER@][REGISTRY/|REGISTRY#]IMAGE[:TAG][@DIGEST]      a registry (skopeo's and enroot's spelling)
//! [USER@][REGISTRY/|REGISTRY#]IMAGE[:TAG][@DIGEST]               the same; without REGISTRY it is a short name
//! oci:DIR[:TAG]   oci-archive:FILE[:TAG]   docker-archive:FILE[:REF]   dir:PATH
//! containers-storage:NAME   dockerd://NAME   podman://NAME
//! ```
//!
//! Parsing does no I/O. The grammar of names is that of the distribution specification; where a word is wrong the error
//! says at which character and what to write instead.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// The registry that a name without one means, unless `registries.conf` says otherwise.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag that a name without one means.
pub const DEFAULT_TAG: &str = "latest";

/// The longest reference that is looked at, in bytes; a path has at most 4096.
const MAX_TEXT: usize = 4096 + 512;
/// The longest repository name (with its registry), in bytes: the distribution specification's advice to clients.
const MAX_NAME: usize = 255;
/// The longest tag, in bytes: distribution specification, "Pulling manifests".
const MAX_TAG: usize = 128;

/// The kind of place that has an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A registry: `docker://`, or no prefix.
    Docker,
    /// An OCI image layout in a directory: `oci:`.
    Oci,
    /// An OCI image layout in a tar file: `oci-archive:`.
    OciArchive,
    /// What `docker save` writes: `docker-archive:`.
    DockerArchive,
    /// A directory: `dir:`.
    Dir,
    /// The local storage of podman, buildah and skopeo: `containers-storage:`.
    ContainersStorage,
    /// The images of a running Docker daemon: `dockerd://`.
    DockerDaemon,
    /// The images of podman, through its command: `podman://`.
    PodmanStorage,
}

/// Prefixes and what they mean. The first of a transport is the one that is printed.
const PREFIXES: [(&str, Transport); 10] = [
    ("docker://", Transport::Docker),
    ("oci:", Transport::Oci),
    ("oci-archive:", Transport::OciArchive),
    ("docker-archive:", Transport::DockerArchive),
    ("dir:", Transport::Dir),
    ("containers-storage:", Transport::ContainersStorage),
    ("dockerd://", Transport::DockerDaemon),
    ("docker-daemon:", Transport::DockerDaemon),
    ("podman://", Transport::PodmanStorage),
    ("podman-storage:", Transport::PodmanStorage),
];

impl Transport {
    /// The prefix, with its punctuation: `oci-archive:`.
    pub fn prefix(self) -> &'static str {
        PREFIXES.iter().find(|(_, transport)| *transport == self).map_or("", |(prefix, _)| prefix)
    }
}

/// A parsed image reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// An image in a registry.
    Registry(ImageName),
    /// A layout, archive or directory on disk.
    Path {
        /// [`Transport::Oci`], [`Transport::OciArchive`], [`Transport::DockerArchive`] or [`Transport::Dir`].
        transport: Transport,
        /// The file or directory; `-` is standard input where the transport is an archive.
        path: String,
        /// Which image in it: a tag, a name or `@INDEX`, as the transport has it.
        selector: Option<String>,
    },
    /// An image that a container engine of this machine has.
    Engine {
        /// [`Transport::ContainersStorage`], [`Transport::DockerDaemon`] or [`Transport::PodmanStorage`].
        transport: Transport,
        /// The engine's name or id for it.
        name: String,
    },
}

impl Reference {
    /// Parses any form; see the [module](self).
    ///
    /// # Errors
    /// [`Error::BadReference`], which says where the fault is and what to write.
    pub fn parse(text: &str) -> Result<Reference> {
        parse(text).map_err(|reason| Error::BadReference { text: shorten(text), reason })
    }

    /// The kind of place.
    pub fn transport(&self) -> Transport {
        match self {
            Reference::Registry(_) => Transport::Docker,
            Reference::Path { transport, .. } | Reference::Engine { transport, .. } => *transport,
        }
    }
}

impl FromStr for Reference {
    type Err = Error;
    fn from_str(text: &str) -> Result<Reference> {
        Reference::parse(text)
    }
}

/// Writes a form that parses to the same reference.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Registry(name) => {
                // A short name has no prefix: with one it would mean Docker Hub.
                f.write_str(if name.registry.is_some() { "docker://" } else { "" })?;
                if let Some(user) = &name.user {
                    write!(f, "{user}@")?;
                }
                fmt::Display::fmt(name, f)
            }
            Reference::Path { transport, path, selector } => {
                write!(f, "{}{path}", transport.prefix())?;
                selector.as_ref().map_or(Ok(()), |selector| write!(f, ":{selector}"))
            }
            Reference::Engine { transport, name } => write!(f, "{}{name}", transport.prefix()),
        }
    }
}

/// The name of an image in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageName {
    /// The login to use, from `USER@`.
    pub user: Option<String>,
    /// Host and port, lower case; `None` is a short name, which [`crate::registries_conf`] completes.
    pub registry: Option<String>,
    /// The repository: `library/ubuntu`.
    pub repository: String,
    /// The tag. Where there is a digest too, the tag is only part of the name.
    pub tag: Option<String>,
    /// The digest, which wins.
    pub digest: Option<Digest>,
}

impl ImageName {
    /// The registry, or Docker Hub where none is named.
    pub fn registry(&self) -> &str {
        self.registry.as_deref().unwrap_or(DEFAULT_REGISTRY)
    }

    /// The full name by which the image is kept and shown: `docker.io/library/ubuntu:24.04`, never with the login.
    pub fn canonical(&self) -> String {
        let mut full = self.in_registry(self.registry());
        if full.tag.is_none() && full.digest.is_none() {
            full.tag = Some(DEFAULT_TAG.to_owned());
        }
        full.to_string()
    }

    /// The same image in a registry; Docker Hub's own images are below `library/` there.
    pub fn in_registry(&self, registry: &str) -> ImageName {
        let registry = normal_registry(&registry.to_ascii_lowercase()).to_owned();
        let repository = match registry == DEFAULT_REGISTRY && !self.repository.contains('/') {
            true => format!("library/{}", self.repository),
            false => self.repository.clone(),
        };
        ImageName { registry: Some(registry), repository, ..self.clone() }
    }

    /// What the registry is asked for: the digest, else the tag, else `latest`.
    pub fn identifier(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Parses a name without a transport's prefix, as configuration files have them.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> std::result::Result<ImageName, String> {
        parse_image(text)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            // A host without a dot, such as a cluster's own, is only known as one by enroot's mark.
            write!(f, "{registry}{}", if is_plainly_registry(registry) { '/' } else { '#' })?;
        }
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// The name under which a registry is known, of several that it has.
fn normal_registry(registry: &str) -> &str {
    match registry {
        "index.docker.io" | "registry-1.docker.io" | "registry.docker.io" => DEFAULT_REGISTRY,
        other => other,
    }
}

/// The host to dial for a registry's API.
pub fn api_host(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { registry }
}

/// Whether a `host[:port]` is this machine.
pub fn is_loopback(registry: &str) -> bool {
    let host = split_port(registry).0;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `host[:port]` → host and port. The brackets of an IPv6 address stay.
pub fn split_port(registry: &str) -> (&str, Option<&str>) {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    }
}

type Parsed<T> = std::result::Result<T, String>;

fn parse(text: &str) -> Parsed<Reference> {
    if text.is_empty() {
        return Err("it is empty; write for example ubuntu:24.04".to_owned());
    }
    if text.len() > MAX_TEXT {
        return Err(format!("it has {} bytes, and the limit is {MAX_TEXT}", text.len()));
    }
    if let Some((at, c)) = text.chars().enumerate().find(|(_, c)| c.is_control()) {
        return Err(format!("character {} is the control character {}", at + 1, c.escape_debug()));
    }
    for (prefix, transport) in PREFIXES {
        if let Some(body) = text.strip_prefix(prefix) {
            return parse_body(body, transport);
        }
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let advice = match scheme {
            "http" | "https" => format!("write docker://{rest} for a registry (and --insecure for one without TLS)"),
            "file" => "write oci:DIR, oci-archive:FILE, docker-archive:FILE or dir:PATH".to_owned(),
            _ => format!("the transports are {}", transports()),
        };
        return Err(format!("the transport `{scheme}://` is not known: {advice}"));
    }
    refuse_file_names(text)?;
    Ok(Reference::Registry(parse_image(text)?))
}

fn parse_body(body: &str, transport: Transport) -> Parsed<Reference> {
    let prefix = transport.prefix();
    if body.is_empty() {
        return Err(format!("nothing follows `{prefix}`"));
    }
    match transport {
        Transport::Docker => {
            let name = parse_image(body)?;
            let registry = name.registry().to_owned();
            Ok(Reference::Registry(name.in_registry(&registry)))
        }
        Transport::Dir => Ok(Reference::Path { transport, path: body.to_owned(), selector: None }),
        Transport::Oci | Transport::OciArchive | Transport::DockerArchive => {
            // As skopeo: the first colon ends the path, and what follows may have colons of its own.
            let (path, selector) = match body.split_once(':') {
                Some((path, selector)) => (path, Some(selector)),
                None => (body, None),
            };
            if path.is_empty() {
                return Err(format!("there is no path between `{prefix}` and `:`"));
            }
            if selector == Some("") {
                return Err("nothing follows the last `:`; leave it out, or write a tag".to_owned());
            }
            Ok(Reference::Path { transport, path: path.to_owned(), selector: selector.map(str::to_owned) })
        }
        Transport::ContainersStorage | Transport::DockerDaemon | Transport::PodmanStorage => {
            // It becomes an argument of a command, where a dash would make it an option.
            let name = body.strip_prefix("//").unwrap_or(body);
            if name.starts_with('-') || name.is_empty() || name.contains(char::is_whitespace) {
                return Err(format!("`{}` is no image name", name.escape_debug()));
            }
            Ok(Reference::Engine { transport, name: name.to_owned() })
        }
    }
}

fn transports() -> String {
    let mut names: Vec<&str> = Vec::new();
    for (prefix, transport) in PREFIXES {
        if transport.prefix() == prefix {
            names.push(prefix);
        }
    }
    names.join(" ")
}

/// A bare word that looks like a file is more likely a forgotten prefix than an image's name.
fn refuse_file_names(text: &str) -> Parsed<()> {
    let path_like = text == "." || text == ".." || ["/", "./", "../", "~"].iter().any(|start| text.starts_with(start));
    let lower = text.to_ascii_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| lower.ends_with(ending));
    if ends(&[".sqsh", ".squashfs", ".erofs"]) {
        return Err(
            "it looks like an image in one file: `berth run` starts such a file where it is; it is not fetched \
                    into a store, and has no other name than its path"
                .to_owned(),
        );
    }
    if ends(&[".sif", ".simg"]) {
        return Err(
            "it looks like an image of Apptainer, which berth does not read: name the image by the registry it \
                    came from"
                .to_owned(),
        );
    }
    if ends(&[".tar", ".tar.gz", ".tgz", ".tar.zst"]) {
        return Err(format!(
            "it looks like a file: write docker-archive:{text} for what `docker save` wrote, or oci-archive:{text}"
        ));
    }
    if path_like {
        return Err(format!("it looks like a path: write dir:{text} for a directory, or oci:{text} for an OCI layout"));
    }
    Ok(())
}

fn parse_image(text: &str) -> Parsed<ImageName> {
    let (rest, digest) = split_digest(text)?;
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(parse_user(user)?), rest),
        None => (None, rest),
    };
    let (registry, rest) = split_registry(rest)?;
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    check_repository(repository)?;
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let name =
        ImageName { user, registry: None, repository: repository.to_owned(), tag: tag.map(str::to_owned), digest };
    let name = match registry {
        Some(registry) => name.in_registry(&parse_registry(registry)?),
        None => name,
    };
    // The path that is asked for counts, with the `library/` that may have been put before it.
    let length = name.registry().len() + 1 + name.repository.len() + "library/".len();
    if length > MAX_NAME {
        return Err(format!("the name has {length} bytes, and the limit is {MAX_NAME}"));
    }
    Ok(name)
}

/// Takes `@DIGEST` off the end.
fn split_digest(text: &str) -> Parsed<(&str, Option<Digest>)> {
    let Some((rest, last)) = text.rsplit_once('@') else { return Ok((text, None)) };
    // `USER@image:tag` has the same shape; only the two algorithms tell them apart.
    if !(last.starts_with("sha256:") || last.starts_with("sha512:")) || last.contains(['/', '#']) {
        return Ok((text, None));
    }
    match Digest::parse(last) {
        Ok(digest) => Ok((rest, Some(digest))),
        Err(Error::BadDigest { reason, .. }) => Err(format!(
            "the digest `{}` cannot be used: {reason}; copy it whole, as `sha256:` and 64 digits",
            shorten(last)
        )),
        Err(other) => Err(other.to_string()),
    }
}

fn parse_user(user: &str) -> Parsed<String> {
    if user.is_empty() {
        return Err("there is no user name before `@`".to_owned());
    }
    match user.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '/' | '#')) {
        Some(c) => Err(format!("`{}` cannot be in the user name before `@`", c.escape_debug())),
        None => Ok(user.to_owned()),
    }
}

/// enroot's rules: `#` always ends a registry; before a `/` it is one if it has a dot or a colon (or is `localhost`).
fn split_registry(text: &str) -> Parsed<(Option<&str>, &str)> {
    if let Some((registry, rest)) = text.split_once('#') {
        return match registry {
            "" => Err("there is no registry before `#`".to_owned()),
            _ => Ok((Some(registry), rest)),
        };
    }
    match text.split_once('/') {
        Some((first, rest)) if is_plainly_registry(first) => Ok((Some(first), rest)),
        _ => Ok((None, text)),
    }
}

fn is_plainly_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

/// Checks `host[:port]` and gives it in lower case.
pub(crate) fn parse_registry(registry: &str) -> Parsed<String> {
    let (host, port) = split_port(registry);
    if let Some(port) = port
        && !(port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0))
    {
        return Err(format!("`{}` is no port: it is a number from 1 to 65535", shorten(port)));
    }
    if let Some(inner) = host.strip_prefix('[') {
        return match inner.strip_suffix(']').map(str::parse::<std::net::Ipv6Addr>) {
            Some(Ok(_)) => Ok(registry.to_ascii_lowercase()),
            _ => Err(format!("`{}` is no IPv6 address; write [::1]:5000/image", shorten(host))),
        };
    }
    if let Some(c) = host.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))) {
        return Err(format!("`{}` cannot be in a registry's name (`{}`)", c.escape_debug(), shorten(registry)));
    }
    let label_ok =
        |label: &str| !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-');
    if !host.split('.').all(label_ok) {
        return Err(format!("`{}` is no host name", shorten(registry)));
    }
    Ok(registry.to_ascii_lowercase())
}

fn check_repository(repository: &str) -> Parsed<()> {
    if repository.is_empty() {
        return Err("there is no image name".to_owned());
    }
    if let Some((at, c)) = repository.chars().enumerate().find(|(_, c)| c.is_uppercase()) {
        return Err(format!(
            "upper-case letter `{c}` at character {} of `{}`: image names are lower case; write {}",
            at + 1,
            shorten(repository),
            shorten(&repository.to_lowercase())
        ));
    }
    for part in repository.split('/') {
        if part.is_empty() {
            return Err(format!("`{}` has an empty part: there is a `/` too many", shorten(repository)));
        }
        if let Some(c) = part.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-')) {
            return Err(format!(
                "`{}` cannot be in an image name (`{}`): letters, digits and . _ - are allowed",
                c.escape_debug(),
                shorten(repository)
            ));
        }
        check_separators(part)?;
    }
    Ok(())
}

/// Between letters and digits: one dot, one or two underscores, or any number of dashes.
fn check_separators(part: &str) -> Parsed<()> {
    let word = |b: u8| b.is_ascii_alphanumeric();
    let (first, last) = (part.as_bytes()[0], part.as_bytes()[part.len() - 1]);
    if !word(first) || !word(last) {
        return Err(format!("`{}` begins or ends with a separator: it must be a letter or digit", shorten(part)));
    }
    let fits = |run: &str| run.is_empty() || matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-');
    match part.split(|c: char| c.is_ascii_alphanumeric()).find(|run| !fits(run)) {
        Some(run) => Err(format!("`{}` has `{}` in it, which no image name may have", shorten(part), shorten(run))),
        None => Ok(()),
    }
}

fn check_tag(tag: &str) -> Parsed<()> {
    if tag.is_empty() {
        return Err("nothing follows the last `:`; leave it out, or write a tag".to_owned());
    }
    if tag.len() > MAX_TAG {
        return Err(format!("the tag has {} bytes, and the limit is {MAX_TAG}", tag.len()));
    }
    if let Some(c) = tag.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(format!(
            "`{}` cannot be in a tag (`{}`): letters, digits and . _ - are allowed",
            c.escape_debug(),
            tag
        ));
    }
    if tag.starts_with(['.', '-']) {
        return Err(format!("the tag `{tag}` begins with `{}`: it must be a letter, a digit or _", &tag[..1]));
    }
    Ok(())
}

/// Text from outside, safe for a terminal and short.
fn shorten(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
