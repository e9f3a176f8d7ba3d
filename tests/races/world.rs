//! Owns what the exchange's races are run in: an exchange, the fate of each waiter, the books, and the schedulers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use pilotlight::broker::{
    AcceptedPayload, Claim, ClaimRequest, Filter, HostId, Key, Limits, MonotonicTime, Number, ParkRequest,
    RemovedWaiter, SelectionPolicy,
};
use pilotlight::exchange::{Exchange, ParkedGuard};
use pilotlight::journal::{Journal, JournalConfig};
use pilotlight::metrics::Metrics;
use pilotlight::model::PollEnd;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// Schedules per test and scheduler.
const SCHEDULES: usize = 1000;
/// So many preemptions at chosen places find a race, as far as the second scheduler is concerned.
const DEPTH: usize = 3;
/// No deadline comes, and no guard passes, while a schedule is run.
const FAR: MonotonicTime = MonotonicTime::from_micros(u64::MAX / 2);

/// Runs this under many schedules: half by pure chance, half with few but well-placed preemptions. A failure prints its
/// schedule; `PILOTLIGHT_SCHEDULE=… tests/races/run the_test` runs that one again.
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

/// Runs a race in a world of its own each time, and checks the broker's counters over all of them.
pub fn explore_worlds(race: impl Fn(&Arc<World>) + Send + Sync + 'static) {
    let books = Arc::new(Books::new());
    let same = books.clone();
    explore(move || {
        let world = Arc::new(World::new(same.clone()));
        race(&world);
        world.settle();
    });
    books.balance();
}

/// The broker's own counters, and ours.
struct Books {
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
    ends: Mutex<BTreeMap<&'static str, u64>>,
}

impl Books {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let journal = Arc::new(Journal::open(&JournalConfig::default(), metrics.clone()).unwrap());
        Self { metrics, journal, ends: Mutex::default() }
    }

    fn balance(&self) {
        let text = String::from_utf8(self.metrics.render((0, 0)).unwrap()).unwrap();
        for (end, count) in &*self.ends.lock().unwrap() {
            let line = format!("pilotlight_polls_total{{end=\"{end}\"}} {count}\n");
            assert!(text.contains(&line), "I8: we counted {line} the broker did not");
        }
        self.journal.close();
    }
}

fn word(end: PollEnd) -> &'static str {
    match end {
        PollEnd::Matched => "matched",
        PollEnd::ClientGone => "client_gone",
        PollEnd::Expired => "expired",
        PollEnd::Drained => "drained",
        PollEnd::Retired => "retired",
        PollEnd::Replaced => "replaced",
        PollEnd::Refused => "refused",
    }
}

/// What became of a waiter.
#[derive(Debug, Default)]
struct Fate {
    ends: Vec<PollEnd>,
    drops: u32,
}

/// A waiter's payload. Its name is its number in the ledger.
pub struct Token {
    pub name: usize,
    fates: Arc<Mutex<Vec<Fate>>>,
}

impl Drop for Token {
    fn drop(&mut self) {
        self.fates.lock().unwrap()[self.name].drops += 1;
    }
}

/// A place, as a hold has it.
pub struct Seat {
    pub name: usize,
    place: ParkedGuard<Token>,
}

impl Seat {
    /// Keeps it until the world is settled.
    pub fn keep(self, world: &World) -> usize {
        let name = self.name;
        world.keep(Some(self));
        name
    }
}

/// One exchange and everyone who ever waited in it.
pub struct World {
    pub exchange: Arc<Exchange<Token>>,
    fates: Arc<Mutex<Vec<Fate>>>,
    seats: Mutex<Vec<Seat>>,
    books: Arc<Books>,
}

pub fn key() -> Key {
    let number = Number::new(0.5).unwrap();
    Key { deployment: "d".into(), version: "1".into(), cpu: number, memory: number }
}

pub fn machine(name: usize) -> HostId {
    HostId { address: name as u64, name: None }
}

impl World {
    fn new(books: Arc<Books>) -> Self {
        let limits = Limits { waiters: 10, waiters_per_pool: 3, pools: 2 };
        let exchange =
            Exchange::new(limits, SelectionPolicy::Newest, books.metrics.clone(), books.journal.clone());
        Self { exchange: Arc::new(exchange), fates: Arc::default(), seats: Mutex::default(), books }
    }

    /// Parks a waiter whose deadline is far.
    pub fn park(&self, controller: &str, accepts: AcceptedPayload) -> Option<Seat> {
        self.park_until(controller, accepts, FAR)
    }

    /// Parks a waiter whose deadline has come, though it may still be offered a run.
    pub fn park_due(&self, controller: &str) -> Option<Seat> {
        self.park_until(controller, AcceptedPayload::Message, MonotonicTime::default())
    }

    fn park_until(
        &self,
        controller: &str,
        accepts: AcceptedPayload,
        deadline: MonotonicTime,
    ) -> Option<Seat> {
        let name = {
            let mut fates = self.fates.lock().unwrap();
            fates.push(Fate::default());
            fates.len() - 1
        };
        let ticket = ParkRequest {
            key: key(),
            accepts,
            controller: controller.into(),
            origin: [127, 0, 0, 1].into(),
            host: machine(name),
            offer_until: FAR,
            deadline,
            waiter: Token { name, fates: self.fates.clone() },
        };
        let Ok((place, replaced)) = self.exchange.park(ticket) else {
            self.note(PollEnd::Refused, name);
            return None;
        };
        if let Some(replaced) = replaced {
            self.ended(PollEnd::Replaced, &replaced);
        }
        Some(Seat { name, place })
    }

    /// Keeps a seat until the world is settled.
    pub fn keep(&self, seat: Option<Seat>) {
        self.seats.lock().unwrap().extend(seat);
    }

    /// One look of a run.
    pub fn claim(&self, is_message: bool) -> Option<usize> {
        let key = key();
        match self.exchange.claim(&ClaimRequest { key: key.as_ref(), is_message }) {
            Claim::Matched(taken) => Some(self.ended(PollEnd::Matched, &taken)),
            Claim::Miss(_) => None,
        }
    }

    /// The controller is gone.
    pub fn leave(&self, mut seat: Seat) -> Option<usize> {
        let left = seat.place.leave();
        assert!(!seat.place.leave(), "I5: nobody leaves twice");
        left.then(|| self.note(PollEnd::ClientGone, seat.name))
    }

    /// The hold's task ends without a word: its place leaves the pool all the same.
    fn drop_place(&self, seat: Seat) {
        let drops = || self.fates.lock().unwrap()[seat.name].drops;
        let before = drops();
        drop(seat.place);
        if drops() > before {
            self.note(PollEnd::ClientGone, seat.name);
        }
    }

    pub fn expire(&self) -> Vec<usize> {
        let mut names = Vec::new();
        self.exchange.expire(PollEnd::Expired, |taken| names.push(self.ended(PollEnd::Expired, &taken)));
        names
    }

    pub fn retire(&self) -> Vec<usize> {
        let mut names = Vec::new();
        let count = self
            .exchange
            .retire(&Filter::default(), |taken| names.push(self.ended(PollEnd::Retired, &taken)));
        assert_eq!(count, names.len(), "I8: the retired are counted");
        names
    }

    /// Drains as a shutdown does: first a share of those who stood when it began, then everyone.
    pub fn drain(&self) -> Vec<usize> {
        let mut names = Vec::new();
        self.exchange.drain();
        self.exchange
            .drain_share(|standing| standing, |taken| names.push(self.ended(PollEnd::Drained, &taken)));
        self.exchange.drain_all(|taken| names.push(self.ended(PollEnd::Drained, &taken)));
        names
    }

    /// Looks through the whole core, in the middle of everything.
    pub fn audit(&self) {
        self.exchange.audit().unwrap();
        let (waiters, pools) = self.exchange.counts();
        assert!(pools <= waiters, "I6: {pools} pools for {waiters} waiters");
    }

    /// Whoever got a waiter out says so here.
    pub fn ended(&self, end: PollEnd, taken: &RemovedWaiter<Token>) -> usize {
        self.note(end, taken.waiter.name)
    }

    fn note(&self, end: PollEnd, name: usize) -> usize {
        self.fates.lock().unwrap()[name].ends.push(end);
        *self.books.ends.lock().unwrap().entry(word(end)).or_default() += 1;
        name
    }

    /// Everybody who still stands leaves; then each waiter must have ended once, by one way, and none is left.
    fn settle(&self) {
        self.audit();
        let seats = std::mem::take(&mut *self.seats.lock().unwrap());
        for seat in seats {
            self.drop_place(seat);
        }
        self.audit();
        assert_eq!(self.exchange.counts(), (0, 0), "I6: nobody is left");
        for (name, fate) in self.fates.lock().unwrap().iter().enumerate() {
            assert_eq!((fate.ends.len(), fate.drops), (1, 1), "I4, I5, I6: waiter {name} came to {fate:?}");
        }
    }
}
