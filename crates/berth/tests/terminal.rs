//! `--pty`, and shells.

mod common;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use common::{Person, spawn};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A terminal as a person sits at: the far end of a pair.
struct Outer {
    controller: File,
    peer: OwnedFd,
}

impl Outer {
    fn new() -> Outer {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let peer = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let size = Winsize { ws_row: 41, ws_col: 137, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&peer, size).unwrap();
        Outer { controller: File::from(controller), peer }
    }

    /// Runs a command with this as its three standard files, types `input`, and gives the exit code and what was shown.
    fn run(mut self, mut command: Command, input: &str) -> (i32, String) {
        let file = || Stdio::from(self.peer.try_clone().unwrap());
        let mut child = spawn(command.stdin(file()).stdout(file()).stderr(file()));
        drop((command, self.peer));
        self.controller.write_all(input.as_bytes()).unwrap();
        let mut shown = Vec::new();
        // The end of a terminal whose other side is closed is an error (EIO).
        let _ = self.controller.read_to_end(&mut shown);
        let code = child.wait().unwrap().code().unwrap();
        (code, String::from_utf8_lossy(&shown).into_owned())
    }
}

#[test]
fn the_command_has_a_terminal_of_its_own_of_the_outer_ones_size() {
    let person = Person::new();
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size; exit 9";
    let (code, shown) = Outer::new().run(person.script_command("--pty", script), "");
    assert_eq!(code, 9);
    assert!(shown.contains("41 137"), "{shown:?}");
}

#[test]
fn what_is_typed_reaches_the_command() {
    let person = Person::new();
    let script = "read line; echo got $line";
    let (code, shown) = Outer::new().run(person.script_command("-t", script), "some words\n");
    assert_eq!(code, 0);
    assert!(shown.contains("got some words"), "{shown:?}");
}

#[test]
fn the_interrupt_character_interrupts() {
    let person = Person::new();
    let mut outer = Outer::new();
    let file = || Stdio::from(outer.peer.try_clone().unwrap());
    let mut command = person.script_command("-t", "echo begun; sleep 1000");
    let mut child = spawn(command.stdin(file()).stdout(file()).stderr(file()));
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains("begun") {
        let mut byte = [0];
        outer.controller.read_exact(&mut byte).unwrap();
        shown.push(byte[0]);
    }
    outer.controller.write_all(b"\x03").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_terminal_works_without_one_outside() {
    let person = Person::new();
    let session =
        person.finish_with_input(person.script_command("-t", "read line; test -t 1 && echo got $line"), b"words\n");
    assert_eq!((session.code, session.stderr.as_str()), (0, ""));
    assert!(session.stdout.contains("got words"), "{session:?}");
}

#[test]
fn a_shell_reads_its_commands_and_is_a_login_shell() {
    let person = Person::new();
    let rootfs = person.rootfs();
    std::fs::write(person.path("root/etc/profile"), "PROFILE=read\n").unwrap();
    let session = person.finish_with_input(person.command(&["shell", &rootfs]), b"echo $PROFILE; pwd; exit 3\n");
    session.is(3, "read\n$DIR/work\n", "");
}

#[test]
fn an_image_without_a_shell_is_told_so() {
    let person = Person::new();
    std::fs::create_dir_all(person.path("bare/bin")).unwrap();
    let session = person.berth(&format!("shell dir:{}", person.path("bare").display()));
    assert_eq!(session.code, 127);
    assert!(session.stderr.starts_with("berth: "), "{session:?}");
    assert!(session.stderr.contains("has no shell"), "{session:?}");
}
