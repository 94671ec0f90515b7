//! Requests and the bundles that they become.

use super::*;
use berth_container::accounts;
use berth_image::manifest::RunConfig;

fn host() -> Host {
    Host {
        user: accounts::User {
            name: "me".to_owned(),
            home: "/home/me".to_owned(),
            ..accounts::User::unnamed(1000, 1000, "")
        },
        groups: Vec::new(),
        home: Some("/home/me".into()),
        cwd: Some("/home/me/work".into()),
        environment: [("HOME", "/home/me"), ("PATH", "/host/bin"), ("LANG", "de_DE"), ("SLURM_JOB_ID", "7")]
            .map(|(name, value)| (name.into(), value.into()))
            .to_vec(),
        uid_map: Vec::new(),
        gid_map: Vec::new(),
    }
}

fn image() -> Image {
    Image {
        name: "example:1".to_owned(),
        config: RunConfig {
            env: vec!["PATH=/image/bin".to_owned(), "LANG=C".to_owned(), "SLURM_JOB_ID=1".to_owned()],
            cmd: vec!["serve".to_owned()],
            working_dir: "/app".to_owned(),
            stop_signal: "SIGINT".to_owned(),
            ..RunConfig::default()
        },
        ..Image::default()
    }
}

fn request(options: &ContainerOptions) -> Request<'_> {
    Request {
        options,
        what: What::Command(&[]),
        settings: &[],
        keep_env: &[],
        default_volumes: &[],
        volumes: &[],
        subid: None,
        host_files: HostFiles::default(),
        host_name: "node1",
        host_has_mqueue: true,
    }
}

fn process(lowered: &Lowered) -> &Process {
    lowered.bundle.spec.process.as_ref().unwrap()
}

fn kinds(lowered: &Lowered) -> Vec<NamespaceKind> {
    lowered.bundle.spec.linux.as_ref().unwrap().namespaces.iter().map(|namespace| namespace.kind).collect()
}

#[test]
fn the_default_is_oneself_in_ones_own_place_with_two_namespaces() {
    let options = ContainerOptions::default();
    let lowered = lower(&request(&options), &image(), &host()).unwrap();
    assert_eq!(kinds(&lowered), [NamespaceKind::User, NamespaceKind::Mount]);
    let process = process(&lowered);
    assert_eq!((process.user.uid, process.user.gid), (1000, 1000));
    assert_eq!(process.args, ["serve"]);
    assert_eq!(process.cwd, Path::new("/home/me/work"));
    assert!(process.no_new_privileges);
    assert!(!lowered.fake_ownership);
    let Rootfs::Overlay { upper, generated, .. } = &lowered.bundle.rootfs else { panic!("no overlay") };
    assert_eq!(*upper, Upper::Tmpfs { size: None });
    let passwd = generated.iter().find(|file| file.path == Path::new("/etc/passwd")).unwrap();
    assert!(String::from_utf8_lossy(&passwd.content).contains("me:x:1000:1000::/home/me:"));
}

#[test]
fn each_variable_comes_from_where_it_should() {
    let options = ContainerOptions::default();
    let keep = ["LANG".to_owned()];
    let settings = [Setting::Set("EXTRA".into(), "1".into())];
    let has = |request: &Request<'_>, entry: &str| {
        let lowered = lower(request, &image(), &host()).unwrap();
        process(&lowered).env.iter().any(|known| known == entry)
    };
    let plain = request(&options);
    for entry in ["PATH=/image/bin", "LANG=C", "SLURM_JOB_ID=7", "HOME=/home/me"] {
        assert!(has(&plain, entry), "{entry}");
    }
    let kept = Request { keep_env: &keep, settings: &settings, ..plain };
    assert!(has(&kept, "LANG=de_DE") && has(&kept, "EXTRA=1"));
    let clear = ContainerOptions { clear_env: true, ..ContainerOptions::default() };
    let clear = Request { options: &clear, keep_env: &keep, ..plain };
    assert!(has(&clear, "LANG=C") && has(&clear, "SLURM_JOB_ID=1"), "--clear-env wins over the configuration");
    let set = [Setting::Set("LANG".into(), "fr_FR".into())];
    assert!(has(&Request { keep_env: &keep, settings: &set, ..plain }, "LANG=fr_FR"), "-e wins over all");
}

#[test]
fn the_command_starts_where_it_is_told_or_where_it_can() {
    let start = |options: ContainerOptions, cwd: &str| {
        let host = Host { cwd: Some(cwd.into()), ..host() };
        process(&lower(&request(&options), &image(), &host).unwrap()).cwd.clone()
    };
    let plain = ContainerOptions::default;
    assert_eq!(start(plain(), "/data"), Path::new("/data"));
    assert_eq!(start(plain(), "/usr/lib"), Path::new("/app"), "a directory of the system is the image's");
    assert_eq!(start(ContainerOptions { no_cwd: true, ..plain() }, "/data"), Path::new("/app"));
    assert_eq!(start(ContainerOptions { contained: true, ..plain() }, "/data"), Path::new("/app"));
    assert_eq!(start(ContainerOptions { workdir: Some("/x".to_owned()), ..plain() }, "/data"), Path::new("/x"));
    let relative = ContainerOptions { workdir: Some("x".to_owned()), ..plain() };
    assert!(lower(&request(&relative), &image(), &host()).is_err());
}

#[test]
fn namespaces_are_new_only_on_request() {
    let private = Some(options::Namespace::Private);
    let options = ContainerOptions {
        pid: private,
        ipc: private,
        net: private,
        hostname: Some("box".to_owned()),
        ..ContainerOptions::default()
    };
    use NamespaceKind::*;
    let lowered = lower(&request(&options), &image(), &host()).unwrap();
    assert_eq!(kinds(&lowered), [User, Mount, Pid, Ipc, Uts, Network]);
    let host_option = ContainerOptions { net: Some(options::Namespace::Host), ..ContainerOptions::default() };
    assert_eq!(kinds(&lower(&request(&host_option), &image(), &super::tests::host()).unwrap()), [User, Mount]);
}

#[test]
fn a_host_name_is_one() {
    let lowered = |name: &str| {
        let options = ContainerOptions { hostname: Some(name.to_owned()), ..ContainerOptions::default() };
        lower(&request(&options), &image(), &host()).map(drop)
    };
    assert!(lowered("node-1.cluster").is_ok());
    for name in ["", "two words", "-x", "x\n", &"x".repeat(65)] {
        assert!(lowered(name).is_err(), "{name:?}");
    }
}

#[test]
fn changes_go_where_the_options_say() {
    let upper = |options: &ContainerOptions, keep: bool| {
        let mut lowered = lower(&request(options), &image(), &host()).unwrap();
        if keep {
            lowered.keep_changes("/keep/upper".into(), "/keep/work".into());
        }
        match lowered.bundle.rootfs {
            Rootfs::Overlay { upper, .. } => upper,
            _ => panic!("no overlay"),
        }
    };
    let plain = ContainerOptions::default();
    let sized = ContainerOptions { overlay_size: Some(9), ..plain.clone() };
    assert_eq!(upper(&sized, false), Upper::Tmpfs { size: Some(9) });
    assert_eq!(upper(&plain, true), Upper::Dir { upper: "/keep/upper".into(), work: "/keep/work".into() });
    assert_eq!(upper(&ContainerOptions { read_only: true, ..plain }, true), Upper::None);
}

#[test]
fn a_directory_is_changed_only_when_that_is_asked_for() {
    let image = Image { layers: vec!["/trees/x".into()], is_directory: true, ..image() };
    let writable = ContainerOptions { writable: true, ..ContainerOptions::default() };
    let rootfs = |options: &ContainerOptions| lower(&request(options), &image, &host()).unwrap().bundle.rootfs;
    assert_eq!(rootfs(&writable), Rootfs::Dir("/trees/x".into()));
    assert!(matches!(rootfs(&ContainerOptions::default()), Rootfs::Overlay { upper: Upper::Tmpfs { .. }, .. }));
}

#[test]
fn an_image_without_a_command_needs_one() {
    let image = Image { config: RunConfig::default(), ..image() };
    let options = ContainerOptions::default();
    let error = lower(&request(&options), &image, &host()).unwrap_err();
    assert!(error.hint().unwrap().contains("berth run example:1 COMMAND"), "{error:?}");
}

#[test]
fn the_images_words_about_itself_are_annotations() {
    let options = ContainerOptions::default();
    let lowered = lower(&request(&options), &image(), &host()).unwrap();
    assert_eq!(lowered.bundle.spec.annotations["org.opencontainers.image.stopSignal"], "SIGINT");
}

#[test]
fn roots_directories_are_not_handed_to_another_user() {
    let all = IdMap { container_id: 0, host_id: 0, size: u32::MAX };
    let root =
        accounts::User { name: "root".to_owned(), home: "/root".to_owned(), ..accounts::User::unnamed(0, 0, "") };
    let host = Host { user: root, home: Some("/root".into()), uid_map: vec![all], gid_map: vec![all], ..host() };
    let shows = |user: Option<&str>, path: &str| {
        let options = ContainerOptions { user: user.map(str::to_owned), ..ContainerOptions::default() };
        let lowered = lower(&request(&options), &image(), &host).unwrap();
        lowered.bundle.spec.mounts.iter().any(|mount| mount.destination == Path::new(path))
    };
    for path in ["/root", "/home/me/work"] {
        assert!(shows(None, path), "{path}");
        assert!(!shows(Some("1000"), path), "{path}");
    }
}
