//! Owns the tests of the core's cost: no call accesses many entries, however many there are.

use std::time::Duration;

use super::chunks::touched;
use super::*;

/// How many entries a call may scan, and how many waiters it may remove or move: the exchange's values.
const SCAN: u32 = 256;
const MAX_REMOVED: usize = 64;
/// Removing a waiter accesses the waiter, its neighbours in two lists, and its neighbours in the indexes.
const PER_REMOVAL: usize = 30;
const BOUND: usize = SCAN as usize * 4 + MAX_REMOVED * PER_REMOVAL;
const WAITERS: u32 = 100_000;
const LIMITS: Limits = Limits { waiters: 1 << 20, waiters_per_pool: 1 << 20, pools: 1 << 20 };

struct Fixture {
    broker: Broker<u32>,
    now: MonotonicTime,
    max_accessed: usize,
    calls: usize,
}

impl Fixture {
    fn new(pick: SelectionPolicy) -> Self {
        Self { broker: Broker::new(LIMITS, pick), now: MonotonicTime::default(), max_accessed: 0, calls: 0 }
    }

    fn call<T>(&mut self, act: impl FnOnce(&mut Broker<u32>, MonotonicTime) -> T) -> T {
        touched::reset();
        let result = act(&mut self.broker, self.now);
        self.max_accessed = self.max_accessed.max(touched::count());
        self.calls += 1;
        assert!(touched::count() <= BOUND, "one call accessed {} entries", touched::count());
        result
    }

    fn park(&mut self, pools: u32, number: u32, held: Duration) {
        let one = Number::parse("1").unwrap();
        let version = (number % pools).to_string();
        let deadline = self.now.plus(held);
        let request = ParkRequest {
            key: KeyRef { deployment: "d", version: &version, cpu: one, memory: one },
            accepts: if number.is_multiple_of(2) {
                AcceptedPayload::TriggerMessage
            } else {
                AcceptedPayload::Any
            },
            controller: number.to_string().into(),
            is_exclusive: true,
            host: HostId { address: [127, 0, 0, 1 + u8::from(number % 2 == 1)].into(), name: None },
            offer_until: deadline,
            deadline,
            waiter: number,
        };
        let parked = self.call(|broker, now| broker.park(request, now).is_ok());
        assert!(parked);
    }

    fn fill(&mut self, pools: u32, held: Duration) {
        (0..WAITERS).for_each(|number| self.park(pools, number, held));
    }

    /// Claims a waiter of the first pool. Returns the number of calls, and whether there was a match.
    fn claim(&mut self) -> (usize, bool) {
        let one = Number::parse("1").unwrap();
        let key = KeyRef { deployment: "d", version: "0", cpu: one, memory: one };
        let before = self.calls;
        loop {
            let request = ClaimRequest { key, payload_kind: PayloadKind::TriggerMessage };
            if let Ok(claim) = self.call(|broker, now| broker.claim(&request, now, MAX_REMOVED)) {
                return (self.calls - before, matches!(claim, Claim::Matched(_)));
            }
        }
    }

    /// Takes the rows of all changed pools, and returns how many there are.
    fn take_changed(&mut self) -> usize {
        let mut taken = 0;
        loop {
            let (rows, continues) = self.call(|broker, _| broker.take_changed_pools(64));
            taken += rows.len();
            if !continues {
                return taken;
            }
        }
    }

    fn pages<V>(&mut self, mut page: impl FnMut(&mut Broker<u32>, MonotonicTime, u32) -> Page<V>) -> usize {
        let (mut from, mut rows) = (Some(0), 0);
        while let Some(slot) = from {
            let page = self.call(|broker, now| page(broker, now, slot));
            assert!(page.rows.len() <= SCAN as usize);
            rows += page.rows.len();
            from = page.next;
        }
        rows
    }
}

#[test]
fn no_call_accesses_many_entries() {
    for (pools, is_watched) in [(1, false), (5000, false), (5000, true)] {
        let mut fixture = Fixture::new(SelectionPolicy::Newest);
        if is_watched {
            fixture.broker.watch_pools();
        }
        let changed = if is_watched { pools as usize } else { 0 };
        fixture.fill(pools, Duration::from_secs(3600));
        assert!(fixture.max_accessed <= 512, "an index moves {} entries at once", fixture.max_accessed);
        let all = Filter::default();
        let waiters =
            fixture.pages(|broker, now, from| broker.waiters_page(&all, now, from, SCAN, MAX_REMOVED));
        assert_eq!(waiters, WAITERS as usize);
        assert_eq!(fixture.pages(|broker, now, from| broker.pools_page(&all, now, from, 64)), pools as usize);
        let claimable = fixture.pages(|broker, _, from| broker.claimable_page(from, 64));
        assert_eq!((claimable, fixture.take_changed()), (pools as usize, changed));
        assert!(fixture.claim().1);
        let before = fixture.broker.watermark();
        let one = Filter { version: Some("0".to_owned()), ..Filter::default() };
        let removed = fixture.pages(|broker, now, from| {
            broker.remove_parked_before(before, &one, now, from, SCAN, MAX_REMOVED)
        });
        assert_eq!(removed, (WAITERS / pools) as usize - 1);
        fixture.call(|broker, _| broker.begin_drain());
        fixture.pages(|broker, now, from| {
            broker.remove_parked_before(before, &all, now, from, SCAN, MAX_REMOVED)
        });
        assert_eq!((fixture.broker.waiters_len(), fixture.broker.pools_len()), (0, 0));
        assert_eq!(fixture.take_changed(), changed, "each has closed");
        drop(fixture.call(|broker, _| broker.shrink()));
        fixture.broker.audit().unwrap();
    }
}

#[test]
fn suspects_are_set_aside_and_restored_a_few_at_a_time() {
    for pick in [SelectionPolicy::Newest, SelectionPolicy::Oldest] {
        let mut fixture = Fixture::new(pick);
        fixture.fill(1, Duration::from_secs(3600));
        let hosts = [1, 2].map(|last| HostId { address: [127, 0, 0, last].into(), name: None });
        for host in hosts {
            fixture.call(|broker, now| broker.suspect(host, now));
        }
        let (calls, matched) = fixture.claim();
        assert!(matched && calls > 1000, "all of them were set aside, in {calls} calls");
        let suspects =
            fixture.pages(|broker, _, from| broker.suspects_page(from, SCAN, |suspicion, _| suspicion));
        assert_eq!(suspects, WAITERS as usize - 1);
        for host in hosts {
            fixture.call(|broker, _| broker.trust(host));
        }
        let (calls, matched) = fixture.claim();
        assert!(matched && calls > 1000, "all of them were restored, in {calls} calls");
        fixture.broker.audit().unwrap();
    }
}

#[test]
fn late_waiters_are_set_aside_a_few_at_a_time() {
    let mut fixture = Fixture::new(SelectionPolicy::Newest);
    fixture.fill(1, Duration::from_secs(10));
    fixture.now = fixture.now.plus(Duration::from_secs(10));
    let (calls, matched) = fixture.claim();
    assert!(!matched && calls > 1000, "{calls}");
    let all = Filter::default();
    fixture.pages(|broker, now, from| broker.pools_page(&all, now, from, SCAN));
}

/// All deadlines share a tick of the timer wheel, half of them one lap later.
#[test]
fn waiters_with_one_deadline_expire_a_few_at_a_time() {
    let mut fixture = Fixture::new(SelectionPolicy::Newest);
    for number in 0..WAITERS {
        let lap = Duration::from_millis(1024 * 64) * (number % 2);
        fixture.park(100, number, Duration::from_secs(10) + lap);
    }
    fixture.now = fixture.now.plus(Duration::from_secs(12));
    let mut expired = 0;
    loop {
        let (removed, continues) = fixture.call(|broker, now| broker.expire(now, SCAN as usize, MAX_REMOVED));
        expired += removed.len();
        if !continues {
            break;
        }
    }
    assert_eq!(expired, WAITERS as usize / 2);
    fixture.broker.audit().unwrap();
}
