//! The registry client against a registry that misbehaves.

mod support;

use std::io::Read;
use std::sync::Mutex;
use std::time::Duration;

use berth_image::credentials::{Credentials, Secret};
use berth_image::manifest::{Platform, ResolvedImage};
use berth_image::progress::{Event, Progress, Silent};
use berth_image::registries_conf::RegistriesConf;
use berth_image::registry::{RegistryOptions, RegistrySource, RetryPolicy, open};
use berth_image::source::Source;
use berth_image::{Digest, Error, Reference};
use support::{Auth, Fault, OCI_INDEX, OCI_MANIFEST, Registry, Response};

fn options() -> RegistryOptions {
    RegistryOptions {
        stall_timeout: Duration::from_secs(20),
        retry: RetryPolicy {
            attempts: 4,
            base: Duration::from_millis(1),
            cap: Duration::from_millis(4),
            longest: Duration::from_secs(2),
        },
        credentials: Some(Credentials::none()),
        registries: Some(RegistriesConf::default()),
        ..RegistryOptions::default()
    }
}

fn source(registry: &Registry, image: &str, options: &RegistryOptions) -> RegistrySource {
    open(&Reference::parse(&format!("{}/{image}", registry.host())).unwrap(), options).unwrap()
}

fn amd64() -> Platform {
    Platform::parse("linux/amd64").unwrap()
}

fn resolve(source: &RegistrySource) -> Result<ResolvedImage, Error> {
    source.resolve(&amd64(), &Silent)
}

fn layer(source: &RegistrySource, image: &ResolvedImage, at: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut reader = source.open_layer(&image.layers[at], &Silent).map_err(|e| e.to_string())?;
    reader.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Enough bytes that a connection cannot hold them all in its buffers, each place different.
fn content() -> Vec<u8> {
    (0..1_500_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 8).to_le_bytes()).take(3_000_000).collect()
}

/// A registry with the image `app:1` of one large layer.
fn with_image() -> (Registry, Vec<u8>, Digest) {
    let registry = Registry::start();
    let bytes = content();
    registry.image("app", "1", &[&bytes]);
    let digest = Digest::of(&bytes);
    (registry, bytes, digest)
}

#[test]
fn an_open_registry_gives_its_image_over_plain_http_on_the_loopback() {
    let registry = Registry::start();
    let manifest = registry.image("team/app", "1", &[b"one", b"two", b"one"]);
    let source = source(&registry, "team/app:1", &options());
    let image = resolve(&source).unwrap();
    assert_eq!(image.digest, manifest);
    assert_eq!(image.layers.len(), 3);
    assert_eq!(layer(&source, &image, 1).unwrap(), b"two");
    assert_eq!(source.name(), format!("{}/team/app:1", registry.host()));
}

#[test]
fn a_token_is_fetched_once_and_serves_all_requests() {
    let registry = Registry::start();
    registry.image("app", "1", &[b"one", b"two"]);
    registry.auth(Auth::Bearer { login: None, uses: 100 });
    let source = source(&registry, "app:1", &options());
    let image = resolve(&source).unwrap();
    assert_eq!(layer(&source, &image, 0).unwrap(), b"one");
    assert_eq!(layer(&source, &image, 1).unwrap(), b"two");
    let asked = registry.requests("/token");
    assert_eq!(asked.len(), 1);
    // The service is quoted with a comma in it, and the scope is ours, not the one that the registry wants.
    assert!(asked[0].path.contains("service=test%2C%20one"), "{}", asked[0].path);
    assert!(asked[0].path.contains("scope=repository%3Aapp%3Apull"), "{}", asked[0].path);
    assert!(asked[0].header("Authorization").is_none());
}

#[test]
fn a_token_that_runs_out_in_the_middle_of_a_blob_is_renewed_and_the_blob_goes_on() {
    let (registry, bytes, digest) = with_image();
    registry.auth(Auth::Bearer { login: None, uses: 3 });
    registry.fault(&digest.to_string(), Fault::Cut(1_000_000), 1);
    let source = source(&registry, "app:1", &options());
    let image = resolve(&source).unwrap();
    assert_eq!(layer(&source, &image, 0).unwrap(), bytes);
    assert_eq!(registry.requests("/token").len(), 2);
    let ranges: Vec<_> = registry.requests(&digest.to_string()).iter().map(|r| r.header("Range").is_some()).collect();
    // The first, the resumption with the old token, the resumption with the new one.
    assert_eq!(ranges, [false, true, true]);
}

#[test]
fn a_token_that_is_refused_at_once_ends_in_an_error_and_not_in_a_loop() {
    let registry = Registry::start();
    registry.image("app", "1", &[b"one"]);
    registry.auth(Auth::Bearer { login: None, uses: 0 });
    let error = resolve(&source(&registry, "app:1", &options())).unwrap_err();
    assert!(matches!(error, Error::Registry { status: Some(401), .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("log in"));
    assert_eq!(registry.requests("/token").len(), 1);
}

#[test]
fn a_login_is_shown_only_after_it_was_asked_for() {
    for auth in
        [Auth::Basic { user: "ann", password: "s3cret" }, Auth::Bearer { login: Some(("ann", "s3cret")), uses: 9 }]
    {
        let registry = Registry::start();
        registry.image("app", "1", &[b"one"]);
        registry.auth(auth);
        let mut options = options();
        options.credentials = None;
        options.authfile = Some("/dev/null".into());
        options.creds = Some(Secret::new("ann:s3cret"));
        assert!(!format!("{options:?}").contains("s3cret"));
        let image = resolve(&source(&registry, "app:1", &options)).unwrap();
        assert_eq!(image.layers.len(), 1);
        assert!(registry.requests("/v2/")[0].header("Authorization").is_none());
    }
}

#[test]
fn a_wrong_password_is_tried_once_and_not_repeated_in_the_error() {
    let registry = Registry::start();
    registry.image("app", "1", &[b"one"]);
    registry.auth(Auth::Basic { user: "ann", password: "right" });
    let mut options = options();
    options.credentials = None;
    options.authfile = Some("/dev/null".into());
    options.creds = Some(Secret::new("ann:wr0ng"));
    let error = resolve(&source(&registry, "app:1", &options)).unwrap_err();
    let text = format!("{error} {error:?} {:?}", error.hint());
    assert!(text.contains("login of `ann` is not accepted") && !text.contains("wr0ng"), "{text}");
    assert_eq!(registry.requests("/v2/").len(), 2);
}

#[test]
fn what_cannot_be_helped_is_not_repeated() {
    for (status, hint) in [(403, "login"), (404, "typing")] {
        let registry = Registry::start();
        registry.fault(
            "/manifests/",
            Fault::Answer(Response::new(status, r#"{"errors":[{"message":"no\u001b[31m"}]}"#)),
            9,
        );
        let error = resolve(&source(&registry, "app:1", &options())).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no\\u{1b}[31m"), "{text}");
        if status == 403 {
            assert!(error.hint().unwrap().contains(hint));
        } else {
            assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
        }
        assert_eq!(registry.requests("/manifests/").len(), 1);
    }
}

#[test]
fn what_may_pass_is_repeated_until_it_does() {
    let (registry, bytes, digest) = with_image();
    registry.fault("/manifests/", Fault::Answer(Response::new(500, "")), 1);
    registry.fault("/manifests/", Fault::Answer(Response::new(429, "").with("Retry-After", "0")), 1);
    registry.fault(
        "/manifests/",
        Fault::Answer(Response::new(503, "").with("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT")),
        1,
    );
    registry.fault(&digest.to_string(), Fault::Hangup, 2);
    let source = source(&registry, "app:1", &options());
    let image = resolve(&source).unwrap();
    assert_eq!(registry.requests("/manifests/").len(), 4);
    assert_eq!(layer(&source, &image, 0).unwrap(), bytes);
}

#[test]
fn a_registry_that_stays_broken_is_given_up() {
    let registry = Registry::start();
    registry.fault("/manifests/", Fault::Answer(Response::new(502, "<html>")), 99);
    let error = resolve(&source(&registry, "app:1", &options())).unwrap_err();
    assert!(error.to_string().contains("502 Bad Gateway (tried 4 times)"), "{error}");
    assert_eq!(registry.requests("/manifests/").len(), 4);
}

#[test]
fn a_wait_that_is_too_long_is_told_and_not_waited() {
    let registry = Registry::start();
    registry.fault("/manifests/", Fault::Answer(Response::new(429, "").with("Retry-After", "21600")), 99);
    let error = resolve(&source(&registry, "app:1", &options())).unwrap_err();
    assert!(error.to_string().contains("asks to wait 21600 seconds"), "{error}");
    assert!(error.hint().unwrap().contains("mirror"));
    assert_eq!(registry.requests("/manifests/").len(), 1);
}

#[test]
fn a_cut_blob_is_resumed_where_it_broke() {
    let (registry, bytes, digest) = with_image();
    registry.fault(&digest.to_string(), Fault::Cut(700_000), 3);
    let source = source(&registry, "app:1", &options());
    let image = resolve(&source).unwrap();
    assert_eq!(layer(&source, &image, 0).unwrap(), bytes);
    let ranges: Vec<_> =
        registry.requests(&digest.to_string()).iter().map(|r| r.header("Range").map(str::to_owned)).collect();
    let range = |at: usize| Some(format!("bytes={at}-"));
    assert_eq!(ranges, [None, range(700_000), range(1_400_000), range(2_100_000)]);
}

#[test]
fn a_server_without_ranges_is_read_from_the_start_and_nothing_is_given_twice() {
    let (registry, bytes, digest) = with_image();
    registry.fault(&digest.to_string(), Fault::Cut(700_000), 1);
    registry.fault(&digest.to_string(), Fault::NoRange, 1);
    let source = source(&registry, "app:1", &options());
    let image = resolve(&source).unwrap();
    assert_eq!(layer(&source, &image, 0).unwrap(), bytes);
    assert_eq!(registry.requests(&digest.to_string()).len(), 2);
}

#[test]
fn a_range_that_was_not_asked_for_is_refused() {
    let (registry, _, digest) = with_image();
    registry.fault(&digest.to_string(), Fault::Cut(700_000), 1);
    let wrong = Response::new(206, vec![0; 10]).with("Content-Range", "bytes 5-14/3000000");
    registry.fault(&digest.to_string(), Fault::Answer(wrong), 9);
    let source = source(&registry, "app:1", &options());
    let image = resolve(&source).unwrap();
    let error = layer(&source, &image, 0).unwrap_err();
    assert!(error.contains("sent others"), "{error}");
}

#[test]
fn a_stalled_blob_is_broken_off_and_resumed() {
    let (registry, bytes, digest) = with_image();
    registry.fault(&digest.to_string(), Fault::Stall(1_000_000), 1);
    let mut options = options();
    options.stall_timeout = Duration::from_millis(400);
    let source = source(&registry, "app:1", &options);
    let image = resolve(&source).unwrap();
    assert_eq!(layer(&source, &image, 0).unwrap(), bytes);
    let last = registry.requests(&digest.to_string()).pop().unwrap();
    assert_eq!(last.header("Range"), Some("bytes=1000000-"));
}

#[test]
fn a_blob_that_never_gets_on_is_given_up() {
    let (registry, _, digest) = with_image();
    registry.fault(&digest.to_string(), Fault::Cut(1), 1000);
    let source = source(&registry, "app:1", &options());
    let image = resolve(&source).unwrap();
    let error = layer(&source, &image, 0).unwrap_err();
    assert!(error.contains("at byte") && error.contains("of 3000000"), "{error}");
    assert!(registry.requests(&digest.to_string()).len() <= 5);
}

#[test]
fn a_blob_with_a_wrong_length_header_is_still_read_whole() {
    let (registry, bytes, digest) = with_image();
    // Shorter than it is: the rest is asked for. Longer: the connection ends early, and nothing is missing.
    for (length, requests) in [(1_000_000, 2), (4_000_000, 1)] {
        let before = registry.requests(&digest.to_string()).len();
        registry.fault(&digest.to_string(), Fault::Length(length), 1);
        let source = source(&registry, "app:1", &options());
        let image = resolve(&source).unwrap();
        assert_eq!(layer(&source, &image, 0).unwrap(), bytes);
        assert_eq!(registry.requests(&digest.to_string()).len() - before, requests);
    }
}

#[test]
fn a_blob_gives_one_byte_too_much_at_most_and_ends_where_the_server_has_no_more() {
    let (registry, bytes, digest) = with_image();
    let source = source(&registry, "app:1", &options());
    let image = resolve(&source).unwrap();
    registry.fault(&digest.to_string(), Fault::Body(vec![7; 9_000_000]), 1);
    assert_eq!(layer(&source, &image, 0).unwrap().len(), bytes.len() + 1);
    let mut larger = image.clone();
    larger.layers[0].descriptor.size += 100;
    assert_eq!(layer(&source, &larger, 0).unwrap().len(), bytes.len());
}

#[test]
fn a_redirect_to_another_host_carries_no_login() {
    let (registry, bytes, digest) = with_image();
    let store = Registry::start();
    store.blob(&bytes);
    registry.auth(Auth::Bearer { login: None, uses: 99 });
    let target = format!("http://{}/v2/app/blobs/{digest}?sig=x", store.host());
    let stored = Response::new(200, bytes.clone());
    store.fault("sig=x", Fault::Answer(stored), 1);
    let source = source(&registry, "app:1", &options());
    let image = resolve(&source).unwrap();
    registry.fault(&digest.to_string(), Fault::Answer(Response::new(307, "").with("Location", target)), 1);
    assert_eq!(layer(&source, &image, 0).unwrap(), bytes);
    assert!(registry.requests(&digest.to_string())[0].header("Authorization").is_some());
    assert!(store.requests("sig=x")[0].header("Authorization").is_none());
}

#[test]
fn a_refusal_by_the_redirected_store_does_not_reach_for_the_login() {
    let (registry, _, digest) = with_image();
    let store = Registry::start();
    store.auth(Auth::Basic { user: "ann", password: "s3cret" });
    let mut options = options();
    options.credentials = None;
    options.authfile = Some("/dev/null".into());
    options.creds = Some(Secret::new("ann:s3cret"));
    let source = source(&registry, "app:1", &options);
    let image = resolve(&source).unwrap();
    let target = format!("http://{}/v2/x/blobs/{digest}", store.host());
    registry.fault(&digest.to_string(), Fault::Answer(Response::new(302, "").with("Location", target)), 9);
    assert!(layer(&source, &image, 0).is_err());
    // Neither host is shown the login: the registry did not ask, and the store has no right to.
    for host in [&registry, &store] {
        assert!(!host.requests("/blobs/").is_empty());
        assert!(host.requests("").iter().all(|r| r.header("Authorization").is_none()));
    }
}

#[test]
fn redirects_that_lead_nowhere_are_not_followed() {
    for target in ["file:///etc/passwd", "http://a:b@127.0.0.1/", "", "ftp://127.0.0.1/x", "/v2/app/manifests/1"] {
        let registry = Registry::start();
        registry.fault("/manifests/", Fault::Answer(Response::new(302, "").with("Location", target)), 99);
        let error = resolve(&source(&registry, "app:1", &options())).unwrap_err();
        assert!(error.to_string().contains("redirect"), "{target}: {error}");
        assert!(registry.requests("").len() <= 6);
    }
}

#[test]
fn answers_that_are_no_http_are_errors() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(2_000_000));
    for raw in [
        "\0\0\0\0\r\n\r\n",
        "HTTP/1.1 999999 X\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        &long,
        "HTTP/1.1 200 OK\r\n: \x01\r\n\r\n",
    ] {
        let registry = Registry::start();
        let answer = Response { raw: Some(raw.as_bytes().to_vec()), ..Response::default() };
        registry.fault("/manifests/", Fault::Answer(answer), 99);
        let error = resolve(&source(&registry, "app:1", &options())).unwrap_err();
        assert!(matches!(error, Error::Registry { .. }), "{error:?}");
        assert!(registry.requests("/manifests/").len() <= 4);
    }
}

#[test]
fn a_token_service_that_is_no_address_is_an_error() {
    for challenge in [
        "Bearer",
        "Bearer realm=\"\"",
        "Bearer realm=\"file:///x\"",
        "Bearer realm=\"http://u:p@127.0.0.1/\"",
        "\"\\",
        "Negotiate",
    ] {
        let registry = Registry::start();
        registry.fault("/manifests/", Fault::Answer(Response::new(401, "").with("WWW-Authenticate", challenge)), 99);
        let error = resolve(&source(&registry, "app:1", &options())).unwrap_err();
        assert!(matches!(error, Error::Registry { .. }), "{challenge}: {error:?}");
    }
}

#[test]
fn a_huge_manifest_is_not_read() {
    let registry = Registry::start();
    registry.manifest("app", Some("1"), OCI_MANIFEST, &vec![b' '; (4 << 20) + 1]);
    let error = resolve(&source(&registry, "app:1", &options())).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
}

#[test]
fn a_manifest_that_is_cut_is_fetched_again() {
    let registry = Registry::start();
    registry.image("app", "1", &[b"one"]);
    registry.fault("/manifests/", Fault::Cut(20), 2);
    assert!(resolve(&source(&registry, "app:1", &options())).is_ok());
    assert_eq!(registry.requests("/manifests/").len(), 3);
}

#[test]
fn a_manifest_asked_for_by_digest_must_have_it() {
    let registry = Registry::start();
    let digest = registry.image("app", "1", &[b"one"]);
    let by_digest = source(&registry, &format!("app:old@{digest}"), &options());
    assert_eq!(resolve(&by_digest).unwrap().digest, digest);
    registry.fault("/manifests/", Fault::Body(b"{}".to_vec()), 1);
    let error = resolve(&by_digest).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error:?}");
}

#[test]
fn an_index_leads_to_the_image_of_the_platform_through_another_index() {
    let registry = Registry::start();
    let image = registry.image("app", "image", &[b"one"]);
    let size = registry_size(&registry, &image);
    let inner = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{image}","size":{size},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
    );
    let inner_digest = registry.manifest("app", None, OCI_INDEX, inner.as_bytes());
    let outer = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_INDEX}","digest":"{inner_digest}","size":{}}}]}}"#,
        inner.len()
    );
    registry.manifest("app", Some("1"), OCI_INDEX, outer.as_bytes());
    assert_eq!(resolve(&source(&registry, "app:1", &options())).unwrap().digest, image);
}

fn registry_size(registry: &Registry, digest: &Digest) -> usize {
    resolve(&source(registry, &format!("app@{digest}"), &options())).unwrap().manifest.len()
}

#[test]
fn mirrors_come_first_and_the_registry_itself_when_they_fail() {
    let registry = Registry::start();
    let mirror = Registry::start();
    let bytes = content();
    registry.image("team/app", "1", &[&bytes]);
    let digest = mirror.image("copy/app", "1", &[&bytes]);
    let conf = format!(
        "[[registry]]\nprefix = \"hub.example/team\"\nlocation = \"{}/team\"\n[[registry.mirror]]\nlocation = \"{}/copy\"\n",
        registry.host(),
        mirror.host()
    );
    let mut options = options();
    options.registries = Some(RegistriesConf::parse(&conf).unwrap());
    let open = || open(&Reference::parse("hub.example/team/app:1").unwrap(), &options).unwrap();
    let source = open();
    let image = resolve(&source).unwrap();
    assert_eq!((image.digest.clone(), source.name()), (digest, "hub.example/team/app:1".to_owned()));
    assert!(registry.requests("").is_empty());
    // The mirror loses the layer in the middle of it.
    mirror.fault("/blobs/", Fault::Cut(500_000), 1);
    mirror.fault("/blobs/", Fault::Answer(Response::new(404, "")), 99);
    assert_eq!(layer(&source, &image, 0).unwrap(), bytes);
    assert_eq!(registry.requests("/blobs/")[0].header("Range"), Some("bytes=500000-"));
    // And then the manifest.
    mirror.fault("/manifests/", Fault::Hangup, 99);
    let notes = Notes::default();
    open().resolve(&amd64(), &notes).unwrap();
    assert!(notes.0.lock().unwrap().iter().any(|note| note.contains("trying")));
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn event(&self, event: Event<'_>) {
        if let Event::Note(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

#[test]
fn a_short_name_is_looked_for_where_the_configuration_says_in_order() {
    let (first, second) = (Registry::start(), Registry::start());
    second.image("app", "1", &[b"one"]);
    let conf = format!("unqualified-search-registries = [\"{}\", \"{}\"]", first.host(), second.host());
    let mut options = options();
    options.registries = Some(RegistriesConf::parse(&conf).unwrap());
    let source = open(&Reference::parse("app:1").unwrap(), &options).unwrap();
    resolve(&source).unwrap();
    assert_eq!(source.name(), format!("{}/app:1", second.host()));
    let nowhere = open(&Reference::parse("other:1").unwrap(), &options).unwrap();
    let error = resolve(&nowhere).unwrap_err();
    assert!(error.to_string().contains(&first.host()) && error.to_string().contains(&second.host()), "{error}");
    // A password is for one registry.
    options.credentials = None;
    options.authfile = Some("/dev/null".into());
    options.creds = Some(Secret::new("ann:s3cret"));
    assert!(open(&Reference::parse("app:1").unwrap(), &options).is_err());
}

#[test]
fn a_registry_where_nothing_listens_is_an_error_with_a_hint() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let source = open(&Reference::parse(&format!("{free}/app")).unwrap(), &options()).unwrap();
    let error = resolve(&source).unwrap_err();
    assert!(error.to_string().contains("connection refused"), "{error}");
    assert!(error.hint().unwrap().contains("proxy"));
}
