//! Owns the stage: the broker, the fleets and the supervisors, and what is known of each of them at any time.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use rustix::process::Signal;
use tokio::time::Instant;

use super::account::Account;
use crate::broker::Broker;
use crate::fleet::{Crowd, Deed, Ear, Options, Order, What, now};
use crate::oracle::{Oracle, Trouble, Whose};
use crate::supervisors::Desk;

/// Everyone who takes part.
pub(super) struct Stage {
    pub(super) desk: Rc<Desk>,
    pub(super) ear: Ear,
    pub(super) broker: RefCell<Broker>,
    pub(super) fleets: RefCell<Vec<Crowd>>,
    pub(super) oracle: RefCell<Oracle>,
    pub(super) injected: RefCell<BTreeMap<&'static str, u64>>,
    account: RefCell<Account>,
    /// When each controller's present poll was sent, and when the present broker was started.
    polls: RefCell<HashMap<u64, u64>>,
    since: RefCell<u64>,
    /// One at a time does something to the broker's process.
    pub(super) broker_turn: tokio::sync::Mutex<()>,
    model: Options,
    /// Whether the controllers have been sent away.
    is_empty: RefCell<bool>,
}

impl Stage {
    /// Opens with a broker; the fleets come with [`Stage::enter`].
    pub(super) fn new(desk: Rc<Desk>, broker: Broker, oracle: Oracle, model: Options) -> Rc<Self> {
        Rc::new(Self {
            desk,
            ear: Ear::default(),
            broker: broker.into(),
            fleets: RefCell::default(),
            oracle: oracle.into(),
            injected: RefCell::default(),
            account: RefCell::default(),
            polls: RefCell::default(),
            since: RefCell::new(0),
            broker_turn: tokio::sync::Mutex::default(),
            model,
            is_empty: RefCell::new(true),
        })
    }

    /// Starts so many fleets.
    pub(super) fn enter(&self, fleets: u64) -> anyhow::Result<()> {
        for _ in 0..fleets {
            let fleet = self.new_fleet()?;
            self.fleets.borrow_mut().push(fleet);
        }
        *self.is_empty.borrow_mut() = false;
        Ok(())
    }

    pub(super) fn new_fleet(&self) -> anyhow::Result<Crowd> {
        thread_local!(static SERIAL: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
        let serial = SERIAL.get() + 1;
        SERIAL.set(serial);
        Crowd::start(&Options { serial, seed: self.model.seed + serial, ..self.model.clone() }, &self.ear)
    }

    pub(super) fn trouble(&self, whose: Whose, from: u64) {
        self.oracle.borrow_mut().troubled(Trouble { whose, from, to: now() });
    }

    /// A process was killed: whatever it had said is heard, and nobody of it stands any more.
    pub(super) fn buried(&self, serial: u64) {
        self.listen();
        self.account.borrow_mut().polls_unheard += self.model.count as u64;
        self.oracle.borrow_mut().gone(serial);
    }

    /// The present broker is dead, and whatever it counted with it.
    pub(super) fn broker_is_dead(&self) {
        self.listen();
        self.desk.era.set(self.desk.era.get() + 1);
        *self.account.borrow_mut() = Account::default();
        *self.since.borrow_mut() = now();
    }

    /// Hears what was said, and takes it into account.
    pub(super) fn listen(&self) {
        let (mut oracle, mut account) = (self.oracle.borrow_mut(), self.account.borrow_mut());
        let (mut polls, since) = (self.polls.borrow_mut(), *self.since.borrow());
        for post in self.desk.posts.take() {
            if post.era == self.desk.era.get() {
                account.post(&post);
            }
            oracle.post(post);
        }
        for heard in self.ear.take() {
            match heard.what {
                What::Polls(_) => {
                    polls.insert(heard.controller, heard.at);
                    account.polls += u64::from(heard.at >= since);
                }
                What::Received(_) => {
                    let of_this = polls.get(&heard.controller).is_some_and(|&at| at >= since);
                    account.polls_surely += u64::from(of_this);
                }
                What::Leaves
                | What::Cut
                | What::Elsewhere
                | What::Status(_)
                | What::Wrong(_)
                | What::Fails
                | What::Late(_) => {}
            }
            oracle.hear(heard);
        }
    }

    /// I6 and I8, once everything is quiet.
    pub(super) async fn check_quiet(&self) {
        let deadline = Instant::now() + QUIET_TIME;
        let mut last = String::from("the metrics could not be read");
        while Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(300)).await;
            self.listen();
            let before = self.oracle.borrow().standing();
            let broker = self.broker_turn.lock().await;
            let ops = self.broker.borrow().ops;
            let scrape = pilotlight_bench::scrape::Scrape::fetch(ops).await;
            drop(broker);
            self.listen();
            let after = self.oracle.borrow().standing();
            let Ok(scrape) = scrape else { continue };
            let counted = (scrape.count("pilotlight_waiters"), scrape.count("pilotlight_pools"));
            last = format!("the broker counts {counted:?} waiters and pools, and {after:?} stand");
            if before != after || counted != after || self.desk.in_flight.get() > 0 {
                continue;
            }
            let wrong = self.account.borrow().check(&scrape, after.0);
            for wrong in wrong {
                self.oracle.borrow_mut().fail("I8", &wrong);
            }
            return;
        }
        self.oracle.borrow_mut().fail("I6", &last);
    }

    /// Everyone leaves. What the broker has left then: descriptors, resident bytes, dispatches that it remembers.
    pub(super) async fn leave(&self) -> anyhow::Result<Left> {
        let order = Order { what: Deed::End, count: 1, millis: 0 };
        let fleets = std::mem::take(&mut *self.fleets.borrow_mut());
        for mut fleet in fleets {
            fleet.signal(Signal::CONT);
            fleet.tell(order);
            // It is at rest, and loses nothing by it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            fleet.kill();
            self.buried(fleet.serial);
        }
        *self.is_empty.borrow_mut() = true;
        let deadline = Instant::now() + QUIET_TIME;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let ops = self.broker.borrow().ops;
            let scrape = pilotlight_bench::scrape::Scrape::fetch(ops).await?;
            let waiters = scrape.count("pilotlight_waiters");
            let pools = scrape.count("pilotlight_pools");
            let open = scrape.count("pilotlight_connections{listener=\"public\"");
            if (waiters, pools, open) == (0, 0, 0) || Instant::now() > deadline {
                if (waiters, pools, open) != (0, 0, 0) {
                    let story = format!(
                        "all have left, and {waiters} waiters, {pools} pools, {open} connections are counted"
                    );
                    self.oracle.borrow_mut().fail("I6", &story);
                }
                // What the allocator owes is collected once a second.
                tokio::time::sleep(Duration::from_millis(2500)).await;
                let broker = self.broker.borrow();
                let dispatches = scrape.count("pilotlight_dispatches_total{");
                return Ok(Left { files: broker.open_files()?, resident: broker.resident()?, dispatches });
            }
        }
    }

    /// A broker that ended although nobody ended it.
    pub(super) fn check_alive(&self) -> anyhow::Result<()> {
        let mut broker = self.broker.borrow_mut();
        ensure!(broker.lives(), "the broker ended by itself");
        Ok(())
    }
}

/// After a storm everything comes to rest within this time.
const QUIET_TIME: Duration = Duration::from_secs(25);
/// So many dispatches stand in the broker's memory.
const HISTORY: u64 = 10_000;
/// What one of them may take there.
const HISTORY_BYTES: u64 = 1024;

/// So many runs are remembered for a minute or two.
const REMEMBERED: u64 = 100_000;
/// What one of them may take.
const REMEMBERED_BYTES: u64 = 512;

/// What a broker has left when everyone has left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub(super) files: u64,
    pub(super) resident: u64,
    /// All that there were since the broker began.
    pub(super) dispatches: u64,
}

impl Left {
    /// I10: back within ten percent, but for the dispatches that came into the history meanwhile, and the runs that are
    /// remembered, so that they are not delivered twice.
    pub(super) fn check(&self, before: &Self) -> Result<String, String> {
        let history = self.dispatches.min(HISTORY).saturating_sub(before.dispatches) * HISTORY_BYTES;
        let remembered = self.dispatches.saturating_sub(before.dispatches).min(REMEMBERED) * REMEMBERED_BYTES;
        let kept = history + remembered;
        let (files, resident) =
            (before.files + before.files / 10, before.resident + before.resident / 10 + kept);
        let story = format!(
            "after all left: {} descriptors ({} before), {} KiB resident ({} before, {} more for the history and for repeats)",
            self.files,
            before.files,
            self.resident / 1024,
            before.resident / 1024,
            kept / 1024,
        );
        if self.files <= files && self.resident <= resident { Ok(story) } else { Err(story) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_what_is_left_is_what_was_left_before() {
        let left = |files, resident, dispatches| Left { files, resident, dispatches };
        let before = left(20, 10_000_000, 5000);
        assert!(left(21, 10_900_000, 5000).check(&before).is_ok());
        assert!(left(23, 10_000_000, 5000).check(&before).is_err(), "descriptors leaked");
        assert!(left(20, 11_500_000, 5000).check(&before).is_err(), "memory leaked");
        assert!(left(20, 11_500_000, 6000).check(&before).is_ok(), "the history has grown");
    }
}
