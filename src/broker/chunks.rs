//! Owns the chunked slab: entries by slot in chunks of fixed size, so that growing copies few of them, and shrinking none.

use std::ops::{Index, IndexMut};

use slab::Slab;

/// Entries per chunk. The first chunk grows by doubling, which copies at most half of these, and leaves little memory behind.
const CHUNK: u32 = 256;
/// An empty chunk with at most this capacity is kept.
const MIN_RETAINED: usize = 64;

/// A slab whose entries never move once it has more than a chunk of them.
pub(super) struct Chunks<T> {
    slabs: Vec<Slab<T>>,
    /// One bit per chunk, set if the chunk has free entries. The first such chunk is filled first, so that the last chunks
    /// become empty.
    with_free: Vec<u64>,
    len: usize,
}

impl<T> Chunks<T> {
    pub(super) fn new() -> Self {
        Self { slabs: Vec::new(), with_free: Vec::new(), len: 0 }
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        let chunk = self.first_with_free();
        let entries = &mut self.slabs[chunk];
        if chunk > 0 && entries.capacity() == 0 {
            *entries = Slab::with_capacity(CHUNK as usize);
        }
        let offset = entries.insert(value);
        if entries.len() == CHUNK as usize {
            self.with_free[chunk / 64] &= !(1 << (chunk % 64));
        }
        self.len += 1;
        to_u32(chunk) * CHUNK + to_u32(offset)
    }

    pub(super) fn remove(&mut self, slot: u32) -> T {
        let (chunk, offset) = locate(slot);
        let value = self.slabs[chunk].remove(offset);
        self.with_free[chunk / 64] |= 1 << (chunk % 64);
        self.len -= 1;
        value
    }

    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        let (chunk, offset) = locate(slot);
        self.slabs.get(chunk)?.get(offset)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every entry's slot is below this.
    pub(super) fn end(&self) -> u32 {
        to_u32(self.slabs.len()) * CHUNK
    }

    /// All entries, for audits.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let chunks = self.slabs.iter().enumerate();
        chunks.flat_map(|(chunk, entries)| {
            entries.iter().map(move |(offset, value)| (to_u32(chunk) * CHUNK + to_u32(offset), value))
        })
    }

    /// Takes out the empty chunks, for the caller to drop.
    pub(super) fn shrink(&mut self) -> Vec<Slab<T>> {
        let is_spare = |entries: &&mut Slab<T>| entries.is_empty() && entries.capacity() > MIN_RETAINED;
        let spare = self.slabs.iter_mut().filter(is_spare).map(std::mem::take).collect();
        while self.slabs.last().is_some_and(|last| last.capacity() == 0) {
            self.slabs.pop();
            let chunk = self.slabs.len();
            self.with_free[chunk / 64] &= !(1 << (chunk % 64));
        }
        spare
    }

    fn first_with_free(&mut self) -> usize {
        let word = self.with_free.iter().position(|word| *word != 0);
        if let Some(word) = word {
            return word * 64 + self.with_free[word].trailing_zeros() as usize;
        }
        let chunk = self.slabs.len();
        self.slabs.push(Slab::new());
        self.with_free.resize(chunk / 64 + 1, 0);
        self.with_free[chunk / 64] |= 1 << (chunk % 64);
        chunk
    }
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    fn index(&self, slot: u32) -> &T {
        let (chunk, offset) = locate(slot);
        &self.slabs[chunk][offset]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        let (chunk, offset) = locate(slot);
        &mut self.slabs[chunk][offset]
    }
}

fn locate(slot: u32) -> (usize, usize) {
    #[cfg(test)]
    touched::one();
    ((slot / CHUNK) as usize, (slot % CHUNK) as usize)
}

#[expect(clippy::cast_possible_truncation, reason = "file descriptors run out long before 32 bits do")]
fn to_u32(index: usize) -> u32 {
    index as u32
}

/// Counts the entries that were accessed, so that tests can check each operation's bound.
#[cfg(test)]
pub(super) mod touched {
    use std::cell::Cell;

    thread_local!(static COUNT: Cell<usize> = const { Cell::new(0) });

    pub(super) fn one() {
        COUNT.set(COUNT.get() + 1);
    }

    pub(in crate::broker) fn reset() {
        COUNT.set(0);
    }

    pub(in crate::broker) fn count() -> usize {
        COUNT.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: u32 = 70 * CHUNK + 3;

    fn filled() -> Chunks<u32> {
        let mut chunks = Chunks::new();
        for value in 0..MANY {
            assert_eq!(chunks.insert(value), value);
        }
        chunks
    }

    #[test]
    fn an_entry_keeps_its_slot_and_after_the_first_chunk_its_address() {
        let mut chunks = filled();
        let addresses: Vec<*const u32> = (0..MANY).map(|slot| &raw const chunks[slot]).collect();
        for value in MANY..2 * MANY {
            chunks.insert(value);
        }
        assert!(
            (0..MANY).all(|slot| chunks[slot] == slot && &raw const chunks[slot] == addresses[slot as usize])
        );
        assert!(chunks.iter().map(|(slot, value)| (slot, *value)).eq((0..2 * MANY).map(|slot| (slot, slot))));
    }

    #[test]
    fn the_lowest_free_slot_is_filled_first_and_empty_chunks_are_released() {
        let mut chunks = filled();
        for slot in [3 * CHUNK + 7, 66 * CHUNK, 3 * CHUNK + 9] {
            assert_eq!(chunks.remove(slot), slot);
            assert_eq!(chunks.get(slot), None);
        }
        let reused = [chunks.insert(0), chunks.insert(0), chunks.insert(0), chunks.insert(0)];
        assert_eq!(reused, [3 * CHUNK + 9, 3 * CHUNK + 7, 66 * CHUNK, MANY]);
        assert_eq!(chunks.len(), MANY as usize + 1);

        for slot in (0..5 * CHUNK).chain(6 * CHUNK..=MANY) {
            chunks.remove(slot);
        }
        assert_eq!(chunks.shrink().len(), 70, "all but the one with entries");
        assert_eq!((chunks.len(), chunks.end()), (CHUNK as usize, 6 * CHUNK));
        assert_eq!((chunks.get(0), chunks.get(MANY), chunks[5 * CHUNK]), (None, None, 5 * CHUNK));
        assert_eq!(chunks.insert(1), 0);
        for slot in (5 * CHUNK..6 * CHUNK).chain([0]) {
            chunks.remove(slot);
        }
        assert!(chunks.is_empty());
        chunks.shrink();
        assert!(chunks.end() <= CHUNK, "a little memory is kept");
    }
}
