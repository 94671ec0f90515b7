//! The relay between a terminal of one's own and everything that can be outside: pipes, files, a terminal, nothing.
//!
//! The relay blocks signals and so wants a process of its own with one thread. [`relay_process`] is that process: this test binary
//! started again, with all signals blocked in all its threads, the input on descriptor 0 and the output on descriptor 3 (the harness writes to 1).
#![allow(unsafe_code)] // pre_exec, and descriptors by number.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use berth_container::terminal::{Signals, Terminal};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize};

const SCRIPT: &str = "BERTH_TEST_RELAY_SCRIPT";

/// The process under test when [`SCRIPT`] is set: runs the script on a new terminal, relays, and ends as the script ended. As a
/// test it says nothing.
#[test]
fn relay_process() {
    let Ok(script) = std::env::var(SCRIPT) else { return };
    // SAFETY: descriptors 0 and 3 are given by the test that starts this.
    let (input, output) = unsafe { (BorrowedFd::borrow_raw(0), BorrowedFd::borrow_raw(3)) };
    // Or else what the script leaves behind keeps it open.
    rustix::io::fcntl_setfd(output, rustix::io::FdFlags::CLOEXEC).unwrap();
    let signals = Signals::block().unwrap();
    let terminal = Terminal::open().unwrap();
    terminal.adopt(input).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script]).env_remove(SCRIPT);
    let peer = rustix::io::dup(terminal.peer()).unwrap();
    // SAFETY: only system calls; the mask is emptied as the launcher does it.
    unsafe {
        command.pre_exec(move || {
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            Terminal::take_over(peer.as_fd())
        })
    };
    let mut child = command.spawn().unwrap();
    drop(command); // Its copy of the peer.
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    terminal.relay(pidfd.as_fd(), input, output, &signals).unwrap();
    drop(signals);
    let status = child.wait().unwrap();
    std::process::exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
}

/// Starts [`relay_process`].
fn start(script: &str, input: Stdio, output: OwnedFd) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "relay_process", "--nocapture"]).env(SCRIPT, script);
    command.stdin(input).stdout(Stdio::null());
    // SAFETY: only system calls.
    unsafe {
        command.pre_exec(move || {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
            if libc::dup2(output.as_raw_fd(), 3) < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        })
    };
    command.spawn().unwrap()
}

/// Runs a script with piped input to its end.
fn run(script: &str, input: &[u8]) -> (i32, String) {
    let (read, write) = std::io::pipe().unwrap();
    let mut child = start(script, Stdio::piped(), write.into());
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = read_all(read);
    // A script that does not read all of it closes the pipe early.
    let _ = writer.join().unwrap();
    (child.wait().unwrap().code().unwrap(), output)
}

fn read_all(mut from: impl Read) -> String {
    let mut output = Vec::new();
    from.read_to_end(&mut output).unwrap();
    String::from_utf8(output).unwrap().replace("\r\n", "\n")
}

/// Reads until `text` has come.
fn read_until(from: &mut impl Read, text: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert_eq!(from.read(&mut byte).unwrap(), 1, "ended after {:?}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

/// An outer terminal: the side of the person, and the side of the process.
fn outer_terminal(rows: u16, columns: u16) -> (File, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let controller = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&controller).unwrap();
    let peer = rustix::pty::ioctl_tiocgptpeer(&controller, flags).unwrap();
    resize(&peer, rows, columns);
    (controller.into(), peer)
}

fn resize(terminal: &impl AsFd, ws_row: u16, ws_col: u16) {
    rustix::termios::tcsetwinsize(terminal, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

fn is_raw(terminal: &impl AsFd) -> bool {
    !rustix::termios::tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON)
}

#[test]
fn the_script_has_a_terminal_and_its_exit_code_comes_back() {
    let (code, output) = run("test -t 0 && test -t 1 && test -t 2 && tty && stty size; exit 42", b"");
    assert_eq!(code, 42);
    assert!(output.contains("/dev/pts/") && output.contains("24 80"), "{output}");
    assert_eq!(run("kill -9 $$", b"").0, 137);
}

#[test]
fn everything_written_before_the_end_comes_out() {
    let (code, output) = run("seq 1 100000", b"");
    assert_eq!(code, 0);
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(output == expected, "{} bytes instead of {}", output.len(), expected.len());
}

#[test]
fn piped_input_arrives_whole_and_its_end_is_typed() {
    let lines: String = (1..=20_000).map(|number| format!("line {number}\n")).collect();
    let (code, output) = run("stty -echo; echo ready; exec md5sum", lines.as_bytes());
    assert_eq!(code, 0);
    // What was typed before the echo was off is shown, so only the end counts.
    let mut expected = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    expected.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let sum = read_all(expected.stdout.take().unwrap());
    assert!(expected.wait().unwrap().success());
    assert!(output.ends_with(&sum), "{}", &output[output.len().saturating_sub(200)..]);
}

#[test]
fn a_last_line_without_its_end_is_read_too() {
    let (code, output) = run("stty -echo; exec wc -c", b"abc");
    assert_eq!(code, 0);
    assert!(output.trim_end().ends_with('3'), "{output}");
}

#[test]
fn a_script_that_closes_its_files_is_no_end() {
    let (code, output) = run("exec <&- >&- 2>&-; sh -c 'echo late > /dev/tty'; exit 3", b"");
    assert_eq!((code, output.as_str()), (3, "late\n"));
}

#[test]
fn a_process_left_behind_does_not_keep_the_relay() {
    // The reader of the pipe outlives the script, and with it the terminal; its end is when the test closes the pipe.
    let (read, mut write) = std::io::pipe().unwrap();
    let (output_read, output_write) = std::io::pipe().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), read.as_raw_fd());
    let script = format!("trap '' HUP; (read end) < {path} & echo started");
    let mut child = start(&script, Stdio::null(), output_write.into());
    assert!(read_all(output_read).contains("started"));
    assert!(child.wait().unwrap().success());
    write.write_all(b"end\n").unwrap();
}

#[test]
fn closed_output_does_not_stop_the_script() {
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let marker = tempfile::NamedTempFile::new().unwrap();
    let script = format!("seq 1 100000; echo $? > {}", marker.path().display());
    let mut child = start(&script, Stdio::null(), write.into());
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read_to_string(marker.path()).unwrap(), "0\n");
}

#[test]
fn an_outer_terminal_is_raw_meanwhile_and_restored_after() {
    let (mut person, terminal) = outer_terminal(33, 99);
    let output = terminal.try_clone().unwrap();
    let mut child = start("stty size; read line; echo got:$line", terminal.try_clone().unwrap().into(), output);
    let seen = read_until(&mut person, "33 99");
    assert!(is_raw(&terminal), "{seen}");
    person.write_all(b"typed\r").unwrap();
    read_until(&mut person, "got:typed");
    assert!(child.wait().unwrap().success());
    assert!(!is_raw(&terminal));
}

#[test]
fn keys_that_mean_signals_reach_the_script_and_not_the_relay() {
    let (mut person, terminal) = outer_terminal(24, 80);
    let output = terminal.try_clone().unwrap();
    let script = "trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.02; done";
    let mut child = start(script, terminal.try_clone().unwrap().into(), output);
    read_until(&mut person, "ready");
    person.write_all(b"\x03").unwrap();
    read_until(&mut person, "interrupted");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn a_new_size_outside_is_a_new_size_inside() {
    let (mut person, terminal) = outer_terminal(24, 80);
    let output = terminal.try_clone().unwrap();
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.02; done";
    let mut child = start(script, terminal.try_clone().unwrap().into(), output);
    read_until(&mut person, "ready");
    resize(&person, 50, 132);
    // The kernel tells the foreground of the outer terminal's session; here nobody has it as such.
    rustix::process::kill_process(Pid::from_child(&child), Signal::WINCH).unwrap();
    read_until(&mut person, "50 132");
    assert!(child.wait().unwrap().success());
}

#[test]
fn signals_are_passed_on_and_the_outer_terminal_is_restored() {
    for (signal, name, code) in [(Signal::TERM, "TERM", 5), (Signal::HUP, "HUP", 6), (Signal::USR1, "USR1", 7)] {
        let (mut person, terminal) = outer_terminal(24, 80);
        let output = terminal.try_clone().unwrap();
        let script = format!("trap 'exit {code}' {name}; echo ready; while :; do sleep 0.02; done");
        let mut child = start(&script, terminal.try_clone().unwrap().into(), output);
        read_until(&mut person, "ready");
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(!is_raw(&terminal), "{name}");
    }
}
