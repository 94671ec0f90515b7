//! What the published schemes let users do to each other, and the way out of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use testbed::process;
use testbed::user::User;

use super::world::World;
use super::world::as_id;
use super::world::first;
use super::world::in_namespace;

/// The entries of the first published scheme, as its description has them: by name for user ids, by the number of the main group
/// for group ids.
fn write_times_ten_thousand(users: &[&User]) {
    let line = |key: &str, id: u32| format!("{key}:{}:65536\n", u64::from(id) * 10_000 + 1);
    let subuid: String = users.iter().map(|user| line(&user.name, user.uid)).collect();
    let subgid: String = users.iter().map(|user| line(&user.gid.to_string(), user.gid)).collect();
    fs::write("/etc/subuid", subuid).expect("entries");
    fs::write("/etc/subgid", subgid).expect("entries");
}

pub fn neighbours_of_the_published_scheme_read_each_other_until_migrated() {
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

pub fn the_sequential_scheme_gives_accounts_away_until_migrated() {
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

/// The entries of the second published scheme, as its description has them: users by number, and groups by number, each one after the
/// other from 65536 on, in the order in which they are listed.
fn number_one_after_the_other() {
    for (accounts, entries) in [("/etc/passwd", "/etc/subuid"), ("/etc/group", "/etc/subgid")] {
        let text = fs::read_to_string(accounts).expect("accounts");
        let ids = text.lines().filter_map(|line| line.split(':').nth(2)?.parse::<u64>().ok());
        let people = ids.filter(|id| *id >= 1000 && *id != 65_534);
        let lines = people.enumerate().map(|(at, id)| format!("{id}:{}:65536\n", 65_536 * (at as u64 + 1)));
        fs::write(entries, lines.collect::<String>()).expect("entries");
    }
}

/// First id of a user in a file of entries by number.
fn numbered(user: &User) -> u64 {
    let text = fs::read_to_string("/etc/subuid").expect("entries");
    let own = text.lines().find_map(|line| line.strip_prefix(&format!("{}:", user.uid)));
    let first = own.and_then(|rest| rest.split(':').next()).and_then(|first| first.parse().ok());
    first.unwrap_or_else(|| panic!("{} has no entry in {text}", user.name))
}

pub fn files_of_the_sequential_scheme_change_owner_until_migrated() {
    shown_and_mended(|kept| ["--old-users", &kept("passwd"), "--from-scheme", "sequential"].map(str::to_owned));
}

pub fn files_of_the_sequential_scheme_are_mended_by_the_entries_of_before() {
    shown_and_mended(|kept| ["--old-subuid", &kept("subuid"), "--old-subgid", &kept("subgid")].map(str::to_owned));
}

/// `way` gives the options that tell what users had before, of names of files that were kept.
fn shown_and_mended(way: impl Fn(&dyn Fn(&str) -> String) -> [String; 4]) {
    let world = World::new();
    let (alice, bob) = (&world.alice, &world.bob);
    // Somebody who is listed before both, and will leave.
    let leaver = alice.uid - 1;
    for (file, line) in [
        ("/etc/passwd", format!("berth-e2e-leaver:x:{leaver}:{leaver}::/nonexistent:/bin/sh\n")),
        ("/etc/group", format!("berth-e2e-leaver:x:{leaver}:\n")),
    ] {
        let text = fs::read_to_string(file).expect("accounts");
        let (before, after) = text.split_at(text.find(&alice.name).expect("alice's line"));
        fs::write(file, format!("{before}{line}{after}")).expect("accounts");
    }
    number_one_after_the_other();
    let kept = |name: &str| world.fixture.path(name).display().to_string();
    for name in ["passwd", "subuid", "subgid"] {
        fs::copy(Path::new("/etc").join(name), kept(name)).expect("what a backup has");
    }
    let (tree, old) = (world.tree(alice), numbered(alice));
    world.tree(bob);
    let keep = |name: &str, from: u64| {
        let script =
            format!("cd {} && umask 077 && echo secret >{name} && chown 70:70 {name} && chmod 755 .", tree.display());
        in_namespace(alice, from, 65_536, &script).ok();
        (u64::from(fs::metadata(tree.join(name)).expect("the key").uid()), format!("cat {}", tree.join(name).display()))
    };
    let (id, read) = keep("key", old);
    assert_eq!(id, old + 69);
    assert!(!as_id(bob, id, &read).stdout.contains("secret"));

    // Somebody leaves, and the script runs again: alice's range is bob's now.
    for file in ["/etc/passwd", "/etc/group"] {
        let text = fs::read_to_string(file).expect("accounts");
        let rest: String = text.split_inclusive('\n').filter(|line| !line.starts_with("berth-e2e-leaver:")).collect();
        fs::write(file, rest).expect("accounts");
    }
    number_one_after_the_other();
    assert_eq!((numbered(alice), numbered(bob)), (old - 65_536, old));
    assert_eq!(as_id(bob, id, &read).ok(), "secret\n");
    assert!(!as_id(alice, id, &read).stdout.contains("secret"), "she has lost it");
    let (later, read_later) = keep("later", old - 65_536);

    // The file alone shows that it will happen again; beside that of before, it shows what did.
    let told = world.berth(&["subid", "check"]);
    assert_eq!(told.code(), 1, "{}", told.report());
    assert!(told.stdout.contains("they move when somebody leaves"), "{}", told.stdout);
    let told = world.berth(&["subid", "check", "--old-subuid", &kept("subuid"), "--old-subgid", &kept("subgid")]);
    for line in [
        format!("{} has 65536 user ids that {} had before ({old}-{})", bob.name, alice.name, old + 65_535),
        format!("{} has 65536 group ids that {} had before", bob.name, alice.name),
        format!("{} can read and change what {}'s containers kept", bob.name, alice.name),
    ] {
        assert!(told.stdout.contains(&line), "{line}\n{}", told.stdout);
    }

    // From today's numbering first; what is older is told, and goes by the users of its time.
    let migrated = process::run(world.migrate().args(["--from-scheme", "sequential"]));
    assert!(migrated.status.success(), "{}", migrated.report());
    assert!(migrated.stdout.contains("1 files have ids that are not"), "{}", migrated.stdout);
    let owner = |name: &str| {
        let file = fs::metadata(tree.join(name)).expect("a key");
        (u64::from(file.uid()), u64::from(file.gid()))
    };
    let new = first(alice) + 69;
    assert_eq!((owner("later"), owner("key")), ((new, new), (id, id)));
    let migrated = process::run(world.migrate().args(way(&kept)));
    assert!(migrated.status.success(), "{}", migrated.report());
    assert_eq!((owner("later"), owner("key")), ((new, new), (new, new)));

    // Nothing is readable any more, by no id that anybody had or has, and alice has both again.
    for read in [&read, &read_later] {
        for at in [id, later, new, first(bob) + 69] {
            assert!(!as_id(bob, at, read).stdout.contains("secret"), "{at}");
        }
        assert_eq!(as_id(alice, new, read).ok(), "secret\n");
    }
    let found = world.berth(&["subid", "check"]);
    assert_eq!((found.code(), found.stdout.as_str()), (0, "nothing is wrong\n"), "{}", found.report());
}

pub fn a_killed_migration_goes_on() {
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

pub fn a_migration_touches_nothing_but_the_users_own() {
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
    assert_eq!(migrated.code(), 1, "{}", migrated.report());
    assert!(migrated.stdout.contains(&format!("it is not {}'s", bob.name)), "{}", migrated.stdout);
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
