//! Ids: one's own, root's in appearance, ranges of subordinate ones, and real root.

use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::REGISTRY;
use testbed::process::Output;

const SUBID_TOOLS: Need = Need::Program("newuidmap", "uidmap");

chapter!("users",
    [REGISTRY, Need::Namespaces]:
        one_is_oneself_by_default,
        with_remap_root_one_seems_to_be_root,
        with_remap_root_a_package_installs,
        with_remap_root_users_are_added,
        with_remap_root_pip_installs,
        with_remap_root_ownership_calls_are_answered;
    [REGISTRY, Need::Namespaces, SUBID_TOOLS, Need::SubIds]:
        with_subid_other_ids_are_real,
        with_subid_the_images_user_is_used;
    [REGISTRY, Need::Root]:
        a_user_without_sub_ids_needs_none,
        subid_without_sub_ids_is_told_with_a_hint,
        real_root_runs_with_all_ids;
);

fn with_image(fixture: &Fixture, name: &str) -> String {
    let registry = fixture.registry();
    let image = registry.reference(name);
    fixture.berth(&["pull", &image]).ok();
    image
}

#[track_caller]
fn shell(fixture: &Fixture, options: &[&str], image: &str, script: &str) -> Output {
    fixture.berth(&[&["run"], options, &[image, "sh", "-c", script]].concat())
}

fn one_is_oneself_by_default() {
    let fixture = Fixture::new();
    let image = with_image(&fixture, "small");
    let user = &fixture.user;
    assert_eq!(shell(&fixture, &[], &image, "id -u; id -g").ok(), format!("{}\n{}\n", user.uid, user.gid));
    let work = fixture.path("work");
    shell(&fixture, &[], &image, "echo x > made").ok();
    let entry = &fixture.tree(&work).0["made"];
    assert_eq!(entry.kind, "file");
}

fn with_remap_root_one_seems_to_be_root() {
    let fixture = Fixture::new();
    let image = with_image(&fixture, "small");
    assert_eq!(shell(&fixture, &["--remap-root"], &image, "id -u; id -g; id -un").ok(), "0\n0\nroot\n");
    // Outside it is the user's own file.
    shell(&fixture, &["--remap-root"], &image, "echo x > made; chown 1234:1234 made").ok();
    let made = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(fixture.path("work/made")).expect("a file"));
    assert_eq!(made, fixture.user.uid);
}

/// A package with what makes installing hard: a user of its own, files that belong to it, a setuid program.
pub const PACKAGE: &str = r#"
set -e
d=$(mktemp -d); mkdir -p $d/p/DEBIAN $d/p/usr/lib/probe $d/p/var/lib/probe
cat > $d/p/DEBIAN/control <<EOF
Package: probe
Version: 1.0
Architecture: all
Maintainer: Test <test@example.org>
Description: probe
Depends: passwd, libc6
EOF
cat > $d/p/DEBIAN/postinst <<'EOF'
#!/bin/sh
set -e
groupadd --system probe
useradd --system --gid probe --home-dir /var/lib/probe --shell /usr/sbin/nologin probe
chown -R probe:probe /var/lib/probe
chmod 4755 /usr/lib/probe/tool
mknod /var/lib/probe/null c 1 3
EOF
chmod 755 $d/p/DEBIAN/postinst
echo tool > $d/p/usr/lib/probe/tool; echo state > $d/p/var/lib/probe/state
dpkg-deb --build --root-owner-group $d/p $d/probe.deb >/dev/null
apt-get install -y $d/probe.deb
dpkg -s probe | grep '^Status: install ok installed'
id -u probe
test -u /usr/lib/probe/tool
rm -rf $d
apt-get remove -y probe
! dpkg -s probe 2>/dev/null | grep '^Status: install ok installed'
echo all done
"#;

fn with_remap_root_a_package_installs() {
    let fixture = Fixture::new();
    let image = with_image(&fixture, "debian");
    let done = shell(&fixture, &["--remap-root", "--contained"], &image, PACKAGE);
    assert!(done.stdout.ends_with("all done\n"), "{}", done.report());
}

fn with_remap_root_users_are_added() {
    let fixture = Fixture::new();
    let image = with_image(&fixture, "debian");
    let script = "useradd -m -u 4321 somebody && id -u somebody && chown somebody /home/somebody && \
        install -o somebody -m 600 /etc/passwd /var/installed && \
        tar -C / -cf /root/t.tar etc && mkdir /root/t && tar -C /root/t --same-owner -xf /root/t.tar && userdel somebody";
    assert_eq!(shell(&fixture, &["--remap-root", "--no-home"], &image, script).ok(), "4321\n");
}

/// A wheel by hand, as there is no package index to ask.
const PIP: &str = r#"
import os, subprocess, sys, tempfile, zipfile
os.chdir(tempfile.mkdtemp())
name = 'probe_wheel-1.0-py3-none-any.whl'
with zipfile.ZipFile(name, 'w') as wheel:
    wheel.writestr('probe_wheel.py', 'VALUE = 42\n')
    info = 'probe_wheel-1.0.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\nName: probe-wheel\nVersion: 1.0\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    wheel.writestr(info + 'RECORD', '')
pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-index', '--root-user-action=ignore']
help = subprocess.run([sys.executable, '-m', 'pip', 'install', '--help'], capture_output=True, text=True).stdout
pip += ['--break-system-packages'] if '--break-system-packages' in help else []
subprocess.run(pip + [name], check=True)
os.chdir('/')
subprocess.run([sys.executable, '-c', 'import probe_wheel; print(probe_wheel.VALUE, probe_wheel.__file__)'], check=True)
"#;

fn with_remap_root_pip_installs() {
    let fixture = Fixture::new();
    let image = with_image(&fixture, "medium");
    let told = fixture.berth(&["run", "--remap-root", "--no-home", &image, "python3", "-c", PIP]).ok();
    assert!(told.starts_with("42 /usr/local/lib/"), "{told}");
}

fn with_remap_root_ownership_calls_are_answered() {
    let fixture = Fixture::new();
    let image = with_image(&fixture, "medium");
    let script = "import os; open('/f', 'w').close(); os.chown('/f', 12, 34); os.lchown('/f', 1, 2); \
        os.setgroups([1, 2, 3]); os.setgid(33); os.setuid(33); print('ok')";
    assert_eq!(fixture.berth(&["run", "--remap-root", &image, "python3", "-c", script]).ok(), "ok\n");
}

fn with_subid_other_ids_are_real() {
    let fixture = Fixture::new();
    let image = with_image(&fixture, "small");
    let script = "touch /f && chown 1000:33 /f && stat -c %u:%g /f && id -u";
    assert_eq!(shell(&fixture, &["--subid", "--user", "root"], &image, script).ok(), "1000:33\n0\n");
}

fn with_subid_the_images_user_is_used() {
    let fixture = Fixture::new();
    let image = with_image(&fixture, "small");
    assert_eq!(shell(&fixture, &["--subid", "--user", "nobody"], &image, "id -un").ok(), "nobody\n");
    assert_eq!(shell(&fixture, &["--subid", "--user", "1234:4321"], &image, "id -u; id -g").ok(), "1234\n4321\n");
}

fn a_user_without_sub_ids_needs_none() {
    let fixture = Fixture::without_sub_ids();
    with_image(&fixture, "odd");
    let image = with_image(&fixture, "debian");
    assert_eq!(shell(&fixture, &[], &image, "id -u").ok(), format!("{}\n", fixture.user.uid));
    assert_eq!(shell(&fixture, &["--remap-root"], &image, "id -u; touch /f; chown 5:6 /f; echo ok").ok(), "0\nok\n");
    fixture.berth(&["verify"]).ok();
}

fn subid_without_sub_ids_is_told_with_a_hint() {
    let fixture = Fixture::without_sub_ids();
    let image = with_image(&fixture, "small");
    let told = shell(&fixture, &["--subid"], &image, "true").fails(125);
    assert!(told.contains("/etc/subuid") && told.contains("hint: "), "{told}");
}

fn real_root_runs_with_all_ids() {
    let fixture = Fixture::as_oneself();
    let image = with_image(&fixture, "small");
    let script = "id -u; touch /f && chown 1000:33 /f && stat -c %u:%g /f";
    assert_eq!(shell(&fixture, &[], &image, script).ok(), "0\n1000:33\n");
}
