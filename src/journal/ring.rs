//! Owns the ring: a buffer of the latest values of one type, of the same capacity for every type.

use std::collections::VecDeque;

/// Values that a ring keeps.
pub(super) const CAPACITY: usize = 10_000;
const LEAST_GROWTH: usize = 16;

/// The latest [`CAPACITY`] values, from the oldest to the newest. It grows with its values, so that an empty one costs nothing.
pub(super) struct Ring<T>(VecDeque<T>);

impl<T> Ring<T> {
    pub(super) const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Adds a value. A full ring drops its oldest one.
    pub(super) fn push(&mut self, value: T) {
        let length = self.0.len();
        if length == CAPACITY {
            self.0.pop_front();
        } else if length == self.0.capacity() {
            // Doubling would go beyond `CAPACITY`, and a full ring goes round all of its buffer.
            self.0.reserve_exact(length.max(LEAST_GROWTH).min(CAPACITY - length));
        }
        self.0.push_back(value);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value at this index, from the oldest on.
    pub(super) fn get(&self, index: u64) -> Option<&T> {
        self.0.get(usize::try_from(index).ok()?)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_drops_its_oldest_value() {
        let mut ring = Ring::new();
        (0..CAPACITY + 2).for_each(|number| ring.push(number));
        assert_eq!((ring.len(), ring.0.capacity()), (CAPACITY, CAPACITY));
        assert_eq!((ring.iter().next(), ring.iter().next_back()), (Some(&2), Some(&(CAPACITY + 1))));
    }
}
