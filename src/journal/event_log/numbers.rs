//! Owns a list of event numbers: which events of the log are in one topic and of one kind.

use std::collections::VecDeque;

/// The numbers of the events that are in the log, ascending, and what is known of those that have left it.
#[derive(Debug)]
pub(super) struct NumberList {
    numbers: VecDeque<u64>,
    /// Every event from this number on is known to be in the topic or not.
    known_from: u64,
    /// The last event that has left the log, and how many have.
    dropped_to: u64,
    dropped: u64,
}

impl NumberList {
    pub(super) const fn new(known_from: u64) -> Self {
        Self { numbers: VecDeque::new(), known_from, dropped_to: 0, dropped: 0 }
    }

    /// Adds an event; those before `first` have left the log.
    pub(super) fn push(&mut self, number: u64, first: u64) {
        self.drop_before(first);
        self.numbers.push_back(number);
    }

    /// The events before `first` have left the log.
    pub(super) fn drop_before(&mut self, first: u64) {
        while let Some(&number) = self.numbers.front()
            && number < first
        {
            self.numbers.pop_front();
            self.dropped_to = number;
            self.dropped += 1;
        }
    }

    /// All events have left the log. Of those up to `next` nothing is known.
    pub(super) fn forget_before(&mut self, next: u64) {
        self.numbers.clear();
        self.known_from = next;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Releases memory that is no longer used.
    pub(super) fn shrink(&mut self) {
        if self.numbers.len() < self.numbers.capacity() / 4 {
            self.numbers.shrink_to(self.numbers.len() * 2);
        }
    }

    /// The numbers from this one on.
    pub(super) fn from(&self, next: u64) -> impl Iterator<Item = u64> {
        self.numbers.range(self.numbers.partition_point(|number| *number < next)..).copied()
    }

    /// The first event from `next` on. If some of them have left the log, a number of one that has.
    pub(super) fn first_from(&self, next: u64) -> Option<u64> {
        if self.dropped_to >= next { Some(self.dropped_to) } else { self.from(next).next() }
    }

    /// At most how many events from `next` on have left the log; 0 only if none has.
    pub(super) fn missed_from(&self, next: u64) -> u64 {
        let unknown = self.known_from.saturating_sub(next);
        if self.dropped_to >= next { unknown + self.dropped } else { unknown }
    }
}
