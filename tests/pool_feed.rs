//! Owns the tests of the feed of changed pools: whoever applies nothing but its rows knows what could be claimed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/seeds.rs"]
mod seeds;

use std::collections::HashMap;
use std::time::Duration;

use pilotlight::broker::{
    AcceptedPayload, Broker, Claim, ClaimRequest, Claimable, Filter, HostId, Key, Limits, MonotonicTime,
    Number, ParkRequest, PayloadKind, SelectionPolicy, WaiterId,
};

const SEEDS: u64 = 64;
const STEPS: usize = 1000;
const NONE: Claimable = [0; PayloadKind::ALL.len()];

struct Walk {
    rng: fastrand::Rng,
    broker: Broker<()>,
    now: MonotonicTime,
    ids: Vec<WaiterId>,
    /// What the rows taken so far say, without the pools that are all zero.
    known: HashMap<Key, Claimable>,
    /// Whether the one that takes the rows was woken since there were none left.
    is_woken: bool,
    /// How many rows were compared that are not zero, and how many closed pools were taken.
    compared: usize,
    closed: usize,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let limits = Limits { waiters: 30, waiters_per_pool: 8, pools: 10 };
        let mut broker = Broker::new(limits, SelectionPolicy::Newest);
        broker.watch_pools();
        Self {
            rng: fastrand::Rng::with_seed(seed),
            broker,
            now: MonotonicTime::default(),
            ids: Vec::new(),
            known: HashMap::new(),
            is_woken: false,
            compared: 0,
            closed: 0,
        }
    }

    fn key(&mut self) -> Key {
        let number = |value| Number::new(value).unwrap();
        let deployment = ["d1", "d2", "d3"][self.rng.usize(..3)].into();
        Key {
            deployment,
            version: "1".into(),
            cpu: number([0.5, 1.0][self.rng.usize(..2)]),
            memory: number(1.0),
        }
    }

    fn host(&mut self) -> HostId {
        HostId { address: [127, 0, 0, self.rng.u8(..3)].into(), name: None }
    }

    fn step(&mut self) {
        self.now = self.now.plus(Duration::from_millis(self.rng.u64(..300)));
        let now = self.now;
        match self.rng.u32(..20) {
            0..8 => self.park(),
            8..12 => self.claim(),
            12 if !self.ids.is_empty() => {
                let id = self.ids.swap_remove(self.rng.usize(..self.ids.len()));
                self.broker.leave(id, now);
            }
            13 => drop(self.broker.expire(now, self.rng.usize(1..9), 3)),
            14 => {
                let filter = Filter { deployment: Some("d1".to_owned()), ..Filter::default() };
                let (from, mark) = (self.rng.u32(..8), self.broker.watermark());
                self.broker.remove_parked_before(mark, &filter, now, from, 20, 3);
            }
            15 => {
                let host = self.host();
                self.broker.suspect(host, now);
            }
            16 => {
                let host = self.host();
                self.broker.trust(host);
            }
            17 => drop(self.broker.shrink()),
            18 => {
                self.take();
            }
            _ => self.take_all(),
        }
        self.is_woken |= self.broker.take_changes_begun();
        self.broker.audit().unwrap();
    }

    /// A waiter; its controller's name says what it accepts.
    fn park(&mut self) {
        let (key, host) = (self.key(), self.host());
        let accepts = AcceptedPayload::ALL[self.rng.usize(..2)];
        let offer_until = self.now.plus(Duration::from_millis(self.rng.u64(..6000)));
        let request = ParkRequest {
            key: key.as_ref(),
            accepts,
            controller: format!("{accepts:?}/{}", self.rng.u8(..6)).into(),
            host,
            is_exclusive: true,
            offer_until,
            deadline: offer_until.plus(Duration::from_millis(self.rng.u64(..3000))),
            waiter: (),
        };
        self.ids.extend(self.broker.park(request, self.now).ok().map(|parked| parked.id));
    }

    fn claim(&mut self) {
        let key = self.key();
        let payload_kind = PayloadKind::ALL[self.rng.usize(..2)];
        let request = ClaimRequest { key: key.as_ref(), payload_kind };
        let max_steps = self.rng.usize(1..4);
        let before = self.broker.claimable(key.as_ref());
        if let Ok(Claim::Matched(_)) = self.broker.claim(&request, self.now, max_steps) {
            assert!(before[payload_kind as usize] > 0, "a waiter was claimed though none could be");
        }
    }

    fn take(&mut self) -> bool {
        let (rows, continues) = self.broker.take_changed_pools(self.rng.usize(1..4));
        assert!(rows.is_empty() || self.is_woken, "there are rows, and nobody was woken");
        for row in rows {
            assert_eq!(
                row.waiters,
                self.broker.claimable(row.key.as_ref()),
                "a row is true when it is taken"
            );
            self.closed += usize::from(row.waiters == NONE);
            if row.waiters == NONE {
                self.known.remove(&row.key);
            } else {
                self.known.insert(row.key, row.waiters);
            }
        }
        continues
    }

    fn take_all(&mut self) {
        // Before this step nothing is left to wake for.
        self.is_woken |= self.broker.take_changes_begun();
        while self.take() {}
        self.is_woken = false;
        let truth = self.counted();
        assert_eq!(self.known, truth, "the feed and the waiters");
        assert_eq!(self.walked(), truth, "the walk over the pools, and the waiters");
        self.compared += truth.len();
    }

    /// The waiters of each pool, counted one by one.
    fn counted(&self) -> HashMap<Key, Claimable> {
        let mut counts = HashMap::new();
        // At time zero a waiter is late only if it was found so.
        let time = MonotonicTime::default();
        for waiter in self.broker.waiters_page(&Filter::default(), time, 0, u32::MAX, usize::MAX).rows {
            let is_any = waiter.controller.starts_with("Any");
            let counts = counts.entry(waiter.key).or_insert(NONE);
            counts[PayloadKind::TriggerMessage as usize] += u32::from(!waiter.late);
            counts[PayloadKind::Opaque as usize] += u32::from(!waiter.late && is_any);
        }
        counts.retain(|_, counts| *counts != NONE);
        counts
    }

    fn walked(&mut self) -> HashMap<Key, Claimable> {
        let (mut from, mut counts) = (Some(0), HashMap::new());
        while let Some(slot) = from {
            let page = self.broker.claimable_page(slot, 1 + self.rng.u32(..4));
            counts.extend(page.rows.into_iter().map(|row| (row.key, row.waiters)));
            from = page.next;
        }
        counts.retain(|_, counts| *counts != NONE);
        counts
    }
}

#[test]
fn a_model_that_applies_only_the_feed_equals_the_waiters_after_each_drain_of_it() {
    let (mut compared, mut closed) = (0, 0);
    let walked_all = seeds::walk(SEEDS, STEPS, Walk::new, Walk::step, |walk| {
        compared += walk.compared;
        closed += walk.closed;
    });
    assert!(!walked_all || (compared > 10_000 && closed > 1000), "{compared} rows, {closed} closed");
}

fn park(broker: &mut Broker<()>, deployment: &str) -> WaiterId {
    let number = Number::new(1.0).unwrap();
    let key = Key { deployment: deployment.into(), version: "1".into(), cpu: number, memory: number };
    let far = MonotonicTime::from_micros(1 << 40);
    let request = ParkRequest {
        key: key.as_ref(),
        accepts: AcceptedPayload::Any,
        controller: "".into(),
        host: HostId { address: [127, 0, 0, 1].into(), name: None },
        is_exclusive: true,
        offer_until: far,
        deadline: far,
        waiter: (),
    };
    broker.park(request, MonotonicTime::default()).ok().unwrap().id
}

/// The rows as text: `deployment=waiters`.
fn rows(broker: &mut Broker<()>) -> Vec<String> {
    let (rows, continues) = broker.take_changed_pools(100);
    assert!(!continues);
    rows.iter().map(|row| format!("{}={}", row.key.deployment, row.waiters[0])).collect()
}

const AMPLE: Limits = Limits { waiters: 100, waiters_per_pool: 100, pools: 100 };

#[test]
fn a_pool_is_in_the_feed_once_however_often_it_changes() {
    let mut broker = Broker::new(AMPLE, SelectionPolicy::Newest);
    broker.watch_pools();
    for _ in 0..5 {
        park(&mut broker, "busy");
        let breathing = park(&mut broker, "breathing");
        broker.leave(breathing, MonotonicTime::default());
    }
    park(&mut broker, "breathing");
    park(&mut broker, "other");
    let gone = park(&mut broker, "gone");
    broker.leave(gone, MonotonicTime::default());
    assert!(broker.take_changes_begun() && !broker.take_changes_begun(), "one wake for all of them");
    assert_eq!(rows(&mut broker), ["busy=5", "breathing=1", "other=1", "gone=0"]);
    assert_eq!(rows(&mut broker), [""; 0]);
    park(&mut broker, "busy");
    assert!(broker.take_changes_begun());
    assert_eq!(rows(&mut broker), ["busy=6"]);
}

#[test]
fn a_feed_that_nobody_watches_stays_empty() {
    let mut broker = Broker::new(AMPLE, SelectionPolicy::Newest);
    let waiter = park(&mut broker, "d");
    park(&mut broker, "other");
    broker.leave(waiter, MonotonicTime::default());
    assert!(!broker.take_changes_begun());
    assert_eq!(rows(&mut broker), [""; 0]);
    broker.watch_pools();
    park(&mut broker, "other");
    assert_eq!(rows(&mut broker), ["other=2"]);
}
