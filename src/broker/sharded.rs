//! Owns the sharded table: a hash table in many parts that grow one by one, so that no insertion moves many entries.

use hashbrown::HashTable;

/// Hash tables, selected by bits of the hash that a table itself does not use.
pub(crate) struct Sharded<T>(Box<[HashTable<T>]>);

impl<T> Sharded<T> {
    /// A table of this many parts, a power of two.
    pub(crate) fn new(parts: usize) -> Self {
        debug_assert!(parts.is_power_of_two());
        Self((0..parts).map(|_| HashTable::new()).collect())
    }

    /// A table of these parts, whose number is a power of two. All of them are empty.
    pub(crate) fn of(parts: Vec<HashTable<T>>) -> Self {
        debug_assert!(parts.len().is_power_of_two() && parts.iter().all(HashTable::is_empty));
        Self(parts.into())
    }

    /// Its parts, with their entries.
    pub(crate) fn into_parts(self) -> Vec<HashTable<T>> {
        self.0.into()
    }

    /// The part for entries with this hash.
    pub(crate) fn part(&self, hash: u64) -> &HashTable<T> {
        &self.0[self.part_index(hash)]
    }

    /// The part for entries with this hash.
    pub(crate) fn part_mut(&mut self, hash: u64) -> &mut HashTable<T> {
        let index = self.part_index(hash);
        &mut self.0[index]
    }

    /// All parts, for callers that must not visit them all at once.
    pub(crate) fn parts(&self) -> &[HashTable<T>] {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(HashTable::len).sum()
    }

    /// Takes out the memory of empty parts, for the caller to drop.
    pub(crate) fn shrink(&mut self) -> Vec<HashTable<T>> {
        let is_spare = |part: &&mut HashTable<T>| part.is_empty() && part.capacity() > 0;
        self.0.iter_mut().filter(is_spare).map(std::mem::take).collect()
    }

    /// A table uses the lowest bits of the hash and the highest seven, so these are others.
    fn part_index(&self, hash: u64) -> usize {
        (hash >> 40) as usize & (self.0.len() - 1)
    }
}
