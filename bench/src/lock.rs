//! Owns the benchmark of the core's lock: each call of the core holds it once. A hold is timed by the thread's CPU clock,
//! which excludes preemption.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::time::Duration;

use pilotlight::broker::{
    AcceptedPayload, Broker, Claim, ClaimRequest, Filter, HostId, Key, Limits, MonotonicTime, Number,
    ParkRequest, PayloadKind, SelectionPolicy, WaiterId,
};
use pilotlight::exchange::{POOLS_PER_LOCK, SCANNED_PER_LOCK, TAKEN_PER_LOCK};
use pilotlight_bench::stdout::print;
use rustix::time::{ClockId, clock_gettime};

use crate::contention;

/// Controllers per host.
const PER_HOST: u32 = 500;

#[derive(clap::Args)]
pub(crate) struct LockOptions {
    /// How many waiters there are
    #[arg(long, default_value_t = 100_000)]
    waiters: u32,
    /// How many rounds; the report has the shortest and the longest of each operation's longest holds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Instead, measure how many claims and parkings there are per second with each of these numbers of threads
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
}

/// As large as the real waiter in the core.
type Token = [usize; 3];

/// One operation's holds: their number, their sum, and the longest.
#[derive(Default, Clone, Copy)]
struct Holds {
    count: u32,
    sum: Duration,
    longest: Duration,
}

struct Round {
    broker: Broker<Token>,
    keys: Vec<Key>,
    waiting: Vec<WaiterId>,
    holds: BTreeMap<&'static str, Holds>,
    now: MonotonicTime,
    parked: u32,
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

pub(crate) fn measure(options: &LockOptions) -> anyhow::Result<()> {
    if !options.threads.is_empty() {
        return contention::measure(&options.threads, options.rounds);
    }
    for pools in [1, 5000] {
        let mut rounds: Vec<BTreeMap<&'static str, Holds>> = Vec::new();
        for seed in 0..options.rounds.max(1) {
            fastrand::seed(seed as u64);
            let mut round = Round::new(pools, options.waiters);
            round.run(options.waiters);
            rounds.push(round.holds);
        }
        print(&format!("{} waiters in {pools} pools: microseconds of CPU time\n", options.waiters));
        print(&format!("{:<28}{:>9}{:>9}{:>10}{:>8}\n", "", "holds", "average", "longest", "worst"));
        for (what, holds) in &rounds[0] {
            let longest = || rounds.iter().map(|round| round[what].longest.as_secs_f64() * 1e6);
            let (shortest, worst) = (longest().fold(f64::MAX, f64::min), longest().fold(0.0, f64::max));
            let average = holds.sum.as_secs_f64() * 1e6 / f64::from(holds.count);
            print(&format!("{what:<28}{:>9}{average:>9.2}{shortest:>10.1}{worst:>8.1}\n", holds.count));
        }
    }
    Ok(())
}

impl Round {
    fn new(pools: usize, waiters: u32) -> Self {
        let limit = 2 * waiters as usize;
        let limits = Limits { waiters: limit, waiters_per_pool: limit, pools: limit };
        let number = Number::parse("0.5").unwrap_or_else(|_| unreachable!("a number"));
        let key = |pool| Key {
            deployment: format!("deployment_{:020}", pool % 1000).into(),
            version: format!("20261126.{pool}").into(),
            cpu: number,
            memory: number,
        };
        Self {
            broker: Broker::new(limits, SelectionPolicy::Newest),
            keys: (0..pools).map(key).collect(),
            waiting: Vec::new(),
            holds: BTreeMap::new(),
            now: MonotonicTime::default(),
            parked: 0,
        }
    }

    fn hold<T>(&mut self, what: &'static str, act: impl FnOnce(&mut Broker<Token>, MonotonicTime) -> T) -> T {
        self.now = self.now.plus(Duration::from_micros(10));
        let start = cpu_time();
        let result = act(&mut self.broker, self.now);
        let took = cpu_time().saturating_sub(start);
        let holds = self.holds.entry(what).or_default();
        holds.count += 1;
        holds.sum += took;
        holds.longest = holds.longest.max(took);
        result
    }

    fn run(&mut self, waiters: u32) {
        self.fill(waiters);
        self.churn(waiters / 2);
        self.list();
        self.suspect(waiters / PER_HOST);
        self.retire_and_expire(waiters);
        self.drain(waiters);
    }

    fn host(number: u32) -> HostId {
        let name = NonZeroU64::new(u64::from(number) | 1 << 40);
        HostId { address: Ipv4Addr::from_bits(number).into(), name }
    }

    fn park(&mut self, held: Duration) {
        self.parked += 1;
        let deadline = self.now.plus(held);
        let number = self.parked % 200;
        let key = self.keys[fastrand::usize(..self.keys.len())].clone();
        let request = ParkRequest {
            key: key.as_ref(),
            accepts: if fastrand::bool() { AcceptedPayload::TriggerMessage } else { AcceptedPayload::Any },
            controller: format!("controller_{}", self.parked).into(),
            host: Self::host(number),
            is_exclusive: true,
            offer_until: deadline,
            deadline,
            waiter: [0; 3],
        };
        let parked = self.hold("park", |broker, now| broker.park(request, now).ok());
        self.waiting.extend(parked.map(|parked| parked.id));
    }

    fn fill(&mut self, waiters: u32) {
        while self.broker.waiters_len() < waiters as usize {
            self.park(Duration::from_secs(50));
        }
    }

    /// Claims a waiter; its holds are recorded as `what`.
    fn claim(&mut self, what: &'static str) -> bool {
        let key = self.keys[fastrand::usize(..self.keys.len())].clone();
        let request = ClaimRequest { key: key.as_ref(), payload_kind: PayloadKind::TriggerMessage };
        loop {
            if let Ok(claim) = self.hold(what, |broker, now| broker.claim(&request, now, TAKEN_PER_LOCK)) {
                return matches!(claim, Claim::Matched(_));
            }
        }
    }

    fn churn(&mut self, times: u32) {
        for _ in 0..times {
            self.claim("claim");
            self.park(Duration::from_secs(50));
            let id = self.waiting.swap_remove(fastrand::usize(..self.waiting.len()));
            self.hold("leave", |broker, now| broker.leave(id, now));
            self.park(Duration::from_secs(50));
        }
    }

    fn list(&mut self) {
        let all = Filter::default();
        let mut from = Some(0);
        while let Some(at) = from {
            from = self
                .hold("list waiters", |b, now| {
                    b.waiters_page(&all, now, at, SCANNED_PER_LOCK, TAKEN_PER_LOCK)
                })
                .next;
        }
        let mut from = Some(0);
        while let Some(at) = from {
            from =
                self.hold("list pools", |broker, now| broker.pools_page(&all, now, at, POOLS_PER_LOCK)).next;
        }
    }

    fn suspect(&mut self, hosts: u32) {
        for number in 0..hosts {
            self.hold("suspect", |broker, now| broker.suspect(Self::host(number), now));
        }
        for _ in 0..2000 {
            self.claim("claim past suspects");
        }
        let (mut from, mut found) = (Some(0), Vec::new());
        while let Some(at) = from {
            let view = |suspicion, _: &Token| suspicion;
            let page =
                self.hold("sweep suspects", |broker, _| broker.suspects_page(at, SCANNED_PER_LOCK, view));
            found.extend(page.rows);
            from = page.next;
        }
        for suspicion in found {
            self.hold("clear a suspect", |broker, now| broker.clear_suspicion(suspicion, now));
        }
        for _ in 0..2000 {
            self.claim("claim after they are cleared");
        }
        self.hold("forget old suspects", Broker::forget_old_suspects);
    }

    fn retire_and_expire(&mut self, waiters: u32) {
        let filter = Filter { version: Some(self.keys[0].version.to_string()), ..Filter::default() };
        self.remove_waiting("retire", &filter);
        // Half of the waiters share one deadline; the other half is due one lap of the timer wheel later, and is skipped.
        while self.broker.waiters_len() < waiters as usize {
            self.park(Duration::from_secs(50));
            self.park(Duration::from_millis(50_000 + 1024 * 64));
        }
        for seconds in [30, 30, 40, 40] {
            self.now = self.now.plus(Duration::from_secs(seconds));
            while self
                .hold("expire", |broker, now| broker.expire(now, SCANNED_PER_LOCK as usize, TAKEN_PER_LOCK))
                .1
            {}
        }
    }

    fn remove_waiting(&mut self, what: &'static str, filter: &Filter) {
        let before = self.broker.watermark();
        let mut from = Some(0);
        while let Some(at) = from {
            let remove = |b: &mut Broker<Token>, now| {
                b.remove_parked_before(before, filter, now, at, SCANNED_PER_LOCK, TAKEN_PER_LOCK)
            };
            from = self.hold(what, remove).next;
        }
    }

    fn drain(&mut self, waiters: u32) {
        self.hold("shrink", |broker, _| broker.shrink());
        self.fill(waiters);
        self.hold("begin a drain", |broker, _| broker.begin_drain());
        self.remove_waiting("drain", &Filter::default());
        self.hold("shrink", |broker, _| broker.shrink());
    }
}
