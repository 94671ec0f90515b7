//! Image references: what each spelling means, and what is said about those that mean nothing.

use berth_image::Error;
use berth_image::reference::{ImageName, Reference, Transport, is_loopback};
use proptest::prelude::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn name(text: &str) -> ImageName {
    match Reference::parse(text) {
        Ok(Reference::Registry(name)) => name,
        other => panic!("{text}: {other:?}"),
    }
}

fn reason(text: &str) -> String {
    match Reference::parse(text) {
        Err(Error::BadReference { reason, .. }) => reason,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn every_spelling_of_an_image_has_one_name() {
    let digest = format!("sha256:{HEX}");
    for (text, canonical) in [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("docker://ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("docker://docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("registry-1.docker.io/library/ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("index.docker.io#ubuntu", "docker.io/library/ubuntu:latest"),
        ("pytorch/pytorch:2.9", "docker.io/pytorch/pytorch:2.9"),
        ("nvcr.io#nvidia/pytorch:25.10-py3", "nvcr.io/nvidia/pytorch:25.10-py3"),
        ("docker://$oauthtoken@nvcr.io#nvidia/pytorch:25.10-py3", "nvcr.io/nvidia/pytorch:25.10-py3"),
        ("me@lab.example@Registry.Example:5000/team", "registry.example:5000/team:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ("login01#team/app", "login01#team/app:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        (&format!("ubuntu@{digest}"), &format!("docker.io/library/ubuntu@{digest}")),
        (&format!("bob@quay.io/a/b:1@{digest}"), &format!("quay.io/a/b:1@{digest}")),
    ] {
        assert_eq!(name(text).canonical(), canonical, "{text}");
    }
}

#[test]
fn the_digest_wins_over_the_tag() {
    let name = name(&format!("a.io/b:1@sha256:{HEX}"));
    assert_eq!(name.tag.as_deref(), Some("1"));
    assert_eq!(name.identifier(), format!("sha256:{HEX}"));
}

#[test]
fn the_login_is_taken_off_the_front_and_is_no_part_of_the_name() {
    let name = name("docker://me@site.org@nvcr.io#a/b");
    assert_eq!(name.user.as_deref(), Some("me@site.org"));
    assert_eq!(name.canonical(), "nvcr.io/a/b:latest");
}

#[test]
fn only_a_bare_name_without_a_registry_is_a_short_name() {
    assert_eq!(name("ubuntu").registry, None);
    assert_eq!(name("team/app").registry, None);
    assert_eq!(name("docker://ubuntu").registry.as_deref(), Some("docker.io"));
}

#[test]
fn places_on_this_machine_have_a_path_and_a_selector() {
    for (text, transport, path, selector) in [
        ("oci:/a/b", Transport::Oci, "/a/b", None),
        ("oci:dir:docker.io/x:1", Transport::Oci, "dir", Some("docker.io/x:1")),
        ("oci-archive:x.tar:v1", Transport::OciArchive, "x.tar", Some("v1")),
        ("docker-archive:-", Transport::DockerArchive, "-", None),
        ("dir:a:b", Transport::Dir, "a:b", None),
    ] {
        let expected = Reference::Path { transport, path: path.into(), selector: selector.map(str::to_owned) };
        assert_eq!(Reference::parse(text).unwrap(), expected, "{text}");
    }
    for (text, transport, name) in [
        ("containers-storage:localhost/a:1", Transport::ContainersStorage, "localhost/a:1"),
        ("dockerd://a", Transport::DockerDaemon, "a"),
        ("docker-daemon:a:1", Transport::DockerDaemon, "a:1"),
        ("podman://a", Transport::PodmanStorage, "a"),
    ] {
        assert_eq!(Reference::parse(text).unwrap(), Reference::Engine { transport, name: name.into() }, "{text}");
    }
}

#[test]
fn a_wrong_reference_says_where_and_what_to_write() {
    for (text, words) in [
        ("", "empty"),
        ("Ubuntu", "write ubuntu"),
        ("quay.io/Team/app", "upper-case letter `T` at character 1"),
        ("ubuntu:", "nothing follows"),
        ("ubuntu:a b", "cannot be in a tag"),
        ("ubuntu:-x", "begins with `-`"),
        ("a//b", "`/` too many"),
        ("a..b", "`..`"),
        ("a/_b", "begins or ends"),
        ("a\u{1b}[31mb", "control character"),
        ("#ubuntu", "no registry before `#`"),
        ("@ubuntu", "no user name"),
        ("localhost:99999/a", "is no port"),
        ("[zz]:1/a", "IPv6"),
        ("a%b.io/c", "cannot be in a registry's name"),
        ("ubuntu@sha256:abc", "wrong length"),
        ("https://quay.io/a", "docker://quay.io/a"),
        ("library://a", "containers-storage:"),
        ("./x.sqsh", "image in one file"),
        ("x.sqsh", "image in one file"),
        ("x.erofs", "image in one file"),
        ("x.sif", "Apptainer"),
        ("image.tar", "docker-archive:image.tar"),
        ("/data/rootfs", "dir:/data/rootfs"),
        ("oci:", "nothing follows"),
        ("oci::x", "no path"),
        ("dockerd://--help", "no image name"),
    ] {
        let reason = reason(text);
        assert!(reason.contains(words), "{text}: {reason}");
    }
    assert!(reason(&format!("ubuntu:{}", "a".repeat(129))).contains("limit is 128"));
    assert!(reason(&"a".repeat(300)).contains("limit is 255"));
    assert!(reason(&"a".repeat(10_000)).contains("limit is"));
}

#[test]
fn loopback_is_told_from_the_names_that_only_look_like_it() {
    for yes in ["localhost", "localhost:5000", "127.0.0.1:1", "127.8.9.1", "[::1]:5000", "[::1]"] {
        assert!(is_loopback(yes), "{yes}");
    }
    for no in ["localhost.example", "127.0.0.1.example.com", "10.0.0.1", "[::2]:5000", "example.com:127"] {
        assert!(!is_loopback(no), "{no}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn parsing_never_panics(text in "\\PC{0,80}") {
        let _ = Reference::parse(&text);
    }

    #[test]
    fn what_nearly_is_a_reference_is_refused_or_displays_as_itself(text in "[a-zA-Z0-9:/@#.\\-_\\[\\]$]{0,40}") {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
        }
    }

    #[test]
    fn what_is_displayed_parses_to_the_same(
        prefix in prop::sample::select(vec!["", "docker://", "oci:", "dir:", "docker-archive:", "podman://"]),
        user in prop::option::of("[a-z$]{1,8}"),
        registry in prop::option::of("(localhost|[a-z]{1,8}\\.io|\\[::1\\])(:[1-9][0-9]{0,3})?[/#]"),
        repository in "[a-z0-9]{1,6}([._-][a-z0-9]{1,4})?(/[a-z0-9]{1,6}){0,2}",
        tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9._-]{0,10}"),
        digest in prop::bool::ANY,
    ) {
        let text = format!(
            "{prefix}{}{}{repository}{}{}",
            user.map(|u| format!("{u}@")).unwrap_or_default(),
            registry.unwrap_or_default(),
            tag.map(|t| format!(":{t}")).unwrap_or_default(),
            if digest { format!("@sha256:{HEX}") } else { String::new() },
        );
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
        } else {
            // Of these parts only a tag or a repository that looks like a file's name can be wrong.
            prop_assert!(prefix.is_empty());
        }
    }
}
