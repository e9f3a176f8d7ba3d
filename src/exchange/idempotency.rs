//! Owns the cache of recent outcomes by idempotency key, so that a run posted twice is delivered once.
//!
//! Outcomes are kept in generations: each is a table that only grows and is then cleared. With single removals, the tombstones
//! doubled its size after a quarter of an hour at an even rate. The table is in parts, which grow and are cleared one by one:
//! at 50,000 runs a second, growing a whole table held up all dispatches for 2 ms in each generation, and clearing it did so
//! where housekeeping shares their core.

use std::hash::Hash;
use std::mem;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::sync::{Mutex, Notify};
use crate::broker::Sharded;

/// At most this many outcomes are kept; the older half is removed first.
const CAPACITY: usize = 100_000;
/// At the capacity, a part has about 800 outcomes.
const PARTS: usize = 64;
/// So many parts are cleared at a time, and of a longer backlog this share.
const CLEARED_AT_ONCE: usize = 2;
const CLEARED_SHARE: usize = 32;

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
    hasher: RandomState,
    generations: Mutex<Generations<K, V>>,
}

/// A hash of a run's content, for runs whose content is compared.
pub type ContentHash = Option<NonZeroU64>;

struct CacheEntry<K, V> {
    key: K,
    stored_at: Instant,
    content: ContentHash,
    outcome: V,
}

/// A run that is being delivered.
struct InFlight<K> {
    key: K,
    content: ContentHash,
    /// Notifies the POSTs that wait for the outcome; none while no other POST waits.
    done: Option<Arc<Notify>>,
}

struct Generations<K, V> {
    in_flight: HashTable<InFlight<K>>,
    current: Sharded<CacheEntry<K, V>>,
    /// How many outcomes the current generation has.
    current_len: usize,
    previous: Sharded<CacheEntry<K, V>>,
    /// Parts of older generations, to be cleared by [`IdempotencyCache::clear_retired`].
    retired: Vec<HashTable<CacheEntry<K, V>>>,
    /// Empty parts with capacity, for the next generation.
    spare: Vec<HashTable<CacheEntry<K, V>>>,
    current_since: Instant,
    previous_since: Instant,
}

impl<K, V> Default for IdempotencyCache<K, V> {
    fn default() -> Self {
        let now = Instant::now();
        let generations = Generations {
            in_flight: HashTable::new(),
            current: Sharded::new(PARTS),
            current_len: 0,
            previous: Sharded::new(PARTS),
            retired: Vec::new(),
            spare: Vec::new(),
            current_since: now,
            previous_since: now,
        };
        Self { hasher: RandomState::new(), generations: Mutex::new(generations) }
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
        let hash = self.hasher.hash_one(key);
        let mut generations = self.generations.lock();
        if let Some(in_flight) = generations.in_flight.find_mut(hash, |in_flight| in_flight.key == *key) {
            if differs(in_flight.content) {
                return Ok(Lookup::Conflict);
            }
            let done = in_flight.done.get_or_insert_with(|| Arc::new(Notify::new()));
            return Err(InFlightElsewhere(done.clone()));
        }
        if let Some(known) = generations.lookup(hash, key, ttl) {
            let is_conflict = differs(known.content);
            return Ok(if is_conflict { Lookup::Conflict } else { Lookup::Cached(known.outcome.clone()) });
        }
        let in_flight = InFlight { key: *key, content, done: None };
        generations.in_flight.insert_unique(hash, in_flight, |in_flight| self.hasher.hash_one(in_flight.key));
        Ok(Lookup::Leader(LeaderGuard { cache: self.clone(), key: *key, hash, outcome: None }))
    }
}

impl<K, V> IdempotencyCache<K, V> {
    /// How far back the cache reaches now: `ttl`, or less if the capacity was reached earlier or the cache is younger.
    pub fn window(&self, ttl: Duration) -> Duration {
        self.generations.lock().previous_since.elapsed().min(ttl)
    }

    /// Begins a new generation if the current one has lasted for `ttl`.
    pub fn expire(&self, ttl: Duration) {
        let now = Instant::now();
        let mut generations = self.generations.lock();
        if now.duration_since(generations.current_since) >= ttl {
            generations.rotate(now);
        }
    }

    /// Clears some parts of the retired generations, without the lock. To be called often, and not on a serving thread.
    pub fn clear_retired(&self) {
        let mut cleared = {
            let mut generations = self.generations.lock();
            let backlog = generations.retired.len();
            let kept = backlog.saturating_sub(CLEARED_AT_ONCE.max(backlog / CLEARED_SHARE));
            generations.retired.split_off(kept)
        };
        for part in &mut cleared {
            if part.is_empty() {
                // The capacity of a part that was not used for a whole generation is released.
                *part = HashTable::new();
            }
            part.clear();
        }
        let mut generations = self.generations.lock();
        let wanted = PARTS.saturating_sub(generations.spare.len()).min(cleared.len());
        let kept = cleared.drain(..wanted);
        generations.spare.extend(kept);
        drop(generations);
        drop(cleared);
    }
}

impl<K: Eq, V> Generations<K, V> {
    fn lookup(&self, hash: u64, key: &K, ttl: Duration) -> Option<&CacheEntry<K, V>> {
        let is_key = |entry: &CacheEntry<K, V>| entry.key == *key;
        let current = self.current.part(hash).find(hash, is_key);
        let known = current.or_else(|| self.previous.part(hash).find(hash, is_key))?;
        (known.stored_at.elapsed() < ttl).then_some(known)
    }

    fn store(&mut self, hash: u64, entry: CacheEntry<K, V>, hasher: impl Fn(&K) -> u64) {
        if self.current_len >= CAPACITY / 2 {
            self.rotate(entry.stored_at);
        }
        let part = self.current.part_mut(hash);
        match part.entry(hash, |other| other.key == entry.key, |other| hasher(&other.key)) {
            Entry::Occupied(mut expired) => *expired.get_mut() = entry,
            Entry::Vacant(vacant) => {
                vacant.insert(entry);
                self.current_len += 1;
            }
        }
    }
}

impl<K, V> Generations<K, V> {
    fn rotate(&mut self, now: Instant) {
        self.previous_since = mem::replace(&mut self.current_since, now);
        self.current_len = 0;
        let mut fresh = mem::take(&mut self.spare);
        fresh.resize_with(PARTS, HashTable::new);
        let oldest = mem::replace(&mut self.previous, mem::replace(&mut self.current, Sharded::of(fresh)));
        self.retired.extend(oldest.into_parts());
    }
}

/// The one POST that delivers a run. If the guard is dropped without [`Self::complete`], the next POST delivers it.
pub struct LeaderGuard<K: Hash + Eq + Copy, V> {
    cache: Arc<IdempotencyCache<K, V>>,
    key: K,
    hash: u64,
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
        let Self { cache, key, hash, outcome } = self;
        let mut generations = cache.generations.lock();
        let in_flight = generations.in_flight.find_entry(*hash, |in_flight| in_flight.key == *key).ok();
        let in_flight = in_flight.map(|in_flight| in_flight.remove().0);
        if let Some((outcome, stored_at)) = outcome.take() {
            let content = in_flight.as_ref().and_then(|in_flight| in_flight.content);
            let entry = CacheEntry { key: *key, stored_at, content, outcome };
            generations.store(*hash, entry, |key| cache.hasher.hash_one(key));
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
        let both = [&generations.current, &generations.previous];
        let capacity = both.iter().flat_map(|table| table.parts()).map(HashTable::capacity).sum();
        (both.iter().map(|table| table.len()).sum(), capacity)
    }

    /// Begins a generation, and clears all that is retired.
    fn next_generation(cache: &IdempotencyCache<u32, ()>) {
        cache.expire(Duration::ZERO);
        while !cache.generations.lock().retired.is_empty() {
            cache.clear_retired();
        }
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
    async fn what_is_retired_is_cleared_in_small_steps_and_in_time() {
        let cache = Arc::default();
        // A hundred thousand runs a second retire 128 parts a second, in which housekeeping clears twenty times.
        let mut longest_backlog = 0;
        for run in 0..1_000_000 {
            post(&cache, run).await;
            if run % 5_000 == 0 {
                cache.clear_retired();
                longest_backlog = longest_backlog.max(cache.generations.lock().retired.len());
            }
        }
        assert!(longest_backlog <= 4 * PARTS, "{longest_backlog}");
        let before = cache.generations.lock().retired.len();
        cache.clear_retired();
        assert!(before - cache.generations.lock().retired.len() <= PARTS / 8);
    }

    #[tokio::test]
    async fn memory_stays_constant_at_an_even_rate_and_is_released_when_idle() {
        let cache = Arc::default();
        let mut capacity = Vec::new();
        for generation in 0..50 {
            for run in 0..1000 {
                post(&cache, generation * 1000 + run).await;
            }
            next_generation(&cache);
            let spare = cache.generations.lock().spare.iter().map(HashTable::capacity).sum::<usize>();
            capacity.push(len_and_capacity(&cache).1 + spare);
        }
        // The parts are filled unevenly, so the largest ones still grow a little after the first generations.
        assert!(capacity[49] <= capacity[4] * 3 / 2 && capacity[49] <= capacity[24] * 9 / 8, "{capacity:?}");
        for _ in 0..4 {
            next_generation(&cache);
        }
        assert_eq!(len_and_capacity(&cache), (0, 0));
        assert_eq!(cache.generations.lock().spare.iter().map(HashTable::capacity).sum::<usize>(), 0);
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
        cache.expire(Duration::ZERO);
        let since = created.elapsed();
        assert!(cache.window(TTL) >= since / 2, "nothing has been removed yet");
        assert_eq!(cache.window(Duration::ZERO), Duration::ZERO);
        cache.expire(Duration::ZERO);
        let rotated = Instant::now();
        cache.expire(Duration::ZERO);
        cache.expire(Duration::ZERO);
        assert!(cache.window(TTL) <= rotated.elapsed(), "older outcomes are removed");
    }
}
