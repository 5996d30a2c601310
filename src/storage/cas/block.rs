//! Blocks in memory: shared by the cache and those who read them, and used again when nobody does.
//!
//! All are of one length, and come and go on several threads. An allocator would keep what one thread
//! has let go from the others, beside what they take.

use std::ops::Deref;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

/// Buffers of a block's length that nobody uses. What they hold means nothing.
#[derive(Debug)]
pub(super) struct BlockBuffers {
    block_bytes: usize,
    spare: ArrayQueue<Vec<u8>>,
}

impl BlockBuffers {
    /// Keeps up to `most` buffers of `block_bytes`.
    pub(super) fn new(block_bytes: usize, most: usize) -> Self {
        Self { block_bytes, spare: ArrayQueue::new(most.max(1)) }
    }

    /// Memory for the octets of a block.
    pub(super) fn take(&self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| vec![0; self.block_bytes])
    }

    /// Keeps memory for another block, if there is room and it is of the length.
    pub(super) fn put_back(&self, octets: Vec<u8>) {
        if octets.len() == self.block_bytes {
            // Without room it is let go.
            let _ = self.spare.push(octets);
        }
    }
}

/// The octets of a block, or of one in part and what tells which.
#[derive(Debug)]
pub(super) struct Block {
    octets: Vec<u8>,
    buffers: Arc<BlockBuffers>,
}

impl Block {
    /// One whose memory goes to `buffers` in the end.
    pub(super) fn new(octets: Vec<u8>, buffers: &Arc<BlockBuffers>) -> Arc<Self> {
        Arc::new(Self { octets, buffers: Arc::clone(buffers) })
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.octets
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.buffers.put_back(std::mem::take(&mut self.octets));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_whole_blocks_is_used_again() {
        let buffers = Arc::new(BlockBuffers::new(4096, 1));
        let mut octets = buffers.take();
        // New memory is zeros.
        octets.fill(7);
        let first = Block::new(octets, &buffers);
        let second = Arc::clone(&first);
        drop(first);
        assert_eq!(buffers.take(), [0; 4096], "it is still used");
        drop(second);
        assert_eq!(buffers.take(), [7; 4096]);
        drop(Block::new(vec![7; 4096 + 48], &buffers));
        assert_eq!(buffers.take(), [0; 4096], "it is not of the length");
    }
}
