//! Owns the cache of recent outcomes by idempotency key, so that a run posted twice is delivered once.
//!
//! Outcomes are kept in generations: each is a map that only grows and is then cleared as a whole. With single removals, the
//! tombstones doubled the map's size after a quarter of an hour at an even rate.

use std::hash::Hash;
use std::mem;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashMap;

use super::sync::{Mutex, Notify};

/// At most this many outcomes are kept; the older half is removed first.
const CAPACITY: usize = 100_000;

/// What is known of a key.
pub enum Lookup<K: Hash + Eq + Copy, V> {
    /// No other POST has this key: the caller delivers the run, and completes the guard with the outcome.
    Leader(LeaderGuard<K, V>),
    /// The run was posted before, with this outcome.
    Cached(V),
    /// The key belongs to a run with other content, so the caller must not deliver this one.
    Conflict,
}

/// Another POST with the same key is in flight, and notifies those that wait for its outcome.
pub struct InFlightElsewhere(Arc<Notify>);

/// Outcomes by idempotency key.
pub struct IdempotencyCache<K, V> {
    generations: Mutex<Generations<K, V>>,
}

/// A hash of a run's content, for runs whose content is compared.
pub type ContentHash = Option<NonZeroU64>;

type Outcomes<K, V> = HashMap<K, CacheEntry<V>, RandomState>;

struct CacheEntry<V> {
    stored_at: Instant,
    content: ContentHash,
    outcome: V,
}

/// A run that is being delivered.
struct InFlight {
    content: ContentHash,
    /// Notifies the POSTs that wait for the outcome; none while no other POST waits.
    done: Option<Arc<Notify>>,
}

struct Generations<K, V> {
    in_flight: HashMap<K, InFlight, RandomState>,
    current: Outcomes<K, V>,
    previous: Outcomes<K, V>,
    /// Older generations, to be cleared by [`IdempotencyCache::shrink`].
    retired: Vec<Outcomes<K, V>>,
    /// An empty map with capacity for the next generation.
    spare: Outcomes<K, V>,
    current_since: Instant,
    previous_since: Instant,
}

impl<K, V> Default for IdempotencyCache<K, V> {
    fn default() -> Self {
        let now = Instant::now();
        let generations = Generations {
            in_flight: HashMap::default(),
            current: HashMap::default(),
            previous: HashMap::default(),
            retired: Vec::new(),
            spare: HashMap::default(),
            current_since: now,
            previous_since: now,
        };
        Self { generations: Mutex::new(generations) }
    }
}

impl<K: Hash + Eq + Copy, V: Clone> IdempotencyCache<K, V> {
    /// Looks a key up; an outcome older than `ttl` is ignored. Waits for the outcome while another POST with this key is in
    /// flight. Other content under the same key is a conflict at once.
    pub async fn begin(self: &Arc<Self>, key: &K, content: ContentHash, ttl: Duration) -> Lookup<K, V> {
        loop {
            let done = match self.try_begin(key, content, ttl) {
                Ok(lookup) => return lookup,
                Err(InFlightElsewhere(done)) => done,
            };
            done.notified().await;
            // A notification reaches one POST only, so each passes it on to the next.
            done.notify_one();
        }
    }

    /// The same without waiting. An error while another POST with this key is in flight.
    pub fn try_begin(
        self: &Arc<Self>,
        key: &K,
        content: ContentHash,
        ttl: Duration,
    ) -> Result<Lookup<K, V>, InFlightElsewhere> {
        let differs = |known: ContentHash| content.is_some() && known.is_some() && content != known;
        let mut generations = self.generations.lock();
        if let Some(in_flight) = generations.in_flight.get_mut(key) {
            if differs(in_flight.content) {
                return Ok(Lookup::Conflict);
            }
            let done = in_flight.done.get_or_insert_with(|| Arc::new(Notify::new()));
            return Err(InFlightElsewhere(done.clone()));
        }
        if let Some(known) = generations.lookup(key, ttl) {
            let is_conflict = differs(known.content);
            return Ok(if is_conflict { Lookup::Conflict } else { Lookup::Cached(known.outcome.clone()) });
        }
        generations.in_flight.insert(*key, InFlight { content, done: None });
        Ok(Lookup::Leader(LeaderGuard { cache: self.clone(), key: *key, outcome: None }))
    }
}

impl<K: Hash + Eq + Copy, V> IdempotencyCache<K, V> {
    /// How far back the cache reaches now: `ttl`, or less if the capacity was reached earlier or the cache is younger.
    pub fn window(&self, ttl: Duration) -> Duration {
        self.generations.lock().previous_since.elapsed().min(ttl)
    }

    /// Begins a new generation if the current one has lasted for `ttl`, and clears the retired ones. The latter is done
    /// without the lock and takes a while, so it must not run on a serving thread.
    pub fn shrink(&self, ttl: Duration) {
        let now = Instant::now();
        let mut retired = {
            let mut generations = self.generations.lock();
            if now.duration_since(generations.current_since) >= ttl {
                generations.rotate(now);
            }
            mem::take(&mut generations.retired)
        };
        let Some(mut last) = retired.pop() else { return };
        // The capacity of an unused generation is released.
        let spare = if last.is_empty() {
            HashMap::default()
        } else {
            last.clear();
            last
        };
        let unused = mem::replace(&mut self.generations.lock().spare, spare);
        drop(unused);
    }
}

impl<K: Hash + Eq + Copy, V> Generations<K, V> {
    fn lookup(&self, key: &K, ttl: Duration) -> Option<&CacheEntry<V>> {
        let known = self.current.get(key).or_else(|| self.previous.get(key))?;
        (known.stored_at.elapsed() < ttl).then_some(known)
    }

    fn store(&mut self, key: K, content: ContentHash, outcome: V, stored_at: Instant) {
        if self.current.len() >= CAPACITY / 2 {
            self.rotate(stored_at);
        }
        self.current.insert(key, CacheEntry { stored_at, content, outcome });
    }

    fn rotate(&mut self, now: Instant) {
        self.previous_since = mem::replace(&mut self.current_since, now);
        let fresh = mem::take(&mut self.spare);
        let oldest = mem::replace(&mut self.previous, mem::replace(&mut self.current, fresh));
        self.retired.push(oldest);
    }
}

/// The one POST that delivers a run. If the guard is dropped without [`Self::complete`], the next POST delivers it.
pub struct LeaderGuard<K: Hash + Eq + Copy, V> {
    cache: Arc<IdempotencyCache<K, V>>,
    key: K,
    outcome: Option<(V, Instant)>,
}

impl<K: Hash + Eq + Copy, V> LeaderGuard<K, V> {
    /// Stores the outcome, as of now, for later POSTs with the same key.
    pub fn complete(mut self, outcome: V, now: Instant) {
        self.outcome = Some((outcome, now));
    }
}

impl<K: Hash + Eq + Copy, V> Drop for LeaderGuard<K, V> {
    fn drop(&mut self) {
        let mut generations = self.cache.generations.lock();
        let in_flight = generations.in_flight.remove(&self.key);
        if let Some((outcome, now)) = self.outcome.take() {
            let content = in_flight.as_ref().and_then(|in_flight| in_flight.content);
            generations.store(self.key, content, outcome, now);
        }
        drop(generations);
        if let Some(done) = in_flight.and_then(|in_flight| in_flight.done) {
            done.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_delivered_run_is_answered_from_the_cache() {
        let cache = Arc::new(IdempotencyCache::default());
        let Lookup::Leader(first) = cache.begin(&"run_1", None, TTL).await else {
            panic!("it is the first POST")
        };
        first.complete("hit", Instant::now());
        assert!(matches!(cache.begin(&"run_1", None, TTL).await, Lookup::Cached("hit")));
        assert!(matches!(cache.begin(&"run_2", None, TTL).await, Lookup::Leader(_)));
    }

    #[tokio::test]
    async fn a_run_that_failed_is_delivered_by_a_waiting_post() {
        let cache = Arc::new(IdempotencyCache::<&str, &str>::default());
        let Lookup::Leader(first) = cache.begin(&"run_1", None, TTL).await else {
            panic!("it is the first POST")
        };
        let second = cache.begin(&"run_1", None, TTL);
        let third = cache.begin(&"run_1", None, TTL);
        drop(first);
        let Lookup::Leader(second) = second.await else { panic!("the first POST failed") };
        second.complete("hit", Instant::now());
        assert!(matches!(third.await, Lookup::Cached("hit")));
    }

    fn len_and_capacity(cache: &IdempotencyCache<u32, ()>) -> (usize, usize) {
        let generations = cache.generations.lock();
        (
            generations.current.len() + generations.previous.len(),
            generations.current.capacity() + generations.previous.capacity(),
        )
    }

    async fn post(cache: &Arc<IdempotencyCache<u32, ()>>, run: u32) {
        let Lookup::Leader(first) = cache.begin(&run, None, TTL).await else { panic!("{run} is a new run") };
        first.complete((), Instant::now());
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let cache = Arc::default();
        for run in 0..250_000 {
            post(&cache, run).await;
        }
        assert_eq!(len_and_capacity(&cache).0, CAPACITY);
    }

    #[tokio::test]
    async fn memory_stays_constant_at_an_even_rate_and_is_released_when_idle() {
        let cache = Arc::default();
        let mut capacity = Vec::new();
        for generation in 0..50 {
            for run in 0..1000 {
                post(&cache, generation * 1000 + run).await;
            }
            cache.shrink(Duration::ZERO);
            capacity.push(len_and_capacity(&cache).1 + cache.generations.lock().spare.capacity());
        }
        assert_eq!(capacity[3], capacity[49]);
        for _ in 0..4 {
            cache.shrink(Duration::ZERO);
        }
        assert_eq!(len_and_capacity(&cache), (0, 0));
    }

    #[tokio::test]
    async fn an_outcome_older_than_the_ttl_is_ignored() {
        let cache = Arc::new(IdempotencyCache::default());
        let Lookup::Leader(first) = cache.begin(&"run_1", None, TTL).await else {
            panic!("it is the first POST")
        };
        first.complete("hit", Instant::now());
        assert!(matches!(cache.begin(&"run_1", None, Duration::ZERO).await, Lookup::Leader(_)));
        assert!(matches!(cache.begin(&"run_1", None, TTL).await, Lookup::Cached("hit")));
    }

    #[tokio::test]
    async fn other_content_under_the_same_key_is_a_conflict_at_once() {
        let cache = Arc::new(IdempotencyCache::default());
        let [one, other] = [NonZeroU64::new(1), NonZeroU64::new(2)];
        let Lookup::Leader(first) = cache.begin(&"run_1", one, TTL).await else {
            panic!("it is the first POST")
        };
        assert!(matches!(cache.begin(&"run_1", other, TTL).await, Lookup::Conflict), "while it is in flight");
        first.complete("hit", Instant::now());
        assert!(matches!(cache.begin(&"run_1", other, TTL).await, Lookup::Conflict));
        assert!(matches!(cache.begin(&"run_1", one, TTL).await, Lookup::Cached("hit")));
        assert!(
            matches!(cache.begin(&"run_1", None, TTL).await, Lookup::Cached("hit")),
            "without a hash, content is not compared"
        );
        let after_ttl = cache.begin(&"run_1", other, Duration::ZERO).await;
        let Lookup::Leader(failed) = after_ttl else { panic!("the outcome is too old") };
        drop(failed);
    }

    #[tokio::test]
    async fn the_window_is_the_age_of_the_cache() {
        let created = Instant::now();
        let cache: Arc<IdempotencyCache<u32, ()>> = Arc::default();
        assert!(cache.window(TTL) <= created.elapsed(), "it does not reach back before its creation");
        for run in 0..100 {
            post(&cache, run).await;
        }
        cache.shrink(Duration::ZERO);
        let since = created.elapsed();
        assert!(cache.window(TTL) >= since / 2, "nothing has been removed yet");
        assert_eq!(cache.window(Duration::ZERO), Duration::ZERO);
        cache.shrink(Duration::ZERO);
        let rotated = Instant::now();
        cache.shrink(Duration::ZERO);
        cache.shrink(Duration::ZERO);
        assert!(cache.window(TTL) <= rotated.elapsed(), "older outcomes are removed");
    }
}
