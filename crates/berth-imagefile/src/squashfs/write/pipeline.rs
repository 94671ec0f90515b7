//! Compressing on several cores: blocks go in one after the other and come out in the same order.
//!
//! Only so many blocks are under way at once, and their buffers are used again, so that memory does not depend on what is
//! written or on how fast.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::thread::JoinHandle;

use sha2::Digest as _;
use sha2::Sha256;

use crate::codec::Compression;
use crate::codec::Encoder;
use crate::error::Error;
use crate::error::Result;

/// Blocks under way for each thread.
const PER_THREAD: usize = 4;

/// A compressed block.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// What the block was.
    pub input: Vec<u8>,
    /// What it became, where that is shorter.
    pub output: Vec<u8>,
    /// Whether it became shorter.
    pub shorter: bool,
    /// Digest of what is stored.
    pub digest: [u8; 32],
    error: Option<String>,
}

impl Packed {
    /// The bytes to store.
    pub fn stored(&self) -> &[u8] {
        if self.shorter { &self.output } else { &self.input }
    }
}

/// Blocks on their way, each with a mark `M` of what it is.
#[derive(Debug)]
pub(super) struct Pipeline<M> {
    jobs: Option<mpsc::Sender<(u64, Packed)>>,
    done: mpsc::Receiver<(u64, Packed)>,
    threads: Vec<JoinHandle<()>>,
    /// In the order in which they came; those without a number need no compressing.
    marks: VecDeque<(M, Option<u64>)>,
    /// Out of order.
    ready: BTreeMap<u64, Packed>,
    under_way: usize,
    bound: usize,
    next: u64,
    spare: Vec<Packed>,
}

impl<M> Pipeline<M> {
    pub fn start(compression: Compression, block_size: u32, threads: usize) -> Result<Pipeline<M>> {
        let (jobs, queue) = mpsc::channel::<(u64, Packed)>();
        let (results, done) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut handles = Vec::new();
        for _ in 0..threads.max(1) {
            let (queue, results) = (Arc::clone(&queue), results.clone());
            let mut encoder = Encoder::new(compression, block_size)?;
            let work = move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((number, mut packed)) = job else { return };
                    match encoder.encode(&packed.input, &mut packed.output) {
                        Ok(shorter) => packed.shorter = shorter,
                        Err(reason) => packed.error = Some(reason),
                    }
                    packed.digest = Sha256::digest(packed.stored()).into();
                    if results.send((number, packed)).is_err() {
                        return;
                    }
                }
            };
            let builder = std::thread::Builder::new().name("compress".to_owned());
            handles.push(builder.spawn(work).map_err(|source| Error::Io {
                action: "start a thread for",
                name: "compression".to_owned(),
                source,
            })?);
        }
        Ok(Pipeline {
            jobs: Some(jobs),
            done,
            bound: handles.len() * PER_THREAD,
            threads: handles,
            marks: VecDeque::new(),
            ready: BTreeMap::new(),
            under_way: 0,
            next: 0,
            spare: Vec::new(),
        })
    }

    /// An empty buffer for a block.
    pub fn buffer(&mut self) -> Packed {
        let mut packed = self.spare.pop().unwrap_or_default();
        packed.input.clear();
        packed
    }

    /// Gives a buffer back.
    pub fn recycle(&mut self, packed: Packed) {
        if self.spare.len() <= self.bound {
            self.spare.push(packed);
        }
    }

    /// Sends a block on its way.
    pub fn send(&mut self, mark: M, packed: Packed) -> Result<()> {
        self.marks.push_back((mark, Some(self.next)));
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send((self.next, packed)).map_err(|_| stopped())?;
        self.next += 1;
        self.under_way += 1;
        Ok(())
    }

    /// Sends a mark without a block.
    pub fn mark(&mut self, mark: M) {
        self.marks.push_back((mark, None));
    }

    /// Whether the next one must be taken before another may be sent.
    pub fn is_full(&self) -> bool {
        self.under_way >= self.bound || self.marks.len() >= self.bound * 8
    }

    /// The next one, waited for; `None` when nothing is under way.
    pub fn take(&mut self) -> Result<Option<(M, Option<Packed>)>> {
        let Some((mark, number)) = self.marks.pop_front() else { return Ok(None) };
        let Some(number) = number else { return Ok(Some((mark, None))) };
        let mut packed = loop {
            if let Some(packed) = self.ready.remove(&number) {
                break packed;
            }
            let (number, packed) = self.done.recv().map_err(|_| stopped())?;
            self.ready.insert(number, packed);
        };
        self.under_way -= 1;
        match packed.error.take() {
            Some(reason) => Err(Error::BadSetting(format!("a block cannot be compressed: {reason}"))),
            None => Ok(Some((mark, Some(packed)))),
        }
    }
}

impl<M> Drop for Pipeline<M> {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic there was an error here already.
            let _ = thread.join();
        }
    }
}

fn stopped() -> Error {
    Error::BadSetting("the threads that compress have stopped".to_owned())
}
