//! Owns the setting of the exchange's races: an exchange, what happened to each waiter, the counts, and the schedulers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use pilotlight::broker::{
    AcceptedPayload, Claim, ClaimRequest, Filter, HostId, Key, Limits, MonotonicTime, Number, ParkRequest,
    PayloadKind, RemovedWaiter, SelectionPolicy,
};
use pilotlight::exchange::{Exchange, ParkedGuard};
use pilotlight::journal::{Journal, JournalConfig};
use pilotlight::metrics::Metrics;
use pilotlight::model::PollEnd;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// Schedules per test and scheduler.
const SCHEDULES: usize = 1000;
/// The second scheduler finds each race that needs at most this many preemptions.
const DEPTH: usize = 3;
/// A deadline that does not come while a schedule runs.
const FAR: MonotonicTime = MonotonicTime::from_micros(u64::MAX / 2);

/// Runs a race under many schedules: half of them random, half with few preemptions at chosen places. A failure prints its
/// schedule; `PILOTLIGHT_SCHEDULE=… tests/races/run the_test` repeats it.
pub fn explore(race: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    if let Some(schedule) = std::env::var_os("PILOTLIGHT_SCHEDULE") {
        return shuttle::replay(race, schedule.to_str().unwrap().trim());
    }
    let schedules = if super::is_long() { 10 * SCHEDULES } else { SCHEDULES };
    let race = Arc::new(race);
    let same = race.clone();
    Runner::new(RandomScheduler::new(schedules), config.clone()).run(move || race());
    Runner::new(PctScheduler::new(DEPTH, schedules), config).run(move || same());
}

/// Runs a race in a new world each time, and checks the broker's counters over all of them.
pub fn explore_worlds(race: impl Fn(&Arc<World>) + Send + Sync + 'static) {
    let counts = Arc::new(Counts::new());
    let same = counts.clone();
    explore(move || {
        let world = Arc::new(World::new(same.clone()));
        race(&world);
        world.settle();
    });
    counts.check();
}

/// The broker's own counters, and those of the test.
struct Counts {
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
    ends: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counts {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let journal = Arc::new(Journal::open(&JournalConfig::default(), metrics.clone()).unwrap());
        Self { metrics, journal, ends: Mutex::default() }
    }

    fn check(&self) {
        let text = String::from_utf8(self.metrics.render((0, 0)).unwrap()).unwrap();
        for (end, count) in &*self.ends.lock().unwrap() {
            let line = format!("pilotlight_polls_total{{end=\"{end}\"}} {count}\n");
            assert!(text.contains(&line), "I8: the test counted {line} and the broker did not");
        }
        self.journal.close();
    }
}

fn label(end: PollEnd) -> &'static str {
    match end {
        PollEnd::Matched => "matched",
        PollEnd::ClientGone => "client_gone",
        PollEnd::Expired => "expired",
        PollEnd::Drained => "drained",
        PollEnd::Retired => "retired",
        PollEnd::Replaced => "replaced",
        PollEnd::Refused => "refused",
        PollEnd::SetAside => "set_aside",
    }
}

/// What happened to a waiter.
#[derive(Debug, Default)]
struct History {
    ends: Vec<PollEnd>,
    drops: u32,
}

/// What the exchange keeps for a waiter. Its number is its index in the histories.
pub struct Token {
    pub number: usize,
    histories: Arc<Mutex<Vec<History>>>,
}

impl Drop for Token {
    fn drop(&mut self) {
        self.histories.lock().unwrap()[self.number].drops += 1;
    }
}

/// A parked waiter, as a hold keeps it.
pub struct Parked {
    pub number: usize,
    guard: ParkedGuard<Token>,
}

impl Parked {
    /// Keeps it until the world is settled.
    pub fn keep(self, world: &World) -> usize {
        let number = self.number;
        world.keep(Some(self));
        number
    }
}

/// One exchange, and every waiter that it ever had.
pub struct World {
    pub exchange: Arc<Exchange<Token>>,
    histories: Arc<Mutex<Vec<History>>>,
    kept: Mutex<Vec<Parked>>,
    counts: Arc<Counts>,
}

pub fn key() -> Key {
    let number = Number::new(0.5).unwrap();
    Key { deployment: "d".into(), version: "1".into(), cpu: number, memory: number }
}

pub fn host(number: usize) -> HostId {
    let number = u32::try_from(number).unwrap();
    HostId { address: Ipv4Addr::from_bits(number).into(), name: None }
}

impl World {
    fn new(counts: Arc<Counts>) -> Self {
        let limits = Limits { waiters: 10, waiters_per_pool: 3, pools: 2 };
        let (metrics, journal) = (counts.metrics.clone(), counts.journal.clone());
        let exchange = Exchange::new(limits, SelectionPolicy::Newest, metrics, journal);
        Self { exchange: Arc::new(exchange), histories: Arc::default(), kept: Mutex::default(), counts }
    }

    /// Parks a waiter whose deadline does not come.
    pub fn park(&self, controller: &str, accepts: AcceptedPayload) -> Option<Parked> {
        self.park_until(controller, accepts, FAR)
    }

    /// Parks a waiter whose deadline has come; it may still be offered a run.
    pub fn park_due(&self, controller: &str) -> Option<Parked> {
        self.park_until(controller, AcceptedPayload::TriggerMessage, MonotonicTime::default())
    }

    fn park_until(
        &self,
        controller: &str,
        accepts: AcceptedPayload,
        deadline: MonotonicTime,
    ) -> Option<Parked> {
        let number = {
            let mut histories = self.histories.lock().unwrap();
            histories.push(History::default());
            histories.len() - 1
        };
        let key = key();
        // Waiters of one controller share a host, so that they replace each other.
        let host = if controller.is_empty() { host(number) } else { host(1 << 16) };
        let request = ParkRequest {
            key: key.as_ref(),
            accepts,
            controller: controller.into(),
            host,
            is_exclusive: true,
            offer_until: FAR,
            deadline,
            waiter: Token { number, histories: self.histories.clone() },
        };
        let Ok((guard, replaced)) = self.exchange.park(request, self.exchange.now()) else {
            self.record(PollEnd::Refused, number);
            return None;
        };
        if let Some(replaced) = replaced {
            self.record_removed(PollEnd::Replaced, &replaced);
        }
        Some(Parked { number, guard })
    }

    /// Keeps a parked waiter until the world is settled.
    pub fn keep(&self, parked: Option<Parked>) {
        self.kept.lock().unwrap().extend(parked);
    }

    /// Claims a waiter for a run message.
    pub fn claim(&self) -> Option<usize> {
        let key = key();
        let request = ClaimRequest { key: key.as_ref(), payload_kind: PayloadKind::TriggerMessage };
        match self.exchange.claim(&request, self.exchange.now()) {
            Claim::Matched(removed) => Some(self.record_removed(PollEnd::Matched, &removed)),
            Claim::Miss(_) => None,
        }
    }

    /// The controller closed its connection.
    pub fn leave(&self, mut parked: Parked) -> Option<usize> {
        let left = parked.guard.leave();
        assert!(!parked.guard.leave(), "I5: a waiter leaves once");
        left.then(|| self.record(PollEnd::ClientGone, parked.number))
    }

    /// The hold's task is dropped: its guard removes the waiter.
    fn drop_guard(&self, parked: Parked) {
        let drops = || self.histories.lock().unwrap()[parked.number].drops;
        let before = drops();
        drop(parked.guard);
        if drops() > before {
            self.record(PollEnd::ClientGone, parked.number);
        }
    }

    pub fn expire(&self) -> Vec<usize> {
        let mut numbers = Vec::new();
        let record = |removed| numbers.push(self.record_removed(PollEnd::Expired, &removed));
        self.exchange.expire(PollEnd::Expired, record);
        numbers
    }

    pub fn retire(&self) -> Vec<usize> {
        let mut numbers = Vec::new();
        let record = |removed| numbers.push(self.record_removed(PollEnd::Retired, &removed));
        let count = self.exchange.retire(&Filter::default(), record);
        assert_eq!(count, numbers.len(), "I8: retired waiters are counted");
        numbers
    }

    /// Drains as a shutdown does: first a share of the waiters parked before it began, then the rest.
    pub fn drain(&self) -> Vec<usize> {
        let mut numbers = Vec::new();
        let mut record = |removed| numbers.push(self.record_removed(PollEnd::Drained, &removed));
        self.exchange.drain();
        self.exchange.drain_share(|waiting| waiting, &mut record);
        self.exchange.drain_all(record);
        numbers
    }

    /// Drains as the broker of a cluster does: claims match until the first share of the waiters is removed.
    pub fn drain_while_matching(&self) -> Vec<usize> {
        let mut numbers = Vec::new();
        let mut record = |removed| numbers.push(self.record_removed(PollEnd::Drained, &removed));
        self.exchange.begin_drain();
        self.exchange.drain_share(|waiting| waiting.div_ceil(2), &mut record);
        self.exchange.drain_share(|waiting| waiting, &mut record);
        self.exchange.stop_matching();
        self.exchange.drain_all(record);
        numbers
    }

    /// Checks the whole core while other threads run.
    pub fn audit(&self) {
        self.exchange.audit().unwrap();
        let (waiters, pools) = self.exchange.counts();
        assert!(pools <= waiters, "I6: {pools} pools for {waiters} waiters");
    }

    pub fn record_removed(&self, end: PollEnd, removed: &RemovedWaiter<Token>) -> usize {
        self.record(end, removed.waiter.number)
    }

    fn record(&self, end: PollEnd, number: usize) -> usize {
        self.histories.lock().unwrap()[number].ends.push(end);
        *self.counts.ends.lock().unwrap().entry(label(end)).or_default() += 1;
        number
    }

    /// Removes all waiters that are still parked; then each waiter must have ended once, in one way.
    fn settle(&self) {
        self.audit();
        let kept = std::mem::take(&mut *self.kept.lock().unwrap());
        for parked in kept {
            self.drop_guard(parked);
        }
        self.audit();
        assert_eq!(self.exchange.counts(), (0, 0), "I6: every pool is empty");
        for (number, history) in self.histories.lock().unwrap().iter().enumerate() {
            let counts = (history.ends.len(), history.drops);
            assert_eq!(counts, (1, 1), "I4, I5, I6: waiter {number} has the history {history:?}");
        }
    }
}
