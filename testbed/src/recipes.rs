//! The images that the tests and benchmarks use, made from the distribution's packages and kept in a cache folder.

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;
use serde_json::json;

use crate::apt::Apt;
use crate::apt::System;
use crate::image::Compression;
use crate::image::Layer;
use crate::image::Layout;
use crate::odd;
use crate::slurm::Release;
use crate::slurm::root;
use crate::tar::Header;

/// Raised when a recipe changes, so that old caches are not taken for new ones.
const VERSION: u32 = 4;

/// gzip as most builders make it.
const GZIP: Compression = Compression::Gzip(6);

/// Packages that every Debian has, as there is no `Essential` list to ask before the first update.
const BASE: &[&str] = &[
    "apt",
    "base-files",
    "base-passwd",
    "bash",
    "bsdutils",
    "coreutils",
    "dash",
    "debian-archive-keyring|ubuntu-keyring",
    "debianutils",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "libc-bin",
    "login",
    "mawk",
    "mount",
    "ncurses-base",
    "ncurses-bin",
    "passwd",
    "perl-base",
    "sed",
    "sysvinit-utils",
    "tar",
    "util-linux",
];

/// What the second to fourth layers of the medium image add.
const MEDIUM: [&[&str]; 3] = [
    &["python3", "python3-pip", "python3-venv", "ca-certificates", "curl"],
    &["build-essential", "pkg-config", "git"],
    &["python3-numpy", "python3-yaml", "python3-requests", "openmpi-bin", "libopenmpi-dev"],
];

/// What the layers of the large image add to those of the medium one.
const LARGE: [&[&str]; 3] = [
    &["clang", "llvm-dev", "libclang-dev", "gfortran", "cmake", "ninja-build", "libboost-all-dev", "golang", "rustc"],
    &["python3-torch", "python3-scipy", "python3-pandas", "python3-sklearn", "python3-matplotlib", "openjdk-17-jdk"],
    &["linux-headers-amd64|linux-headers-generic", "texlive-latex-extra", "texlive-fonts-recommended", "ghc", "nodejs"],
];

/// Where images are kept: `BERTH_TESTBED_CACHE`, or `berth-testbed` in the user's cache folder.
pub fn cache() -> PathBuf {
    let home = || {
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from).join("berth-testbed")
    };
    std::env::var_os("BERTH_TESTBED_CACHE").map_or_else(home, PathBuf::from)
}

/// An image that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// busybox alone, one layer.
    Small,
    /// A static program alone: no shell, no library, no /etc.
    Distroless,
    /// The layer of the small image, with a configuration that says something of everything.
    Configured,
    /// Whatever a layer may hold: see [`crate::odd`].
    Odd,
    /// The small image as vendors of frameworks make theirs: an entry point, a working directory, variables.
    Framework,
    /// Debian's OpenMPI, which speaks PMIx alone, with Python to write programs in.
    Mpi,
    /// Likewise of a later Debian: OpenMPI 5, with a PMIx of its own.
    Mpi5,
    /// Debian's MPICH, which speaks PMI and PMI2, with Python to call its library from.
    Mpich,
    /// The lowest layer of the medium image.
    Debian,
    /// The demo's: Debian with Python, three layers.
    Python,
    /// Five layers, Debian with Python and build tools, about 25,000 files.
    Medium,
    /// Eight layers, about 4 GB, over 60,000 files.
    Large,
}

impl Recipe {
    /// The tag in the layout and, with that of the registry, the image's name.
    pub fn name(self) -> &'static str {
        match self {
            Recipe::Small => "small",
            Recipe::Distroless => "distroless",
            Recipe::Configured => "configured",
            Recipe::Odd => "odd",
            Recipe::Framework => "framework",
            Recipe::Mpi => "mpi",
            Recipe::Mpi5 => "mpi5",
            Recipe::Mpich => "mpich",
            Recipe::Debian => "debian",
            Recipe::Python => "python",
            Recipe::Medium => "medium",
            Recipe::Large => "large",
        }
    }

    /// The recipe of that name.
    pub fn named(name: &str) -> Option<Recipe> {
        use Recipe::*;
        [Small, Distroless, Configured, Odd, Framework, Mpi, Mpi5, Mpich, Debian, Python, Medium, Large]
            .into_iter()
            .find(|recipe| recipe.name() == name)
    }
}

/// The images of a cache folder.
#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
    /// The layout with all images.
    pub layout: Layout,
}

impl Images {
    /// Opens the cache folder and makes what it lacks. One process at a time makes; others wait for it.
    pub fn ensure(cache: &Path, recipes: &[Recipe]) -> io::Result<Images> {
        let dir = cache.join(format!("v{VERSION}"));
        fs::create_dir_all(&dir)?;
        let lock = File::create(dir.join("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
        let images = Images { layout: Layout::create(&dir.join("images"))?, dir };
        for recipe in recipes {
            if images.layout.find(recipe.name()).is_err() {
                images.make(*recipe)?;
            }
        }
        Ok(images)
    }

    /// The apt of this cache.
    pub fn apt(&self) -> io::Result<Apt> {
        Apt::open(&self.dir.join("apt"))
    }

    /// docker-registry, unpacked from its package for those who have not installed it.
    pub fn registry_program(&self) -> io::Result<PathBuf> {
        let dir = self.dir.join("docker-registry");
        let program = dir.join("usr/bin/docker-registry");
        if !program.exists() {
            self.apt()?.unpack(&["docker-registry"], &dir)?;
        }
        Ok(program)
    }

    fn make(&self, recipe: Recipe) -> io::Result<()> {
        eprintln!("testbed: making the image {} in {}", recipe.name(), self.dir.display());
        let layout = &self.layout;
        match recipe {
            Recipe::Small | Recipe::Configured => {
                let busybox = self.busybox()?;
                let layer = layout.layer(GZIP, |tar| busybox_layer(&busybox, tar))?;
                layout.image("small", std::slice::from_ref(&layer), &json!({"Cmd": ["sh"], "Env": [PATH]}))?;
                layout.image("configured", &[layer], &medium_config())?;
            }
            Recipe::Distroless => {
                let busybox = self.busybox()?;
                let layer = layout.layer(GZIP, |tar| {
                    tar.file(&Header::file("busybox", 0o755), &fs::read(&busybox)?)?;
                    Ok(())
                })?;
                layout.image("distroless", &[layer], &json!({"Entrypoint": ["/busybox", "echo"], "Cmd": ["alone"]}))?;
            }
            Recipe::Odd => odd::make(layout)?,
            Recipe::Framework => {
                let busybox = self.busybox()?;
                let layers = [
                    layout.layer(GZIP, |tar| busybox_layer(&busybox, tar))?,
                    layout.layer(GZIP, |tar| {
                        for name in ["opt/", "opt/vendor/", "workspace/", "usr/", "usr/bin/"] {
                            tar.entry(&Header::dir(name, 0o755))?;
                        }
                        for (name, content) in FRAMEWORK_PROGRAMS {
                            tar.file(&Header::file(name, 0o755), content.as_bytes())?;
                        }
                        Ok(())
                    })?,
                ];
                layout.image("framework", &layers, &framework_config())?;
            }
            Recipe::Mpi | Recipe::Mpich => {
                let packages: &[&str] = match recipe {
                    Recipe::Mpi => &["openmpi-bin", "python3-mpi4py"],
                    _ => &["libmpich12|libmpich12t64", "python3"],
                };
                let layers = self.system(&mut System::default(), &[BASE, packages], &[])?;
                layout.image(recipe.name(), &layers, &json!({"Cmd": ["bash"], "Env": [PATH]}))?;
            }
            Recipe::Mpi5 => {
                // Another release's packages are not in this machine's lists.
                let layer =
                    layout.raw_layer(GZIP, |out| later_system(Release::Trixie, "openmpi-bin,python3-mpi4py", out))?;
                layout.image("mpi5", &[layer], &json!({"Cmd": ["bash"], "Env": [PATH]}))?;
            }
            Recipe::Debian | Recipe::Medium => {
                let layers = self.medium()?;
                layout.image("debian", &layers[..1], &json!({"Cmd": ["bash"], "Env": [PATH]}))?;
                layout.image("medium", &layers, &medium_config())?;
            }
            Recipe::Python => {
                let mut system = System::default();
                let layers = self.system(&mut system, &[BASE, &["python3-minimal"], &["python3"]], &[])?;
                let config = json!({"Cmd": ["python3"], "Env": [PATH, "LANG=C.UTF-8"]});
                layout.image("python", &layers, &config)?;
            }
            Recipe::Large => {
                let mut system = System::default();
                let mut groups = vec![BASE];
                groups.extend(MEDIUM);
                groups.extend(LARGE);
                let mut layers = self.system(&mut system, &groups, LARGE_SKIPS)?;
                layers.push(layout.layer(GZIP, last_layer)?);
                layout.image("large", &layers, &medium_config())?;
            }
        }
        Ok(())
    }

    fn medium(&self) -> io::Result<Vec<Layer>> {
        let mut groups = vec![BASE];
        groups.extend(MEDIUM);
        let mut layers = self.system(&mut System::default(), &groups, &[])?;
        layers.push(self.layout.layer(GZIP, last_layer)?);
        Ok(layers)
    }

    /// One layer for each group of packages, with what it depends on and no lower layer has.
    fn system(&self, system: &mut System, groups: &[&[&str]], skips: &[&str]) -> io::Result<Vec<Layer>> {
        let apt = self.apt()?;
        let mut wanted = Vec::new();
        let mut layers = Vec::new();
        for group in groups {
            for package in *group {
                // "this, or that where this is not known"
                let known = package.split('|').find(|name| apt.knows(name));
                wanted.extend(known.or_else(|| package.split('|').next()).filter(|name| !skips.contains(name)));
            }
            let archives = apt.fetch(&wanted)?;
            layers.push(self.layout.layer(GZIP, |tar| system.install(&archives, tar))?);
        }
        Ok(layers)
    }

    fn busybox(&self) -> io::Result<PathBuf> {
        let dir = self.dir.join("busybox");
        let program =
            ["bin/busybox", "usr/bin/busybox"].map(|name| dir.join(name)).into_iter().find(|path| path.exists());
        if let Some(program) = program {
            return Ok(program);
        }
        self.apt()?.unpack(&["busybox-static"], &dir)?;
        ["bin/busybox", "usr/bin/busybox"]
            .map(|name| dir.join(name))
            .into_iter()
            .find(|path| path.exists())
            .ok_or_else(|| io::Error::other("no busybox in busybox-static"))
    }
}

/// Nothing is left out of the large image today.
const LARGE_SKIPS: &[&str] = &[];

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn medium_config() -> Value {
    json!({
        "Env": [PATH, "LANG=C.UTF-8", "GREETING=hello from the image"],
        "Cmd": ["sh"],
        "WorkingDir": "/opt/app",
        "Labels": {"org.example.purpose": "test"},
        "StopSignal": "SIGINT",
    })
}

/// What an entry point does (it says something, sets something, and becomes the command), and stand-ins for the programs
/// that people start in such images.
const FRAMEWORK_PROGRAMS: [(&str, &str); 3] = [
    ("opt/vendor/entry.sh", "#!/bin/sh\necho \"the entry point runs $*\"\nexport FROM_ENTRY=yes\nexec \"$@\"\n"),
    ("usr/bin/python", "#!/bin/sh\n[ \"$1\" = -c ] && echo \"$PYTORCH_VERSION\"\n"),
    ("usr/bin/nvidia-smi", "#!/bin/sh\necho 'NVIDIA-SMI of the image'\n"),
];

fn framework_config() -> Value {
    json!({
        "Entrypoint": ["/opt/vendor/entry.sh"],
        "Cmd": ["sh"],
        "Env": [PATH, "PYTORCH_VERSION=1.11.0a0+b6df043", "FROM_IMAGE=yes", "LANG=C.UTF-8", "EDITOR=vi"],
        "WorkingDir": "/workspace",
    })
}

/// Packages of a release with what they depend on, unpacked and not configured, as an archive.
fn later_system(release: Release, packages: &str, out: &mut dyn io::Write) -> io::Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=extract", "--format=tar"]);
    command.arg("--aptopt=APT::Install-Recommends \"false\"");
    command
        .arg(format!("--setup-hook={}", root::MERGE))
        .arg(format!("--include=base-files,bash,coreutils,libc-bin,{packages}"));
    command.arg(release.suite()).arg("-").arg(root::mirror()?).env("LC_ALL", "C");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    io::copy(child.stdout.as_mut().expect("a pipe"), out)?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("mmdebstrap: {status}"))) }
}

fn busybox_layer(busybox: &Path, tar: &mut crate::image::LayerWriter<'_>) -> io::Result<()> {
    for name in ["bin/", "etc/", "dev/", "proc/", "sys/", "root/", "home/", "var/"] {
        tar.entry(&Header::dir(name, 0o755))?;
    }
    tar.entry(&Header::dir("tmp/", 0o1777))?;
    tar.file(&Header::file("bin/busybox", 0o755), &fs::read(busybox)?)?;
    let applets = crate::process::run(std::process::Command::new(busybox).arg("--list")).ok();
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        tar.entry(&Header::hard(format!("bin/{applet}"), "bin/busybox", 0o755))?;
    }
    tar.file(
        &Header::file("etc/passwd", 0o644),
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    tar.file(&Header::file("etc/group", 0o644), b"root:x:0:\nnogroup:x:65534:\n")?;
    Ok(())
}

/// What an image's own files do to the layers below: additions, a user, and removals.
fn last_layer(tar: &mut crate::image::LayerWriter<'_>) -> io::Result<()> {
    for name in ["opt/", "opt/app/", "opt/app/data/"] {
        tar.entry(&Header::dir(name, 0o755).owner(1000, 1000))?;
    }
    for number in 0..6000usize {
        let text = format!("line {number}\n").repeat(number % 500);
        tar.file(&Header::file(format!("opt/app/data/{number:04}.txt"), 0o644).owner(1000, 1000), text.as_bytes())?;
    }
    tar.file(
        &Header::file("opt/app/hello.py", 0o755),
        b"import platform\nprint('hello from Python', platform.python_version())\n",
    )?;
    tar.entry(&Header::dir("home/", 0o755))?;
    tar.entry(&Header::dir("home/app/", 0o750).owner(1000, 1000))?;
    tar.entry(&Header::dir("usr/", 0o755))?.entry(&Header::dir("usr/share/", 0o755))?;
    tar.file(&Header::file("usr/share/.wh.man", 0), b"")?;
    tar.entry(&Header::dir("usr/share/lintian/", 0o755))?;
    tar.file(&Header::file("usr/share/lintian/.wh..wh..opq", 0), b"")?;
    tar.file(&Header::file("usr/share/lintian/kept", 0o644), b"")?;
    Ok(())
}
