//! Owns the simulation: seeded random walks of the core against a naive model, step by step.
//!
//! A failure prints its seed; `PILOTLIGHT_SEED=n cargo test --test simulation` repeats that walk.
//!
//! Hosts die, freeze, become unable to reply, and recover. Runs are posted with the policy of `dispatch`: they are offered
//! again while that is safe, and the result of an offer makes its host suspect or trusted. Where the twelve invariants are
//! checked
//! (`core`: debug assertions and the audit of `src/broker`; `races`: `tests/races`; `chaos`: the oracle of `tests/reliability`):
//!
//! | | what | here | elsewhere |
//! |---|---|---|---|
//! | I1 | one waiter at a time; without redelivery one ever gets a byte | yes | races; `delivery`, `crowd`, `trigger`, `native`; chaos |
//! | I2 | `true`: exactly one waiter reached the proof | yes | races; `receipts`, `proxies`, `crowd`; chaos |
//! | I3 | nothing is claimed before the POST is valid | - | `trigger` (broken, truncated), `bodies`, `quick`; chaos |
//! | I4 | a waiter is in one pool, once | yes | core; races |
//! | I5 | it leaves only by the six ways, once | yes | races; `ops`, `trigger` |
//! | I6 | count of waiters = waiters in the pools; no empty pool | yes | core; races; `crowd`; chaos |
//! | I7 | buffered bytes are bounded | - | `bodies`, `limits` |
//! | I8 | counters conserve | yes | core; races (the broker's own metrics); chaos |
//! | I9 | a match has equal keys | yes | core; races; `pools`, `trigger`, `native` |
//! | I10 | memory and descriptors are released | - | `crowd`; chaos |
//! | I11 | no `false` while a healthy waiter waits | yes | races; `delivery`, `network`; chaos |
//! | I12 | every POST ends inside its budget | yes, with a simulated clock | `delivery`, `network`, `native`; chaos |
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/seeds.rs"]
mod seeds;
#[path = "support/simulated_counts.rs"]
mod simulated_counts;

use std::time::Duration;

use pilotlight::broker::{
    AcceptedPayload, Broker, BudgetSpent, Claim, ClaimRequest, Filter, HostId, Key, LimitReached, Limits,
    MonotonicTime, Number, ParkRequest, PayloadKind, SelectionPolicy, Suspicion, WaiterId, Watermark,
};
use pilotlight::dispatch::{DeliveryPolicy, MAX_REDELIVERIES, OfferEnd, Step};
use pilotlight::model::{MissReason, Proof, Verdict};
use simulated_counts::{Counts, End};

const SEEDS: u64 = 256;
const STEPS: usize = 2000;
const RECENT: Duration = Duration::from_secs(60);
const HOSTS: u8 = 5;
const BUDGET: Duration = Duration::from_millis(2500);
/// How long an acknowledged run may stay unread.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// The state of a host, which the broker does not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    /// Off, without an end of its connections.
    Dead,
    /// Its processes are stopped; its kernel acknowledges.
    Frozen,
    /// It receives, but nothing that it sends arrives.
    Mute,
}

#[derive(Clone)]
struct Waiter {
    name: u64,
    id: WaiterId,
    key: Key,
    accepts: AcceptedPayload,
    controller: u64,
    /// One of several of its controller, which do not replace each other.
    is_slot: bool,
    offer_until: MonotonicTime,
    deadline: MonotonicTime,
    host: u8,
    /// A claim found it too near its deadline, which is final.
    late: bool,
    /// A claim may have set it aside as suspect: once trusted again, it is not in the order of age.
    aside: bool,
}

fn accepts(waiter: &Waiter, kind: PayloadKind) -> bool {
    kind == PayloadKind::TriggerMessage || waiter.accepts == AcceptedPayload::Any
}

/// The core without regard to speed.
struct Model {
    limits: Limits,
    policy: SelectionPolicy,
    draining: bool,
    matching: bool,
    waiters: Vec<Waiter>,
    emptied: Vec<(Key, MonotonicTime)>,
    /// The suspect hosts, and since when.
    suspects: Vec<(u8, MonotonicTime)>,
}

impl Model {
    /// The waiter that another one of this controller replaces.
    fn exclusive(&self, key: &Key, controller: u64, host: u8) -> Option<usize> {
        let is_named = |w: &&Waiter| controller != 0 && w.controller == controller && !w.is_slot;
        self.waiters.iter().position(|w| is_named(&w) && w.key == *key && w.host == host)
    }

    fn admit(
        &self,
        key: &Key,
        controller: u64,
        host: u8,
        is_slot: bool,
    ) -> Result<Option<usize>, LimitReached> {
        let replaced = if is_slot { None } else { self.exclusive(key, controller, host) };
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
        self.suspects.iter().any(|(host, since)| *host == waiter.host && now.since(*since) < RECENT)
    }

    /// The waiters that may be matched: the first trusted one by age, or one that was set aside and is trusted again, or any
    /// suspect one if no trusted one is left. Suspect waiters before the match are set aside.
    fn candidates(&mut self, key: &Key, kind: PayloadKind, now: MonotonicTime) -> Vec<u64> {
        let fits = |w: &&Waiter| w.key == *key && !w.late && accepts(w, kind);
        let ready = |w: &&Waiter| w.offer_until > now;
        let (suspect, trusted): (Vec<_>, Vec<_>) =
            self.waiters.iter().filter(fits).filter(ready).partition(|w| self.is_suspect(w, now));
        let mut by_age = trusted.iter().filter(|w| !w.aside).map(|w| w.name);
        let first = if self.policy == SelectionPolicy::Newest { by_age.next_back() } else { by_age.next() };
        let is_before =
            |name: u64| first.is_none_or(|first| (name > first) == (self.policy == SelectionPolicy::Newest));
        let passed: Vec<u64> = suspect.iter().map(|w| w.name).filter(|&name| is_before(name)).collect();
        let candidates = if trusted.is_empty() {
            suspect.iter().map(|w| w.name).collect()
        } else {
            trusted.iter().filter(|w| w.aside).map(|w| w.name).chain(first).collect()
        };
        self.waiters.iter_mut().filter(|w| passed.contains(&w.name)).for_each(|w| w.aside = true);
        candidates
    }

    fn is_waiting(&self, name: u64) -> bool {
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
        if self.emptied.iter().any(|(other, when)| other == key && now.since(*when) < RECENT) {
            return MissReason::AllTaken;
        }
        self.miss_without_pool(key)
    }

    fn miss_without_pool(&self, key: &Key) -> MissReason {
        let deployment = |w: &&Waiter| w.key.deployment == key.deployment;
        if self.waiters.iter().filter(deployment).any(|w| w.key.version == key.version) {
            MissReason::WrongMachine
        } else if self.waiters.iter().any(|w| w.key.deployment == key.deployment) {
            MissReason::WrongVersion
        } else {
            MissReason::NoPool
        }
    }

    fn remove(&mut self, names: &[u64]) {
        let before = self.waiters.len();
        self.waiters.retain(|w| !names.contains(&w.name));
        assert_eq!(
            self.waiters.len() + names.len(),
            before,
            "I5: a removed waiter was not waiting: {names:?}"
        );
    }
}

/// A retirement or drain in progress, a page at a time, between other operations.
struct Removal {
    filter: Filter,
    before: Watermark,
    from: u32,
    /// The waiters in the selected pools when it began.
    selected: Vec<u64>,
    end: End,
}

/// A sweep of suspect waiters in progress, a page at a time.
struct Sweep {
    from: u32,
    /// The hosts that were suspect when it began, and since when.
    suspects: Vec<(u8, MonotonicTime)>,
    /// The waiters when it began.
    waiting: Vec<u64>,
    found: Vec<(Suspicion, u8)>,
}

struct Walk {
    rng: fastrand::Rng,
    broker: Broker<u64>,
    model: Model,
    now: MonotonicTime,
    names: u64,
    health: Vec<Health>,
    counts: Counts,
    removal: Option<Removal>,
    sweep: Option<Sweep>,
    /// The waiters that were due when the expiry in progress began.
    due: Option<Vec<u64>>,
    /// The waiters when the drain began.
    drained: Vec<u64>,
    /// Deadlines are multiples of this many microseconds.
    deadline_step: u64,
    /// How often a claim had to be continued.
    continued: usize,
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
        let policy = if rng.bool() { SelectionPolicy::Newest } else { SelectionPolicy::Oldest };
        let deadline_step = if rng.bool() { 1 } else { 20_000_000 };
        let model = Model {
            limits,
            policy,
            draining: false,
            matching: true,
            waiters: Vec::new(),
            emptied: Vec::new(),
            suspects: Vec::new(),
        };
        Self {
            rng,
            broker: Broker::new(limits, policy),
            model,
            now: MonotonicTime::default(),
            names: 0,
            health: (0..HOSTS).map(|_| Health::Well).collect(),
            counts: Counts::default(),
            removal: None,
            sweep: None,
            due: None,
            drained: Vec::new(),
            deadline_step,
            continued: 0,
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
            0..43 => self.park(),
            43..45 => self.replace(),
            45..75 => self.post(),
            75..81 => self.leave(),
            81..89 => self.expire(),
            89..91 => self.fault(),
            91..94 => self.sweep_page(),
            94..97 => self.remove_page(),
            97 => self.keepalive(),
            98 => self.now = self.now.plus(Duration::from_secs(self.rng.u64(..150))),
            _ => self.drain_rarely(),
        }
        self.broker.audit().unwrap();
        assert_eq!(self.broker.waiters_len(), self.model.waiters.len(), "I6: waiters");
        assert_eq!(self.broker.pools_len(), self.model.pools(), "I6: pools");
        self.counts.check(self.broker.waiters_len());
        let left = self.broker.draining().map(|drain| drain.waiting);
        let waiting = self.drained.iter().filter(|&&name| self.model.is_waiting(name)).count();
        assert_eq!(
            left,
            self.model.draining.then_some(waiting),
            "I8: how many waiters are still to be drained"
        );
    }

    fn park(&mut self) {
        let key = self.key();
        let controller = self.rng.u64(..4);
        let accepts = if self.rng.bool() { AcceptedPayload::TriggerMessage } else { AcceptedPayload::Any };
        let offer_until = self.now.plus(Duration::from_millis(self.rng.u64(..60_000)));
        let deadline = offer_until.plus(Duration::from_millis(self.rng.u64(..100_000)));
        // With a large step, many deadlines are equal.
        let deadline = MonotonicTime::from_micros(deadline.micros().next_multiple_of(self.deadline_step));
        let host = self.rng.u8(..HOSTS);
        let is_slot = self.rng.u8(..4) == 0;
        let expected = self.model.admit(&key, controller, host, is_slot);
        self.names += 1;
        let name = self.names;
        self.counts.polls += 1;
        let parked = self.broker.park(
            ParkRequest {
                key: key.as_ref(),
                accepts,
                controller: if controller == 0 { "".into() } else { controller.to_string().into() },
                host: HostId { address: [127, 0, 0, host].into(), name: None },
                is_exclusive: !is_slot,
                offer_until,
                deadline,
                waiter: name,
            },
            self.now,
        );
        match (expected, parked) {
            (Err(expected), Err((limit, _))) => {
                assert_eq!(limit, expected);
                self.counts.record_end(name, End::Refused);
            }
            (Ok(replaced), Ok(parked)) => {
                let replaced = replaced.map(|index| self.model.waiters.remove(index).name);
                assert_eq!(parked.replaced.map(|old| old.waiter), replaced, "I4: the newest waits, once");
                if let Some(replaced) = replaced {
                    self.counts.record_end(replaced, End::Replaced);
                }
                let id = parked.id;
                self.model.waiters.push(Waiter {
                    name,
                    id,
                    key,
                    accepts,
                    controller,
                    is_slot,
                    offer_until,
                    deadline,
                    host,
                    late: false,
                    aside: false,
                });
            }
            (expected, parked) => panic!("expected {:?}, parked {:?}", expected.is_ok(), parked.is_ok()),
        }
    }

    /// A controller comes back in another way.
    fn replace(&mut self) {
        let (key, controller, host) = (self.key(), self.rng.u64(..4), self.rng.u8(..HOSTS));
        let expected = self.model.exclusive(&key, controller, host);
        let name = if controller == 0 { String::new() } else { controller.to_string() };
        let replaced = self.broker.replace(key.as_ref(), &name, [127, 0, 0, host].into(), self.now);
        let expected = expected.map(|index| self.model.waiters.remove(index).name);
        assert_eq!(replaced.map(|old| old.waiter), expected, "I4: only the exclusive one is replaced");
        if let Some(replaced) = expected {
            self.counts.record_end(replaced, End::Replaced);
        }
    }

    /// One claim for a run.
    fn claim(&mut self, key: &Key, kind: PayloadKind) -> Result<Waiter, MissReason> {
        let (claim, candidates, now) = loop {
            let now = self.now;
            self.broker.forget_old_suspects(now);
            let is_matching = self.model.matching;
            let candidates = if is_matching { self.model.candidates(key, kind, now) } else { Vec::new() };
            let max_steps = self.rng.usize(1..4);
            match self.broker.claim(&ClaimRequest { key: key.as_ref(), payload_kind: kind }, now, max_steps) {
                Ok(claim) => break (claim, candidates, now),
                Err(BudgetSpent) => self.meanwhile(),
            }
        };
        match claim {
            Claim::Matched(removed) => {
                let name = removed.waiter;
                assert!(candidates.contains(&name), "I1, I9: {name} is not one of {candidates:?}");
                let index = self.model.waiters.iter().position(|w| w.name == name).unwrap();
                let waiter = self.model.waiters.remove(index);
                assert_eq!(waiter.key, *key, "I9");
                self.counts.record_end(name, End::Matched);
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

    /// What other threads do while a claim has released the lock.
    fn meanwhile(&mut self) {
        self.continued += 1;
        match self.rng.u32(..8) {
            0 => self.park(),
            1 => self.leave(),
            2 => self.expire(),
            3 => self.sweep_page(),
            4 => self.remove_page(),
            _ => {}
        }
    }

    /// A POST from its last byte to its response, with the dispatcher's own policy.
    fn post(&mut self) {
        let key = self.key();
        let kind = if self.rng.u32(..4) > 0 { PayloadKind::TriggerMessage } else { PayloadKind::Opaque };
        let redeliver = self.rng.u32(..4) > 0;
        let mut policy = DeliveryPolicy::new(Proof::Received, redeliver);
        let until = self.now.plus(BUDGET);
        let last_offer = self.now.plus(BUDGET.saturating_sub(policy.proof_reserve(READ_TIMEOUT, BUDGET)));
        self.counts.posts += 1;
        let (mut sent_to, mut proved, mut failed) = (Vec::new(), 0, Vec::new());
        let mut step = Step::OfferAgain;
        while step == Step::OfferAgain && self.now <= last_offer {
            let others = self.trusted(&key, kind);
            let Ok(waiter) = self.claim(&key, kind) else { break };
            let again = failed.contains(&waiter.host);
            assert!(
                !again || others == 0,
                "I11: a failed host got the run again, with {others} trusted waiters"
            );
            let verdict = self.verdict(&waiter, until);
            *self.counts.verdicts.entry(verdict).or_default() += 1;
            self.counts.offers += 1;
            if verdict == Verdict::Received {
                self.trust(waiter.host);
            } else if matches!(verdict, Verdict::Lost | Verdict::Unacked) {
                self.suspect(waiter.host);
                failed.push(waiter.host);
            }
            let nothing_sent = verdict == Verdict::Gone;
            if !nothing_sent {
                sent_to.push(waiter.name);
            }
            proved += usize::from(verdict == Verdict::Received);
            step = policy.after(OfferEnd { verdict, nothing_sent, may_have_been_relayed: false });
        }
        self.counts.hits += proved;
        self.counts.misses += usize::from(proved == 0);
        assert!(proved <= 1, "I2: {proved} waiters proved one run");
        assert_eq!(step == Step::Delivered(Proof::Received), proved == 1, "I2: {step:?}");
        let max_offers = if redeliver { 1 + MAX_REDELIVERIES } else { 1 };
        let receivers = u32::try_from(sent_to.len()).unwrap();
        assert!(receivers <= max_offers, "I1: {sent_to:?} got bytes of one run, redelivery {redeliver}");
        assert!(self.now <= until, "I12: the response came after the budget");
    }

    /// How many trusted waiters accept a run.
    fn trusted(&self, key: &Key, kind: PayloadKind) -> usize {
        let fits = |w: &&Waiter| w.key == *key && !w.late && accepts(w, kind);
        let ready = |w: &&Waiter| w.offer_until > self.now && !self.model.is_suspect(w, self.now);
        self.model.waiters.iter().filter(fits).filter(ready).count()
    }

    /// The result of an offer and how long it takes, by the state of the host.
    fn verdict(&mut self, waiter: &Waiter, until: MonotonicTime) -> Verdict {
        let chance = self.rng.u32(..40);
        let (verdict, took) = match self.health[usize::from(waiter.host)] {
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
        if !self.model.matching {
            return assert_eq!(miss, MissReason::Draining);
        }
        // The claim checked all waiters that accept the run, and found them too near their deadline.
        let now = self.now;
        for w in self.model.waiters.iter_mut().filter(|w| w.key == *key) {
            w.late |= accepts(w, kind) && w.offer_until <= now;
        }
        let expected = self.model.miss(key, kind, now);
        // A stock waiter past its retire guard counts until a claim has found it late.
        let stock = self
            .model
            .waiters
            .iter()
            .filter(|w| w.key == *key && w.accepts == AcceptedPayload::TriggerMessage);
        let only_late = stock.clone().all(|w| w.offer_until <= now) && stock.count() > 0;
        if expected == MissReason::NotAMessage && only_late && miss == MissReason::AllTaken {
            return;
        }
        // An emptied pool may be forgotten early, if another pool has the same index.
        let forgotten = expected == MissReason::AllTaken && miss != MissReason::AllTaken;
        assert_eq!(miss, if forgotten { self.model.miss_without_pool(key) } else { expected });
    }

    fn suspect(&mut self, host: u8) {
        self.broker.suspect(HostId { address: [127, 0, 0, host].into(), name: None }, self.now);
        self.model.suspects.retain(|(other, _)| *other != host);
        self.model.suspects.push((host, self.now));
    }

    fn trust(&mut self, host: u8) {
        self.broker.trust(HostId { address: [127, 0, 0, host].into(), name: None });
        self.model.suspects.retain(|(other, _)| *other != host);
    }

    /// A host fails or recovers.
    fn fault(&mut self) {
        let host = self.rng.usize(..self.health.len());
        let states = [Health::Well, Health::Well, Health::Dead, Health::Frozen, Health::Mute];
        self.health[host] = states[self.rng.usize(..states.len())];
    }

    /// Keepalive ends the connections of dead hosts: their waiters leave.
    fn keepalive(&mut self) {
        let is_dead = |w: &&Waiter| self.health[usize::from(w.host)] == Health::Dead;
        let dead: Vec<Waiter> = self.model.waiters.iter().filter(is_dead).cloned().collect();
        for waiter in dead {
            self.leave_as(&waiter);
        }
    }

    /// A page of a sweep of suspects; after the last page, hosts that show life are trusted again.
    fn sweep_page(&mut self) {
        let mut sweep = self.sweep.take().unwrap_or_else(|| Sweep {
            from: 0,
            suspects: self.model.suspects.clone(),
            waiting: self.model.waiters.iter().map(|w| w.name).collect(),
            found: Vec::new(),
        });
        let scan = self.rng.u32(1..6);
        let page = self.broker.suspects_page(sweep.from, scan, |suspicion, &name| (suspicion, name));
        let waiters = &self.model.waiters;
        let host_of = |name| waiters.iter().find(|w| w.name == name).unwrap().host;
        sweep.found.extend(page.rows.into_iter().map(|(suspicion, name)| (suspicion, host_of(name))));
        if let Some(next) = page.next {
            sweep.from = next;
            self.sweep = Some(sweep);
            return;
        }
        let now = self.now;
        let is_alive = |host: u8| self.health[usize::from(host)] == Health::Well;
        for &(suspicion, host) in sweep.found.iter().filter(|(_, host)| is_alive(*host)) {
            self.broker.clear_suspicion(suspicion, now);
            self.model.suspects.retain(|&(other, since)| other != host || since != suspicion.since);
        }
        let was_waiting = |w: &Waiter| sweep.waiting.contains(&w.name);
        let overlooked = self.model.suspects.iter().any(|suspect| {
            let is_witness = |w: &Waiter| w.host == suspect.0 && was_waiting(w);
            sweep.suspects.contains(suspect)
                && is_alive(suspect.0)
                && self.model.waiters.iter().any(is_witness)
        });
        assert!(!overlooked, "I11: a host that shows life is trusted again");
        self.model.suspects.retain(|&(_, since)| now.since(since) < RECENT);
        let any = self.broker.forget_old_suspects(now);
        assert_eq!(any, !self.model.suspects.is_empty(), "I11: suspicion ends");
    }

    fn leave(&mut self) {
        if self.model.waiters.is_empty() {
            return;
        }
        let index = self.rng.usize(..self.model.waiters.len());
        let waiter = self.model.waiters[index].clone();
        self.leave_as(&waiter);
        assert!(self.broker.leave(waiter.id, self.now).is_none(), "I4: an id is never used again");
    }

    fn leave_as(&mut self, waiter: &Waiter) {
        let left = self.broker.leave(waiter.id, self.now);
        assert_eq!(
            left.map(|removed| removed.waiter),
            Some(waiter.name),
            "I4: a departure removes its own waiter"
        );
        self.remove(&[waiter.name], End::Left);
    }

    fn remove(&mut self, names: &[u64], end: End) {
        self.model.remove(names);
        for &name in names {
            self.counts.record_end(name, end);
        }
    }

    /// A page of an expiry: after the last page, the waiters that were due when it began are removed.
    fn expire(&mut self) {
        let is_due = |w: &&Waiter| w.deadline <= self.now;
        let due_now = || self.model.waiters.iter().filter(is_due).map(|w| w.name).collect();
        let due = self.due.take().unwrap_or_else(due_now);
        let (scan, limit) = if self.rng.bool() { (self.rng.usize(1..6), 3) } else { (1000, 1000) };
        let (removed, continues) = self.broker.expire(self.now, scan, limit);
        let removed: Vec<u64> = removed.into_iter().map(|removed| removed.waiter).collect();
        assert!(removed.len() <= limit.min(scan), "{} of at most {limit} were removed", removed.len());
        assert!(removed.iter().all(|name| due.contains(name)), "I5: only due waiters expire");
        self.remove(&removed, End::Expired);
        if continues {
            self.due = Some(due);
        } else {
            assert!(!due.iter().any(|&name| self.model.is_waiting(name)), "I5: all due waiters expire");
        }
    }

    /// A page of a retirement or drain: after the last page, all waiters that it selected when it began are removed.
    fn remove_page(&mut self) {
        let key = self.key();
        let mut removal = self.removal.take().unwrap_or_else(|| {
            let end = if self.model.draining { End::Drained } else { End::Retired };
            let (deployment, cpu) = (key.deployment.to_string(), key.cpu);
            let some = Filter { deployment: Some(deployment), cpu: Some(cpu), ..Filter::default() };
            let filter = if self.model.draining { Filter::default() } else { some };
            let selected = self.model.waiters.iter().filter(|w| filter.matches(w.key.as_ref()));
            let selected = selected.map(|w| w.name).collect();
            Removal { filter, before: self.broker.watermark(), from: 0, selected, end }
        });
        let (scan, limit) = if self.rng.bool() { (self.rng.u32(1..6), 2) } else { (5000, 1000) };
        let Removal { before, from, .. } = removal;
        let page = self.broker.remove_parked_before(before, &removal.filter, self.now, from, scan, limit);
        let removed: Vec<u64> = page.rows.into_iter().map(|removed| removed.waiter).collect();
        assert!(removed.len() <= limit, "{} of at most {limit} were removed", removed.len());
        let is_selected = |name| removal.selected.contains(name);
        assert!(removed.iter().all(is_selected), "I5: only selected waiters are removed");
        self.remove(&removed, removal.end);
        if let Some(next) = page.next {
            removal.from = next;
            self.removal = Some(removal);
        } else {
            let left = removal.selected.iter().any(|&name| self.model.is_waiting(name));
            assert!(!left, "I5: all selected waiters are removed");
        }
    }

    fn drain_rarely(&mut self) {
        if self.rng.u32(..200) == 0 && !self.model.draining {
            self.broker.begin_drain();
            self.model.draining = true;
            self.drained = self.model.waiters.iter().map(|w| w.name).collect();
        }
        if self.model.draining && self.rng.u32(..4) == 0 {
            self.broker.stop_matching();
            self.model.matching = false;
        }
        if self.rng.u32(..10) == 0 {
            drop(self.broker.shrink());
        }
    }
}

#[test]
fn the_core_does_what_the_naive_model_does() {
    let mut continued = 0;
    let walked_all = seeds::walk(SEEDS, STEPS, Walk::new, Walk::step, |walk| continued += walk.continued);
    assert!(!walked_all || continued > 1000, "some claims are continued: {continued}");
}
