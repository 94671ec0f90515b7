//! Sub-ids of a site with the real tools: our module alone, what the published schemes let users do to each other, and the way
//! out of them. Everything happens in an /etc of the test's own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::PODMAN;
use testbed::harness::REGISTRY;
use testbed::process;
use testbed::process::Output;
use testbed::user::User;

const GETSUBIDS: Need = Need::Program("getsubids", "uidmap");

chapter!("subid",
    [Need::Root, Need::Namespaces, GETSUBIDS]:
        with_the_module_alone_the_tools_know_a_fresh_user,
        with_the_module_nobody_gets_anothers_ids,
        a_rule_that_cannot_be_proven_gives_nobody_anything,
        neighbours_of_the_published_scheme_read_each_other_until_migrated,
        the_sequential_scheme_gives_accounts_away_until_migrated,
        a_killed_migration_goes_on,
        the_shadow_tools_and_berth_wait_for_each_other;
    [Need::Root, Need::Namespaces, GETSUBIDS, Need::Program("setfattr", "attr")]:
        a_migration_touches_nothing_but_the_users_own;
    [Need::Root, Need::Namespaces, GETSUBIDS, REGISTRY]:
        with_the_module_alone_berth_has_many_ids;
    [Need::Root, Need::Namespaces, GETSUBIDS, REGISTRY, PODMAN]:
        with_the_module_alone_podman_runs;
);

/// Two fresh users, and files of accounts that are the test's own.
struct World {
    fixture: Fixture,
    alice: User,
    bob: User,
}

impl World {
    /// Neither user has an entry, and the tools read the files.
    fn new() -> World {
        let mut fixture = Fixture::new();
        let dir = fixture.path("etc");
        fs::create_dir(&dir).expect("a new folder");
        sh(&format!(
            "mount -t tmpfs -o mode=755 tmpfs {0} && mkdir {0}/upper {0}/work && \
             mount -t overlay -o lowerdir=/etc,upperdir={0}/upper,workdir={0}/work overlay /etc",
            dir.display()
        ));
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
        World { fixture, alice, bob }
    }

    /// The tools ask our module and nothing else.
    fn with_module() -> World {
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
    fn berth(&self, arguments: &[&str]) -> Output {
        process::run(Command::new(self.fixture.program("berth")).args(arguments).env("LC_ALL", "C"))
    }

    /// A folder that anybody may enter, and a user's own in it.
    fn tree(&self, user: &User) -> PathBuf {
        let tree = self.fixture.path("trees").join(&user.name);
        fs::create_dir_all(&tree).expect("a new folder");
        chown(&tree, Some(user.uid), Some(user.gid)).expect("an owner");
        tree
    }

    fn migrate(&self) -> Command {
        let mut command = Command::new(self.fixture.program("berth"));
        command.args(["subid", "migrate", "--apply", "--tree"]).arg(self.fixture.path("trees/%u"));
        command.arg("--journal").arg(self.fixture.path("journal"));
        command
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The test's folder cannot be removed while this is mounted.
        let dir = self.fixture.path("etc");
        let _ = process::run(Command::new("umount").args(["-l", "/etc"]));
        let _ = process::run(Command::new("umount").arg("-l").arg(dir));
    }
}

#[track_caller]
fn sh(script: &str) -> String {
    process::run(Command::new("sh").args(["-c", script])).ok()
}

/// First id by the built-in rule.
fn first(user: &User) -> u64 {
    u64::from(user.uid) * 65_536
}

/// A shell as the user, who is root inside, with ids of the host from `from` on as 1, 2, …, by the real newuidmap.
fn in_namespace(user: &User, from: u64, count: u64, script: &str) -> Output {
    let map = format!("{from},1,{count}");
    let mut command = user.command("unshare");
    command.args(["--user", "--map-root-user", "--map-users", &map, "--map-groups", &map, "sh", "-c", script]);
    process::run(&mut command)
}

/// A shell as exactly one id of the host, which newuidmap must give.
fn as_id(user: &User, id: u64, script: &str) -> Output {
    let map = format!("{id},0,1");
    let mut command = user.command("unshare");
    command.args(["--user", "--map-users", &map, "--map-groups", &map, "--setuid", "0", "--setgid", "0"]);
    process::run(command.args(["sh", "-c", script]))
}

fn with_the_module_alone_the_tools_know_a_fresh_user() {
    let world = World::with_module();
    let (alice, from) = (&world.alice, first(&world.alice));
    for kind in [&[][..], &["-g"]] {
        let listed = process::run(Command::new("getsubids").args(kind).arg(&alice.name)).ok();
        assert_eq!(listed, format!("0: {} {from} 65536\n", alice.name));
    }
    let script =
        "touch /tmp/f$$ && chown 1234:33 /tmp/f$$ && stat -c %u:%g /tmp/f$$; rm -f /tmp/f$$; cat /proc/self/uid_map";
    let told = in_namespace(alice, from, 65_536, script).ok();
    assert!(told.starts_with("1234:33\n"), "{told}");
    let words: Vec<&str> = told.split_whitespace().collect();
    assert!(words.ends_with(&["1", &from.to_string(), "65536"]), "{told}");
    // unshare reads the files by itself, whatever the system asks: it needs the entries that `write` makes, with the same ids.
    let auto = |user: &User| {
        process::run(user.command("unshare").args([
            "--user",
            "--map-root-user",
            "--map-auto",
            "cat",
            "/proc/self/uid_map",
        ]))
    };
    let without = auto(alice);
    assert!(without.status.success() || without.stderr.contains("/etc/subuid"), "{}", without.report());
    world.berth(&["subid", "write", "--user", &alice.name]).ok();
    let map = auto(alice).ok();
    assert!(map.contains(&from.to_string()), "{map}");
}

fn with_the_module_nobody_gets_anothers_ids() {
    let world = World::with_module();
    let (alice, bob) = (&world.alice, &world.bob);
    assert_eq!(as_id(bob, first(bob) + 5, "id -u").ok(), "0\n");
    for id in [first(alice) + 5, first(bob) - 1, first(bob) + 65_536, u64::from(alice.uid), 0, 4_294_967_294] {
        let refused = as_id(bob, id, "id -u");
        assert!(!refused.status.success() && refused.stderr.contains("newuidmap"), "{id}: {}", refused.report());
    }
    // An entry in the files gives nothing: they are not asked.
    for file in ["/etc/subuid", "/etc/subgid"] {
        fs::write(file, format!("{}:{}:65536\n", bob.name, first(alice))).expect("an entry");
    }
    assert!(!as_id(bob, first(alice) + 5, "id -u").status.success());
    for nobody in ["root", "nobody", "daemon", "no-such-user"] {
        let listed = process::run(Command::new("getsubids").arg(nobody));
        assert!(!listed.stdout.contains("65536"), "{}", listed.report());
    }
}

fn a_rule_that_cannot_be_proven_gives_nobody_anything() {
    let world = World::with_module();
    fs::create_dir_all("/etc/berth").expect("a folder");
    let uid = world.alice.uid;
    let own = |text: &str| fs::write("/etc/berth/subid.toml", text).expect("a site file");
    let listed = || process::run(Command::new("getsubids").arg(&world.alice.name));
    own(&format!("[[bands]]\nuids = \"{uid}-{}\"\nbase = 3000000000\ncount = 70000\n", uid + 1));
    assert_eq!(listed().ok(), format!("0: {} 3000000000 70000\n", world.alice.name));
    assert_eq!(as_id(&world.alice, 3_000_069_999, "id -u").ok(), "0\n");
    own("[[bands]]\nuids = \"1000-70000\"\nbase = 65536000\n");
    assert!(!listed().stdout.contains(&world.alice.name), "{}", listed().report());
    let told = world.berth(&["subid", "plan"]).fails(125);
    assert!(told.contains("does not fit") && told.contains("hint: "), "{told}");
    // What others could write is not believed either.
    own(&format!("[[bands]]\nuids = \"{uid}-{}\"\nbase = 3000000000\n", uid + 1));
    fs::set_permissions("/etc/berth/subid.toml", fs::Permissions::from_mode(0o666)).expect("a mode");
    assert!(!listed().stdout.contains("3000000000"));
}

/// What installing needs that a namespace of one id could not give: several owners, set-user-id.
fn package() -> String {
    // A namespace of an ordinary user has no devices.
    crate::users::PACKAGE
        .replace("mknod /var/lib/probe/null c 1 3\n", "test \"$(stat -c %U /var/lib/probe)\" = probe\n")
}

fn with_the_module_alone_berth_has_many_ids() {
    let world = World::with_module();
    let fixture = &world.fixture;
    let registry = fixture.registry();
    let (small, debian) = (registry.reference("small"), registry.reference("debian"));
    fixture.berth(&["pull", &small, &debian]).ok();
    let script = "touch /f && chown 1000:33 /f && stat -c %u:%g /f; cat /proc/self/uid_map /proc/self/gid_map";
    let told = fixture.berth(&["run", "--subid", "--user", "root", &small, "sh", "-c", script]).ok();
    let words: Vec<&str> = told.split_whitespace().collect();
    let from = first(&world.alice).to_string();
    let (uid, gid) = (world.alice.uid.to_string(), world.alice.gid.to_string());
    assert_eq!(words, ["1000:33", "0", &uid, "1", "1", &from, "65536", "0", &gid, "1", "1", &from, "65536"]);
    let installed =
        fixture.berth(&["run", "--subid", "--user", "root", "--contained", &debian, "sh", "-c", &package()]);
    assert!(installed.stdout.ends_with("all done\n"), "{}", installed.report());
    // A uid that the rule does not know is told, whatever the files say.
    fs::create_dir_all("/etc/berth").expect("a folder");
    fs::write("/etc/berth/subid.toml", "[[bands]]\nuids = \"200000-200001\"\nbase = 1000000000\n")
        .expect("a site file");
    let told = fixture.berth(&["run", "--subid", &small, "true"]).fails(125);
    assert!(told.contains("is in no declared band (there are 200000-200001)"), "{told}");
}

fn with_the_module_alone_podman_runs() {
    let world = World::with_module();
    let fixture = &world.fixture;
    process::reap_for_ever("conmon");
    let podman = |arguments: &[&str]| {
        let mut command = fixture.command("podman", &[]);
        command.arg("--root").arg(fixture.path("work/podman")).arg("--runroot").arg(fixture.path("run/podman"));
        command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        process::run(command.args(arguments))
    };
    for image in ["small", "debian"] {
        let archive = fixture.archive_of(image);
        podman(&["load", "-q", "-i", archive.to_str().expect("a plain path")]).ok();
    }
    let run = ["run", "--rm", "--network=none", "--cgroups=disabled"];
    let script = "touch /f && chown 1000:33 /f && stat -c %u:%g /f; cat /proc/self/uid_map";
    let told = podman(&[&run[..], &["small", "sh", "-c", script]].concat()).ok();
    assert!(told.starts_with("1000:33\n") && told.contains(&first(&world.alice).to_string()), "{told}");
    let installed = podman(&[&run[..], &["debian", "sh", "-c", &package()]].concat());
    assert!(installed.stdout.ends_with("all done\n"), "{}", installed.report());
    let _ = process::run(Command::new("umount").arg("-l").arg(fixture.path("work/podman/overlay")));
}

/// The entries of the first published scheme, as its description has them: by name for user ids, by the number of the main group
/// for group ids.
fn write_times_ten_thousand(users: &[&User]) {
    let line = |key: &str, id: u32| format!("{key}:{}:65536\n", u64::from(id) * 10_000 + 1);
    let subuid: String = users.iter().map(|user| line(&user.name, user.uid)).collect();
    let subgid: String = users.iter().map(|user| line(&user.gid.to_string(), user.gid)).collect();
    fs::write("/etc/subuid", subuid).expect("entries");
    fs::write("/etc/subgid", subgid).expect("entries");
}

fn neighbours_of_the_published_scheme_read_each_other_until_migrated() {
    let world = World::new();
    let (alice, bob) = (&world.alice, &world.bob);
    assert_eq!((alice.gid, bob.gid), (alice.uid, bob.uid), "groups of their own");
    write_times_ten_thousand(&[alice, bob]);
    let tree = world.tree(alice);
    world.tree(bob);
    let from = u64::from(alice.uid) * 10_000 + 1;
    // What a container of alice's keeps: a secret of its user 20000, and a program with more rights.
    let script = format!(
        "cd {} && umask 077 && echo secret > key && chown 20000:20000 key && cp /bin/true tool && chown 5:5 tool && \
         chmod 4755 tool && ln -s /etc/passwd link && chown -h 7:7 link && chmod 755 .",
        tree.display()
    );
    in_namespace(alice, from, 65_536, &script).ok();
    let key = tree.join("key");
    let id = u64::from(fs::metadata(&key).expect("the key").uid());
    assert_eq!(id, from + 19_999);
    let read = format!("cat {}", key.display());

    // bob reads it by ids that are his own, as the files have it.
    assert!(!process::run(bob.command("cat").arg(&key)).status.success());
    assert_eq!(as_id(bob, id, &read).ok(), "secret\n");

    let found = world.berth(&["subid", "check"]);
    assert_eq!(found.code(), 1, "{}", found.report());
    assert!(
        found.stdout.contains(&format!("{} and {} share 55536 user ids", alice.name, bob.name)),
        "{}",
        found.stdout
    );
    assert!(
        found.stdout.contains(&format!("{} can read and change what {}'s containers keep", bob.name, alice.name))
            || found.stdout.contains(&format!("{} what {}'s keep as ids", bob.name, alice.name)),
        "{}",
        found.stdout
    );

    let listed = process::run(
        Command::new(world.fixture.program("berth"))
            .args(["subid", "migrate", "--list", "--tree"])
            .arg(world.fixture.path("trees/%u"))
            .arg("--journal")
            .arg(world.fixture.path("journal")),
    );
    let new = first(alice) + 19_999;
    assert!(listed.stdout.contains(&format!("{id}:{id} -> {new}:{new}  {}", key.display())), "{}", listed.report());
    assert_eq!(u64::from(fs::metadata(&key).expect("the key").uid()), id, "only told");

    let outside = fs::metadata("/etc/passwd").expect("a file").uid();
    let migrated = process::run(&mut world.migrate());
    assert!(migrated.status.success(), "{}", migrated.report());
    let owner = fs::metadata(&key).expect("the key");
    assert_eq!((u64::from(owner.uid()), u64::from(owner.gid())), (new, new));
    assert_eq!(fs::metadata(tree.join("tool")).expect("the program").mode() & 0o7777, 0o4755);
    assert_eq!(u64::from(fs::symlink_metadata(tree.join("link")).expect("the link").uid()), first(alice) + 6);
    assert_eq!(fs::metadata("/etc/passwd").expect("a file").uid(), outside);

    // Nothing is readable any more: not by the old ids, not by bob's new ones, not by alice's.
    for id in [id, new, first(bob) + 19_999] {
        assert!(!as_id(bob, id, &read).stdout.contains("secret"), "{id}");
    }
    assert_eq!(as_id(alice, new, &read).ok(), "secret\n");
    let found = world.berth(&["subid", "check"]);
    assert_eq!((found.code(), found.stdout.as_str()), (0, "nothing is wrong\n"), "{}", found.report());
    let again = process::run(&mut world.migrate()).ok();
    assert_eq!(again, "everybody has the range of the rule\n");
}

fn the_sequential_scheme_gives_accounts_away_until_migrated() {
    let world = World::new();
    let (alice, bob) = (&world.alice, &world.bob);
    // Somebody with a uid from the directory, which the second range holds.
    let text = fs::read_to_string("/etc/passwd").expect("accounts");
    fs::write("/etc/passwd", format!("{text}berth-e2e-ad:x:150000:150000::/nonexistent:/bin/sh\n")).expect("accounts");
    let entries = format!("{}:65536:65536\n{}:131072:65536\n", alice.name, bob.name);
    fs::write("/etc/subuid", &entries).expect("entries");
    fs::write("/etc/subgid", &entries).expect("entries");
    let tree = world.tree(bob);
    let secret = world.fixture.path("trees/secret");
    fs::write(&secret, "of the account\n").expect("a file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("a mode");
    chown(&secret, Some(150_000), Some(150_000)).expect("an owner");
    let read = format!("cat {}", secret.display());
    assert_eq!(as_id(bob, 150_000, &read).ok(), "of the account\n");
    in_namespace(bob, 131_072, 65_536, &format!("cd {} && touch own && chown 9:9 own", tree.display())).ok();
    let own = tree.join("own");
    let old = fs::metadata(&own).expect("a file").uid();

    // When alice leaves, everybody's range moves, and what bob's containers kept is somebody else's.
    let found = world.berth(&["subid", "check"]);
    assert_eq!(found.code(), 1);
    assert!(
        found.stdout.contains(&format!("{}'s range holds the user berth-e2e-ad (150000)", bob.name)),
        "{}",
        found.stdout
    );

    // The account has no range by the rule that is built in, and is told; everybody else is served.
    let migrated = process::run(&mut world.migrate());
    assert_eq!(migrated.code(), 1, "{}", migrated.report());
    assert!(
        migrated.stderr.contains("berth-e2e-ad stays as is: uid 150000 is in no declared band"),
        "{}",
        migrated.report()
    );
    assert_eq!(old, 131_072 + 8);
    assert_eq!(u64::from(fs::metadata(&own).expect("a file").uid()), first(bob) + 8);
    assert_eq!(fs::metadata(&secret).expect("a file").uid(), 150_000);
    assert!(!as_id(bob, 150_000, &read).stdout.contains("account"));
    let found = world.berth(&["subid", "check"]);
    assert_eq!((found.code(), found.stdout.as_str()), (0, "nothing is wrong\n"), "{}", found.report());
}

fn a_killed_migration_goes_on() {
    const FILES: u32 = 4000;
    let world = World::new();
    let alice = &world.alice;
    write_times_ten_thousand(&[alice, &world.bob]);
    let tree = world.tree(alice);
    let from = alice.uid * 10_000 + 1;
    for at in 0..FILES {
        let path = tree.join(at.to_string());
        fs::write(&path, "").expect("a file");
        chown(&path, Some(from + at), Some(from + at)).expect("an owner");
        if at % 40 == 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).expect("a mode");
        }
    }
    let mut killed = 0;
    for attempt in 1u32.. {
        let mut child = world.migrate().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a start");
        // Later each time, so that every part is interrupted and the last attempt is not.
        let ended = process::wait(&mut child, Duration::from_millis(u64::from(attempt) * 3));
        match ended {
            Ok((status, _)) => {
                assert!(status.success(), "{status}");
                break;
            }
            Err(_) => killed += 1,
        }
        assert!(attempt < 1000, "it never gets to the end");
    }
    assert!(killed > 0, "it was never interrupted");
    let new = first(alice);
    for at in 0..FILES {
        let file = fs::metadata(tree.join(at.to_string())).expect("a file");
        assert_eq!((u64::from(file.uid()), u64::from(file.gid())), (new + u64::from(at), new + u64::from(at)), "{at}");
        assert_eq!(file.mode() & 0o7777, if at % 40 == 0 { 0o6755 } else { 0o644 }, "{at}");
    }
    let entry = format!("{}:{new}:65536\n", alice.name);
    for file in ["/etc/subuid", "/etc/subgid"] {
        assert!(fs::read_to_string(file).expect("entries").starts_with(&entry));
    }
    assert!(!Path::new("/etc/subuid.lock").exists());
}

/// An access list as the kernel has it, in hexadecimal digits: everything for its owner, and for one further user and group.
fn access_list(user: u64, group: u64) -> String {
    let entries: [(u16, u32); 6] =
        [(1, u32::MAX), (2, user as u32), (4, u32::MAX), (8, group as u32), (16, u32::MAX), (32, u32::MAX)];
    let bytes =
        entries.iter().flat_map(|(tag, id)| [&tag.to_le_bytes()[..], &7u16.to_le_bytes(), &id.to_le_bytes()].concat());
    let digits: String = [2, 0, 0, 0].into_iter().chain(bytes).map(|byte: u8| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}

fn a_migration_touches_nothing_but_the_users_own() {
    const CAPABILITY: &str = "0x0100000200200000000000000000000000000000";
    let world = World::new();
    let (alice, bob) = (&world.alice, &world.bob);
    write_times_ten_thousand(&[alice, bob]);
    let (tree, elsewhere) = (world.tree(alice), world.fixture.path("trees/elsewhere"));
    fs::create_dir(&elsewhere).expect("a folder");
    let from = u64::from(alice.uid) * 10_000 + 1;
    let owned = |path: &Path, id: u64| {
        fs::write(path, "").expect("a file");
        chown(path, Some(id as u32), Some(id as u32)).expect("an owner");
    };
    // In both old ranges, and known by a name that is not in alice's tree.
    owned(&elsewhere.join("bobs"), from + 30_000);
    fs::hard_link(elsewhere.join("bobs"), tree.join("taken")).expect("a link");
    // Two names, both in the tree.
    owned(&tree.join("one"), from + 3);
    fs::hard_link(tree.join("one"), tree.join("two")).expect("a link");
    // An id that bob has and alice has not.
    owned(&tree.join("foreign"), from + 70_000);
    // A way out of the tree.
    owned(&elsewhere.join("outside"), from + 4);
    std::os::unix::fs::symlink(&elsewhere, tree.join("way")).expect("a link");
    // What a change of owner takes away, and what it leaves behind.
    owned(&tree.join("capable"), from + 5);
    let attribute = |name: &str, value: &str, file: &str| {
        process::run(Command::new("setfattr").args(["-n", name, "-v", value]).arg(tree.join(file))).ok();
    };
    attribute("security.capability", CAPABILITY, "capable");
    owned(&tree.join("listed"), from + 6);
    attribute("system.posix_acl_access", &access_list(from + 7, from + 8), "listed");
    // bob's tree is not his.
    std::os::unix::fs::symlink(&tree, world.fixture.path("trees").join(&bob.name)).expect("a link");

    let migrated = process::run(&mut world.migrate());
    assert!(migrated.status.success(), "{}", migrated.report());
    assert!(
        migrated.stdout.contains("it has links from elsewhere") && migrated.stdout.contains("1 files have ids"),
        "{}",
        migrated.stdout
    );
    let new = first(alice);
    let id = |path: PathBuf| u64::from(fs::symlink_metadata(path).expect("a file").uid());
    assert_eq!(id(elsewhere.join("bobs")), from + 30_000);
    assert_eq!(id(elsewhere.join("outside")), from + 4);
    assert_eq!(id(tree.join("foreign")), from + 70_000);
    assert_eq!([id(tree.join("one")), id(tree.join("two")), id(tree.join("capable"))], [new + 3, new + 3, new + 5]);
    assert_eq!(id(tree.clone()), u64::from(alice.uid));
    let shown = |name: &str, file: &str| {
        process::run(Command::new("getfattr").args(["-e", "hex", "-n", name]).arg(tree.join(file))).ok()
    };
    assert!(shown("security.capability", "capable").contains(CAPABILITY));
    let list = shown("system.posix_acl_access", "listed");
    assert!(list.contains(&access_list(new + 7, new + 8)), "{list}");
}

fn the_shadow_tools_and_berth_wait_for_each_other() {
    let world = World::new();
    // usermod adds entries of bob's one by one while berth adds alice's and takes nothing away.
    let bob = world.bob.name.clone();
    let adder = std::thread::spawn(move || {
        for at in 0..20u64 {
            let span = format!("{}-{}", 4_000_000_000 + at * 10, 4_000_000_000 + at * 10 + 9);
            process::run(Command::new("usermod").args(["--add-subuids", &span, "--add-subgids", &span, &bob])).ok();
        }
    });
    for _ in 0..20 {
        world.berth(&["subid", "write", "--user", &world.alice.name]).ok();
        let name = format!("{}:", world.alice.name);
        for file in ["/etc/subuid", "/etc/subgid"] {
            let text = fs::read_to_string(file).expect("entries");
            let kept: String = text.split_inclusive('\n').filter(|line| line.starts_with(&name)).collect();
            assert_eq!(kept, format!("{name}{}:65536\n", first(&world.alice)));
        }
    }
    adder.join().expect("every entry was added");
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).expect("entries");
        assert_eq!(text.lines().count(), 21, "{text}");
    }
}
