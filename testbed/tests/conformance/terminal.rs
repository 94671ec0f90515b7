//! config.md: the terminal, and how its descriptor is handed over.

#![allow(unsafe_code)] // ioctl for the size of a terminal.

use std::fs::File;
use std::io::IoSliceMut;
use std::io::Read;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use serde_json::json;
use testbed::process;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::until;

section!("terminal", "Terminals (config.md, --console-socket)";
    [] "process.terminal": the_program_has_a_terminal, the_terminal_is_that_of_the_session, the_terminal_belongs_to_the_user,
        the_terminal_is_the_containers_console, what_is_typed_arrives, an_interrupt_is_typed;
    [] "process.terminal false": without_it_there_is_no_terminal;
    [] "--console-socket": the_socket_gets_one_descriptor_of_a_terminal, a_terminal_without_a_socket_is_refused_by_create,
        a_socket_that_does_not_exist_is_refused;
    [] "process.consoleSize": the_terminal_has_its_size;
    [] "exec --tty": exec_has_a_terminal_of_its_own;
    [] "run with a terminal": run_passes_the_terminal_through;
);

/// Accepts one connection and gives what comes over it: text, and descriptors.
pub fn receive(listener: &UnixListener) -> (String, Vec<OwnedFd>) {
    let (stream, _) = listener.accept().expect("a connection");
    let mut bytes = vec![0; 64 * 1024];
    let mut space = [MaybeUninit::uninit(); 1024];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let got = rustix::net::recvmsg(&stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC).expect("a message");
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    bytes.truncate(got.bytes);
    (String::from_utf8_lossy(&bytes).into_owned(), descriptors)
}

/// The terminal of a container: what it writes comes over a channel.
#[derive(Debug)]
struct Terminal {
    descriptor: File,
    text: String,
    output: mpsc::Receiver<Vec<u8>>,
}

impl Terminal {
    fn new(descriptor: OwnedFd) -> Terminal {
        let descriptor = File::from(descriptor);
        let mut reader = descriptor.try_clone().expect("a second descriptor");
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // A terminal whose other end is closed answers EIO.
            while let Ok(count) = reader.read(&mut bytes) {
                if count == 0 || sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { descriptor, text: String::new(), output }
    }

    /// Waits until the container has written this.
    #[track_caller]
    fn until(&mut self, word: &str) -> &str {
        while !self.text.contains(word) {
            match self.output.recv_timeout(Duration::from_secs(20)) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{error}, waiting for {word}; there was {:?}", self.text),
            }
        }
        &self.text
    }

    fn type_text(&mut self, text: &str) {
        self.descriptor.write_all(text.as_bytes()).expect("the terminal takes it");
    }
}

/// A socket for a terminal, and where it is.
fn socket(world: &World) -> (UnixListener, PathBuf) {
    let path = world.path("run/console");
    let listener = UnixListener::bind(&path).expect("a socket");
    world.user.own(&path).expect("its owner");
    (listener, path)
}

/// Makes and starts a container with a terminal.
#[track_caller]
fn start(world: &mut World, script: &str) -> Terminal {
    world.set("/process/terminal", json!(true)).shell(script);
    let (listener, path) = socket(world);
    let receiver = thread::spawn(move || receive(&listener));
    world.create_with(&["--console-socket", &path.display().to_string()]);
    let (_, mut descriptors) = receiver.join().expect("the receiver does not panic");
    let terminal = Terminal::new(descriptors.pop().expect("a descriptor"));
    world.start();
    terminal
}

fn the_program_has_a_terminal(runtime: Runtime) {
    let mut world = World::user(runtime);
    let mut terminal = start(&mut world, "for n in 0 1 2; do test -t $n || echo no $n; done; tty; echo end");
    let text = terminal.until("end");
    assert!(!text.contains("no ") && text.contains("/dev/"), "{text}");
    world.end();
}

fn the_terminal_is_that_of_the_session(runtime: Runtime) {
    let mut world = World::user(runtime);
    let mut terminal =
        start(&mut world, "echo through > /dev/tty; awk '{ print $5, $6, $7 != 0 }' /proc/self/stat; echo end");
    let text = terminal.until("end").to_owned();
    assert!(text.contains("through"), "{text}");
    // The group, and the session, are those of the first process.
    assert!(text.contains("1 1 1"), "{text}");
    world.end();
}

fn the_terminal_belongs_to_the_user(runtime: Runtime) {
    let mut world = World::user(runtime);
    let mut terminal = start(&mut world, "stat -c %u:%a $(tty); echo end");
    let text = terminal.until("end");
    assert!(text.contains("0:6"), "{text}");
    world.end();
}

fn the_terminal_is_the_containers_console(runtime: Runtime) {
    let mut world = World::user(runtime);
    let mut terminal = start(&mut world, "test -c /dev/console && echo of the console > /dev/console; echo end");
    assert!(terminal.until("end").contains("of the console"));
    world.end();
}

fn what_is_typed_arrives(runtime: Runtime) {
    let mut world = World::user(runtime);
    let mut terminal = start(&mut world, "stty -echo; echo ready; read line; echo got $line");
    terminal.until("ready");
    terminal.type_text("some words\n");
    terminal.until("got some words");
    world.stopped().end();
}

fn an_interrupt_is_typed(runtime: Runtime) {
    let mut world = World::user(runtime);
    let mut terminal = start(&mut world, "trap 'echo heard; exit' INT; echo ready; while true; do sleep 0.05; done");
    terminal.until("ready");
    terminal.type_text("\x03");
    terminal.until("heard");
    world.stopped().end();
}

fn without_it_there_is_no_terminal(runtime: Runtime) {
    let mut world = World::user(runtime);
    assert_eq!(world.says("test -t 1 || echo no; (: > /dev/tty) 2>/dev/null || echo none"), "no\nnone");
}

fn the_socket_gets_one_descriptor_of_a_terminal(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/terminal", json!(true)).args(&["/bin/true"]);
    let (listener, path) = socket(&world);
    let receiver = thread::spawn(move || receive(&listener));
    world.create_with(&["--console-socket", &path.display().to_string()]);
    let (_, descriptors) = receiver.join().expect("the receiver does not panic");
    assert_eq!(descriptors.len(), 1);
    assert!(rustix::termios::isatty(&descriptors[0]));
    world.end();
}

fn a_terminal_without_a_socket_is_refused_by_create(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/terminal", json!(true)).args(&["/bin/true"]);
    let (code, error) = world.try_create(&[]);
    assert_ne!(code, 0);
    assert!(!error.is_empty());
    assert_eq!(world.ids_left(), Vec::<String>::new());
}

fn a_socket_that_does_not_exist_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/terminal", json!(true)).args(&["/bin/true"]);
    let (code, error) = world.try_create(&["--console-socket", "/no/such/socket"]);
    assert_ne!(code, 0);
    assert!(!error.is_empty());
    assert_eq!(world.ids_left(), Vec::<String>::new());
}

fn the_terminal_has_its_size(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/consoleSize", json!({"height": 33, "width": 121}));
    let mut terminal = start(&mut world, "stty size; echo end");
    let text = terminal.until("end");
    assert!(text.contains("33 121"), "{text}");
    world.end();
}

fn exec_has_a_terminal_of_its_own(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.sleeper();
    let (listener, path) = socket(&world);
    let receiver = thread::spawn(move || receive(&listener));
    let mut command = world.verb(["exec", "--tty", "--detach", "--console-socket"]);
    command.arg(path).args([world.id.as_str(), "/bin/sh", "-c", "tty; test -t 2 && echo end; sleep 1000"]);
    assert_eq!(world.detached(&mut command), 0, "{}", world.read("err"));
    let (_, mut descriptors) = receiver.join().expect("the receiver does not panic");
    let mut terminal = Terminal::new(descriptors.pop().expect("a descriptor"));
    let text = terminal.until("end");
    assert!(text.contains("/dev/pts/"), "{text}");
    world.end();
}

fn run_passes_the_terminal_through(runtime: Runtime) {
    use std::os::unix::process::CommandExt;
    let mut world = World::user(runtime);
    world.set("/process/terminal", json!(true)).shell(
        "tty; n=0; until stty size 2> /dev/null | grep -q 111 || test $n = 50; do n=$((n + 1)); sleep 0.02; done; \
        stty size; echo sized; read line; echo got $line; exit 7",
    );
    world.write_spec();
    let master =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).expect("a terminal");
    rustix::pty::unlockpt(&master).expect("unlocked");
    let size = rustix::termios::Winsize { ws_row: 44, ws_col: 111, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size).expect("its size");
    let name = rustix::pty::ptsname(&master, Vec::new()).expect("its name");
    let path = PathBuf::from(name.into_string().expect("text"));
    world.user.own(&path).expect("its owner");
    let open = || File::options().read(true).write(true).open(&path).expect("the terminal");
    let slave = open();
    let number = slave.as_raw_fd();
    let mut command = world.verb(["run", world.id.as_str()]);
    command.stdin(open()).stdout(open()).stderr(open());
    // SAFETY: setsid and ioctl take numbers only, and are safe to call between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if libc::setsid() < 0 || libc::ioctl(number, libc::TIOCSCTTY, 0) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn().expect("a runtime");
    drop((slave, command));
    let mut terminal = Terminal::new(master);
    let text = terminal.until("sized");
    assert!(text.contains("44 111"), "{text}");
    terminal.type_text("some words\n");
    terminal.until("got some words");
    let (status, _) = process::wait(&mut child, process::LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(7));
    until("nothing is left", || world.ids_left().is_empty());
}
