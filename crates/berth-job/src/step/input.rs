//! Standard input on its way to tasks.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most bytes that are read before the slowest task has taken them.
const AHEAD: usize = 64 << 10;

/// What is read, and the tasks that get it.
#[derive(Debug)]
pub struct Relay {
    source: Option<OwnedFd>,
    tasks: Vec<Pipe>,
}

#[derive(Debug)]
struct Pipe {
    /// None when the task has closed it, or has it all.
    end: Option<OwnedFd>,
    held: VecDeque<u8>,
}

impl Relay {
    /// From a source into pipes that do not block.
    pub fn new(source: Option<OwnedFd>, pipes: Vec<OwnedFd>) -> Relay {
        let tasks = pipes.into_iter().map(|end| Pipe { end: Some(end), held: VecDeque::new() }).collect();
        let mut relay = Relay { source, tasks };
        if relay.source.is_none() {
            relay.close();
        }
        relay
    }

    /// What can be read from, if there is room for it and somebody who wants it.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        let room = self.tasks.iter().all(|task| task.held.len() < AHEAD);
        let wanted = self.tasks.iter().any(|task| task.end.is_some());
        self.source.as_ref().filter(|_| room && wanted).map(AsFd::as_fd)
    }

    /// The tasks that have not got all.
    pub fn waiting(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tasks.iter().filter(|task| !task.held.is_empty()).filter_map(|task| task.end.as_ref().map(AsFd::as_fd))
    }

    /// Reads something, after it was found to be there.
    pub fn read(&mut self) {
        let Some(source) = &self.source else { return };
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(source, &mut buffer) {
            Ok(count) if count > 0 => {
                for task in self.tasks.iter_mut().filter(|task| task.end.is_some()) {
                    task.held.extend(&buffer[..count]);
                }
                self.write();
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            // Its end, or a terminal that is not ours to read.
            _ => self.close(),
        }
    }

    fn close(&mut self) {
        self.source = None;
        self.write();
    }

    /// Gives the tasks what they take.
    pub fn write(&mut self) {
        for task in &mut self.tasks {
            while let (Some(end), false) = (&task.end, task.held.is_empty()) {
                let (front, _) = task.held.as_slices();
                match rustix::io::write(end, front) {
                    Ok(count) => drop(task.held.drain(..count)),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(_) => {
                        task.end = None;
                        task.held.clear();
                    }
                }
            }
            if self.source.is_none() && task.held.is_empty() {
                task.end = None;
            }
        }
    }
}
