//! Registries that the hosts of a box reach by the names of public ones, so that what people type for those works word for
//! word and nothing leaves the box.
//!
//! A registry is Debian's docker-registry, a program of this machine, in the network namespace of the box's host `ctl`. Every
//! box resolves [`NAMES`] to that host and trusts the authority that signed the certificate of the test run.

use std::fs;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use super::Cluster;
use super::config;
use crate::recipes;
use crate::recipes::Images;
use crate::recipes::Recipe;
use crate::registry;
use crate::registry::Options;
use crate::registry::Place;
use crate::registry::Registry;

/// Name under which a test runner tells its tests where the storage of the registries is.
pub const STORAGE: &str = "BERTH_SLURM_STORAGE";

/// The folder, beside the programs of a test run, with the certificate of the registries.
pub const CERTIFICATE: &str = "certificate";

/// Host names that are the registries' in every box. The last is nobody's.
pub const NAMES: [&str; 7] =
    ["nvcr.io", "docker.io", "registry-1.docker.io", "index.docker.io", "ghcr.io", "quay.io", "registry.test"];

/// User and password of the registry that asks for them.
pub const LOGIN: (&str, &str) = ("alice", "secret");

/// What the registries serve: which image, in which repository, by which tag.
pub const IMAGES: [(Recipe, &str, &str); 14] = [
    (Recipe::Small, "library/small", "latest"),
    (Recipe::Small, "library/rockylinux", "8"),
    (Recipe::Small, "team/small", "1.0"),
    (Recipe::Distroless, "library/distroless", "latest"),
    (Recipe::Framework, "nvidia/pytorch", "21.12-py3"),
    (Recipe::Framework, "nvidia/cuda", "11.6.2-base-ubuntu20.04"),
    (Recipe::Framework, "library/framework", "latest"),
    (Recipe::Debian, "library/debian", "12"),
    (Recipe::Debian, "team/layers", "latest"),
    (Recipe::Configured, "library/configured", "latest"),
    (Recipe::Mpi, "library/mpi", "latest"),
    (Recipe::Mpi5, "library/mpi", "5"),
    (Recipe::Mpich, "library/mpich", "latest"),
    (Recipe::Odd, "library/odd", "latest"),
];

/// A way to reach the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By TLS, at the port where public registries are.
    Public,
    /// By plain http at `registry.test:5000`, which the boxes' `registries.conf` allows.
    Plain,
    /// By TLS at `registry.test:5001`, for [`LOGIN`] only.
    Login,
}

impl Kind {
    fn port(self) -> u16 {
        match self {
            Kind::Public => 443,
            Kind::Plain => 5000,
            Kind::Login => 5001,
        }
    }
}

/// `registries.conf` of every box.
pub const REGISTRIES_CONF: &str = "[[registry]]\nlocation = \"registry.test:5000\"\ninsecure = true\n";

/// Makes the certificate of a test run in the folder of its programs.
pub fn certificate(programs: &Path) -> io::Result<()> {
    let dir = programs.join(CERTIFICATE);
    fs::create_dir_all(&dir)?;
    let names: Vec<String> = NAMES.iter().map(|name| format!("DNS:{name}")).collect();
    registry::certificate(&dir, &names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Makes the images and a storage that has them; gives the storage, which is only read afterwards.
pub fn storage() -> io::Result<PathBuf> {
    let wanted: Vec<Recipe> = IMAGES.iter().map(|(recipe, ..)| *recipe).collect();
    let layout = Images::ensure(&recipes::cache(), &wanted)?.layout;
    let storage = layout.dir().with_file_name("slurm-storage");
    fs::create_dir_all(&storage)?;
    let lock = File::create(storage.with_extension("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let mark = storage.join("filled");
    let mut content = String::new();
    for (recipe, repository, tag) in IMAGES {
        content.push_str(&format!("{} {repository} {tag}\n", layout.find(recipe.name())?.digest));
    }
    if fs::read_to_string(&mark).is_ok_and(|old| old == content) {
        return Ok(storage);
    }
    let work = tempfile::tempdir()?;
    let registry = Registry::start(work.path(), &storage, &Options::default())?;
    for (recipe, repository, tag) in IMAGES {
        layout.push_as(recipe.name(), registry.address(), repository, &[tag])?;
    }
    fs::write(mark, content)?;
    Ok(storage)
}

/// Starts a registry in a box.
pub fn start(cluster: &Cluster, programs: &Path, storage: &Path, kind: Kind) -> io::Result<Registry> {
    let address: Ipv4Addr = format!("{}.254", config::NETWORK).parse().map_err(io::Error::other)?;
    let place = Place {
        process: cluster.init,
        address: SocketAddr::from((address, kind.port())),
        certificate: programs.join(CERTIFICATE),
    };
    let login = (kind == Kind::Login).then(|| (LOGIN.0.to_owned(), LOGIN.1.to_owned()));
    let options = Options { tls: kind != Kind::Plain, login, program: None, place: Some(place) };
    let work = cluster.scratch.path().join(format!("registry-{}", kind.port()));
    Registry::start(&work, storage, &options)
}
