//! Owns the simulation: seeded random walks of the core against a naive model, step by step.
//!
//! A failure prints its seed; `PILOTLIGHT_SEED=n cargo test --test simulation` walks that one again.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use pilotlight::broker::{
    Accepts, Ask, Broker, Filter, Full, Key, Limits, Machine, Miss, Moment, Number, Offer, Pick, Ticket,
    WaiterId,
};

const SEEDS: u64 = 256;
const STEPS: usize = 2000;
const MOMENTS_AGO: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Waiter {
    name: u64,
    id: WaiterId,
    key: Key,
    accepts: Accepts,
    controller: u64,
    offer_until: Moment,
    deadline: Moment,
    machine: u64,
    /// An offer found it too near its deadline; it stays so.
    late: bool,
}

/// The core as one would write it without a thought for speed.
struct Model {
    limits: Limits,
    pick: Pick,
    draining: bool,
    waiters: Vec<Waiter>,
    emptied: Vec<(Key, Moment)>,
    /// Machines that are suspect, and since when.
    suspects: Vec<(u64, Moment)>,
}

impl Model {
    fn room(&self, key: &Key, controller: u64) -> Result<Option<usize>, Full> {
        let same = |w: &Waiter| controller != 0 && w.controller == controller && w.key == *key;
        let replaced = self.waiters.iter().position(same);
        let in_pool = self.waiters.iter().filter(|w| w.key == *key).count();
        match replaced {
            Some(_) => Ok(replaced),
            None if self.waiters.len() >= self.limits.waiters => Err(Full::Waiters),
            None if in_pool >= self.limits.waiters_per_pool => Err(Full::Pool),
            None if in_pool == 0 && self.pools() >= self.limits.pools => Err(Full::Pools),
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

    fn is_suspect(&self, waiter: &Waiter, now: Moment) -> bool {
        self.suspects
            .iter()
            .any(|(machine, since)| *machine == waiter.machine && now.since(*since) < MOMENTS_AGO)
    }

    /// Who may be matched: the first of the trusted by age, or any suspect if no trusted one is left.
    fn candidates(&self, key: &Key, is_message: bool, now: Moment) -> Vec<u64> {
        let fits = |w: &&Waiter| w.key == *key && !w.late && (is_message || w.accepts == Accepts::Anything);
        let ready = |w: &&Waiter| w.offer_until > now;
        let (suspect, trusted): (Vec<_>, Vec<_>) =
            self.waiters.iter().filter(fits).filter(ready).partition(|w| self.is_suspect(w, now));
        let first = if self.pick == Pick::Newest { trusted.last() } else { trusted.first() };
        match first {
            Some(first) => vec![first.name],
            None => suspect.into_iter().map(|w| w.name).collect(),
        }
    }

    fn miss(&self, key: &Key, is_message: bool, now: Moment) -> Miss {
        let pool = self.waiters.iter().filter(|w| w.key == *key);
        let stock = pool.clone().any(|w| !w.late && w.accepts == Accepts::Message);
        if pool.count() > 0 {
            return if !is_message && stock { Miss::NotAMessage } else { Miss::AllTaken };
        }
        if self.emptied.iter().any(|(other, when)| other == key && now.since(*when) < MOMENTS_AGO) {
            return Miss::AllTaken;
        }
        self.kin(key)
    }

    fn kin(&self, key: &Key) -> Miss {
        let deployment = |w: &&Waiter| w.key.deployment == key.deployment;
        if self.waiters.iter().filter(deployment).any(|w| w.key.version == key.version) {
            Miss::WrongMachine
        } else if self.waiters.iter().any(|w| w.key.deployment == key.deployment) {
            Miss::WrongVersion
        } else {
            Miss::NoPool
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

struct Walk {
    rng: fastrand::Rng,
    broker: Broker<u64>,
    model: Model,
    now: Moment,
    names: u64,
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
        let pick = if rng.bool() { Pick::Newest } else { Pick::Oldest };
        let model = Model {
            limits,
            pick,
            draining: false,
            waiters: Vec::new(),
            emptied: Vec::new(),
            suspects: Vec::new(),
        };
        Self { rng, broker: Broker::new(limits, pick), model, now: Moment::default(), names: 0 }
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
            45..75 => self.offer(),
            75..85 => self.leave(),
            85..96 => self.expire(),
            96 => self.retire(),
            97 => self.suspect(),
            98 => self.now = self.now.plus(Duration::from_secs(self.rng.u64(..150))),
            _ => self.drain_rarely(),
        }
        self.broker.audit().unwrap();
        assert_eq!(self.broker.waiters_len(), self.model.waiters.len(), "I6");
        assert_eq!(self.broker.pools_len(), self.model.pools(), "I6");
    }

    fn park(&mut self) {
        let key = self.key();
        let controller = self.rng.u64(..8);
        let accepts = if self.rng.bool() { Accepts::Message } else { Accepts::Anything };
        let offer_until = self.now.plus(Duration::from_millis(self.rng.u64(..60_000)));
        let deadline = offer_until.plus(Duration::from_millis(self.rng.u64(..100_000)));
        let machine = self.rng.u64(..5);
        let expected = self.model.room(&key, controller);
        self.names += 1;
        let name = self.names;
        let parked = self.broker.park(
            Ticket {
                key: key.clone(),
                accepts,
                controller: if controller == 0 { "".into() } else { controller.to_string().into() },
                origin: [127, 0, 0, 1].into(),
                machine: Machine { address: machine, name: None },
                offer_until,
                deadline,
                waiter: name,
            },
            self.now,
        );
        match (expected, parked) {
            (Err(expected), Err((full, _))) => assert_eq!(full, expected),
            (Ok(replaced), Ok(parked)) => {
                let replaced = replaced.map(|at| self.model.waiters.remove(at).name);
                assert_eq!(parked.replaced.map(|old| old.waiter), replaced);
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
                });
            }
            (expected, parked) => panic!("expected {:?}, parked {:?}", expected.is_ok(), parked.is_ok()),
        }
    }

    fn offer(&mut self) {
        let key = self.key();
        let is_message = self.rng.u32(..4) > 0;
        let (now, draining) = (self.now, self.model.draining);
        self.broker.review_suspects(now, |_, _| false);
        let candidates = if draining { Vec::new() } else { self.model.candidates(&key, is_message, now) };
        match self.broker.offer(&Ask { key: key.as_ref(), is_message }, now) {
            Offer::Matched(taken) => {
                assert!(
                    candidates.contains(&taken.waiter),
                    "I1, I9: {} is none of {candidates:?}",
                    taken.waiter
                );
                self.model.waiters.retain(|w| w.name != taken.waiter);
                if !self.model.waiters.iter().any(|w| w.key == key) {
                    self.model.emptied.retain(|(other, _)| *other != key);
                    self.model.emptied.push((key.clone(), now));
                }
            }
            Offer::Cold(miss) => {
                assert!(candidates.is_empty(), "I11: {miss:?} though {candidates:?} wait");
                self.check_miss(&key, is_message, miss);
            }
        }
    }

    fn check_miss(&mut self, key: &Key, is_message: bool, miss: Miss) {
        if self.model.draining {
            return assert_eq!(miss, Miss::Draining);
        }
        // The offer looked at everyone that fits, and found all of them too near their end.
        let now = self.now;
        for w in self.model.waiters.iter_mut().filter(|w| w.key == *key) {
            let fits = is_message || w.accepts == Accepts::Anything;
            w.late |= fits && w.offer_until <= now;
        }
        let expected = self.model.miss(key, is_message, now);
        // A stock waiter past its guard counts until an offer finds it so.
        let stock = self.model.waiters.iter().filter(|w| w.key == *key && w.accepts == Accepts::Message);
        let only_late = stock.clone().all(|w| w.offer_until <= now) && stock.count() > 0;
        if expected == Miss::NotAMessage && only_late && miss == Miss::AllTaken {
            return;
        }
        // An emptied pool may be forgotten early, when another takes its place in the memory.
        let forgotten = expected == Miss::AllTaken && miss != Miss::AllTaken;
        assert_eq!(miss, if forgotten { self.model.kin(key) } else { expected });
    }

    fn suspect(&mut self) {
        let machine = self.rng.u64(..5);
        let known = Machine { address: machine, name: None };
        self.model.suspects.retain(|(other, _)| *other != machine);
        if self.rng.bool() {
            self.broker.suspect(known, self.now);
            self.model.suspects.push((machine, self.now));
        } else {
            self.broker.trust(known);
        }
    }

    fn leave(&mut self) {
        if self.model.waiters.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.model.waiters.len());
        let waiter = self.model.waiters.remove(at);
        let left = self.broker.leave(waiter.id, self.now);
        assert_eq!(left.map(|taken| taken.waiter), Some(waiter.name));
        assert!(self.broker.leave(waiter.id, self.now).is_none(), "a name is never used again");
    }

    fn expire(&mut self) {
        let most = if self.rng.bool() { 3 } else { 1000 };
        let expired: Vec<u64> =
            self.broker.expire(self.now, most).into_iter().map(|taken| taken.waiter).collect();
        let due = |w: &&Waiter| w.deadline <= self.now;
        let expected = self.model.waiters.iter().filter(due).count().min(most);
        assert_eq!(expired.len(), expected, "waiters whose deadline has come");
        assert!(self.model.waiters.iter().filter(|w| expired.contains(&w.name)).all(|w| due(&w)));
        self.model.take(&expired);
    }

    fn retire(&mut self) {
        let key = self.key();
        let filter =
            Filter { deployment: Some(key.deployment.to_string()), cpu: Some(key.cpu), ..Filter::default() };
        let mut retired: Vec<u64> = self
            .broker
            .retire(&filter, self.broker.mark(), self.now, 1000)
            .into_iter()
            .map(|t| t.waiter)
            .collect();
        let selected = |w: &&Waiter| w.key.deployment == key.deployment && w.key.cpu == key.cpu;
        let mut expected: Vec<u64> = self.model.waiters.iter().filter(selected).map(|w| w.name).collect();
        retired.sort_unstable();
        expected.sort_unstable();
        assert_eq!(retired, expected);
        self.model.take(&retired);
    }

    fn drain_rarely(&mut self) {
        if self.rng.u32(..200) == 0 {
            self.broker.drain();
            self.model.draining = true;
        }
        if self.model.draining {
            let most = self.rng.usize(..5);
            let taken: Vec<u64> = self
                .broker
                .take_any(self.broker.mark(), self.now, most)
                .into_iter()
                .map(|t| t.waiter)
                .collect();
            assert_eq!(taken.len(), most.min(self.model.waiters.len()));
            self.model.take(&taken);
        }
    }
}

#[test]
fn the_core_does_what_the_naive_model_does() {
    let chosen = std::env::var_os("PILOTLIGHT_SEED").and_then(|seed| seed.to_str()?.parse().ok());
    let seeds = chosen.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let mut walk = Walk::new(seed);
        for step in 0..STEPS {
            let walked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| walk.step()));
            if let Err(panic) = walked {
                eprintln!("seed {seed}, step {step}; PILOTLIGHT_SEED={seed} walks it again");
                std::panic::resume_unwind(panic);
            }
        }
    }
}
