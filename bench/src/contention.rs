//! Owns the benchmark of several threads at the core's lock: each claims a waiter and parks another one, without pause, so that
//! the lock is nearly always held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use pilotlight::broker::{
    AcceptedPayload, Claim, ClaimRequest, HostId, Key, Limits, Number, ParkRequest, PayloadKind,
    SelectionPolicy,
};
use pilotlight::exchange::Exchange;
use pilotlight::journal::{Journal, JournalConfig};
use pilotlight::metrics::Metrics;
use pilotlight_bench::stdout::print;

const POOLS: usize = 10;
const WAITERS: usize = 500;
const TIME: Duration = Duration::from_secs(1);

/// As large as the real waiter in the core.
type Token = [usize; 3];

/// Measures with each of these numbers of threads; the report has the median of the rounds.
pub(crate) fn measure(threads: &[usize], rounds: usize) -> anyhow::Result<()> {
    print("claims and parkings by threads that do nothing else\n");
    print(&format!("{:>7}{:>14}{:>20}\n", "threads", "pairs/s", "ns of lock per pair"));
    for &count in threads {
        let rates: anyhow::Result<Vec<f64>> = (0..rounds.max(1)).map(|_| rate(count)).collect();
        let mut rates = rates?;
        rates.sort_by(f64::total_cmp);
        let median = rates[rates.len() / 2];
        print(&format!("{count:>7}{median:>14.0}{:>20.0}\n", 1e9 / median));
    }
    Ok(())
}

/// Pairs per second, of all threads together.
fn rate(threads: usize) -> anyhow::Result<f64> {
    let metrics = Arc::new(Metrics::new()?);
    let journal = Arc::new(Journal::open(&JournalConfig::default(), metrics.clone())?);
    let limits = Limits { waiters: 2 * WAITERS, waiters_per_pool: 2 * WAITERS, pools: POOLS };
    let exchange = Arc::new(Exchange::new(limits, SelectionPolicy::Newest, metrics, journal));
    let number = Number::parse("0.5")?;
    let key = |pool| Key {
        deployment: format!("deployment_{pool:020}").into(),
        version: "20261126.1".into(),
        cpu: number,
        memory: number,
    };
    let keys: Vec<Key> = (0..POOLS).map(key).collect();
    for number in 0..WAITERS {
        park(&exchange, &keys[number % POOLS], format!("controller_{number}").into())?;
    }
    let (start, is_over) = (Instant::now(), AtomicBool::new(false));
    let total = std::thread::scope(|scope| {
        let exchange_pairs = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut pairs = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                let key = &keys[random.usize(..POOLS)];
                let request = ClaimRequest { key: key.as_ref(), payload_kind: PayloadKind::TriggerMessage };
                // A pool is empty for a moment if other threads have all of its waiters.
                if let Claim::Matched(removed) = exchange.claim(&request, exchange.now()) {
                    park(&exchange, key, removed.controller)?;
                    pairs += 1;
                }
            }
            anyhow::Ok(pairs)
        };
        let running: Vec<_> =
            (0..threads as u64).map(|seed| scope.spawn(move || exchange_pairs(seed))).collect();
        std::thread::sleep(TIME);
        is_over.store(true, Ordering::Relaxed);
        let join = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<u32>>| {
            thread.join().map_err(|_| anyhow!("a thread panicked"))?
        };
        running.into_iter().map(join).sum::<anyhow::Result<u32>>()
    })?;
    Ok(f64::from(total) / start.elapsed().as_secs_f64())
}

fn park(exchange: &Arc<Exchange<Token>>, key: &Key, controller: Box<str>) -> anyhow::Result<()> {
    let now = exchange.now();
    let until = now.plus(Duration::from_secs(50));
    let request = ParkRequest {
        key: key.as_ref(),
        accepts: AcceptedPayload::TriggerMessage,
        controller,
        host: HostId { address: [127, 0, 0, 1].into(), name: None },
        is_exclusive: true,
        offer_until: until,
        deadline: until,
        waiter: [0; 3],
    };
    let (mut place, _) = exchange.park(request, now).map_err(|limit| anyhow!("{}", limit.limit()))?;
    // The claim that removes it disarms its place in the broker, too.
    place.disarm();
    Ok(())
}
