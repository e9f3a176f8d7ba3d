//! Owns the sharded table: a hash table in many parts, each of which grows by itself, so that growing moves few entries.

use hashbrown::HashTable;

/// Hash tables by a part of the hash that they do not use themselves.
pub(crate) struct Sharded<T>(Box<[HashTable<T>]>);

impl<T> Sharded<T> {
    /// A table of so many parts: a power of two.
    pub(crate) fn new(parts: usize) -> Self {
        debug_assert!(parts.is_power_of_two());
        Self((0..parts).map(|_| HashTable::new()).collect())
    }

    /// The part where what has this hash is to be found.
    pub(crate) fn part(&self, hash: u64) -> &HashTable<T> {
        &self.0[self.place(hash)]
    }

    /// The part where what has this hash is to be put.
    pub(crate) fn part_mut(&mut self, hash: u64) -> &mut HashTable<T> {
        let place = self.place(hash);
        &mut self.0[place]
    }

    /// The parts one by one, for those who must not look at all of them at once.
    pub(crate) fn parts(&self) -> &[HashTable<T>] {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(HashTable::len).sum()
    }

    /// Takes out the room of parts that hold nothing, for the caller to drop.
    pub(crate) fn shrink(&mut self) -> Vec<HashTable<T>> {
        let is_spare = |part: &&mut HashTable<T>| part.is_empty() && part.capacity() > 0;
        self.0.iter_mut().filter(is_spare).map(std::mem::take).collect()
    }

    /// Tables use the lowest bits and the seven highest.
    fn place(&self, hash: u64) -> usize {
        (hash >> 40) as usize & (self.0.len() - 1)
    }
}
