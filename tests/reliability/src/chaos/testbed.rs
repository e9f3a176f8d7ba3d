//! Owns the testbed: the broker, the fleets, the supervisors, and the present state of each.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;

use super::counters::ExpectedCounters;
use crate::broker::RestartableBroker;
use crate::fleet::{Event, FleetGroup, FleetOptions, unix_micros};
use crate::oracle::{Affected, Disturbance, Oracle};
use crate::supervisors::Supervisors;

/// The participants of the test.
pub(crate) struct Testbed {
    pub(crate) supervisors: Rc<Supervisors>,
    pub(crate) broker: RefCell<RestartableBroker>,
    pub(crate) fleets: FleetGroup,
    pub(crate) oracle: RefCell<Oracle>,
    pub(crate) injected: RefCell<BTreeMap<&'static str, u64>>,
    /// How many runs were received by controllers that wait in this way.
    pub(crate) received: RefCell<BTreeMap<&'static str, u64>>,
    counters: RefCell<ExpectedCounters>,
    /// When each controller's latest poll was sent, and when the present broker was started.
    polls: RefCell<HashMap<u64, u64>>,
    since: RefCell<u64>,
    /// Held by the one fault that acts on the broker's process.
    pub(crate) broker_lock: tokio::sync::Mutex<()>,
}

impl Testbed {
    /// Starts with a broker and without fleets; see [`Testbed::start_fleets`].
    pub(crate) fn new(
        desk: Rc<Supervisors>,
        broker: RestartableBroker,
        oracle: Oracle,
        model: FleetOptions,
    ) -> Rc<Self> {
        Rc::new(Self {
            supervisors: desk,
            broker: broker.into(),
            fleets: FleetGroup::new(model),
            oracle: oracle.into(),
            injected: RefCell::default(),
            received: RefCell::default(),
            counters: RefCell::default(),
            polls: RefCell::default(),
            since: RefCell::new(0),
            broker_lock: tokio::sync::Mutex::default(),
        })
    }

    /// Starts this many fleets.
    pub(crate) fn start_fleets(&self, fleets: u64) -> anyhow::Result<()> {
        (0..fleets).try_for_each(|_| self.fleets.start())
    }

    pub(crate) fn disturbed(&self, whose: Affected, from: u64) {
        self.oracle.borrow_mut().disturbed(Disturbance { affected: whose, from, to: unix_micros() });
    }

    /// A fleet's process was killed: takes its last reports, and removes its controllers.
    pub(crate) fn fleet_killed(&self, serial: u64) {
        self.collect();
        self.counters.borrow_mut().polls_unheard += self.fleets.model().waiters() as u64;
        self.oracle.borrow_mut().remove_fleet(serial);
    }

    /// The broker was killed, and its counters are gone.
    pub(crate) fn broker_killed(&self) {
        self.collect();
        self.supervisors.broker_restarted(0);
        *self.counters.borrow_mut() = ExpectedCounters::default();
        *self.since.borrow_mut() = unix_micros();
    }

    /// Takes new POSTs and reports, and passes them to the oracle and the expected counters.
    pub(crate) fn collect(&self) {
        let (mut oracle, mut account) = (self.oracle.borrow_mut(), self.counters.borrow_mut());
        let (mut polls, since) = (self.polls.borrow_mut(), *self.since.borrow());
        for post in self.supervisors.posts.take() {
            if post.generation == self.supervisors.generation(0) {
                account.record_post(&post);
            }
            oracle.record_post(post);
        }
        for heard in self.fleets.take_reports() {
            match heard.what {
                Event::PollSent(_) => {
                    polls.insert(heard.controller, heard.at);
                    account.polls += u64::from(heard.at >= since);
                }
                Event::Received(_) => {
                    let transport = self.fleets.model().transport_of(heard.controller);
                    *self.received.borrow_mut().entry(transport).or_default() += 1;
                    let of_this = polls.get(&heard.controller).is_some_and(|&at| at >= since);
                    account.polls_surely += u64::from(of_this);
                }
                Event::Leaving
                | Event::ConnectionEnded
                | Event::NoRun
                | Event::Redirected
                | Event::Status(_)
                | Event::WrongPool(_)
                | Event::Unhealthy
                | Event::ProcessLate(_) => {}
            }
            oracle.record_report(heard);
        }
    }

    /// Checks I6 and I8 as soon as there are no changes any more.
    pub(crate) async fn check_quiet(&self) {
        let deadline = Instant::now() + QUIET_TIME;
        let mut last = String::from("the metrics could not be read");
        while Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(300)).await;
            self.collect();
            let before = self.oracle.borrow().held();
            let broker = self.broker_lock.lock().await;
            let ops = self.broker.borrow().ops;
            let scrape = pilotlight_bench::scrape::Scrape::fetch(ops).await;
            drop(broker);
            self.collect();
            let after = self.oracle.borrow().held();
            let Ok(scrape) = scrape else { continue };
            let counted = (scrape.count("pilotlight_waiters"), scrape.count("pilotlight_pools"));
            last = format!("the broker counts {counted:?} waiters and pools, the controllers {after:?}");
            if before != after || counted != after || self.supervisors.in_flight.get() > 0 {
                continue;
            }
            let wrong = self.counters.borrow().check(&scrape, after.0);
            for wrong in wrong {
                self.oracle.borrow_mut().fail("I8", &wrong);
            }
            return;
        }
        self.oracle.borrow_mut().fail("I6", &last);
    }

    /// Stops all fleets. Returns the resources that the idle broker still uses.
    pub(crate) async fn stop_fleets(&self) -> anyhow::Result<Leftover> {
        for serial in self.fleets.end_all().await {
            self.fleet_killed(serial);
        }
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
                        "all fleets have stopped, and {waiters} waiters, {pools} pools, {open} connections are counted"
                    );
                    self.oracle.borrow_mut().fail("I6", &story);
                }
                // The broker returns free memory to the kernel once a second.
                tokio::time::sleep(Duration::from_millis(2500)).await;
                let broker = self.broker.borrow();
                let dispatches = scrape.count("pilotlight_dispatches_total{");
                return Ok(Leftover {
                    files: broker.open_files()?,
                    resident: broker.resident()?,
                    dispatches,
                });
            }
        }
    }

    /// An error if the broker has exited by itself.
    pub(crate) fn check_alive(&self) -> anyhow::Result<()> {
        let mut broker = self.broker.borrow_mut();
        ensure!(broker.is_running(), "the broker exited by itself");
        Ok(())
    }
}

/// After a phase's faults the counts are stable within this time.
const QUIET_TIME: Duration = Duration::from_secs(25);
/// How many dispatches the broker keeps in memory.
const HISTORY: u64 = 10_000;
/// How many bytes one of them may use.
const HISTORY_BYTES: u64 = 1024;

/// How many runs the broker remembers against repeated delivery.
const REMEMBERED: u64 = 100_000;
/// How many bytes one of them may use.
const REMEMBERED_BYTES: u64 = 512;

/// What an idle broker still uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leftover {
    pub(crate) files: u64,
    pub(crate) resident: u64,
    /// The number of dispatches since the broker was started.
    pub(crate) dispatches: u64,
}

impl Leftover {
    /// I10: back within ten percent, apart from the dispatches that the history has gained and the runs that are
    /// remembered against repeated delivery.
    pub(crate) fn check(&self, before: &Self) -> Result<String, String> {
        let history = self.dispatches.min(HISTORY).saturating_sub(before.dispatches) * HISTORY_BYTES;
        let remembered = self.dispatches.saturating_sub(before.dispatches).min(REMEMBERED) * REMEMBERED_BYTES;
        let kept = history + remembered;
        let (files, resident) =
            (before.files + before.files / 10, before.resident + before.resident / 10 + kept);
        let story = format!(
            "after all fleets stopped: {} descriptors ({} before), {} KiB resident ({} before, {} more for the history and for repeats)",
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
        let left = |files, resident, dispatches| Leftover { files, resident, dispatches };
        let before = left(20, 10_000_000, 5000);
        assert!(left(21, 10_900_000, 5000).check(&before).is_ok());
        assert!(left(23, 10_000_000, 5000).check(&before).is_err(), "descriptors leaked");
        assert!(left(20, 11_500_000, 5000).check(&before).is_err(), "memory leaked");
        assert!(left(20, 11_500_000, 6000).check(&before).is_ok(), "the history has grown");
    }
}
