use std::path::Path;

use proptest::prelude::*;

use super::*;

const NVIDIA: &str = include_str!("../../tests/data/cdi-nvidia.yaml");

fn any_char_device(path: &Path) -> io::Result<HostDevice> {
    if path.ends_with("nvidia9") {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    Ok(HostDevice { kind: "c", major: 9, minor: 8 })
}

/// Directories with files, the later the stronger.
fn registry(dirs: &[&[(&str, &str)]]) -> Registry {
    let root = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..dirs.len()).map(|index| root.path().join(index.to_string())).collect();
    for (path, files) in paths.iter().zip(dirs) {
        std::fs::create_dir(path).unwrap();
        for (name, text) in *files {
            std::fs::write(path.join(name), text).unwrap();
        }
    }
    Registry::load(&paths)
}

fn apply(registry: &Registry, requests: &[&str]) -> Result<oci::Spec, CdiError> {
    let requests: Vec<_> = requests.iter().map(|text| DeviceRequest::parse(text).unwrap()).collect();
    let mut spec = oci::Spec::default();
    spec.process.get_or_insert_default().env = vec!["NVIDIA_VISIBLE_DEVICES=all".into(), "A=1".into()];
    registry.apply(&requests, &mut spec, any_char_device).map(|()| spec)
}

fn minimal(kind: &str, name: &str, env: &str) -> String {
    format!(
        r#"{{"cdiVersion":"0.3.0","kind":"{kind}","devices":[{{"name":"{name}","containerEdits":{{"env":["{env}"]}}}}]}}"#
    )
}

#[test]
fn a_vendors_specification_is_applied_with_every_field() {
    let registry = registry(&[&[("nvidia.yaml", NVIDIA)]]);
    assert_eq!(registry.broken(), &[] as &[String]);
    assert_eq!(registry.devices(), ["nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=all"]);
    let spec = apply(&registry, &["nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=0"]).unwrap();

    let process = spec.process.unwrap();
    assert_eq!(process.env, ["A=1", "NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_ONE=1"]);
    assert_eq!(process.user.additional_gids, [44]);

    let device = |path: &str| oci::Device {
        kind: "c".into(),
        path: path.into(),
        major: Some(9),
        minor: Some(8),
        file_mode: None,
        uid: None,
        gid: None,
    };
    let first = oci::Device {
        major: Some(195),
        minor: Some(0),
        file_mode: Some(0o666),
        uid: Some(0),
        gid: Some(0),
        ..device("/dev/nvidia0")
    };
    assert_eq!(spec.linux.unwrap().devices, [device("/dev/nvidiactl"), device("/dev/nvidia-uvm"), first]);

    let mounts: Vec<_> =
        spec.mounts.iter().map(|mount| (mount.destination.to_str().unwrap(), mount.options.join(","))).collect();
    assert_eq!(
        mounts,
        [
            ("/usr/bin/nvidia-smi", "ro,nosuid,nodev,rbind,rprivate".to_owned()),
            ("/run/nvidia-persistenced/socket", "ro,nosuid,nodev,rbind,rprivate,noexec".to_owned()),
            ("/dev/nvidia1", "bind,nosuid,noexec,ro".to_owned()),
        ]
    );
    assert_eq!(spec.mounts[2].source.as_deref(), Some(Path::new("/dev/dri/card1")));

    let hooks = &spec.hooks.create_container;
    assert_eq!(hooks.len(), 2, "the edits of the file are made once");
    assert_eq!(hooks[0].args[1], "create-symlinks");
    assert_eq!(hooks[0].env, ["NVIDIA_CTK_DEBUG=false"]);
    assert_eq!(hooks[1].timeout, Some(30));
}

#[test]
fn json_and_yaml_mean_the_same() {
    let value = yaml::parse(NVIDIA).unwrap();
    assert_eq!(CdiSpec::from_json(&value.to_string()).unwrap(), CdiSpec::from_yaml(NVIDIA).unwrap());
}

#[test]
fn all_is_every_device_unless_one_has_the_name() {
    let two = r#"{"cdiVersion":"1.0.0","kind":"v.com/c","containerEdits":null,"devices":[
        {"name":"b","containerEdits":{"env":["B=1"],"mounts":null}}, {"name":7,"containerEdits":{"env":["SEVEN=1"]}}]}"#;
    let none_named_all = registry(&[&[("a.json", two)]]);
    let env = apply(&none_named_all, &["v.com/c=all"]).unwrap().process.unwrap().env;
    assert_eq!(env[2..], ["SEVEN=1", "B=1"]);
    let named = registry(&[&[("a.json", two), ("b.json", &minimal("v.com/c", "all", "ALL=1"))]]);
    assert_eq!(apply(&named, &["v.com/c=all"]).unwrap().process.unwrap().env[2..], ["ALL=1"]);
}

#[test]
fn the_later_directory_wins_and_equals_conflict() {
    let (weak, strong) = (minimal("v.com/c", "x", "V=weak"), minimal("v.com/c", "x", "V=strong"));
    let layered = registry(&[&[("z.json", &weak)], &[("a.yml", &strong)]]);
    assert_eq!(apply(&layered, &["v.com/c=x"]).unwrap().process.unwrap().env[2..], ["V=strong"]);

    let other = minimal("v.com/c", "y", "V=other");
    let twice = registry(&[&[("a.json", &weak), ("b.json", &strong), ("c.json", &other)]]);
    let error = apply(&twice, &["v.com/c=x"]).unwrap_err();
    assert!(
        matches!(&error, CdiError::Conflict { first, second, .. } if first.ends_with("a.json") && second.ends_with("b.json"))
    );
    assert!(apply(&twice, &["v.com/c=y"]).is_ok(), "a conflict concerns nobody else");
    // A conflict in the weaker directory does not matter if a stronger one settles it.
    let settled = registry(&[&[("a.json", &weak), ("b.json", &weak)], &[("a.json", &strong)]]);
    assert!(apply(&settled, &["v.com/c=x"]).is_ok());
}

#[test]
fn a_missing_device_is_answered_with_those_that_exist_and_files_that_do_not_work() {
    let registry = registry(&[&[("nvidia.yaml", NVIDIA), ("bad.json", "{"), ("note.txt", "{")]]);
    let error = apply(&registry, &["nvidia.com/gpu=7"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no device `nvidia.com/gpu=7`; there are nvidia.com/gpu=0, nvidia.com/gpu=1, nvidia.com/gpu=all"
    );
    assert!(error.hint().contains("bad.json: EOF"), "{}", error.hint());
    let nothing = Registry::load(&["/nonexistent/cdi".into()]);
    let error = apply(&nothing, &["nvidia.com/gpu=all"]).unwrap_err();
    assert_eq!(error.to_string(), "no device `nvidia.com/gpu=all`; there are none");
    assert!(error.hint().contains("nvidia-ctk cdi generate") && error.hint().contains("/nonexistent/cdi"));
}

#[test]
fn a_node_that_the_host_lacks_is_named() {
    let registry = Registry::default();
    let error = apply(&registry, &["/dev/nvidia9"]).unwrap_err();
    assert!(error.to_string().starts_with("device `/dev/nvidia9` needs /dev/nvidia9: No such file"), "{error}");
    assert_eq!(host_device(Path::new("/dev/null")).unwrap(), HostDevice { kind: "c", major: 1, minor: 3 });
    assert!(host_device(Path::new("/")).is_err());
}

#[test]
fn requests() {
    let node = |host: &str, path: &str, readonly| {
        DeviceRequest::Node(NodeRequest { host_path: host.into(), path: path.into(), readonly })
    };
    let cdi = |kind: &str, name: &str| DeviceRequest::Cdi { kind: kind.into(), name: name.into() };
    for (text, expected) in [
        ("/dev/fuse", node("/dev/fuse", "/dev/fuse", false)),
        ("/dev/fuse:r", node("/dev/fuse", "/dev/fuse", true)),
        ("/dev/ttyS0:/dev/modem", node("/dev/ttyS0", "/dev/modem", false)),
        ("/dev/ttyS0:/dev/modem:rm", node("/dev/ttyS0", "/dev/modem", true)),
        ("nvidia.com/gpu=0:1", cdi("nvidia.com/gpu", "0:1")),
        ("a/b=all", cdi("a/b", "all")),
        ("v-1.com/c.d_e=MIG-1.2", cdi("v-1.com/c.d_e", "MIG-1.2")),
    ] {
        assert_eq!(DeviceRequest::parse(text).unwrap(), expected, "{text}");
    }
    for text in [
        "",
        "/",
        "nvidia.com/gpu",
        "gpu=0",
        "nvidia.com/gpu=",
        "1v/c=0",
        "v./c=0",
        "v/c/d=0",
        "v/c=-",
        "v/c=a=b",
        "v/c=a b",
        "/dev/a:/b:rwx",
        "/dev/a:/b:",
        "/dev/a:b",
        "/dev/a::",
        "/dev/a:/b:r:w",
        "/dev/../etc",
        "/dev/a:/../b",
        "/dev/a:/b:rr",
        "v/ü=0",
    ] {
        let error = DeviceRequest::parse(text).expect_err(text);
        assert!(!error.to_string().is_empty() && !error.hint().is_empty());
    }
}

#[test]
fn hostile_and_mistaken_documents_are_refused() {
    let device = |edits: &str| {
        format!(r#"{{"cdiVersion":"0.6.0","kind":"v.com/c","devices":[{{"name":"x","containerEdits":{edits}}}]}}"#)
    };
    let cases = [
        (minimal("v.com", "x", "A=1"), "kind `v.com`"),
        (minimal("v.com/../c", "x", "A=1"), "kind"),
        (minimal("v.com/c", "x/y", "A=1"), "not a device name"),
        (minimal("v.com/c", "x", "A"), "not NAME=value"),
        (minimal("v.com/c", "x", "=1"), "not NAME=value"),
        (minimal("v.com/c", "x", "A=1").replace("0.3.0", "2.0.0"), "cdiVersion 2.0.0"),
        (r#"{"cdiVersion":"0.6.0","kind":"v.com/c"}"#.into(), "missing field `devices`"),
        (r#"{"cdiVersion":"0.6.0","kind":"v.com/c","devices":[{"name":"x"},{"name":"x"}]}"#.into(), "twice"),
        (device(r#"{"unknown":1}"#), "unknown field `unknown`"),
        (device(r#"{"deviceNodes":[{"path":"dev/x"}]}"#), "`dev/x` is not an absolute path"),
        (device(r#"{"deviceNodes":[{"path":"/dev/x","hostPath":"/dev/../x"}]}"#), "hostPath of a device node"),
        (device(r#"{"deviceNodes":[{"path":"/dev/x","type":"s"}]}"#), "none of b, c, u, p"),
        (device(r#"{"deviceNodes":[{"path":"/dev/x","permissions":"x"}]}"#), "not of r, w, m"),
        (device(r#"{"mounts":[{"hostPath":"/a","containerPath":"/b/../../c"}]}"#), "containerPath"),
        (device(r#"{"mounts":[{"hostPath":"a","containerPath":"/b"}]}"#), "hostPath"),
        (device(r#"{"hooks":[{"hookName":"sometimes","path":"/x"}]}"#), "none of prestart"),
        (device(r#"{"hooks":[{"hookName":"prestart","path":"x"}]}"#), "path of a hook"),
        (device(r#"{"hooks":[{"hookName":"prestart","path":"/x","timeout":0}]}"#), "not positive"),
        (device(r#"{"additionalGids":[-1]}"#), "invalid value"),
        (device(&format!(r#"{{"intelRdt":{}"#, "[".repeat(100_000))), "recursion limit"),
    ];
    for (text, reason) in cases {
        let error = CdiSpec::from_json(&text).expect_err(&text);
        assert!(error.contains(reason), "{error}");
    }
    assert!(CdiSpec::from_yaml("a: &a [*a]").is_err());
}

#[test]
fn files_that_are_none_are_reported_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("pipe.json"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    std::fs::write(dir.path().join("latin.yaml"), b"a: \xff").unwrap();
    let big = std::fs::File::create(dir.path().join("big.json")).unwrap();
    big.set_len(MAX_FILE + 1).unwrap();
    let registry = Registry::load(&[dir.path().to_owned()]);
    let reasons = ["larger than", "valid UTF-8", "not a regular file"];
    assert_eq!(registry.broken().len(), reasons.len());
    for (broken, reason) in registry.broken().iter().zip(reasons) {
        assert!(broken.contains(reason), "{broken}");
    }
}

proptest! {
    #[test]
    fn any_request_is_read_or_refused(text in "[a-c/:=.0-]{0,14}") {
        if let Ok(DeviceRequest::Node(node)) = DeviceRequest::parse(&text) {
            prop_assert!(node.path.is_absolute() && node.host_path.is_absolute());
        }
    }

    #[test]
    fn a_truncated_document_is_never_a_panic(length in 0usize..NVIDIA.len()) {
        if NVIDIA.is_char_boundary(length) {
            let _ = CdiSpec::from_yaml(&NVIDIA[..length]);
        }
    }
}
