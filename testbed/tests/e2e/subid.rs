//! Sub-ids of a site with the real tools: our module alone, what the published schemes let users do to each other, and the way
//! out of them. Everything happens in an /etc of the test's own.

mod schemes;
pub mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use testbed::chapter;
use testbed::harness::Need;
use testbed::harness::PODMAN;
use testbed::harness::REGISTRY;
use testbed::process;
use testbed::user::User;

use schemes::*;
use world::World;
use world::as_id;
use world::first;
use world::in_namespace;

const GETSUBIDS: Need = Need::Program("getsubids", "uidmap");

chapter!("subid",
    [Need::Root, Need::Namespaces, GETSUBIDS]:
        with_the_module_alone_the_tools_know_a_fresh_user,
        with_the_module_nobody_gets_anothers_ids,
        a_rule_that_cannot_be_proven_gives_nobody_anything,
        neighbours_of_the_published_scheme_read_each_other_until_migrated,
        the_sequential_scheme_gives_accounts_away_until_migrated,
        files_of_the_sequential_scheme_change_owner_until_migrated,
        files_of_the_sequential_scheme_are_mended_by_the_entries_of_before,
        a_killed_migration_goes_on,
        the_shadow_tools_and_berth_wait_for_each_other;
    [Need::Root, Need::Namespaces, GETSUBIDS, Need::Program("setfattr", "attr")]:
        a_migration_touches_nothing_but_the_users_own;
    [Need::Root, Need::Namespaces, GETSUBIDS, REGISTRY]:
        with_the_module_alone_berth_has_many_ids;
    [Need::Root, Need::Namespaces, GETSUBIDS, REGISTRY, PODMAN]:
        with_the_module_alone_podman_runs;
);

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
