//! Configuration: `registries.conf`, logins, challenges and waits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_image::Error;
use berth_image::credentials::{AuthFile, Credentials, Login, Secret, parse_netrc};
use berth_image::reference::{ImageName, Reference};
use berth_image::registries_conf::RegistriesConf;
use berth_image::registry::{RetryPolicy, parse_challenges, parse_retry_after};
use proptest::prelude::*;

fn name(text: &str) -> ImageName {
    match Reference::parse(text).unwrap() {
        Reference::Registry(name) => name,
        other => panic!("{other:?}"),
    }
}

/// The places for an image, `!` for insecure ones.
fn places(conf: &str, image: &str) -> Vec<String> {
    let conf = RegistriesConf::parse(conf).unwrap();
    let name = conf.candidates(&name(image)).remove(0);
    let endpoints = conf.endpoints(&name, false).unwrap();
    let text = |e: berth_image::registries_conf::Endpoint| {
        format!("{}/{}{}", e.registry, e.repository, if e.insecure { "!" } else { "" })
    };
    endpoints.into_iter().map(text).collect()
}

fn candidates(conf: &str, image: &str) -> Vec<String> {
    RegistriesConf::parse(conf).unwrap().candidates(&name(image)).iter().map(ImageName::canonical).collect()
}

#[test]
fn short_names_go_by_alias_then_by_the_search_list_then_to_docker_hub() {
    assert_eq!(candidates("", "ubuntu"), ["docker.io/library/ubuntu:latest"]);
    let conf =
        "unqualified-search-registries = ['quay.io', 'docker.io']\n[aliases]\nfedora = 'registry.example/f/fedora'";
    assert_eq!(candidates(conf, "app:1"), ["quay.io/app:1", "docker.io/library/app:1"]);
    assert_eq!(candidates(conf, "fedora:41"), ["registry.example/f/fedora:41"]);
    assert_eq!(candidates(conf, "ghcr.io/a/b"), ["ghcr.io/a/b:latest"]);
    // Version 1.
    assert_eq!(candidates("[registries.search]\nregistries = ['quay.io']", "app"), ["quay.io/app:latest"]);
}

#[test]
fn the_longest_prefix_decides_and_only_at_a_border() {
    let conf = r#"
        [[registry]]
        location = "quay.io"
        insecure = true
        [[registry]]
        prefix = "quay.io/team"
        location = "lan.example:5000/mirror/team"
        [[registry]]
        prefix = "*.wild.example"
        location = "one.example"
    "#;
    assert_eq!(places(conf, "quay.io/team/app"), ["lan.example:5000/mirror/team/app"]);
    assert_eq!(places(conf, "quay.io/teamwork/app"), ["quay.io/teamwork/app!"]);
    assert_eq!(places(conf, "a.b.wild.example/x"), ["one.example/x"]);
    assert_eq!(places(conf, "wild.example/x"), ["wild.example/x"]);
    assert_eq!(places(conf, "localhost:5000/x"), ["localhost:5000/x!"]);
}

#[test]
fn mirrors_are_asked_first_and_only_for_what_they_are_for() {
    let conf = r#"
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "all.example/hub"
        [[registry.mirror]]
        location = "digest.example"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "tag.example"
        insecure = true
        pull-from-mirror = "tag-only"
    "#;
    let digest = format!("ubuntu@sha256:{}", "a".repeat(64));
    assert_eq!(
        places(conf, "ubuntu"),
        ["all.example/hub/library/ubuntu", "tag.example/library/ubuntu!", "docker.io/library/ubuntu"]
    );
    assert_eq!(
        places(conf, &digest),
        ["all.example/hub/library/ubuntu", "digest.example/library/ubuntu", "docker.io/library/ubuntu"]
    );
}

#[test]
fn a_blocked_registry_is_refused() {
    let conf = RegistriesConf::parse("[[registry]]\nlocation = 'bad.example'\nblocked = true").unwrap();
    let error = conf.endpoints(&name("bad.example/x"), false).unwrap_err();
    assert!(error.to_string().contains("blocks"), "{error}");
}

#[test]
fn the_users_file_stands_for_the_systems_and_drop_ins_go_on_top() {
    let dir = tempfile::tempdir().unwrap();
    let (user, system) = (dir.path().join("user"), dir.path().join("system"));
    for (path, text) in [
        ("system/registries.conf", "unqualified-search-registries = ['system.example']"),
        ("system/registries.conf.d/1.conf", "[aliases]\na = 'one.example/a'\nb = 'one.example/b'"),
        ("user/registries.conf.d/2.conf", "[aliases]\na = 'two.example/a'\nb = ''"),
        ("user/registries.conf.d/ignored.txt", "no toml"),
    ] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let load = || RegistriesConf::load_from(Some(&user), &[&system, Path::new("/nonexistent")]);
    let found = |image: &str| load().unwrap().candidates(&name(image))[0].canonical();
    assert_eq!(found("a"), "two.example/a:latest");
    assert_eq!(found("b"), "system.example/b:latest");
    fs::write(user.join("registries.conf"), "unqualified-search-registries = ['user.example']").unwrap();
    assert_eq!(found("b"), "user.example/b:latest");
    fs::write(user.join("registries.conf"), "unqualified-search-registries = 3").unwrap();
    assert!(matches!(load(), Err(Error::Config { .. })));
}

fn basic(user: &str, password: &str) -> Option<Login> {
    Some(Login::Basic { user: user.to_owned(), password: Secret::new(password) })
}

#[test]
fn the_most_specific_login_of_an_auth_file_is_taken() {
    // ann:one, bob:two:three, hub:four
    let file = AuthFile::parse(
        br#"{"auths": {"quay.io": {"auth": "YW5uOm9uZQ=="}, "quay.io/team": {"auth": "Ym9iOnR3bzp0aHJlZQ"},
            "https://index.docker.io/v1/": {"username": "hub", "password": "four"}, "empty.example": {},
            "id.example": {"auth": "YW5uOm9uZQ==", "identitytoken": "tok"}}, "HttpHeaders": {"X": "y"}}"#,
    )
    .unwrap();
    let login = |registry: &str, repository: &str| file.login(registry, repository).unwrap();
    assert_eq!(login("quay.io", "app"), basic("ann", "one"));
    assert_eq!(login("quay.io", "team/app"), basic("bob", "two:three"));
    assert_eq!(login("quay.io", "teamwork"), basic("ann", "one"));
    assert_eq!(login("docker.io", "library/ubuntu"), basic("hub", "four"));
    assert_eq!(login("empty.example", "a"), None);
    assert_eq!(login("id.example", "a"), Some(Login::Identity(Secret::new("tok"))));
    assert_eq!(login("io", "a"), None);
}

#[test]
fn mistakes_in_auth_files_are_told_without_their_secrets() {
    for text in [
        r#"{"auths": {"a": {"auth": "s3cr3t!!"}}}"#,
        r#"{"auths": {"a": {"auth": 53}}, "s3cr3t"}"#,
        r#"{"auths": "s3cr3t"}"#,
    ] {
        let error = AuthFile::parse(text.as_bytes()).unwrap_err();
        assert!(!error.contains("s3cr3t"), "{error}");
    }
    let shown =
        format!("{:?}", AuthFile::parse(br#"{"auths": {"a": {"username": "u", "password": "s3cr3t"}}}"#).unwrap());
    assert!(shown.contains("\"u\"") && !shown.contains("s3cr3t"), "{shown}");
}

#[test]
fn the_user_in_the_reference_picks_among_the_logins() {
    let dir = tempfile::tempdir().unwrap();
    let (auth, netrc) = (dir.path().join("auth.json"), dir.path().join(".credentials"));
    fs::write(&auth, r#"{"auths": {"nvcr.io": {"username": "ann", "password": "one"}}}"#).unwrap();
    fs::write(
        &netrc,
        "# comment\nmachine nvcr.io login $oauthtoken password key\nmachine nvcr.io login bob password two\n\
         machine registry-1.docker.io login hub password x\nmachine lab.example login eve password three\n",
    )
    .unwrap();
    let credentials = Credentials::none().with_auth_file(&auth).with_netrc_file(&netrc);
    let login = |registry: &str, user| credentials.login(registry, "a/b", user).unwrap();
    assert_eq!(login("nvcr.io", None), basic("ann", "one"));
    assert_eq!(login("nvcr.io", Some("$oauthtoken")), basic("$oauthtoken", "key"));
    assert_eq!(login("nvcr.io", Some("bob")), basic("bob", "two"));
    assert_eq!(login("docker.io", None), basic("hub", "x"));
    assert_eq!(login("lab.example:5000", None), basic("eve", "three"));
    assert_eq!(login("other.example", None), None);
    let error = credentials.login("nvcr.io", "a", Some("zoe")).unwrap_err();
    assert!(error.hint().unwrap().contains("--creds"), "{error}");
}

#[test]
fn a_password_that_is_a_command_is_run_and_only_from_a_file_that_nobody_else_can_write() {
    let dir = tempfile::tempdir().unwrap();
    let netrc = dir.path().join(".credentials");
    fs::write(
        &netrc,
        "machine a.example login u password $(echo 'from a command'; echo >&2 noise)\n\
         machine b.example login u password $(echo s3cr3t; echo more)\n\
         machine c.example login u password ${BERTH_TEST_UNSET:-fallback}\n",
    )
    .unwrap();
    fs::set_permissions(&netrc, fs::Permissions::from_mode(0o600)).unwrap();
    let credentials = Credentials::none().with_netrc_file(&netrc);
    assert_eq!(credentials.login("a.example", "x", None).unwrap(), basic("u", "from a command"));
    assert_eq!(credentials.login("c.example", "x", None).unwrap(), basic("u", "fallback"));
    // The shell joins the words that it expands.
    assert_eq!(credentials.login("b.example", "x", None).unwrap(), basic("u", "s3cr3t more"));
    fs::set_permissions(&netrc, fs::Permissions::from_mode(0o620)).unwrap();
    let error = credentials.login("a.example", "x", None).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn a_credential_helper_that_is_not_there_is_named() {
    let file = AuthFile::parse(br#"{"credHelpers": {"a.example": "berth-test-none", "b.example": "../x"}}"#).unwrap();
    let error = file.login("a.example", "x").unwrap_err().to_string();
    assert!(error.contains("docker-credential-berth-test-none get") && error.contains("no such program"), "{error}");
    assert!(file.login("b.example", "x").unwrap_err().to_string().contains("no name"));
}

#[test]
fn challenges_are_read_as_registries_write_them() {
    let parsed = parse_challenges(
        r#"Negotiate, Bearer realm="https://auth.example/token?a=\"b\"",service=reg , Scope = "repository:a:pull,push" ,, basic REALM=x"#,
    );
    let schemes: Vec<_> = parsed.iter().map(|c| c.scheme.as_str()).collect();
    assert_eq!(schemes, ["negotiate", "bearer", "basic"]);
    assert_eq!(parsed[1].parameters["realm"], "https://auth.example/token?a=\"b\"");
    assert_eq!(parsed[1].parameters["service"], "reg");
    assert_eq!(parsed[1].parameters["scope"], "repository:a:pull,push");
    assert_eq!(parsed[2].parameters["realm"], "x");
}

#[test]
fn waits_are_read_as_seconds_and_as_dates() {
    let now = UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
    let wait = |text: &str| parse_retry_after(text, now).map(|d| d.as_secs());
    assert_eq!(wait(" 120 "), Some(120));
    assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(30));
    assert_eq!(wait("Sun, 06 Nov 1984 08:49:37 GMT"), Some(0));
    assert_eq!(wait("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800 - 784_111_747));
    assert_eq!(wait("99999999999999999999999"), Some(u64::MAX));
    for text in ["", "-1", "soon", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT", ","] {
        assert_eq!(wait(text), None, "{text}");
    }
}

#[test]
fn waits_grow_and_have_an_end() {
    let policy = RetryPolicy::default();
    for attempt in 1..100 {
        let full = policy.base.saturating_mul(1 << (attempt - 1).min(16)).min(policy.cap);
        let wait = policy.wait(attempt);
        assert!(wait >= full / 2 && wait <= full, "{attempt}: {wait:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_a_parser_panic(text in "[\\PC\n\"\\\\=,$]{0,200}") {
        parse_challenges(&text);
        parse_netrc(&text);
        let _ = parse_retry_after(&text, SystemTime::now());
        let _ = RegistriesConf::parse(&text);
        let _ = AuthFile::parse(text.as_bytes());
    }

    #[test]
    fn no_nearly_good_header_makes_the_parser_panic(text in "([a-z]{0,3}[ ,=\"\\\\]{0,3}){0,20}") {
        let parsed = parse_challenges(&text);
        prop_assert!(parsed.iter().all(|c| c.parameters.len() <= 32));
    }
}
