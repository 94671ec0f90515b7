//! Plans on a host in a folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;

use super::*;
use crate::doctor::tests::world::World;

const DIR: &str = "/var/lib/berth/setup";

fn without_files(version: &str) -> World {
    let mut world = World::healthy(version);
    for path in ["/etc/slurm/oci.conf", "/etc/slurm/plugstack.conf", "/etc/slurm/plugstack.conf.d"] {
        world.remove(path);
    }
    world
}

#[test]
fn slurm_is_set_up_once_and_taken_back_to_the_byte() {
    for version in ["22.05.8", "24.11.5", "26.05.5"] {
        let mut world = without_files(version);
        world.write_mode("/etc/slurm/plugstack.conf", "# ours\noptional other.so", 0o640);
        world.write("/etc/slurm/oci.conf", "RunTimeRun=\"crun run\"\n\n");
        let before = world.files();
        let host = world.host();
        let plan = slurm(&host, &Wishes::default()).unwrap();
        assert!(!is_done(&host, &plan));
        let written = write(&host, &plan, DIR).unwrap();
        // On 22.05 the plugin needs no oci.conf, and one that is there stays.
        assert_eq!(written.len(), if version == "22.05.8" { 2 } else { 3 }, "{written:?}");
        assert!(is_done(&host, &plan));
        let mode = fs::metadata(world.at("/etc/slurm/plugstack.conf")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640, "permissions stay");
        // Again, and from a new look at the host: nothing to do.
        let again = slurm(&world.host(), &Wishes::default()).unwrap();
        assert!(is_done(&host, &again));
        assert_eq!(write(&host, &again, DIR).unwrap(), [] as [&str; 0]);
        // What was set up is what the check-up wants.
        let text = host.read("/etc/slurm/oci.conf").unwrap();
        if version != "22.05.8" {
            assert_eq!(crate::slurm::oci::check(&text, host.slurm().unwrap().version, &mut |_| unreachable!()), []);
        }
        undo(&host, "slurm", DIR).unwrap();
        let after = world.files();
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert!(after == before, "some file is not what it was");
    }
}

#[test]
fn a_second_plan_keeps_what_was_there_first() {
    let mut world = without_files("26.05.5");
    world.write("/etc/slurm/oci.conf", "first\n");
    let host = world.host();
    write(&host, &slurm(&host, &Wishes::default()).unwrap(), DIR).unwrap();
    let required = Wishes { required: true, ..Wishes::default() };
    let plan = slurm(&host, &required).unwrap();
    assert_eq!(write(&host, &plan, DIR).unwrap(), ["/etc/slurm/plugstack.conf.d/berth.conf"]);
    assert!(host.read("/etc/slurm/plugstack.conf.d/berth.conf").unwrap().contains("required /usr/lib/berth"));
    undo(&host, "slurm", DIR).unwrap();
    assert_eq!(host.read("/etc/slurm/oci.conf").unwrap(), "first\n");
    assert!(!host.exists("/etc/slurm/plugstack.conf.d"));
}

#[test]
fn what_somebody_else_changed_since_is_not_lost() {
    let world = without_files("26.05.5");
    let host = world.host();
    write(&host, &slurm(&host, &Wishes::default()).unwrap(), DIR).unwrap();
    fs::write(world.at("/etc/slurm/oci.conf"), "mine\n").unwrap();
    let error = undo(&host, "slurm", DIR).unwrap_err();
    assert!(matches!(&error, Error::Changed(paths) if paths == &["/etc/slurm/oci.conf"]), "{error}");
    assert_eq!(host.read("/etc/slurm/oci.conf").unwrap(), "mine\n");
    assert!(host.exists("/etc/slurm/plugstack.conf.d/berth.conf"), "nothing at all was done");
}

#[test]
fn an_interrupted_write_is_taken_back() {
    let mut world = without_files("26.05.5");
    world.write("/etc/slurm/oci.conf", "first\n");
    // The second file cannot be written: its folder's name is taken.
    world.write("/etc/slurm/plugstack.conf.d", "a file\n");
    let host = world.host();
    let plan = slurm(&host, &Wishes::default()).unwrap();
    assert!(write(&host, &plan, DIR).is_err());
    assert_eq!(host.read("/etc/slurm/oci.conf").unwrap(), "first\n", "nothing was written");
    fs::remove_file(world.at("/etc/slurm/plugstack.conf.d")).unwrap();
    let written = write(&host, &plan, DIR).unwrap();
    assert_eq!(written.len(), 3);
    // As if the power had failed after the first file.
    fs::remove_file(world.at("/etc/slurm/plugstack.conf.d/berth.conf")).unwrap();
    undo(&host, "slurm", DIR).unwrap();
    assert_eq!(host.read("/etc/slurm/oci.conf").unwrap(), "first\n");
}

#[test]
fn a_link_stays_one() {
    let mut world = without_files("26.05.5");
    world.write("/shared/oci.conf", "shared\n");
    symlink(world.at("/shared/oci.conf"), world.at("/etc/slurm/oci.conf")).unwrap();
    let host = world.host();
    write(&host, &slurm(&host, &Wishes::default()).unwrap(), DIR).unwrap();
    assert!(world.at("/etc/slurm/oci.conf").is_symlink());
    assert!(host.read("/shared/oci.conf").unwrap().contains("exec berth oci-step"));
    undo(&host, "slurm", DIR).unwrap();
    assert_eq!(host.read("/shared/oci.conf").unwrap(), "shared\n");
}

#[test]
fn each_line_is_shown_with_its_reason() {
    let world = without_files("26.05.5");
    let host = world.host();
    let shown = show(&host, &slurm(&host, &Wishes::default()).unwrap());
    for line in crate::slurm::oci::advised(host.slurm().unwrap().version, true).unwrap() {
        let at = shown.iter().position(|text| text.trim_start_matches(['+', ' ']) == line.text).expect("it is shown");
        assert_eq!(shown[at + 1].trim(), line.why);
    }
}

#[test]
fn without_its_plugin_the_stack_is_left_alone() {
    let mut world = without_files("26.05.5");
    world.remove("/usr/lib/berth/spank_berth.so");
    let plan = slurm(&world.host(), &Wishes::default()).unwrap();
    assert_eq!(plan.changes.len(), 1);
    assert!(plan.changes[0].content.contains("exec berth-runtime"));
    assert!(plan.notes[0].contains("spank_berth.so"));
    let given = Wishes { plugin: Some("/apps/spank_berth.so".to_owned()), ..Wishes::default() };
    let plan = slurm(&world.host(), &given).unwrap();
    assert!(plan.changes.iter().any(|change| change.content.contains("optional /apps/spank_berth.so")));
}

#[test]
fn configless_controllers_get_one_file() {
    let mut world = without_files("26.05.5");
    world.append("/etc/slurm/slurm.conf", "SlurmctldParameters=enable_configless");
    let plan = slurm(&world.host(), &Wishes::default()).unwrap();
    let paths: Vec<&str> = plan.changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["/etc/slurm/plugstack.conf", "/etc/slurm/oci.conf"]);
}

#[test]
fn gpus_are_in_gres_conf_by_the_best_way_that_this_slurm_has() {
    const GRES: &str = "/etc/slurm/gres.conf";
    let mut world = without_files("26.05.5");
    world.remove(GRES);
    let planned = |world: &World| {
        let plan = slurm(&world.host(), &Wishes::default()).unwrap();
        let notes = plan.notes.join("\n");
        let change = plan.changes.into_iter().find(|change| change.path == GRES);
        (change.map(|change| change.content.lines().last().unwrap().to_owned()), notes)
    };
    let (line, notes) = planned(&world);
    assert_eq!(line.unwrap(), "NodeName=n1 Name=gpu File=/dev/nvidia[0-1]");
    assert!(notes.contains("/etc/slurm/slurm.conf wants GresTypes=gpu, on every host"), "{notes}");
    world.write("/usr/lib/slurm/gpu_nvidia.so", "");
    assert!(planned(&world).0.unwrap().contains("File="), "a driver that tells nothing");
    world.directory("/proc/driver/nvidia/gpus", 0o755);
    world.directory("/sys/bus/pci/drivers/nvidia", 0o755);
    assert_eq!(planned(&world).0.unwrap(), "NodeName=n1 AutoDetect=nvidia");
    world.write("/usr/lib/slurm/gpu_nvml.so", "");
    assert_eq!(planned(&world).0.unwrap(), "NodeName=n1 AutoDetect=nvml");

    // Written, it is what the check-up wants, and it follows the devices.
    let host = world.host();
    let plan = slurm(&host, &Wishes::default()).unwrap();
    assert!(show(&host, &plan).iter().any(|line| line.contains("asks the driver's library")));
    write(&host, &plan, DIR).unwrap();
    assert!(is_done(&host, &slurm(&host, &Wishes::default()).unwrap()));
    assert_eq!(crate::doctor::tests::kinds(&world), [] as [&str; 0]);
    for plugin in ["/usr/lib/slurm/gpu_nvml.so", "/usr/lib/slurm/gpu_nvidia.so", "/dev/nvidia1"] {
        world.remove(plugin);
    }
    let host = world.host();
    write(&host, &slurm(&host, &Wishes::default()).unwrap(), DIR).unwrap();
    let text = host.read(GRES).unwrap();
    assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), ["NodeName=n1 Name=gpu File=/dev/nvidia0"]);
    undo(&host, "slurm", DIR).unwrap();
    assert!(!host.exists(GRES));

    // A file that all nodes share keeps what it says of others; what it says of this one stays as it is.
    world.write(GRES, "NodeName=n[2-9] Name=gpu File=/dev/nvidia[0-3]\n");
    let host = world.host();
    write(&host, &slurm(&host, &Wishes::default()).unwrap(), DIR).unwrap();
    let both = "NodeName=n[2-9] Name=gpu File=/dev/nvidia[0-3]\nNodeName=n1 Name=gpu File=/dev/nvidia0\n";
    assert_eq!(host.read(GRES).unwrap(), both);
    undo(&host, "slurm", DIR).unwrap();
    for own in ["AutoDetect=off\n", "Name=gpu File=/dev/nvidia[0-3]\n", "NodeName=n[0-9] Name=gpu Count=1\n"] {
        world.write(GRES, own);
        assert_eq!(planned(&world).0, None, "{own}");
    }
    world.remove("/dev/nvidia0");
    world.remove(GRES);
    assert_eq!(planned(&world).0, None, "a host without GPUs");
}

#[test]
fn an_epilog_is_added_and_another_one_is_not_replaced() {
    let mut world = without_files("26.05.5");
    let wishes = Wishes { epilog: true, ..Wishes::default() };
    assert!(slurm(&world.host(), &wishes).is_ok(), "the folder is the one that slurm.conf has");
    world.replace("/etc/slurm/slurm.conf", "Epilog=/etc/slurm/epilog.d/*", "Epilog=/root/epilog");
    assert!(matches!(slurm(&world.host(), &wishes), Err(Error::Unfit(_))));
    world.replace("/etc/slurm/slurm.conf", "Epilog=/root/epilog", "");
    let plan = slurm(&world.host(), &wishes).unwrap();
    let conf = plan.changes.iter().find(|change| change.path.ends_with("slurm.conf")).unwrap();
    assert!(conf.content.ends_with("Epilog=/etc/slurm/epilog.d/*\n"));
}

#[test]
fn podman_and_docker_get_berth_and_keep_what_they_have() {
    let mut world = World::healthy("26.05.5");
    world.write("/etc/docker/daemon.json", "{\"mtu\": 9000}\n");
    let mut host = world.host();
    host.person.uid = 0;
    let wishes = Wishes {
        storage: Some("/local/images".to_owned()),
        registries: vec!["registry.site".to_owned()],
        host_network: true,
        ..Wishes::default()
    };
    for (plan, count) in [(podman(&host, &wishes).unwrap(), 4), (docker(&host, &wishes).unwrap(), 2)] {
        let before = world.files();
        assert_eq!(write(&host, &plan, DIR).unwrap().len(), count, "{}", plan.name);
        assert!(is_done(&host, &plan));
        let find = |text: &str| plan.changes.iter().any(|change| change.content.contains(text));
        if plan.name == "docker" {
            assert!(
                find("\"mtu\": 9000")
                    && find("\"data-root\": \"/local/images/docker\"")
                    && find("\"path\": \"/usr/bin/berth-runtime\"")
            );
        } else {
            assert!(find("berth = [\"/usr/bin/berth-runtime\"]"));
            let storage: toml::Table = host.read("/etc/containers/storage.conf").unwrap().parse().unwrap();
            assert_eq!(
                storage["storage"]["rootless_storage_path"].as_str(),
                Some("/local/images/$USER/containers/storage")
            );
            assert!(storage["storage"]["runroot"].is_str() && storage["storage"]["graphroot"].is_str());
            assert_eq!(storage["storage"]["driver"].as_str(), Some("overlay"));
        }
        undo(&host, plan.name, DIR).unwrap();
        let mut after = world.files();
        after.retain(|path, _| before.contains_key(path));
        assert!(after == before, "{}", plan.name);
    }
}

#[test]
fn a_new_storage_conf_has_all_that_podman_of_root_wants_and_what_the_distribution_set() {
    let wishes = Wishes { storage: Some("/local".to_owned()), ..Wishes::default() };
    let mut world = World::healthy("26.05.5");
    world.remove("/etc/containers/storage.conf");
    let content = |world: &World| {
        let mut host = world.host();
        host.person.uid = 0;
        let plan = podman(&host, &wishes).unwrap();
        let change = plan.changes.iter().find(|change| change.path.ends_with("storage.conf")).unwrap();
        change.content.parse::<toml::Table>().unwrap()["storage"].as_table().unwrap().clone()
    };
    let made = content(&world);
    for key in ["driver", "runroot", "graphroot", "rootless_storage_path"] {
        assert!(made.contains_key(key), "{key}");
    }
    world.write(
        "/usr/share/containers/storage.conf",
        "[storage]\ndriver = \"btrfs\"\nrunroot = \"/r\"\ngraphroot = \"/g\"\n",
    );
    let made = content(&world);
    assert_eq!((made["driver"].as_str(), made["runroot"].as_str()), (Some("btrfs"), Some("/r")));
    assert!(made.contains_key("rootless_storage_path"));
}

#[test]
fn a_person_sets_up_ones_own_files() {
    let mut world = World::healthy("26.05.5");
    world.remove("/etc/docker/daemon.json");
    let host = world.host();
    let wishes = Wishes { storage: Some("/local".to_owned()), ..Wishes::default() };
    let plan = docker(&host, &wishes).unwrap();
    assert_eq!(plan.changes[0].path, "/home/alice/.config/docker/daemon.json");
    assert!(plan.changes[0].content.contains("\"data-root\": \"/local/alice/docker\""));
    let plan = podman(&host, &wishes).unwrap();
    let storage = plan.changes.iter().find(|change| change.path.ends_with("storage.conf")).unwrap();
    assert!(storage.content.contains("graphroot = \"/local/alice/containers/storage\""));
}

#[test]
fn enroots_files_become_berths() {
    let mut world = World::healthy("26.05.5");
    world.write(
        "/etc/enroot/enroot.conf",
        "ENROOT_CACHE_PATH /scratch/enroot/cache-$(id -g)\nENROOT_DATA_PATH /local/enroot/data-$(id -u)\n#ENROOT_X y\nENROOT_MOUNT_HOME y\nENROOT_REMAP_ROOT y\n",
    );
    world.write(
        "/etc/enroot/mounts.d/10.fstab",
        "/apps /apps none rbind,ro,x-create=dir\ntmpfs /tmp tmpfs x\n/scratch /scratch none bind\n",
    );
    world.write("/etc/enroot/environ.d/10.env", "NCCL_DEBUG=INFO\n# no\nHOME=${HOME}\n");
    world.write("/usr/lib64/slurm/spank_pyxis.so", "");
    world.write("/etc/slurm/plugstack.conf.d/pyxis.conf", "required /usr/lib64/slurm/spank_pyxis.so\n");
    let host = world.host();
    let plan = enroot(&host, &Wishes::default()).unwrap();
    let conf: toml::Table = plan.changes[0].content.parse().unwrap();
    assert_eq!(conf["store"].as_str(), Some("/scratch/enroot/berth-$USER"));
    assert_eq!(conf["containers"].as_str(), Some("/local/enroot/berth-$USER"));
    assert_eq!(conf["run"]["home"].as_bool(), Some(true));
    assert_eq!(conf["run"]["mounts"].as_array().unwrap()[0].as_str(), Some("/apps:/apps:ro"));
    assert_eq!(conf["run"]["mounts"].as_array().unwrap()[1].as_str(), Some("/scratch:/scratch"));
    assert_eq!(conf["run"]["env"].as_array().unwrap().len(), 1);
    assert_eq!(plan.changes[1].content, "# required /usr/lib64/slurm/spank_pyxis.so\n");
    write(&host, &plan, DIR).unwrap();
    assert!(is_done(&host, &enroot(&world.host(), &Wishes::default()).unwrap()));
    undo(&host, "enroot-migration", DIR).unwrap();
    assert!(!host.exists("/etc/berth"));
    assert_eq!(
        host.read("/etc/slurm/plugstack.conf.d/pyxis.conf").unwrap(),
        "required /usr/lib64/slurm/spank_pyxis.so\n"
    );
}
