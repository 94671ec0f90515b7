//! What an end-to-end test has: a folder and a user of its own, the images, a registry that serves them, and berth.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness;
use crate::harness::Prepared;
use crate::image::Layout;
use crate::process;
use crate::process::Output;
use crate::recipes;
use crate::recipes::Images;
use crate::recipes::Recipe;
use crate::registry::Options;
use crate::registry::Registry;
use crate::tree::Tree;
use crate::user::User;

/// Images that the tests use.
const RECIPES: [Recipe; 6] =
    [Recipe::Small, Recipe::Configured, Recipe::Distroless, Recipe::Odd, Recipe::Debian, Recipe::Medium];

/// Names under which the runner tells its tests what it made.
const PROGRAMS: &str = "BERTH_E2E_PROGRAMS";
const LAYOUT: &str = "BERTH_E2E_LAYOUT";
const STORAGE: &str = "BERTH_E2E_STORAGE";
const USER: &str = "BERTH_E2E_USER";
const BARE_USER: &str = "BERTH_E2E_BARE_USER";

/// Accounts and programs for one run of the tests; removed when dropped.
#[derive(Debug)]
pub struct Run {
    _programs: tempfile::TempDir,
    users: Vec<User>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.users.iter().for_each(User::remove);
    }
}

/// Makes the images, the storage of the registry, copies of the programs that other users can start and, as root, two
/// users. `testbed` is the path of the command of that name.
pub fn prepare(testbed: &str) -> io::Result<Prepared<Run>> {
    let berth = berth_program(testbed)?;
    let images = Images::ensure(&recipes::cache(), &RECIPES)?;
    let storage = images.layout.dir().with_file_name("storage");
    fill_storage(&images.layout, &storage)?;
    let programs = shared_dir("berth-e2e-bin-")?;
    fs::copy(testbed, programs.path().join("testbed"))?;
    fs::copy(&berth, programs.path().join("berth"))?;
    std::os::unix::fs::symlink("berth", programs.path().join("berth-runtime"))?;
    let mut run = Run { users: Vec::new(), _programs: programs };
    let mut env: Vec<(&'static str, OsString)> =
        vec![(PROGRAMS, run._programs.path().into()), (LAYOUT, images.layout.dir().into()), (STORAGE, storage.into())];
    if rustix::process::getuid().is_root() {
        User::remove_stale();
        for (key, tag, sub_ids) in [(USER, "a", true), (BARE_USER, "b", false)] {
            let user = User::create(tag, sub_ids)?;
            env.push((key, user.name.clone().into()));
            run.users.push(user);
        }
    }
    Ok(Prepared { env, keep: run })
}

/// The command that is tested: `BERTH_BIN`, or `berth` beside the `testbed` command.
pub fn berth_program(testbed: &str) -> io::Result<PathBuf> {
    let path = env::var_os("BERTH_BIN").map_or_else(|| Path::new(testbed).with_file_name("berth"), PathBuf::from);
    if path.exists() {
        return Ok(path);
    }
    Err(io::Error::other(format!("no {} (cargo build -p berth makes it)", path.display())))
}

/// The plugin that is tested: `BERTH_SPANK`, or `libspank_berth.so` beside the `testbed` command.
pub fn spank_plugin(testbed: &str) -> io::Result<PathBuf> {
    let beside = || Path::new(testbed).with_file_name("libspank_berth.so");
    let path = env::var_os("BERTH_SPANK").map_or_else(beside, PathBuf::from);
    if path.exists() {
        return Ok(path);
    }
    Err(io::Error::other(format!("no {} (cargo build -p berth-spank makes it)", path.display())))
}

fn fill_storage(layout: &Layout, storage: &Path) -> io::Result<()> {
    let mark = storage.join("filled");
    let index = fs::read(layout.dir().join("index.json"))?;
    if fs::read(&mark).is_ok_and(|old| old == index) {
        return Ok(());
    }
    let work = tempfile::tempdir()?;
    let registry = Registry::start(work.path(), storage, &Options::default())?;
    for recipe in RECIPES {
        layout.push(recipe.name(), registry.address(), recipe.name())?;
    }
    fs::write(mark, index)
}

/// A new folder that every user can enter.
pub fn shared_dir(prefix: &str) -> io::Result<tempfile::TempDir> {
    // Lower case, as podman takes the name of a layout for that of a repository.
    let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
    let name = format!("{prefix}{}-{nanos:x}", std::process::id());
    let dir = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

fn told(name: &str) -> PathBuf {
    env::var_os(name).map(PathBuf::from).unwrap_or_else(|| panic!("the test runner sets {name}"))
}

/// One test's world.
#[derive(Debug)]
pub struct Fixture {
    dir: tempfile::TempDir,
    /// Who runs berth.
    pub user: User,
    /// Further environment of berth.
    pub env: Vec<(String, String)>,
}

impl Fixture {
    /// A world with an ordinary user who has subordinate ids where the run is root's, or else whoever runs the tests.
    pub fn new() -> Fixture {
        Fixture::with(env::var(USER).ok().and_then(|name| User::named(&name)).unwrap_or_else(User::current))
    }

    /// A world with an ordinary user without subordinate ids (needs root).
    pub fn without_sub_ids() -> Fixture {
        Fixture::with(env::var(BARE_USER).ok().and_then(|name| User::named(&name)).expect("a test that needs root"))
    }

    /// A world where berth is run by whoever runs the tests.
    pub fn as_oneself() -> Fixture {
        Fixture::with(User::current())
    }

    fn with(user: User) -> Fixture {
        let dir = shared_dir("berth-e2e-").expect("a temporary folder");
        let fixture = Fixture { dir, user, env: Vec::new() };
        for (name, mode) in [("home", 0o755), ("run", 0o700), ("tmp", 0o755), ("work", 0o755)] {
            fixture.make_dir(name, mode);
        }
        fixture
    }

    /// Makes a folder of the user's in the test's folder.
    pub fn make_dir(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a new folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        self.user.own(&path).expect("its owner");
        path
    }

    /// Writes a file of the user's in the test's folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a new file");
        self.user.own(&path).expect("its owner");
        path
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The user's home.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Where berth keeps this test's images.
    pub fn store(&self) -> PathBuf {
        self.home().join(".local/share/berth/store")
    }

    /// A registry that has all images; its log begins empty.
    pub fn registry(&self) -> Registry {
        self.registry_with(&Options::default())
    }

    /// The same with TLS or a login.
    pub fn registry_with(&self, options: &Options) -> Registry {
        // The storage is only read here, so that any number of servers share it.
        let work = tempfile::Builder::new().prefix("registry-").tempdir_in(self.dir.path()).expect("a folder").keep();
        fs::set_permissions(&work, fs::Permissions::from_mode(0o755)).expect("its mode");
        Registry::start(&work, &told(STORAGE), options).expect("a registry")
    }

    /// An empty registry to push to.
    pub fn own_registry(&self) -> Registry {
        let work = tempfile::Builder::new().prefix("registry-").tempdir_in(self.dir.path()).expect("a folder").keep();
        Registry::start(&work, &work.join("storage"), &Options::default()).expect("a registry")
    }

    /// The layout with all images (only root may be able to read it).
    pub fn images(&self) -> Layout {
        Layout::create(&told(LAYOUT)).expect("the layout that the runner made")
    }

    /// A new layout in the test's folder.
    pub fn layout(&self, name: &str) -> Layout {
        Layout::create(&self.path(name)).expect("a new layout")
    }

    /// A layout of the user's with one of the images.
    pub fn layout_of(&self, recipe: Recipe) -> Layout {
        let (all, own) = (self.images(), self.layout(recipe.name()));
        let manifest = all.find(recipe.name()).expect("the image");
        for part in all.parts(&manifest).expect("its manifest").iter().chain([&manifest]) {
            fs::copy(all.blob(&part.digest), own.blob(&part.digest)).expect("a copy of a blob");
        }
        own.tag(recipe.name(), &manifest).expect("a tag");
        own
    }

    /// One of the images as `docker save` packs it, for the user, under its own name.
    pub fn archive_of(&self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}.tar"));
        self.images().docker_archive(name, &format!("{name}:latest"), &path).expect("an archive");
        self.user.own(&path).expect("its owner");
        path
    }

    /// The `testbed` command, for the user.
    pub fn testbed(&self) -> PathBuf {
        self.program("testbed")
    }

    /// A program of the project: `testbed`, `berth`, or `berth-runtime`, which is berth by the name that makes it a runtime.
    pub fn program(&self, name: &str) -> PathBuf {
        told(PROGRAMS).join(name)
    }

    /// A program run by the user, with the test's folders as home, temporary folder and run-time folder.
    pub fn command(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Command {
        let mut command = self.user.command(program);
        command.args(arguments).env("HOME", self.home()).env("TMPDIR", self.path("tmp"));
        command.env("XDG_RUNTIME_DIR", self.path("run")).current_dir(self.path("work"));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// berth, to be started.
    pub fn berth_command(&self, arguments: &[&str]) -> Command {
        self.command(told(PROGRAMS).join("berth"), arguments)
    }

    /// berth, run to its end.
    #[track_caller]
    pub fn berth(&self, arguments: &[&str]) -> Output {
        process::run(&mut self.berth_command(arguments))
    }

    /// berth, run to its end with something on its standard input.
    #[track_caller]
    pub fn berth_with(&self, arguments: &[&str], input: &[u8], limit: Duration) -> Output {
        process::run_with(&mut self.berth_command(arguments), input, limit)
    }

    /// `berth inspect` of one image.
    #[track_caller]
    pub fn inspect(&self, image: &str) -> Value {
        let text = self.berth(&["inspect", image]).ok();
        let all: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        all[0].clone()
    }

    /// The image's tree as the kernel merges berth's layers.
    #[track_caller]
    pub fn merged_tree(&self, image: &str) -> Tree {
        let inspected = self.inspect(image);
        let layers: Vec<&str> = inspected["Layers"]
            .as_array()
            .expect("layers")
            .iter()
            .map(|layer| layer["Path"].as_str().expect("the path of a layer"))
            .collect();
        let listed = process::run(&mut self.command(self.testbed(), &[&["layers"], &layers[..]].concat()));
        Tree::parse(&listed.ok())
    }

    /// A folder of the user's, listed as root of a user namespace, so that no mode hides anything.
    #[track_caller]
    pub fn tree(&self, dir: &Path) -> Tree {
        let mut command = self.command(self.testbed(), &["tree", "--namespace"]);
        Tree::parse(&process::run(command.arg(dir)).ok())
    }

    /// Files of berth's store that are neither a whole image nor part of one: what an interrupted import may leave.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for part in ["tmp", "leases"] {
            let entries = fs::read_dir(self.store().join(part)).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| entry.path()));
        }
        found
    }

    /// Names of the images in berth's store.
    #[track_caller]
    pub fn image_names(&self) -> Vec<String> {
        let text = self.berth(&["--json", "images"]).ok();
        let images: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        images.as_array().expect("a list").iter().map(|image| image["name"].as_str().unwrap_or("").to_owned()).collect()
    }
}

impl Drop for Fixture {
    /// Makes removable what the folder's own removal then takes: images have folders that forbid it, and podman's files
    /// belong to subordinate ids.
    fn drop(&mut self) {
        if rustix::process::getuid().is_root() {
            return;
        }
        let _ = process::run(Command::new("chmod").args(["-R", "u+rwX"]).arg(self.dir.path()));
        let podman = self.path("work").join("podman");
        if podman.exists() {
            let _ = process::run(Command::new("podman").args(["unshare", "rm", "-rf"]).arg(podman));
        }
    }
}

impl Default for Fixture {
    fn default() -> Self {
        Fixture::new()
    }
}

/// Whether a program that a test would like to compare with is there.
pub fn has(program: &str) -> bool {
    harness::found(program)
}
