//! Blocks that were decompressed, kept within a bound and shared by all threads.
//!
//! A block that one thread is making is waited for by others that want it, and made once. The block that was not used for
//! longest goes first. Buffers are used again: fresh memory for each block would cost more than some compressors.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::error::Result;

/// Parts that have a lock each.
const SHARDS: usize = 8;
/// Buffers that each part keeps for use again.
const SPARE: usize = 4;

/// What names a block: where it is in the image, and how long it is there. (A hostile image has several at one key.)
pub type Key = (u64, u32);

/// A decompressed block.
#[derive(Debug, Default)]
pub struct Block {
    /// Its contents.
    pub data: Vec<u8>,
    /// Where in the image the block after it begins.
    pub next: u64,
}

/// A cache of blocks.
#[derive(Debug)]
pub struct BlockCache {
    shards: Vec<Shard>,
    /// Bytes of each shard.
    bound: usize,
}

#[derive(Debug, Default)]
struct Shard {
    state: Mutex<State>,
    made: Condvar,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<Key, Slot>,
    /// Keys by when they were used last.
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum Slot {
    /// Some thread is making it.
    Pending,
    /// Here it is, with its place in the order.
    Ready(Arc<Block>, u64),
}

impl BlockCache {
    /// A cache of about `bytes`: the block that is used last in each of its parts is always kept, whatever its size.
    pub fn new(bytes: usize) -> BlockCache {
        BlockCache { shards: (0..SHARDS).map(|_| Shard::default()).collect(), bound: bytes / SHARDS }
    }

    /// The block of `key`, made by `make` (into an empty buffer with whatever room) if it is not there.
    pub fn get(&self, key: Key, make: impl FnOnce(&mut Block) -> Result<()>) -> Result<Arc<Block>> {
        let shard = self.shard(key);
        let mut state = lock(shard);
        let mut block = loop {
            match state.slots.get(&key) {
                Some(Slot::Ready(..)) => return Ok(state.touch(key)),
                Some(Slot::Pending) => state = shard.made.wait(state).unwrap_or_else(PoisonError::into_inner),
                None => break Block { data: state.spare.pop().unwrap_or_default(), next: 0 },
            }
        };
        state.slots.insert(key, Slot::Pending);
        drop(state);
        // Whatever happens, nobody waits for ever.
        let pending = Pending { shard, key };
        block.data.clear();
        make(&mut block)?;
        std::mem::forget(pending);
        let block = Arc::new(block);
        let mut state = lock(shard);
        state.insert(key, &block, self.bound);
        drop(state);
        shard.made.notify_all();
        Ok(block)
    }

    /// The block of `key`, if it is there.
    pub fn peek(&self, key: Key) -> Option<Arc<Block>> {
        let mut state = lock(self.shard(key));
        matches!(state.slots.get(&key), Some(Slot::Ready(..))).then(|| state.touch(key))
    }

    fn shard(&self, key: Key) -> &Shard {
        // Neighbours go to different parts.
        &self.shards[(key.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61) as usize % SHARDS]
    }

    /// Bytes that are kept now.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).bytes).sum()
    }
}

impl State {
    fn touch(&mut self, key: Key) -> Arc<Block> {
        self.clock += 1;
        let clock = self.clock;
        match self.slots.get_mut(&key) {
            Some(Slot::Ready(block, used)) => {
                self.order.remove(used);
                self.order.insert(clock, key);
                *used = clock;
                Arc::clone(block)
            }
            _ => Arc::default(),
        }
    }

    fn insert(&mut self, key: Key, block: &Arc<Block>, bound: usize) {
        self.bytes += block.data.len();
        self.clock += 1;
        self.order.insert(self.clock, key);
        self.slots.insert(key, Slot::Ready(Arc::clone(block), self.clock));
        while self.bytes > bound && self.order.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some(Slot::Ready(block, _)) = self.slots.remove(&oldest) {
                self.bytes -= block.data.len();
                if let Some(block) = Arc::into_inner(block)
                    && self.spare.len() < SPARE
                {
                    self.spare.push(block.data);
                }
            }
        }
    }
}

fn lock(shard: &Shard) -> MutexGuard<'_, State> {
    shard.state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the mark back of a block that could not be made.
struct Pending<'a> {
    shard: &'a Shard,
    key: Key,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        lock(self.shard).slots.remove(&self.key);
        self.shard.made.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::error::Error;

    #[test]
    fn a_block_is_made_once_by_many_threads() {
        let cache = BlockCache::new(1 << 20);
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for place in 0..100 {
                        let block = cache.get((place, 1), |block| {
                            made.fetch_add(1, Ordering::Relaxed);
                            block.data.resize(100, place as u8);
                            Ok(())
                        });
                        assert_eq!(block.unwrap().data, vec![place as u8; 100]);
                    }
                });
            }
        });
        assert_eq!(made.into_inner(), 100);
    }

    fn filled(block: &mut Block, length: usize) -> Result<()> {
        block.data.resize(length, 7);
        Ok(())
    }

    #[test]
    fn it_stays_within_its_bound() {
        let cache = BlockCache::new(1 << 20);
        for place in 0..1000 {
            cache.get((place, 1), |block| filled(block, 10_000)).unwrap();
        }
        assert!(cache.bytes() <= 1 << 20, "{}", cache.bytes());
        assert!(cache.bytes() > 1 << 19, "{}", cache.bytes());
    }

    #[test]
    fn a_block_that_failed_is_tried_again() {
        let cache = BlockCache::new(1 << 20);
        assert!(cache.get((1, 1), |_| Err(Error::WrongKind)).is_err());
        assert_eq!(cache.get((1, 1), |block| filled(block, 1)).unwrap().data, [7]);
    }
}
