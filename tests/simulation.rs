//! Owns the simulation: seeded random walks of the core against a naive model, step by step.
//!
//! A failure prints its seed; `PILOTLIGHT_SEED=n cargo test --test simulation` walks that one again.
//!
//! Machines die, freeze, lose their way back and return; runs are posted with the policy of `dispatch`: offered again while
//! that is safe, and what came of an offer makes its machine suspect or trusted. Where the twelve invariants are checked
//! (`core`: debug assertions and the audit of `src/broker`; `races`: `tests/races`; `chaos`: the oracle of `tests/reliability`):
//!
//! | | what | here | elsewhere |
//! |---|---|---|---|
//! | I1 | one waiter at a time; without redelivery one ever gets a byte | yes | races; `delivery`, `crowd`, `trigger`, `native`; chaos |
//! | I2 | `true`: exactly one waiter reached the proof | yes | races; `receipts`, `proxies`, `crowd`; chaos |
//! | I3 | nothing is claimed before the POST is valid | - | `trigger` (broken, truncated), `bodies`, `quick`; chaos |
//! | I4 | a waiter stands in one pool, once | yes | core; races |
//! | I5 | and leaves only by the six ways, once | yes | races; `ops`, `trigger` |
//! | I6 | waiters counted = waiters that stand; no empty pool | yes | core; races; `crowd`; chaos |
//! | I7 | buffered bytes are bounded | - | `bodies`, `limits` |
//! | I8 | counters conserve | yes | core; races (the broker's own metrics); chaos |
//! | I9 | a match has equal keys | yes | core; races; `pools`, `trigger`, `native` |
//! | I10 | memory and descriptors come back | - | `crowd`; chaos |
//! | I11 | no `false` while a healthy waiter stands | yes | races; `delivery`, `network`; chaos |
//! | I12 | every POST ends inside its budget | yes, with a clock of our own | `delivery`, `network`, `native`; chaos |
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::time::Duration;

use pilotlight::broker::{
    AcceptedPayload, Broker, BudgetSpent, Claim, ClaimRequest, Filter, HostId, Key, LimitReached, Limits,
    MonotonicTime, Number, ParkRequest, PayloadKind, SelectionPolicy, Suspicion, WaiterId, Watermark,
};
use pilotlight::dispatch::{DeliveryPolicy, MAX_REDELIVERIES, OfferEnd, Step};
use pilotlight::model::{MissReason, Proof, Verdict};

const SEEDS: u64 = 256;
const STEPS: usize = 2000;
const MOMENTS_AGO: Duration = Duration::from_secs(60);
const MACHINES: u64 = 5;
const BUDGET: Duration = Duration::from_millis(2500);
/// How long an acknowledged run may stay unread.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// How a machine is, unseen by the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    /// Gone without a word.
    Dead,
    /// Its processes are stopped; its kernel acknowledges.
    Frozen,
    /// What it is sent arrives, what it sends does not.
    Mute,
}

/// How a waiter ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    Matched,
    Left,
    Expired,
    Retired,
    Drained,
    Replaced,
    Refused,
}

/// What the broker's counters would say.
#[derive(Debug, Default)]
struct Books {
    polls: usize,
    posts: usize,
    hits: usize,
    misses: usize,
    offers: usize,
    verdicts: HashMap<Verdict, usize>,
    matched: usize,
    ends: HashMap<u64, End>,
}

impl Books {
    fn ended(&mut self, name: u64, end: End) {
        let before = self.ends.insert(name, end);
        assert_eq!(before, None, "I5: waiter {name} ended twice, now as {end:?}");
        self.matched += usize::from(end == End::Matched);
    }

    fn balance(&self, standing: usize) {
        assert_eq!(self.polls, standing + self.ends.len(), "I8: polls = held + ends");
        assert_eq!(self.posts, self.hits + self.misses, "I8: posts = hits + misses");
        assert_eq!(self.offers, self.verdicts.values().sum::<usize>(), "I8: offers = verdicts");
        assert_eq!(self.offers, self.matched, "I8: offers = matched polls");
    }
}

#[derive(Clone)]
struct Waiter {
    name: u64,
    id: WaiterId,
    key: Key,
    accepts: AcceptedPayload,
    controller: u64,
    offer_until: MonotonicTime,
    deadline: MonotonicTime,
    machine: u64,
    /// An offer found it too near its deadline; it stays so.
    late: bool,
    /// An offer may have set it aside as suspect: once trusted again it has no place by age.
    aside: bool,
}

fn accepts(waiter: &Waiter, kind: PayloadKind) -> bool {
    kind == PayloadKind::TriggerMessage || waiter.accepts == AcceptedPayload::Any
}

/// The core as one would write it without a thought for speed.
struct Model {
    limits: Limits,
    pick: SelectionPolicy,
    draining: bool,
    waiters: Vec<Waiter>,
    emptied: Vec<(Key, MonotonicTime)>,
    /// Machines that are suspect, and since when.
    suspects: Vec<(u64, MonotonicTime)>,
}

impl Model {
    fn room(&self, key: &Key, controller: u64) -> Result<Option<usize>, LimitReached> {
        let same = |w: &Waiter| controller != 0 && w.controller == controller && w.key == *key;
        let replaced = self.waiters.iter().position(same);
        let in_pool = self.waiters.iter().filter(|w| w.key == *key).count();
        match replaced {
            Some(_) => Ok(replaced),
            None if self.waiters.len() >= self.limits.waiters => Err(LimitReached::Waiters),
            None if in_pool >= self.limits.waiters_per_pool => Err(LimitReached::Pool),
            None if in_pool == 0 && self.pools() >= self.limits.pools => Err(LimitReached::Pools),
            None => Ok(None),
        }
    }

    fn pools(&self) -> usize {
        let mut keys: Vec<&Key> = Vec::new();
        for waiter in &self.waiters {
            if !keys.contains(&&waiter.key) {
                keys.push(&waiter.key);
            }
        }
        keys.len()
    }

    fn is_suspect(&self, waiter: &Waiter, now: MonotonicTime) -> bool {
        self.suspects
            .iter()
            .any(|(machine, since)| *machine == waiter.machine && now.since(*since) < MOMENTS_AGO)
    }

    /// Who may be matched: the first of the trusted by age, or one that was set aside and is trusted again, or any suspect
    /// if no trusted one is left. Suspects that come before are set aside.
    fn candidates(&mut self, key: &Key, kind: PayloadKind, now: MonotonicTime) -> Vec<u64> {
        let fits = |w: &&Waiter| w.key == *key && !w.late && accepts(w, kind);
        let ready = |w: &&Waiter| w.offer_until > now;
        let (suspect, trusted): (Vec<_>, Vec<_>) =
            self.waiters.iter().filter(fits).filter(ready).partition(|w| self.is_suspect(w, now));
        let mut by_age = trusted.iter().filter(|w| !w.aside).map(|w| w.name);
        let first = if self.pick == SelectionPolicy::Newest { by_age.next_back() } else { by_age.next() };
        let is_before =
            |name: u64| first.is_none_or(|first| (name > first) == (self.pick == SelectionPolicy::Newest));
        let met: Vec<u64> = suspect.iter().map(|w| w.name).filter(|&name| is_before(name)).collect();
        let candidates = if trusted.is_empty() {
            suspect.iter().map(|w| w.name).collect()
        } else {
            trusted.iter().filter(|w| w.aside).map(|w| w.name).chain(first).collect()
        };
        self.waiters.iter_mut().filter(|w| met.contains(&w.name)).for_each(|w| w.aside = true);
        candidates
    }

    fn stands(&self, name: u64) -> bool {
        self.waiters.iter().any(|w| w.name == name)
    }

    fn miss(&self, key: &Key, kind: PayloadKind, now: MonotonicTime) -> MissReason {
        let pool = self.waiters.iter().filter(|w| w.key == *key);
        let stock = pool.clone().any(|w| !w.late && w.accepts == AcceptedPayload::TriggerMessage);
        if pool.count() > 0 {
            return if kind == PayloadKind::Opaque && stock {
                MissReason::NotAMessage
            } else {
                MissReason::AllTaken
            };
        }
        if self.emptied.iter().any(|(other, when)| other == key && now.since(*when) < MOMENTS_AGO) {
            return MissReason::AllTaken;
        }
        self.kin(key)
    }

    fn kin(&self, key: &Key) -> MissReason {
        let deployment = |w: &&Waiter| w.key.deployment == key.deployment;
        if self.waiters.iter().filter(deployment).any(|w| w.key.version == key.version) {
            MissReason::WrongMachine
        } else if self.waiters.iter().any(|w| w.key.deployment == key.deployment) {
            MissReason::WrongVersion
        } else {
            MissReason::NoPool
        }
    }

    fn take(&mut self, names: &[u64]) {
        let before = self.waiters.len();
        self.waiters.retain(|w| !names.contains(&w.name));
        assert_eq!(
            self.waiters.len() + names.len(),
            before,
            "I5: somebody was taken who does not stand: {names:?}"
        );
    }
}

/// Waiters that are being taken out, a page at a time, while everything else goes on.
struct Sweep {
    filter: Filter,
    before: Watermark,
    from: u32,
    /// Who stood in the selected pools when it began.
    chosen: Vec<u64>,
    end: End,
}

/// A look through the suspects' waiters, a page at a time.
struct Review {
    from: u32,
    /// Machines that were suspect when it began, and since when; and who stood then.
    suspects: Vec<(u64, MonotonicTime)>,
    standing: Vec<u64>,
    found: Vec<(Suspicion, u64)>,
}

struct Walk {
    rng: fastrand::Rng,
    broker: Broker<u64>,
    model: Model,
    now: MonotonicTime,
    names: u64,
    health: Vec<Health>,
    books: Books,
    sweep: Option<Sweep>,
    review: Option<Review>,
    /// Whose deadline had come when the expiry that is under way began.
    due: Option<Vec<u64>>,
    /// Who stood when the drain began.
    drained: Vec<u64>,
    /// Deadlines are multiples of so many microseconds.
    herd: u64,
    /// How often a look had to be taken up again.
    looked_again: usize,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let tight = rng.bool();
        let limits = Limits {
            waiters: if tight { 12 } else { 1000 },
            waiters_per_pool: if tight { 4 } else { 1000 },
            pools: if tight { 5 } else { 1000 },
        };
        let pick = if rng.bool() { SelectionPolicy::Newest } else { SelectionPolicy::Oldest };
        let herd = if rng.bool() { 1 } else { 20_000_000 };
        let model = Model {
            limits,
            pick,
            draining: false,
            waiters: Vec::new(),
            emptied: Vec::new(),
            suspects: Vec::new(),
        };
        Self {
            rng,
            broker: Broker::new(limits, pick),
            model,
            now: MonotonicTime::default(),
            names: 0,
            health: (0..MACHINES).map(|_| Health::Well).collect(),
            books: Books::default(),
            sweep: None,
            review: None,
            due: None,
            drained: Vec::new(),
            herd,
            looked_again: 0,
        }
    }

    fn key(&mut self) -> Key {
        let number = |value| Number::new(value).unwrap();
        Key {
            deployment: ["d1", "d2", "d3"][self.rng.usize(..3)].into(),
            version: ["1", "2"][self.rng.usize(..2)].into(),
            cpu: number([0.5, 1.0][self.rng.usize(..2)]),
            memory: number(0.5),
        }
    }

    fn step(&mut self) {
        self.now = self.now.plus(Duration::from_micros(self.rng.u64(..400_000)));
        match self.rng.u32(..100) {
            0..45 => self.park(),
            45..75 => self.post(),
            75..81 => self.leave(),
            81..89 => self.expire(),
            89..91 => self.fault(),
            91..94 => self.review(),
            94..97 => self.sweep(),
            97 => self.keepalive(),
            98 => self.now = self.now.plus(Duration::from_secs(self.rng.u64(..150))),
            _ => self.drain_rarely(),
        }
        self.broker.audit().unwrap();
        assert_eq!(self.broker.waiters_len(), self.model.waiters.len(), "I6: waiters");
        assert_eq!(self.broker.pools_len(), self.model.pools(), "I6: pools");
        self.books.balance(self.broker.waiters_len());
        let left = self.broker.draining().map(|drain| drain.waiting);
        let stand = self.drained.iter().filter(|&&name| self.model.stands(name)).count();
        assert_eq!(left, self.model.draining.then_some(stand), "I8: who is still to be sent away");
    }

    fn park(&mut self) {
        let key = self.key();
        let controller = self.rng.u64(..8);
        let accepts = if self.rng.bool() { AcceptedPayload::TriggerMessage } else { AcceptedPayload::Any };
        let offer_until = self.now.plus(Duration::from_millis(self.rng.u64(..60_000)));
        let deadline = offer_until.plus(Duration::from_millis(self.rng.u64(..100_000)));
        // A herd's deadlines come together.
        let deadline = MonotonicTime::from_micros(deadline.micros().next_multiple_of(self.herd));
        let machine = self.rng.u64(..MACHINES);
        let expected = self.model.room(&key, controller);
        self.names += 1;
        let name = self.names;
        self.books.polls += 1;
        let parked = self.broker.park(
            ParkRequest {
                key: key.clone(),
                accepts,
                controller: if controller == 0 { "".into() } else { controller.to_string().into() },
                origin: [127, 0, 0, 1].into(),
                host: HostId { address: machine, name: None },
                offer_until,
                deadline,
                waiter: name,
            },
            self.now,
        );
        match (expected, parked) {
            (Err(expected), Err((full, _))) => {
                assert_eq!(full, expected);
                self.books.ended(name, End::Refused);
            }
            (Ok(replaced), Ok(parked)) => {
                let replaced = replaced.map(|at| self.model.waiters.remove(at).name);
                assert_eq!(parked.replaced.map(|old| old.waiter), replaced, "I4: the newest stands, once");
                if let Some(replaced) = replaced {
                    self.books.ended(replaced, End::Replaced);
                }
                let id = parked.id;
                self.model.waiters.push(Waiter {
                    name,
                    id,
                    key,
                    accepts,
                    controller,
                    offer_until,
                    deadline,
                    machine,
                    late: false,
                    aside: false,
                });
            }
            (expected, parked) => panic!("expected {:?}, parked {:?}", expected.is_ok(), parked.is_ok()),
        }
    }

    /// One look of a run.
    fn look(&mut self, key: &Key, kind: PayloadKind) -> Result<Waiter, MissReason> {
        let (offer, candidates, now) = loop {
            let now = self.now;
            self.broker.forget_old_suspects(now);
            let is_over = self.model.draining;
            let candidates = if is_over { Vec::new() } else { self.model.candidates(key, kind, now) };
            let most = self.rng.usize(1..4);
            match self.broker.claim(&ClaimRequest { key: key.as_ref(), payload_kind: kind }, now, most) {
                Ok(offer) => break (offer, candidates, now),
                Err(BudgetSpent) => self.meanwhile(),
            }
        };
        match offer {
            Claim::Matched(taken) => {
                let name = taken.waiter;
                assert!(candidates.contains(&name), "I1, I9: {name} is none of {candidates:?}");
                let at = self.model.waiters.iter().position(|w| w.name == name).unwrap();
                let waiter = self.model.waiters.remove(at);
                assert_eq!(waiter.key, *key, "I9");
                self.books.ended(name, End::Matched);
                if !self.model.waiters.iter().any(|w| w.key == *key) {
                    self.model.emptied.retain(|(other, _)| other != key);
                    self.model.emptied.push((key.clone(), now));
                }
                Ok(waiter)
            }
            Claim::Miss(miss) => {
                assert!(candidates.is_empty(), "I11: {miss:?} though {candidates:?} wait");
                self.check_miss(key, kind, miss);
                Err(miss)
            }
        }
    }

    /// What others do while a look lets go of the lock.
    fn meanwhile(&mut self) {
        self.looked_again += 1;
        match self.rng.u32(..8) {
            0 => self.park(),
            1 => self.leave(),
            2 => self.expire(),
            3 => self.review(),
            4 => self.sweep(),
            _ => {}
        }
    }

    /// A POST from its last byte to its answer, with the dispatcher's own policy.
    fn post(&mut self) {
        let key = self.key();
        let kind = if self.rng.u32(..4) > 0 { PayloadKind::TriggerMessage } else { PayloadKind::Opaque };
        let redeliver = self.rng.u32(..4) > 0;
        let mut policy = DeliveryPolicy::new(Proof::Received, redeliver);
        let until = self.now.plus(BUDGET);
        let last_offer = self.now.plus(BUDGET.saturating_sub(policy.proof_reserve(READ_TIMEOUT, BUDGET)));
        self.books.posts += 1;
        let (mut touched, mut proved, mut failed) = (Vec::new(), 0, Vec::new());
        let mut step = Step::OfferAgain;
        while step == Step::OfferAgain && self.now <= last_offer {
            let others = self.trusted(&key, kind);
            let Ok(waiter) = self.look(&key, kind) else { break };
            let again = failed.contains(&waiter.machine);
            assert!(
                !again || others == 0,
                "I11: a machine that failed gets it again, and {others} are trusted"
            );
            let verdict = self.verdict(&waiter, until);
            *self.books.verdicts.entry(verdict).or_default() += 1;
            self.books.offers += 1;
            match verdict {
                Verdict::Received => self.trust(waiter.machine),
                Verdict::Lost | Verdict::Unacked => {
                    self.suspect(waiter.machine);
                    failed.push(waiter.machine);
                }
                Verdict::Written
                | Verdict::Acked
                | Verdict::Hop
                | Verdict::Gone
                | Verdict::Frozen
                | Verdict::Slow => {}
            }
            let nothing_sent = verdict == Verdict::Gone;
            if !nothing_sent {
                touched.push(waiter.name);
            }
            proved += usize::from(verdict == Verdict::Received);
            step = policy.after(OfferEnd { verdict, nothing_sent, may_have_been_relayed: false });
        }
        self.books.hits += proved;
        self.books.misses += usize::from(proved == 0);
        assert!(proved <= 1, "I2: {proved} waiters proved one run");
        assert_eq!(step == Step::Delivered(Proof::Received), proved == 1, "I2: {step:?}");
        let most = if redeliver { 1 + MAX_REDELIVERIES } else { 1 };
        let receivers = u32::try_from(touched.len()).unwrap();
        assert!(receivers <= most, "I1: {touched:?} got bytes of one run, redelivery {redeliver}");
        assert!(self.now <= until, "I12: the answer came after the budget");
    }

    /// How many trusted waiters fit a run.
    fn trusted(&self, key: &Key, kind: PayloadKind) -> usize {
        let fits = |w: &&Waiter| w.key == *key && !w.late && accepts(w, kind);
        let ready = |w: &&Waiter| w.offer_until > self.now && !self.model.is_suspect(w, self.now);
        self.model.waiters.iter().filter(fits).filter(ready).count()
    }

    /// What an offer comes to, and how long that takes, as its machine is.
    fn verdict(&mut self, waiter: &Waiter, until: MonotonicTime) -> Verdict {
        let chance = self.rng.u32(..40);
        let (verdict, took) = match self.health[usize::try_from(waiter.machine).unwrap()] {
            Health::Well if chance == 0 => (Verdict::Lost, 1),
            Health::Well if chance < 3 => (Verdict::Gone, 0),
            Health::Well => (Verdict::Received, 1),
            Health::Dead if chance < 3 => (Verdict::Lost, 1),
            Health::Dead | Health::Mute => (Verdict::Unacked, 500),
            Health::Frozen => (Verdict::Frozen, 250),
        };
        self.now = self.now.plus(Duration::from_millis(took)).min(until);
        verdict
    }

    fn check_miss(&mut self, key: &Key, kind: PayloadKind, miss: MissReason) {
        if self.model.draining {
            return assert_eq!(miss, MissReason::Draining);
        }
        // The offer looked at everyone that fits, and found all of them too near their end.
        let now = self.now;
        for w in self.model.waiters.iter_mut().filter(|w| w.key == *key) {
            w.late |= accepts(w, kind) && w.offer_until <= now;
        }
        let expected = self.model.miss(key, kind, now);
        // A stock waiter past its guard counts until an offer finds it so.
        let stock = self
            .model
            .waiters
            .iter()
            .filter(|w| w.key == *key && w.accepts == AcceptedPayload::TriggerMessage);
        let only_late = stock.clone().all(|w| w.offer_until <= now) && stock.count() > 0;
        if expected == MissReason::NotAMessage && only_late && miss == MissReason::AllTaken {
            return;
        }
        // An emptied pool may be forgotten early, when another takes its place in the memory.
        let forgotten = expected == MissReason::AllTaken && miss != MissReason::AllTaken;
        assert_eq!(miss, if forgotten { self.model.kin(key) } else { expected });
    }

    fn suspect(&mut self, machine: u64) {
        self.broker.suspect(HostId { address: machine, name: None }, self.now);
        self.model.suspects.retain(|(other, _)| *other != machine);
        self.model.suspects.push((machine, self.now));
    }

    fn trust(&mut self, machine: u64) {
        self.broker.trust(HostId { address: machine, name: None });
        self.model.suspects.retain(|(other, _)| *other != machine);
    }

    /// A machine breaks, or comes back.
    fn fault(&mut self) {
        let at = self.rng.usize(..self.health.len());
        let how = [Health::Well, Health::Well, Health::Dead, Health::Frozen, Health::Mute];
        self.health[at] = how[self.rng.usize(..how.len())];
    }

    /// The kernel finds that a dead machine's connections are dead: its waiters leave.
    fn keepalive(&mut self) {
        let is_dead = |w: &&Waiter| self.health[usize::try_from(w.machine).unwrap()] == Health::Dead;
        let dead: Vec<Waiter> = self.model.waiters.iter().filter(is_dead).cloned().collect();
        for waiter in dead {
            self.leave_as(&waiter);
        }
    }

    /// A page of a look through the suspects; after the last, who shows life is suspect no more.
    fn review(&mut self) {
        let mut review = self.review.take().unwrap_or_else(|| Review {
            from: 0,
            suspects: self.model.suspects.clone(),
            standing: self.model.waiters.iter().map(|w| w.name).collect(),
            found: Vec::new(),
        });
        let scan = self.rng.u32(1..6);
        let page = self.broker.suspects_page(review.from, scan, |suspicion, &name| (suspicion, name));
        let waiters = &self.model.waiters;
        let machine_of = |name| waiters.iter().find(|w| w.name == name).unwrap().machine;
        review.found.extend(page.rows.into_iter().map(|(suspicion, name)| (suspicion, machine_of(name))));
        if let Some(next) = page.next {
            review.from = next;
            self.review = Some(review);
            return;
        }
        let now = self.now;
        let lives = |machine: u64| self.health[usize::try_from(machine).unwrap()] == Health::Well;
        for &(suspicion, machine) in review.found.iter().filter(|(_, machine)| lives(*machine)) {
            self.broker.clear_suspicion(suspicion, now);
            self.model.suspects.retain(|&(other, since)| other != machine || since != suspicion.since);
        }
        let stood = |w: &Waiter| review.standing.contains(&w.name);
        let overlooked = self.model.suspects.iter().any(|suspect| {
            let is_seen = |w: &Waiter| w.machine == suspect.0 && stood(w);
            review.suspects.contains(suspect) && lives(suspect.0) && self.model.waiters.iter().any(is_seen)
        });
        assert!(!overlooked, "I11: who shows life is trusted again");
        self.model.suspects.retain(|&(_, since)| now.since(since) < MOMENTS_AGO);
        let any = self.broker.forget_old_suspects(now);
        assert_eq!(any, !self.model.suspects.is_empty(), "I11: suspicion ends");
    }

    fn leave(&mut self) {
        if self.model.waiters.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.model.waiters.len());
        let waiter = self.model.waiters[at].clone();
        self.leave_as(&waiter);
        assert!(self.broker.leave(waiter.id, self.now).is_none(), "I4: a name is never used again");
    }

    fn leave_as(&mut self, waiter: &Waiter) {
        let left = self.broker.leave(waiter.id, self.now);
        assert_eq!(left.map(|taken| taken.waiter), Some(waiter.name), "I4: everyone leaves their own place");
        self.take(&[waiter.name], End::Left);
    }

    fn take(&mut self, names: &[u64], end: End) {
        self.model.take(names);
        for &name in names {
            self.books.ended(name, end);
        }
    }

    /// A page of an expiry: whose deadline had come when it began is out when it ends.
    fn expire(&mut self) {
        let is_due = |w: &&Waiter| w.deadline <= self.now;
        let begun = || self.model.waiters.iter().filter(is_due).map(|w| w.name).collect();
        let due = self.due.take().unwrap_or_else(begun);
        let (scan, most) = if self.rng.bool() { (self.rng.usize(1..6), 3) } else { (1000, 1000) };
        let (taken, goes_on) = self.broker.expire(self.now, scan, most);
        let taken: Vec<u64> = taken.into_iter().map(|taken| taken.waiter).collect();
        assert!(taken.len() <= most.min(scan), "{} of {most} were taken", taken.len());
        assert!(taken.iter().all(|name| due.contains(name)), "I5: only whose deadline has come");
        self.take(&taken, End::Expired);
        if goes_on {
            self.due = Some(due);
        } else {
            assert!(!due.iter().any(|&name| self.model.stands(name)), "I5: all whose deadline has come");
        }
    }

    /// A page of a retirement, or of the goodbyes of a drain: whoever stood when it began is out when it ends.
    fn sweep(&mut self) {
        let key = self.key();
        let mut sweep = self.sweep.take().unwrap_or_else(|| {
            let end = if self.model.draining { End::Drained } else { End::Retired };
            let (deployment, cpu) = (key.deployment.to_string(), key.cpu);
            let some = Filter { deployment: Some(deployment), cpu: Some(cpu), ..Filter::default() };
            let filter = if self.model.draining { Filter::default() } else { some };
            let selected = self.model.waiters.iter().filter(|w| filter.matches(&w.key));
            let chosen = selected.map(|w| w.name).collect();
            Sweep { filter, before: self.broker.watermark(), from: 0, chosen, end }
        });
        let (scan, most) = if self.rng.bool() { (self.rng.u32(1..6), 2) } else { (5000, 1000) };
        let page =
            self.broker.remove_parked_before(sweep.before, &sweep.filter, self.now, sweep.from, scan, most);
        let taken: Vec<u64> = page.rows.into_iter().map(|taken| taken.waiter).collect();
        assert!(taken.len() <= most, "{} of {most} were taken", taken.len());
        assert!(taken.iter().all(|name| sweep.chosen.contains(name)), "I5: the selected, and nobody else");
        self.take(&taken, sweep.end);
        if let Some(next) = page.next {
            sweep.from = next;
            self.sweep = Some(sweep);
        } else {
            let left = sweep.chosen.iter().any(|&name| self.model.stands(name));
            assert!(!left, "I5: all the selected");
        }
    }

    fn drain_rarely(&mut self) {
        if self.rng.u32(..200) == 0 && !self.model.draining {
            self.broker.drain();
            self.model.draining = true;
            self.drained = self.model.waiters.iter().map(|w| w.name).collect();
        }
        if self.rng.u32(..10) == 0 {
            drop(self.broker.shrink());
        }
    }
}

#[test]
fn the_core_does_what_the_naive_model_does() {
    let chosen = std::env::var_os("PILOTLIGHT_SEED").and_then(|seed| seed.to_str()?.parse().ok());
    let seeds = chosen.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let mut looked_again = 0;
    for seed in seeds {
        let mut walk = Walk::new(seed);
        for step in 0..STEPS {
            let walked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| walk.step()));
            if let Err(panic) = walked {
                eprintln!("seed {seed}, step {step}; PILOTLIGHT_SEED={seed} walks it again");
                std::panic::resume_unwind(panic);
            }
        }
        looked_again += walk.looked_again;
    }
    assert!(chosen.is_some() || looked_again > 1000, "looks are taken up again: {looked_again}");
}
