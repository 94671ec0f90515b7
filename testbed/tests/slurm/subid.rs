//! Sub-ids on the systems of the three releases, whose util-linux is 2.38, 2.41 and 2.42: our module alone, and where it is not asked.

use std::path::Path;

use testbed::slurm::Cluster;
use testbed::slurm::Options;
use testbed::slurm::Release;

on_each_release!("subid":
    unshare_asks_the_module_for_what_is_named_and_the_files_for_the_rest,
);

/// The shadow tools of this machine.
const PROGRAMS: [&str; 3] = ["newuidmap", "newgidmap", "getsubids"];

fn unshare_asks_the_module_for_what_is_named_and_the_files_for_the_rest(release: Release) {
    let module = Path::new(env!("CARGO_BIN_EXE_testbed")).with_file_name("libsubid_berth.so");
    assert!(module.exists(), "no {} (cargo build -p berth-subid makes it)", module.display());
    let libraries = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let mut options = Options::default()
        .file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nsubid: berth\n")
        .bind(module, format!("{libraries}/libsubid_berth.so"));
    // The box's root has no shadow tools; those of this machine run on its system and newer ones.
    for entry in std::fs::read_dir(&libraries).expect("a folder of libraries").flatten() {
        if entry.file_name().to_string_lossy().starts_with("libsubid.so.") {
            options = options.bind(entry.path(), entry.path());
        }
    }
    for program in PROGRAMS {
        options = options.bind(Path::new("/usr/bin").join(program), Path::new("/opt/shadow").join(program));
    }
    let cluster = Cluster::start(release, &options).expect("a cluster");
    let (root, user) = (cluster.root(), cluster.as_user("tuser1"));
    // What is bound has no set-user-id bit that counts.
    root.shell("install -m 4755 /opt/shadow/new* /usr/bin && install /opt/shadow/getsubids /usr/bin").ok();
    let uid: u64 = user.run(&["id", "-u"]).ok().trim().parse().expect("a number");
    let first = uid * 65_536;
    assert_eq!(user.run(&["getsubids", "tuser1"]).ok(), format!("0: tuser1 {first} 65536\n"));

    // A range that is named: newuidmap decides, by the module.
    let mapped = |options: &[&str]| {
        let words =
            [&["unshare", "--user", "--map-root-user"], options, &["cat", "/proc/self/uid_map", "/proc/self/gid_map"]];
        user.run(&words.concat())
    };
    let map = format!("{first},1,65535");
    // newuidmap of shadow 4.13 ends without a word where there are no files, though it does not read them.
    let without = mapped(&["--map-users", &map, "--map-groups", &map]);
    assert!(without.status.success() || without.stderr.is_empty(), "{}", without.report());
    root.shell("touch /etc/subuid /etc/subgid").ok();
    let said = mapped(&["--map-users", &map, "--map-groups", &map]).ok();
    assert_eq!(said.split_whitespace().filter(|word| *word == first.to_string()).count(), 2, "{said}");
    // A range that is not named: unshare reads the files, whatever nsswitch.conf says.
    let refused = mapped(&["--map-auto"]);
    assert!(!refused.status.success() && refused.stderr.contains("/etc/subuid"), "{}", refused.report());
    root.run(&["berth", "subid", "write", "--user", "tuser1"]).ok();
    let said = mapped(&["--map-auto"]).ok();
    assert_eq!(said.split_whitespace().filter(|word| *word == first.to_string()).count(), 2, "{said}");
}
