//! Owns the counters of the simulation, with which those of the broker must agree.

use std::collections::HashMap;

use pilotlight::model::Verdict;

/// How a waiter ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Matched,
    Left,
    Expired,
    Retired,
    Drained,
    Replaced,
    Refused,
}

/// The counters that the broker must agree with.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) polls: usize,
    pub(crate) posts: usize,
    pub(crate) hits: usize,
    pub(crate) misses: usize,
    pub(crate) offers: usize,
    pub(crate) verdicts: HashMap<Verdict, usize>,
    pub(crate) matched: usize,
    pub(crate) ends: HashMap<u64, End>,
}

impl Counts {
    pub(crate) fn record_end(&mut self, name: u64, end: End) {
        let before = self.ends.insert(name, end);
        assert_eq!(before, None, "I5: waiter {name} ended twice, now as {end:?}");
        self.matched += usize::from(end == End::Matched);
    }

    pub(crate) fn check(&self, waiting: usize) {
        assert_eq!(self.polls, waiting + self.ends.len(), "I8: polls = waiting + ends");
        assert_eq!(self.posts, self.hits + self.misses, "I8: posts = hits + misses");
        assert_eq!(self.offers, self.verdicts.values().sum::<usize>(), "I8: offers = verdicts");
        assert_eq!(self.offers, self.matched, "I8: offers = matched polls");
    }
}
