//! Owns the chunked slab: entries by index in chunks of fixed size, so that growing copies few of them, and shrinking none.

use std::ops::{Index, IndexMut};

use slab::Slab;

/// Entries of a chunk. The first chunk grows from nothing by doubling, which copies half of these at most.
const CHUNK: u32 = 1024;
/// An empty chunk with room for so many is not worth giving back.
const MIN_RETAINED: usize = 256;

/// A slab whose entries never move once it has more than a chunk of them.
pub(super) struct Chunks<T> {
    slabs: Vec<Slab<T>>,
    /// A bit for each chunk that has room: the first is filled first, so that the last run empty.
    with_room: Vec<u64>,
    len: usize,
}

impl<T> Chunks<T> {
    pub(super) fn new() -> Self {
        Self { slabs: Vec::new(), with_room: Vec::new(), len: 0 }
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        let chunk = self.first_with_room();
        let entries = &mut self.slabs[chunk];
        if chunk > 0 && entries.capacity() == 0 {
            *entries = Slab::with_capacity(CHUNK as usize);
        }
        let at = entries.insert(value);
        if entries.len() == CHUNK as usize {
            self.with_room[chunk / 64] &= !(1 << (chunk % 64));
        }
        self.len += 1;
        index(chunk) * CHUNK + index(at)
    }

    pub(super) fn remove(&mut self, at: u32) -> T {
        let (chunk, within) = place(at);
        let value = self.slabs[chunk].remove(within);
        self.with_room[chunk / 64] |= 1 << (chunk % 64);
        self.len -= 1;
        value
    }

    pub(super) fn get(&self, at: u32) -> Option<&T> {
        let (chunk, within) = place(at);
        self.slabs.get(chunk)?.get(within)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every entry's index is below this.
    pub(super) fn end(&self) -> u32 {
        index(self.slabs.len()) * CHUNK
    }

    /// All entries, for audits.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let chunks = self.slabs.iter().enumerate();
        chunks.flat_map(|(chunk, entries)| {
            entries.iter().map(move |(at, value)| (index(chunk) * CHUNK + index(at), value))
        })
    }

    /// Takes out the chunks that hold nothing, for the caller to drop.
    pub(super) fn shrink(&mut self) -> Vec<Slab<T>> {
        let is_spare = |entries: &&mut Slab<T>| entries.is_empty() && entries.capacity() > MIN_RETAINED;
        let spare = self.slabs.iter_mut().filter(is_spare).map(std::mem::take).collect();
        while self.slabs.last().is_some_and(|last| last.capacity() == 0) {
            self.slabs.pop();
            let chunk = self.slabs.len();
            self.with_room[chunk / 64] &= !(1 << (chunk % 64));
        }
        spare
    }

    fn first_with_room(&mut self) -> usize {
        let word = self.with_room.iter().position(|word| *word != 0);
        if let Some(word) = word {
            return word * 64 + self.with_room[word].trailing_zeros() as usize;
        }
        let chunk = self.slabs.len();
        self.slabs.push(Slab::new());
        self.with_room.resize(chunk / 64 + 1, 0);
        self.with_room[chunk / 64] |= 1 << (chunk % 64);
        chunk
    }
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        let (chunk, within) = place(at);
        &self.slabs[chunk][within]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        let (chunk, within) = place(at);
        &mut self.slabs[chunk][within]
    }
}

fn place(at: u32) -> (usize, usize) {
    #[cfg(test)]
    touched::one();
    ((at / CHUNK) as usize, (at % CHUNK) as usize)
}

#[expect(clippy::cast_possible_truncation, reason = "file descriptors run out long before 32 bits do")]
fn index(at: usize) -> u32 {
    at as u32
}

/// How many entries were looked at, so that tests can hold each operation to its bound.
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
    fn an_entry_keeps_its_index_and_after_the_first_chunk_its_place_in_memory() {
        let mut chunks = filled();
        let places: Vec<*const u32> = (0..MANY).map(|at| &raw const chunks[at]).collect();
        for value in MANY..2 * MANY {
            chunks.insert(value);
        }
        assert!((0..MANY).all(|at| chunks[at] == at && &raw const chunks[at] == places[at as usize]));
        assert!(chunks.iter().map(|(at, value)| (at, *value)).eq((0..2 * MANY).map(|at| (at, at))));
    }

    #[test]
    fn the_lowest_room_is_filled_first_and_what_is_empty_is_given_back() {
        let mut chunks = filled();
        for at in [3 * CHUNK + 7, 66 * CHUNK, 3 * CHUNK + 9] {
            assert_eq!(chunks.remove(at), at);
            assert_eq!(chunks.get(at), None);
        }
        let room = [chunks.insert(0), chunks.insert(0), chunks.insert(0), chunks.insert(0)];
        assert_eq!(room, [3 * CHUNK + 9, 3 * CHUNK + 7, 66 * CHUNK, MANY]);
        assert_eq!(chunks.len(), MANY as usize + 1);

        for at in (0..5 * CHUNK).chain(6 * CHUNK..=MANY) {
            chunks.remove(at);
        }
        assert_eq!(chunks.shrink().len(), 70, "all but the one that holds something");
        assert_eq!((chunks.len(), chunks.end()), (CHUNK as usize, 6 * CHUNK));
        assert_eq!((chunks.get(0), chunks.get(MANY), chunks[5 * CHUNK]), (None, None, 5 * CHUNK));
        assert_eq!(chunks.insert(1), 0);
        for at in (5 * CHUNK..6 * CHUNK).chain([0]) {
            chunks.remove(at);
        }
        assert!(chunks.is_empty());
        chunks.shrink();
        assert!(chunks.end() <= CHUNK, "a little room is kept");
    }
}
