//! With a real bus, on which a systemd of the tests makes groups as the real one does.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;

use super::dbus::{Message, Reader, sockets};
use super::*;
use crate::cgroup::host::{Host, Kind};
use crate::cgroup::{Cgroup, Manager, Request, files};

fn name(path: Option<&str>, privileged: bool) -> Option<(String, String)> {
    Name::new(path.map(Path::new), "id", privileged).ok().map(|it| (it.slice, it.unit))
}

#[test]
fn paths_name_slices_and_scopes() {
    let table = [
        (None, true, Some(("system.slice", "berth-id.scope"))),
        (None, false, Some(("user.slice", "berth-id.scope"))),
        (Some("user.slice:libpod:abc"), false, Some(("user.slice", "libpod-abc.scope"))),
        (Some("-:a:b"), true, Some(("-.slice", "a-b.scope"))),
        (Some("x-y.slice::b"), true, Some(("x-y.slice", "b.scope"))),
        (Some("/a/b"), true, None),
        (Some("a:b"), true, None),
        (Some("a.slice:b:c:d"), true, None),
        (Some("a:b:c"), true, None),
        (Some("../a.slice:b:c"), true, None),
        (Some("a.slice:b:../c"), true, None),
        (Some("a.slice:b:c.slice"), true, None),
        (Some("a.slice:b:"), true, None),
    ];
    for (path, privileged, expected) in table {
        assert_eq!(name(path, privileged), expected.map(|(a, b)| (a.to_owned(), b.to_owned())), "{path:?}");
    }
}

fn properties(json: &str, pure_v2: bool) -> Vec<String> {
    let list = limit_properties(&serde_json::from_str(json).unwrap(), pure_v2).unwrap();
    list.iter().skip(1).map(|Property { name, value }| format!("{name} {value:?}")).collect()
}

#[test]
fn limits_are_properties_of_the_unit() {
    let json = r#"{"memory":{"limit":100,"swap":150,"reservation":-1},"pids":{"limit":-1},"unified":{"memory.high":"9"},
        "cpu":{"shares":1024,"quota":12345,"period":50000,"cpus":"0-1,9","mems":"0"},"blockIO":{"weight":1000}}"#;
    assert_eq!(
        properties(json, true),
        [
            "MemoryMax U64(100)",
            "MemoryLow U64(18446744073709551615)",
            "MemorySwapMax U64(50)",
            "CPUWeight U64(100)",
            "CPUQuotaPerSecUSec U64(250000)",
            "CPUQuotaPeriodUSec U64(50000)",
            "AllowedCPUs Bytes([3, 2])",
            "AllowedMemoryNodes Bytes([1])",
            "TasksMax U64(18446744073709551615)",
            "IOWeight U64(10000)",
            "MemoryHigh U64(9)",
        ]
    );
    assert_eq!(
        properties(json, false),
        [
            "MemoryLimit U64(100)",
            "CPUShares U64(1024)",
            "CPUQuotaPerSecUSec U64(250000)",
            "CPUQuotaPeriodUSec U64(50000)",
            "TasksMax U64(18446744073709551615)",
            "BlockIOWeight U64(1000)",
        ]
    );
    let devices = properties(r#"{"devices":[{"allow":false},{"allow":true,"type":"b","major":8,"minor":1}]}"#, true);
    assert_eq!(devices[0], r#"DevicePolicy Text("strict")"#);
    assert!(devices[1].contains(r#"("/dev/block/8:1", "rwm")"#) && devices[1].contains(r#"("char-136", "rwm")"#));
}

#[test]
fn addresses_name_sockets() {
    let found = sockets("tcp:host=x;unix:path=/a%20b,guid=1;unix:abstract=c;unix:tmpdir=/tmp;unix:path=%4");
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].as_pathname(), Some(Path::new("/a b")));
}

proptest! {
    #[test]
    fn no_message_makes_it_panic(kind: u8, big: bool, fields: Vec<u8>, body: Vec<u8>, list in "[0-9,-]{0,12}") {
        if let Ok(message) = Message::parse(kind, 1, big, &fields, body.clone()) {
            let _ = (message.first_text(), message.job());
        }
        let message = Message::parse(kind, 1, big, &[], body).unwrap();
        let _ = (message.first_text(), message.job(), mask_of_list(&list));
    }
}

/// A bus of the tests.
struct Daemon {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Daemon {
    /// `None`, told, where there is no such program.
    fn start() -> Option<Daemon> {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("bus.conf");
        let socket = directory.path().join("bus");
        let text = format!(
            "<busconfig><type>custom</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/>\
             </policy></busconfig>",
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("dbus-daemon");
        command
            .args(["--nofork", "--nopidfile", "--print-address", "--config-file"])
            .arg(&config)
            .stdout(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "dbus-daemon (package dbus): {error}");
                eprintln!("skipped: dbus-daemon (package dbus): {error}");
                return None;
            }
        };
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Daemon { child, address: address.trim().to_owned(), _directory: directory })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Properties of a unit as they were sent: their signature and, of texts and ids, the value.
type Sent = BTreeMap<String, (String, String)>;

fn read_properties(reader: &mut Reader<'_>) -> Option<Sent> {
    let mut sent = Sent::new();
    let length = reader.u32().ok()? as usize;
    reader.align(8).ok()?;
    let end = reader.position() + length;
    while reader.position() < end {
        reader.align(8).ok()?;
        let (name, signature) = (reader.text().ok()?, reader.signature().ok()?);
        let value = match signature.as_str() {
            "s" => reader.text().ok()?,
            "b" => reader.u32().ok()?.to_string(),
            "t" => {
                reader.align(8).ok()?;
                u64::from_le_bytes(reader.take(8).ok()?.try_into().ok()?).to_string()
            }
            "au" => {
                assert_eq!(reader.u32().ok()?, 4);
                reader.u32().ok()?.to_string()
            }
            "ay" | "a(ss)" => {
                let length = reader.u32().ok()? as usize;
                if signature == "a(ss)" {
                    reader.align(8).ok()?;
                }
                format!("{:?}", reader.take(length).ok()?)
            }
            other => panic!("{other}"),
        };
        sent.insert(name, (signature, value));
    }
    Some(sent)
}

/// The directories that systemd makes.
fn directories(slice: &str, unit: &str) -> Vec<PathBuf> {
    let host = Host::read().unwrap();
    let its = host.hierarchies.into_iter().filter(|it| it.kind == Kind::V2 || it.kind.has("name=systemd"));
    its.map(|it| it.mount_point.join(slice).join(unit)).collect()
}

/// What systemd does with calls. A unit with `exists` in its name has to be reset first, with `old` it knows few properties,
/// with `broken` it fails.
fn serve(mut bus: Bus, slice: String) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    while let Ok(message) = bus.receive() {
        if message.kind != dbus::METHOD_CALL {
            continue;
        }
        let mut reader = message.reader();
        let unit = if message.member == "Subscribe" { String::new() } else { reader.text().unwrap() };
        let was_reset = calls.iter().any(|(member, it)| member == "ResetFailedUnit" && *it == unit);
        calls.push((message.member.clone(), unit.clone()));
        let mut error = None;
        match message.member.as_str() {
            "StartTransientUnit" => {
                assert_eq!(reader.text().unwrap(), "fail");
                let sent = read_properties(&mut reader).unwrap();
                assert_eq!(sent["Slice"], ("s".to_owned(), slice.clone()));
                assert_eq!(sent["Delegate"], ("b".to_owned(), "1".to_owned()));
                if unit.contains("exists") && !was_reset {
                    error = Some("org.freedesktop.systemd1.UnitExists");
                } else if unit.contains("old") && sent.contains_key("CollectMode") {
                    error = Some("org.freedesktop.DBus.Error.PropertyReadOnly");
                } else if !unit.contains("broken") {
                    for directory in directories(&slice, &unit) {
                        std::fs::create_dir_all(&directory).unwrap();
                        files::write(&directory, "cgroup.procs", &sent["PIDs"].1).unwrap();
                    }
                }
            }
            "StopUnit" => {
                for directory in directories(&slice, &unit) {
                    files::remove(&directory).unwrap();
                }
            }
            _ => {}
        }
        let to = (6, "s", message.sender.as_str());
        if let Some(error) = error {
            bus.send(dbus::ERROR, &[to, (4, "s", error)], Some(message.serial), Body::default().string("no")).unwrap();
            continue;
        }
        let job = format!("/org/freedesktop/systemd1/job/{}", calls.len());
        let result = if unit.contains("broken") && message.member != "StopUnit" { "failed" } else { "done" };
        // Sometimes a job is done before its caller knows of it.
        let signal = Body::default().job(7, &job, &unit, result);
        let fields = [(1, "o", OBJECT), (2, "s", INTERFACE), (3, "s", "JobRemoved")];
        let early = unit.contains("early");
        let mut signal = Some(signal);
        if early {
            bus.send(dbus::SIGNAL, &fields, None, signal.take().unwrap()).unwrap();
        }
        bus.send(dbus::METHOD_RETURN, &[to], Some(message.serial), Body::default().path(&job)).unwrap();
        if let Some(signal) = signal {
            let other = Body::default().job(6, "/org/freedesktop/systemd1/job/0", "other.scope", "failed");
            bus.send(dbus::SIGNAL, &fields, None, other).unwrap();
            bus.send(dbus::SIGNAL, &fields, None, signal).unwrap();
        }
    }
    calls
}

const INSIDE: &str = "BERTH_TEST_SYSTEMD";

/// The test again, in a process whose environment names the bus.
fn run_inside(test: &str, address: &str, value: &str) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("DBUS_SYSTEM_BUS_ADDRESS", address)
        .env(INSIDE, value)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn systemd_makes_limits_and_removes_a_scope() {
    if let Ok(slice) = std::env::var(INSIDE) {
        return inside(&slice);
    }
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs this as root");
        return;
    }
    let Some(daemon) = Daemon::start() else { return };
    let mut bus = Bus::connect(&daemon.address).unwrap();
    let body = Body::default().string(SERVICE).number(0);
    bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName", body).unwrap();
    let slice = format!("berthtest{}.slice", std::process::id());
    let service = std::thread::spawn({
        let slice = slice.clone();
        move || serve(bus, slice)
    });
    run_inside("cgroup::systemd::tests::systemd_makes_limits_and_removes_a_scope", &daemon.address, &slice);
    drop(daemon);
    let calls = service.join().unwrap();
    for host in Host::read().unwrap().hierarchies {
        let _ = files::remove(&host.mount_point.join(&slice));
    }
    let of = |unit: &str| -> Vec<&str> {
        calls.iter().filter(|(_, it)| it.ends_with(unit)).map(|(member, _)| member.as_str()).collect()
    };
    assert_eq!(of("plain.scope"), ["StartTransientUnit", "StopUnit", "ResetFailedUnit"]);
    assert_eq!(
        of("exists.scope"),
        ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit", "StopUnit", "ResetFailedUnit"]
    );
    assert_eq!(of("old.scope"), ["StartTransientUnit", "StartTransientUnit", "StopUnit", "ResetFailedUnit"]);
}

fn inside(slice: &str) {
    let resources: Resources = serde_json::from_str(
        r#"{"memory":{"limit":67108864},"pids":{"limit":20},"devices":[{"allow":false}],"cpu":{"shares":512,"cpus":"0"}}"#,
    )
    .unwrap();
    for unit in ["plain", "early", "exists", "old", "broken"] {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let path = PathBuf::from(format!("{slice}:berth:{unit}"));
        let request = Request { id: "x", path: Some(&path), resources: Some(&resources), manager: Manager::Systemd };
        let made = Cgroup::create(&request, child.id());
        if unit == "broken" {
            assert!(made.unwrap_err().to_string().contains("failed"));
        } else {
            let cgroup = made.unwrap();
            assert_eq!(cgroup.processes().unwrap(), [child.id()]);
            let scope = format!("berth-{unit}.scope");
            assert!(cgroup.directories().all(|it| it.ends_with(Path::new(slice).join(&scope))));
            let limited = cgroup.directories().find_map(|it| files::read(it, "pids.max").ok());
            assert_eq!(limited.unwrap().trim(), "20");
            let waiter = std::thread::spawn(move || child.wait().map(|_| child));
            cgroup.remove().unwrap();
            child = waiter.join().unwrap().unwrap();
            assert!(cgroup.directories().all(|it| !it.exists()));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[test]
fn without_a_bus_the_other_manager_is_named() {
    if std::env::var_os(INSIDE).is_some() {
        let request = Request { id: "x", path: None, resources: None, manager: Manager::Systemd };
        let error = Cgroup::create(&request, std::process::id()).unwrap_err();
        assert!(error.hint().unwrap().contains("--cgroup-manager=cgroupfs"), "{error}");
        return;
    }
    run_inside(
        "cgroup::systemd::tests::without_a_bus_the_other_manager_is_named",
        "unix:path=/nonexistent/bus",
        "none",
    );
}
