//! Devices by CDI, with a specification made up for the test.

use std::fs;

use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::REGISTRY;

chapter!("devices",
    [REGISTRY, Need::Root]:
        a_cdi_device_brings_its_node_mounts_and_environment,
        two_devices_of_a_kind_come_together,
        an_unknown_device_is_told_with_a_hint;
    [REGISTRY, Need::Namespaces]:
        a_device_node_of_the_host_is_given_by_its_path;
);

const SPEC: &str = r#"{
  "cdiVersion": "0.6.0",
  "kind": "example.org/pseudo",
  "containerEdits": {"env": ["PSEUDO=all"]},
  "devices": [
    {"name": "0", "containerEdits": {
      "env": ["PSEUDO_0=here"],
      "deviceNodes": [{"path": "/dev/pseudo0", "hostPath": "/dev/zero"}],
      "mounts": [{"hostPath": "HOST", "containerPath": "/opt/pseudo/lib", "options": ["ro", "bind", "nosuid"]}]
    }},
    {"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/pseudo1", "hostPath": "/dev/null"}]}}
  ]
}"#;

/// Puts the specification where every user finds it; the folder is a mount of this test's namespace only.
fn with_spec() -> (Fixture, String) {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let image = registry.reference("small");
    fixture.berth(&["pull", &image]).ok();
    let library = fixture.make_dir("library", 0o755);
    fixture.write("library/libpseudo.so", "a library");
    // A mount over /run hides nothing that the test needs, and a new folder there is nobody else's.
    rustix::mount::mount("tmpfs", "/run", "tmpfs", rustix::mount::MountFlags::empty(), None).expect("a mount");
    fs::create_dir("/run/cdi").expect("a folder");
    fs::write("/run/cdi/pseudo.json", SPEC.replace("HOST", &library.display().to_string())).expect("a file");
    (fixture, image)
}

fn a_cdi_device_brings_its_node_mounts_and_environment() {
    let (fixture, image) = with_spec();
    let script = "head -c 3 /dev/pseudo0 | od -An -tx1; cat /opt/pseudo/lib/libpseudo.so; echo; \
        echo $PSEUDO $PSEUDO_0; test -e /dev/pseudo1 && echo too much; \
        touch /opt/pseudo/lib/x 2>/dev/null && echo writable; true";
    // The host's own /dev, which is there without --contained, is no place for new names.
    let line = ["run", "--contained", "--device", "example.org/pseudo=0", &image, "sh", "-c", script];
    assert_eq!(fixture.berth(&line).ok(), " 00 00 00\na library\nall here\n");
}

fn two_devices_of_a_kind_come_together() {
    let (fixture, image) = with_spec();
    let devices = ["--device", "example.org/pseudo=0", "--device", "example.org/pseudo=1"];
    let line = [&["run", "--contained"], &devices[..], &[&image, "ls", "/dev/pseudo0", "/dev/pseudo1"]].concat();
    assert_eq!(fixture.berth(&line).ok(), "/dev/pseudo0\n/dev/pseudo1\n");
}

fn an_unknown_device_is_told_with_a_hint() {
    let (fixture, image) = with_spec();
    let told = fixture.berth(&["run", "--device", "example.org/pseudo=7", &image, "true"]).fails(125);
    assert!(told.contains("example.org/pseudo=7") && told.contains("hint: "), "{told}");
}

fn a_device_node_of_the_host_is_given_by_its_path() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let image = registry.reference("small");
    let script = "echo x > /dev/full || echo full as it should be";
    let line = ["run", "--contained", "--device", "/dev/full", &image, "sh", "-c", script];
    assert_eq!(fixture.berth(&line).ok(), "full as it should be\n");
}
