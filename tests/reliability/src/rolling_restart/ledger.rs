//! Owns the ledger of a rolling restart: when each poll was held, and which runs were posted while one was.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::fleet::{Event, Report, unix_micros};
use crate::oracle::Oracle;
use crate::supervisors::Post;

/// One poll of one controller. Times are in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Poll {
    pool: usize,
    sent: u64,
    ended: u64,
    /// The run that it got.
    run: Option<u64>,
}

/// A poll is held so many microseconds after it was sent.
const PARKING_TIME: u64 = 20_000;

/// What controllers and supervisors did, and the oracle that judges it.
pub(super) struct Ledger {
    pub(super) oracle: RefCell<Oracle>,
    open: RefCell<HashMap<usize, Poll>>,
    over: RefCell<Vec<Poll>>,
    posts: RefCell<Vec<Post>>,
    pub(super) exits: RefCell<Vec<String>>,
    pub(super) redirects: Cell<u64>,
    pub(super) cuts: Cell<u64>,
}

/// Runs for which some broker held a free waiter, and those of them that a controller got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) possible: u64,
    pub(super) hits: u64,
}

impl Ledger {
    pub(super) fn new(oracle: Oracle) -> Self {
        Self {
            oracle: oracle.into(),
            open: RefCell::default(),
            over: RefCell::default(),
            posts: RefCell::default(),
            exits: RefCell::default(),
            redirects: Cell::new(0),
            cuts: Cell::new(0),
        }
    }

    pub(super) fn poll_sent(&self, controller: usize, pool: usize) {
        let poll = Poll { pool, sent: unix_micros(), ended: u64::MAX, run: None };
        self.open.borrow_mut().insert(controller, poll);
    }

    /// A poll ended without a run: by a response, by the controller, or with its connection.
    pub(super) fn poll_ended(&self, controller: usize, status: Option<u16>) {
        self.redirects.set(self.redirects.get() + u64::from(status == Some(307)));
        self.end(controller, unix_micros(), None);
    }

    pub(super) fn received(&self, controller: usize, run: u64, is_right_pool: bool, at: u64) {
        self.end(controller, at, Some(run));
        let what = if is_right_pool { Event::Received(run) } else { Event::WrongPool(run) };
        self.oracle.borrow_mut().record_report(Report { controller: controller as u64, at, what });
    }

    fn end(&self, controller: usize, ended: u64, run: Option<u64>) {
        // A poll that its controller ended before it was sent is none.
        if let Some(poll) = self.open.borrow_mut().remove(&controller) {
            self.over.borrow_mut().push(Poll { ended, run, ..poll });
        }
    }

    /// A connection ended without a response, and the controller tries again after a pause.
    pub(super) fn cut(&self) {
        self.cuts.set(self.cuts.get() + 1);
    }

    pub(super) fn exited(&self, controller: usize, why: &str) {
        self.exits.borrow_mut().push(format!("controller {controller}: {why}"));
    }

    pub(super) fn record_post(&self, post: Post) {
        self.posts.borrow_mut().push(post.clone());
        self.oracle.borrow_mut().record_post(post);
    }

    /// Counts the runs that were posted while a waiter of their pool was free.
    pub(super) fn served(&self) -> Served {
        let posts = self.posts.borrow();
        let sent: HashMap<u64, u64> = posts.iter().map(|post| (post.run, post.sent)).collect();
        let open = self.open.borrow();
        let over = self.over.borrow();
        let mut served = Served::default();
        for post in posts.iter() {
            // A poll that an earlier run took was perhaps not free any more.
            let is_free = |poll: &&Poll| {
                let taken = poll.run.and_then(|run| sent.get(&run)).copied().unwrap_or(u64::MAX);
                poll.pool == post.pool
                    && poll.sent + PARKING_TIME <= post.sent
                    && poll.ended > post.sent
                    && (taken >= post.sent || poll.run == Some(post.run))
            };
            let is_possible = post.is_hit() || over.iter().chain(open.values()).any(|poll| is_free(&poll));
            served.possible += u64::from(is_possible);
            served.hits += u64::from(post.is_hit());
        }
        served
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Rules;
    use crate::supervisors::{Dialect, Outcome, SendMode};

    const START: u64 = 1_000_000_000;

    fn post(run: u64, sent: u64, outcome: Outcome) -> Post {
        let (dialect, mode) = (Dialect::Trigger, SendMode::Whole);
        Post {
            run,
            pool: 1,
            dialect,
            mode,
            broker: 0,
            sent,
            whole: sent,
            done: sent + 5,
            is_fresh: false,
            generation: 0,
            outcome,
            offers: 1,
        }
    }

    fn served(polls: &[Poll], posts: &[Post]) -> (u64, u64) {
        let rules = Rules { budget: 1, margin: 1, timeout: 1, is_cluster: true };
        let ledger = Ledger::new(Oracle::new(rules));
        ledger.over.borrow_mut().extend_from_slice(polls);
        for post in posts {
            ledger.record_post(post.clone());
        }
        let Served { possible, hits } = ledger.served();
        (possible, hits)
    }

    #[test]
    fn a_run_counts_if_a_waiter_of_its_pool_was_free_when_it_was_posted() {
        let poll = Poll { pool: 1, sent: START, ended: START + 90_000, run: None };
        let hit = post(1, START + 50_000, Outcome::Hit("received".into(), None));
        let miss = post(1, START + 50_000, Outcome::Miss("no_pool".into()));
        assert_eq!(served(&[poll], std::slice::from_ref(&hit)), (1, 1));
        assert_eq!(served(&[poll], std::slice::from_ref(&miss)), (1, 0));
        assert_eq!(served(&[], std::slice::from_ref(&miss)), (0, 0), "nobody waits");
        let young = Poll { sent: START + 49_000, ..poll };
        assert_eq!(served(&[young], std::slice::from_ref(&miss)), (0, 0), "the poll may not be there yet");
        let other = Poll { pool: 2, ..poll };
        assert_eq!(served(&[other], std::slice::from_ref(&miss)), (0, 0));
        let gone = Poll { ended: START + 50_000, ..poll };
        assert_eq!(served(&[gone], std::slice::from_ref(&miss)), (0, 0));
    }

    #[test]
    fn a_waiter_that_an_earlier_run_took_was_not_free_for_a_later_one() {
        let poll = Poll { pool: 1, sent: START, ended: START + 51_000, run: Some(1) };
        let hit = post(1, START + 49_900, Outcome::Hit("received".into(), None));
        let miss = post(2, START + 50_000, Outcome::Miss("no_pool".into()));
        assert_eq!(served(&[poll], &[hit, miss]), (1, 1));
        let later = post(1, START + 50_500, Outcome::Hit("received".into(), None));
        let miss = post(2, START + 50_000, Outcome::Miss("no_pool".into()));
        assert_eq!(served(&[poll], &[later, miss]), (2, 1));
    }
}
