//! Two fresh users, and files of accounts that are the test's own.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use testbed::cover::Cover;
use testbed::fixture::Fixture;
use testbed::process;
use testbed::process::Output;
use testbed::user::User;

/// Two fresh users, and files of accounts that are the test's own.
pub struct World {
    _etc: Cover,
    pub fixture: Fixture,
    pub alice: User,
    pub bob: User,
}

impl World {
    /// Neither user has an entry, and the tools read the files.
    pub fn new() -> World {
        let mut fixture = Fixture::new();
        let etc = Cover::over("/etc");
        // Other tests have an /etc of their own, but the processes of all are in one place: a uid of each.
        let uid = 10_000 + std::process::id() % 10_000 * 2;
        let user = |tag: &str, uid: u32| {
            let name = format!("berth-e2e-{}{tag}", std::process::id());
            let home = fixture.path(&format!("home-{tag}"));
            sh(&format!("useradd -M -U -u {uid} -d {} -s /bin/sh {name}", home.display()));
            fs::create_dir(&home).expect("a new folder");
            let user = User::named(&name).expect("useradd made the account");
            user.own(&home).expect("its owner");
            user
        };
        let (alice, bob) = (user("x", uid), user("y", uid + 1));
        for file in ["/etc/subuid", "/etc/subgid"] {
            fs::write(file, "").expect("a file of entries");
        }
        let _ = fs::remove_file("/etc/berth/subid.toml");
        fixture.user = alice.clone();
        for (name, mode) in [("home", 0o755), ("run", 0o700), ("tmp", 0o755), ("work", 0o755)] {
            fixture.make_dir(name, mode);
        }
        World { _etc: etc, fixture, alice, bob }
    }

    /// The tools ask our module and nothing else.
    pub fn with_module() -> World {
        let world = World::new();
        let built = Path::new(env!("CARGO_BIN_EXE_testbed")).with_file_name("libsubid_berth.so");
        assert!(built.exists(), "no {} (cargo build -p berth-subid makes it)", built.display());
        let libraries = world.fixture.path("lib");
        fs::create_dir(&libraries).expect("a new folder");
        fs::copy(&built, libraries.join("libsubid_berth.so")).expect("a copy of the module");
        // newuidmap runs as root and so looks in no place but the system's: this makes it one.
        fs::write("/etc/ld.so.conf.d/berth-e2e.conf", format!("{}\n", libraries.display())).expect("a list of folders");
        sh("ldconfig -X");
        let text = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
        fs::write("/etc/nsswitch.conf", format!("{text}\nsubid: berth\n")).expect("a list of services");
        world
    }

    /// berth as root.
    pub fn berth(&self, arguments: &[&str]) -> Output {
        process::run(Command::new(self.fixture.program("berth")).args(arguments).env("LC_ALL", "C"))
    }

    /// A folder that anybody may enter, and a user's own in it.
    pub fn tree(&self, user: &User) -> PathBuf {
        let tree = self.fixture.path("trees").join(&user.name);
        fs::create_dir_all(&tree).expect("a new folder");
        chown(&tree, Some(user.uid), Some(user.gid)).expect("an owner");
        tree
    }

    pub fn migrate(&self) -> Command {
        let mut command = Command::new(self.fixture.program("berth"));
        command.args(["subid", "migrate", "--apply", "--tree"]).arg(self.fixture.path("trees/%u"));
        command.arg("--journal").arg(self.fixture.path("journal"));
        command
    }
}

#[track_caller]
pub fn sh(script: &str) -> String {
    process::run(Command::new("sh").args(["-c", script])).ok()
}

/// First id by the built-in rule.
pub fn first(user: &User) -> u64 {
    u64::from(user.uid) * 65_536
}

/// A shell as the user, who is root inside, with ids of the host from `from` on as 1, 2, …, by the real newuidmap.
pub fn in_namespace(user: &User, from: u64, count: u64, script: &str) -> Output {
    let map = format!("{from},1,{count}");
    let mut command = user.command("unshare");
    command.args(["--user", "--map-root-user", "--map-users", &map, "--map-groups", &map, "sh", "-c", script]);
    process::run(&mut command)
}

/// A shell as exactly one id of the host, which newuidmap must give.
pub fn as_id(user: &User, id: u64, script: &str) -> Output {
    let map = format!("{id},0,1");
    let mut command = user.command("unshare");
    command.args(["--user", "--map-users", &map, "--map-groups", &map, "--setuid", "0", "--setgid", "0"]);
    process::run(command.args(["sh", "-c", script]))
}
