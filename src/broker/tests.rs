//! Owns the bound of each hold: no call of the core touches many entries, however many there are.

use std::time::Duration;

use super::chunks::touched;
use super::*;

/// Of the next so many, so many are taken, as the exchange has it.
const SCAN: u32 = 256;
const MOST: usize = 64;
/// Taking a waiter out touches it, its neighbours on two chains, and what is indexed beside it.
const OF_A_TAKE: usize = 30;
const BOUND: usize = SCAN as usize * 4 + MOST * OF_A_TAKE;
const WAITERS: u32 = 100_000;
const LIMITS: Limits = Limits { waiters: 1 << 20, waiters_per_pool: 1 << 20, pools: 1 << 20 };

struct Crowd {
    broker: Broker<u32>,
    now: MonotonicTime,
    most: usize,
    holds: usize,
}

impl Crowd {
    fn new(pick: SelectionPolicy) -> Self {
        Self { broker: Broker::new(LIMITS, pick), now: MonotonicTime::default(), most: 0, holds: 0 }
    }

    fn hold<T>(&mut self, act: impl FnOnce(&mut Broker<u32>, MonotonicTime) -> T) -> T {
        touched::reset();
        let result = act(&mut self.broker, self.now);
        self.most = self.most.max(touched::count());
        self.holds += 1;
        assert!(touched::count() <= BOUND, "{} entries under one hold", touched::count());
        result
    }

    fn park(&mut self, pools: u32, number: u32, held: Duration) {
        let one = Number::parse("1").unwrap();
        let version = (number % pools).to_string().into();
        let deadline = self.now.plus(held);
        let ticket = ParkRequest {
            key: Key { deployment: "d".into(), version, cpu: one, memory: one },
            accepts: if number.is_multiple_of(2) {
                AcceptedPayload::TriggerMessage
            } else {
                AcceptedPayload::Any
            },
            controller: number.to_string().into(),
            origin: [127, 0, 0, 1].into(),
            host: HostId { address: 1 + u64::from(number % 2), name: None },
            offer_until: deadline,
            deadline,
            waiter: number,
        };
        let parked = self.hold(|broker, now| broker.park(ticket, now).is_ok());
        assert!(parked);
    }

    fn fill(&mut self, pools: u32, held: Duration) {
        (0..WAITERS).for_each(|number| self.park(pools, number, held));
    }

    /// Offers a run of the first pool; returns in how many holds, and whether anybody got it.
    fn offer(&mut self) -> (usize, bool) {
        let one = Number::parse("1").unwrap();
        let key = KeyRef { deployment: "d", version: "0", cpu: one, memory: one };
        let before = self.holds;
        loop {
            let ask = ClaimRequest { key, payload_kind: PayloadKind::TriggerMessage };
            if let Ok(offer) = self.hold(|broker, now| broker.claim(&ask, now, MOST)) {
                return (self.holds - before, matches!(offer, Claim::Matched(_)));
            }
        }
    }

    fn pages<V>(&mut self, mut page: impl FnMut(&mut Broker<u32>, MonotonicTime, u32) -> Page<V>) -> usize {
        let (mut from, mut rows) = (Some(0), 0);
        while let Some(at) = from {
            let page = self.hold(|broker, now| page(broker, now, at));
            assert!(page.rows.len() <= SCAN as usize);
            rows += page.rows.len();
            from = page.next;
        }
        rows
    }
}

#[test]
fn nothing_touches_many_entries_under_one_hold() {
    for pools in [1, 5000] {
        let mut crowd = Crowd::new(SelectionPolicy::Newest);
        crowd.fill(pools, Duration::from_secs(3600));
        assert!(crowd.most <= 512, "an index grows by {} entries at once", crowd.most);
        let all = Filter::default();
        let waiters = crowd.pages(|broker, now, at| broker.waiters_page(&all, now, at, SCAN, MOST));
        assert_eq!(waiters, WAITERS as usize);
        assert_eq!(crowd.pages(|broker, now, at| broker.pools_page(&all, now, at, 64)), pools as usize);
        assert!(crowd.offer().1);
        let before = crowd.broker.watermark();
        let one = Filter { version: Some("0".to_owned()), ..Filter::default() };
        let taken =
            crowd.pages(|broker, now, at| broker.remove_parked_before(before, &one, now, at, SCAN, MOST));
        assert_eq!(taken, (WAITERS / pools) as usize - 1);
        crowd.hold(|broker, _| broker.drain());
        crowd.pages(|broker, now, at| broker.remove_parked_before(before, &all, now, at, SCAN, MOST));
        assert_eq!((crowd.broker.waiters_len(), crowd.broker.pools_len()), (0, 0));
        drop(crowd.hold(|broker, _| broker.shrink()));
        crowd.broker.audit().unwrap();
    }
}

#[test]
fn suspects_are_passed_over_and_taken_back_a_few_at_a_time() {
    for pick in [SelectionPolicy::Newest, SelectionPolicy::Oldest] {
        let mut crowd = Crowd::new(pick);
        crowd.fill(1, Duration::from_secs(3600));
        let machines = [1, 2].map(|address| HostId { address, name: None });
        for machine in machines {
            crowd.hold(|broker, now| broker.suspect(machine, now));
        }
        let (holds, matched) = crowd.offer();
        assert!(matched && holds > 1000, "all of them were set aside, in {holds} holds");
        let suspects = crowd.pages(|broker, _, at| broker.suspects_page(at, SCAN, |suspicion, _| suspicion));
        assert_eq!(suspects, WAITERS as usize - 1);
        for machine in machines {
            crowd.hold(|broker, _| broker.trust(machine));
        }
        let (holds, matched) = crowd.offer();
        assert!(matched && holds > 1000, "all of them were taken back, in {holds} holds");
        crowd.broker.audit().unwrap();
    }
}

#[test]
fn who_is_too_near_the_end_is_set_aside_a_few_at_a_time() {
    let mut crowd = Crowd::new(SelectionPolicy::Newest);
    crowd.fill(1, Duration::from_secs(10));
    crowd.now = crowd.now.plus(Duration::from_secs(10));
    let (holds, matched) = crowd.offer();
    assert!(!matched && holds > 1000, "{holds}");
    let all = Filter::default();
    crowd.pages(|broker, now, at| broker.pools_page(&all, now, at, SCAN));
}

/// A herd whose deadlines share a tick of the wheel, half of them a lap later.
#[test]
fn a_herd_with_one_deadline_ends_a_few_at_a_time() {
    let mut crowd = Crowd::new(SelectionPolicy::Newest);
    for number in 0..WAITERS {
        let lap = Duration::from_millis(1024 * 64) * (number % 2);
        crowd.park(100, number, Duration::from_secs(10) + lap);
    }
    crowd.now = crowd.now.plus(Duration::from_secs(12));
    let mut ended = 0;
    loop {
        let (taken, goes_on) = crowd.hold(|broker, now| broker.expire(now, SCAN as usize, MOST));
        ended += taken.len();
        if !goes_on {
            break;
        }
    }
    assert_eq!(ended, WAITERS as usize / 2);
    crowd.broker.audit().unwrap();
}
