//! `berth doctor` and `berth setup` on real clusters.

mod plants;

use std::collections::BTreeSet;

use testbed::slurm::Cluster;
use testbed::slurm::Options;
use testbed::slurm::PLUGIN;
use testbed::slurm::Release;
use testbed::slurm::Session;
use testbed::slurm::oci;
use testbed::slurm::registries;

use crate::world::BUNDLE;
use plants::PLANTS;
use plants::Plant;

on_each_release!("doctor" with registry:
    a_healthy_node_has_no_fault,
    each_planted_fault_is_found_named_and_mended_as_promised,
    user_namespaces_that_are_off_are_found_by_trying,
    all_nodes_are_checked_in_one_table,
    setup_makes_containers_work_and_undo_restores_every_byte,
    the_epilog_of_setup_tidies_up_and_leaves_the_node_in_service,
    gpus_are_handed_out_by_the_gres_conf_of_setup,
    a_site_with_enroot_and_pyxis_migrates_and_goes_back,
);

/// A node whose files can be changed one by one: with bundles by `oci.conf`, and the plugin for the rest.
fn cluster(release: Release, nodes: usize) -> Cluster {
    let options = Options { nodes, plugin: true, ..Options::default() }
        .file("plugstack.conf", format!("optional {PLUGIN}\n"))
        .file("oci.conf", oci::run(release));
    Cluster::start(release, &options).expect("a cluster")
}

/// The words of a check-up that waits for what answers late on a busy machine.
const DOCTOR: [&str; 8] = ["berth", "doctor", "--node", "--user", "tuser1", "--patience", "40s", "--json"];

/// What is found on a node: kinds, and whether each is a fault.
#[track_caller]
fn found(node: &Session<'_>, more: &[&str]) -> BTreeSet<(String, bool)> {
    let said = node.run(&[&DOCTOR[..], more].concat());
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{}", said.report()));
    let sections = report["sections"].as_array().expect("sections");
    let findings = sections.iter().flat_map(|section| section["findings"].as_array().expect("findings"));
    let found: BTreeSet<_> = findings
        .map(|finding| {
            for key in ["what", "breaks", "mend"] {
                assert!(finding[key].as_str().is_some_and(|text| !text.is_empty()), "{finding}");
            }
            (finding["kind"].as_str().expect("a kind").to_owned(), finding["severity"] == "fault")
        })
        .collect();
    let faults = found.iter().any(|(_, fault)| *fault);
    assert!(more.contains(&"--fix") || said.code() == i32::from(faults), "{}", said.report());
    found
}

fn a_healthy_node_has_no_fault(release: Release) {
    let cluster = cluster(release, 1);
    let found = found(&cluster.node("n1"), &[]);
    let faults: Vec<_> = found.iter().filter(|(_, fault)| *fault).collect();
    assert!(faults.is_empty(), "{faults:?}");
    let text = cluster.node("n1").run(&["berth", "doctor", "--node", "--user", "tuser1", "--patience", "40s"]).ok();
    for line in [
        "ok      container: berth started a container as tuser1",
        "berth's plugin is loaded",
        "munge made a credential",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    // Whoever submits sees no fault either.
    let own = cluster.as_user("tuser1").run(&["berth", "doctor", "--login", "--patience", "40s"]);
    assert_eq!(own.code(), 0, "{}", own.report());
}

fn each_planted_fault_is_found_named_and_mended_as_promised(release: Release) {
    let cluster = cluster(release, 1);
    let node = cluster.node("n1");
    let keep = "mkdir /root/kept && cp -a /etc/. /root/kept";
    node.shell(keep).ok();
    let healthy = found(&node, &[]);
    let mut wrong = Vec::new();
    for Plant { kind, plant, also, clean, mended, releases } in PLANTS {
        if !releases.contains(&release) {
            continue;
        }
        node.shell(&format!("set -e\n{plant}")).ok();
        let now: Vec<String> = found(&node, &[]).difference(&healthy).map(|(kind, _)| kind.clone()).collect();
        let expected: Vec<&str> = [&[*kind], *also].concat();
        if now != expected {
            wrong.push(format!("{kind}: found {now:?}"));
        }
        if *mended {
            drop(found(&node, &["--fix"]));
            let left: Vec<String> = found(&node, &[]).difference(&healthy).map(|(kind, _)| kind.clone()).collect();
            if !left.is_empty() {
                wrong.push(format!("{kind}: {left:?} after --fix"));
            }
        }
        // Mounts first: a file below one cannot be replaced.
        node.shell(&format!("{clean}\nset -e\nrm -rf /etc/berth /etc/enroot /etc/docker\ncp -a /root/kept/. /etc"))
            .ok();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(found(&node, &[]), healthy, "nothing is left of the faults");
}

/// In a user namespace of its own, root may switch them off for all below.
fn user_namespaces_that_are_off_are_found_by_trying(release: Release) {
    let cluster = cluster(release, 1);
    let line = format!(
        "set -e; cd /tmp; mkfifo number go
         unshare -U sh -c 'echo $$ >number; read x <go; exec sh -c \"echo 0 >/proc/sys/user/max_user_namespaces; exec {}\"' &
         number=$(cat number); echo 0 0 65536 >/proc/$number/uid_map; echo 0 0 65536 >/proc/$number/gid_map; echo >go; wait $!",
        DOCTOR.join(" ")
    );
    let said = cluster.node("n1").shell(&line);
    for kind in ["userns-off", "userns-fails", "container-fails"] {
        assert!(said.stdout.contains(&format!("\"{kind}\"")), "{kind}: {}", said.report());
    }
    assert_eq!(said.code(), 1, "{}", said.report());
}

fn all_nodes_are_checked_in_one_table(release: Release) {
    let cluster = cluster(release, 3);
    // Each node has its own mounts.
    for node in ["n2", "n3"] {
        let line = "{ cat /etc/slurm/oci.conf; echo Nonsense=1; } >/tmp/oci.conf && mount --bind /tmp/oci.conf /etc/slurm/oci.conf";
        cluster.node(node).shell(line).ok();
    }
    let said = cluster.root().run(&["berth", "doctor", "--cluster", "--patience", "40s"]);
    assert_eq!(said.code(), 1, "{}", said.report());
    let row = said
        .stdout
        .lines()
        .find(|line| line.starts_with("oci-unknown-key"))
        .unwrap_or_else(|| panic!("{}", said.report()));
    assert!(row.contains("n[2-3]") && row.contains("Nonsense"), "{row}");
    assert!(!said.stdout.contains("no answer"), "{}", said.report());
    assert!(said.stdout.contains("mend oci-unknown-key: berth setup slurm --write"), "{}", said.report());
}

/// Everything that is known of the files of Slurm's configuration.
fn fingerprint(root: &Session<'_>) -> String {
    root.shell("cd /etc/slurm && find . -printf '%p %m %u %g %y\\n' | sort && find . -type f | sort | xargs sha256sum")
        .ok()
}

fn setup_makes_containers_work_and_undo_restores_every_byte(release: Release) {
    let options = Options { nodes: 2, plugin: true, ..Options::default() };
    let cluster = Cluster::start(release, &options).expect("a cluster");
    let _registry = cluster.registry(registries::Kind::Plain);
    let (root, user) = (cluster.root(), cluster.as_user("tuser1"));
    oci::make_bundle(&user, BUNDLE);
    user.run(&["srun", "-N2", "true"]).ok();
    let before = fingerprint(&root);

    let shown = root.run(&["berth", "setup", "slurm"]).ok();
    assert!(shown.contains("optional /usr/lib/berth/spank_berth.so"), "{shown}");
    assert_eq!(fingerprint(&root), before, "nothing is written without --write");
    root.run(&["berth", "setup", "slurm", "--write"]).ok();
    let written = fingerprint(&root);
    assert_ne!(written, before);
    root.run(&["berth", "setup", "slurm", "--write"]).ok();
    assert_eq!(fingerprint(&root), written, "twice is once");

    let inside = ["/bin/sh", "-c", "cat /etc/text; echo $FROM_BUNDLE"];
    let said = user.run(&[&["srun", "-N2", "--container", BUNDLE], &inside[..]].concat()).ok();
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["no program", "no program", "yes", "yes"], "in whatever order two nodes speak");
    let image = "registry.test:5000/team/small:1.0";
    for option in [format!("--container-image={image}"), format!("--container={image}")] {
        let said =
            user.run(&["srun", &option, "/bin/sh", "-c", "test -e /bin/busybox && ! test -e /usr/bin/srun && echo in"]);
        assert_eq!(said.stdout, "in\n", "{}", said.report());
    }
    let faults: Vec<_> = found(&cluster.node("n1"), &[]).into_iter().filter(|(_, fault)| *fault).collect();
    assert!(faults.is_empty(), "{faults:?}");

    root.run(&["berth", "setup", "slurm", "--undo"]).ok();
    assert_eq!(fingerprint(&root), before);
    assert_ne!(user.run(&["srun", "--container-image", image, "true"]).code(), 0);
    root.run(&["berth", "setup", "slurm", "--undo"]).ok();
}

/// Our own plugin by the name of pyxis stands for it: it has the same options.
fn a_site_with_enroot_and_pyxis_migrates_and_goes_back(release: Release) {
    let options = Options { plugin: true, ..Options::default() }
        .file("plugstack.conf", "# ours\ninclude plugstack.conf.d/*\n")
        .file("plugstack.conf.d/pyxis.conf", "required /opt/spank_pyxis.so runtime_path=/run/pyxis\n")
        .file("/etc/enroot/enroot.conf", "ENROOT_CACHE_PATH /home/enroot/cache-$(id -g)\nENROOT_MOUNT_HOME n\n")
        .file("/etc/enroot/mounts.d/10.fstab", "/etc/slurm /site none bind,ro,x-create=dir\n")
        .bind(
            testbed::fixture::spank_plugin(env!("CARGO_BIN_EXE_testbed")).expect("the plugin"),
            "/opt/spank_pyxis.so",
        );
    let cluster = Cluster::start(release, &options).expect("a cluster");
    let _registry = cluster.registry(registries::Kind::Plain);
    let (root, user) = (cluster.root(), cluster.as_user("tuser1"));
    root.run(&["install", "-d", "-m", "1777", "/home/enroot"]).ok();
    let before = fingerprint(&root);
    let told = root.run(&["berth", "setup", "enroot-migration", "--write"]).ok();
    assert!(told.contains("one of them only") && told.contains("berth setup slurm --write"), "{told}");
    assert_eq!(
        root.run(&["cat", "/etc/slurm/plugstack.conf.d/pyxis.conf"]).ok(),
        "# required /opt/spank_pyxis.so runtime_path=/run/pyxis\n"
    );
    assert_ne!(user.run(&["srun", "--container-image", "x", "true"]).code(), 0, "nobody has the option");
    root.run(&["berth", "setup", "slurm", "--write"]).ok();
    let image = "registry.test:5000/team/small:1.0";
    let said = user.run(&["srun", "--container-image", image, "/bin/sh", "-c", "ls /site | grep ^slurm.conf"]);
    assert_eq!(said.stdout, "slurm.conf\n", "{}", said.report());
    user.run(&["test", "-d", "/home/enroot/berth-tuser1"]).ok();
    for plan in ["slurm", "enroot-migration"] {
        root.run(&["berth", "setup", plan, "--undo"]).ok();
    }
    assert_eq!(fingerprint(&root), before);
    assert!(!root.run(&["test", "-e", "/etc/berth"]).status.success());
}

/// What stands for two GPUs: their devices, and what their driver tells.
const GPUS: &str = "mount -t tmpfs -o mode=755 tmpfs /mnt && cp -a /dev/. /mnt && mount --move /mnt /dev; \
                    mount -t tmpfs tmpfs /proc/driver; mount -t tmpfs tmpfs /sys/bus; \
                    for at in 0 1; do mknod /dev/nvidia$at c 1 5; dir=/proc/driver/nvidia/gpus/0000:0$at:00.0; mkdir -p $dir; \
                    printf 'Model: \\t Tested\\nDevice Minor: \\t %s\\n' $at >$dir/information; \
                    dir=/sys/bus/pci/drivers/nvidia/0000:0$at:00.0; mkdir -p $dir; echo 0-1 >$dir/local_cpulist; done";

fn gpus_are_handed_out_by_the_gres_conf_of_setup(release: Release) {
    let mut cluster = cluster(release, 2);
    let root = cluster.root();
    let before = fingerprint(&root);
    let plain = root.run(&["berth", "setup", "slurm"]).ok();
    assert!(!plain.contains("gres.conf"), "a host without GPUs: {plain}");
    let node = cluster.node("n1");
    node.shell(GPUS).ok();
    let said = node.run(&["berth", "setup", "slurm", "--write"]).ok();
    // Two lines, which the site's own file wants, are told and not written.
    assert!(said.contains("wants GresTypes=gpu, and Gres=gpu:2 in the line NodeName=n1"), "{said}");
    let written = root.shell("tail -n 1 /etc/slurm/gres.conf").ok();
    let expected = match release {
        Release::Bookworm => "NodeName=n1 Name=gpu File=/dev/nvidia[0-1]\n",
        _ => "NodeName=n1 AutoDetect=nvidia\n",
    };
    assert_eq!(written, expected);
    let conf = "sed -i -e '1i GresTypes=gpu' -e 's|^NodeName=n.*|NodeName=n1 CPUs=64 Gres=gpu:2\\nNodeName=n2 CPUs=64|' /etc/slurm/slurm.conf";
    root.shell(&format!("cp -a /etc/slurm/slurm.conf /root/slurm.conf && {conf}")).ok();
    root.shell("kill $(cat /run/slurmctld.pid)").ok();
    cluster
        .wait_until("the controller has ended", || !root.shell("kill -0 $(cat /run/slurmctld.pid)").status.success());
    root.shell("slurmctld -D </dev/null >/dev/null 2>&1 &").ok();
    for name in ["n1", "n2"] {
        cluster.stop_daemon(name);
        cluster.start_daemon(name);
    }
    let user = cluster.as_user("tuser1");
    let tell = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"];
    cluster.wait_until("both GPUs are handed out", || {
        user.run(&[&["srun", "-Q", "--immediate=5", "--gres=gpu:2"][..], &tell].concat()).stdout == "0,1\n"
    });
    assert_eq!(user.run(&[&["srun", "-w", "n1", "--gres=gpu:1"][..], &tell].concat()).ok(), "0\n");
    // The other node has the same file, and none of it is about that node.
    user.run(&["srun", "-w", "n2", "true"]).ok();
    let root = cluster.root();
    root.shell("mv /root/slurm.conf /etc/slurm/slurm.conf").ok();
    cluster.node("n1").run(&["berth", "setup", "slurm", "--undo"]).ok();
    assert_eq!(fingerprint(&root), before);
}

fn the_epilog_of_setup_tidies_up_and_leaves_the_node_in_service(release: Release) {
    let cluster = cluster(release, 1);
    let (root, node) = (cluster.root(), cluster.node("n1"));
    let before = fingerprint(&root);
    root.run(&["berth", "setup", "slurm", "--epilog", "--write"]).ok();
    root.run(&["scontrol", "reconfigure"]).ok();
    let left = "/tmp/berth-runtime-20001";
    node.run(&["mkdir", left]).ok();
    cluster.wait_until("the new configuration is in force", || {
        root.run(&["scontrol", "show", "config"]).stdout.contains("/etc/slurm/epilog.d/*")
    });
    // slurmd of the node may take over the configuration a moment later: the next job's end then finds it.
    cluster.wait_until("the epilog has run", || {
        cluster.as_user("tuser1").run(&["srun", "true"]).ok();
        cluster.idle_traces();
        !node.run(&["test", "-e", left]).status.success()
    });
    assert_eq!(root.run(&["sinfo", "-h", "-o", "%T"]).ok(), "idle\n");
    root.run(&["berth", "setup", "slurm", "--undo"]).ok();
    assert_eq!(fingerprint(&root), before);
}
