//! Owns the memory of runs just posted, so that a run posted twice is delivered once.
//!
//! Answers are kept by generation: a map that only grows, and is then emptied as a whole. Forgetting them one by one left
//! so many marks of what was there that the map doubled after a quarter of an hour at an even rate.

use std::hash::Hash;
use std::mem;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashMap;

use super::sync::{Mutex, Notify};

/// So many runs are remembered at most; the older half is forgotten first.
const REMEMBERED: usize = 100_000;

/// What is known of a run's name.
pub enum Lookup<N: Hash + Eq + Copy, A> {
    /// Nobody posts or posted it: deliver it, and say how that went.
    Leader(LeaderGuard<N, A>),
    /// It was posted before: this was the answer.
    Cached(A),
    /// The name was given to a run of another content: nothing is known of this one, and nothing is to be done with it.
    Conflict,
}

/// Remembers answers by the names of runs.
pub struct IdempotencyCache<N, A> {
    generations: Mutex<Generations<N, A>>,
}

/// A digest of what a run carries, where that is compared.
pub type ContentHash = Option<NonZeroU64>;

type Answers<N, A> = HashMap<N, CachedAnswer<A>, RandomState>;

struct CachedAnswer<A> {
    stored_at: Instant,
    content: ContentHash,
    answer: A,
}

/// A run that is being delivered.
struct InFlight {
    content: ContentHash,
    /// What wakes those who wait for the outcome, once there are any.
    done: Option<Arc<Notify>>,
}

struct Generations<N, A> {
    in_flight: HashMap<N, InFlight, RandomState>,
    /// This generation's answers, and those of the one before.
    current: Answers<N, A>,
    previous: Answers<N, A>,
    /// What is forgotten, to be emptied by whoever has the time.
    retired: Vec<Answers<N, A>>,
    /// Empty, with room for the next generation.
    spare: Answers<N, A>,
    /// When this generation began, and the one before.
    current_since: Instant,
    previous_since: Instant,
}

impl<N, A> Default for IdempotencyCache<N, A> {
    fn default() -> Self {
        let now = Instant::now();
        let memory = Generations {
            in_flight: HashMap::default(),
            current: HashMap::default(),
            previous: HashMap::default(),
            retired: Vec::new(),
            spare: HashMap::default(),
            current_since: now,
            previous_since: now,
        };
        Self { generations: Mutex::new(memory) }
    }
}

impl<N: Hash + Eq + Copy, A: Clone> IdempotencyCache<N, A> {
    /// Asks about a run; what was answered longer ago than `time` counts for nothing. While another POST of the same run
    /// is under way, waits for its outcome; if its content is another one, that is said at once.
    pub async fn begin(self: &Arc<Self>, run: &N, content: ContentHash, time: Duration) -> Lookup<N, A> {
        let differs = |known: ContentHash| content.is_some() && known.is_some() && content != known;
        loop {
            let underway = {
                let mut memory = self.generations.lock();
                if let Some(underway) = memory.in_flight.get_mut(run) {
                    if differs(underway.content) {
                        return Lookup::Conflict;
                    }
                    underway.done.get_or_insert_with(|| Arc::new(Notify::new())).clone()
                } else if let Some(known) = memory.lookup(run, time) {
                    let is_other = differs(known.content);
                    return if is_other { Lookup::Conflict } else { Lookup::Cached(known.answer.clone()) };
                } else {
                    memory.in_flight.insert(*run, InFlight { content, done: None });
                    return Lookup::Leader(LeaderGuard { cache: self.clone(), run: *run, answer: None });
                }
            };
            underway.notified().await;
            // One wake is one look: the next one that waits for the same outcome gets its own.
            underway.notify_one();
        }
    }
}

impl<N: Hash + Eq + Copy, A> IdempotencyCache<N, A> {
    /// How far back the memory reaches now: `time`, or less if so many runs came that they had to be forgotten earlier, or
    /// if it began later.
    pub fn window(&self, time: Duration) -> Duration {
        self.generations.lock().previous_since.elapsed().min(time)
    }

    /// Begins a new generation if this one has lasted for `time`, and empties what is forgotten: outside the lock, and not
    /// on a thread that serves, because it takes a while.
    pub fn shrink(&self, time: Duration) {
        let now = Instant::now();
        let mut forgotten = {
            let mut memory = self.generations.lock();
            if now.duration_since(memory.current_since) >= time {
                memory.next_generation(now);
            }
            mem::take(&mut memory.retired)
        };
        let Some(mut last) = forgotten.pop() else { return };
        // Room that nobody needed is given back.
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

impl<N: Hash + Eq + Copy, A> Generations<N, A> {
    fn lookup(&self, run: &N, time: Duration) -> Option<&CachedAnswer<A>> {
        let known = self.current.get(run).or_else(|| self.previous.get(run))?;
        (known.stored_at.elapsed() < time).then_some(known)
    }

    fn store(&mut self, run: N, content: ContentHash, answer: A) {
        let when = Instant::now();
        if self.current.len() >= REMEMBERED / 2 {
            self.next_generation(when);
        }
        self.current.insert(run, CachedAnswer { stored_at: when, content, answer });
    }

    fn next_generation(&mut self, now: Instant) {
        self.previous_since = mem::replace(&mut self.current_since, now);
        let fresh = mem::take(&mut self.spare);
        let oldest = mem::replace(&mut self.previous, mem::replace(&mut self.current, fresh));
        self.retired.push(oldest);
    }
}

/// The one POST that delivers a run; dropped without [`First::answered`], the next POST tries again.
pub struct LeaderGuard<N: Hash + Eq + Copy, A> {
    cache: Arc<IdempotencyCache<N, A>>,
    run: N,
    answer: Option<A>,
}

impl<N: Hash + Eq + Copy, A> LeaderGuard<N, A> {
    /// Remembers the answer for those who post the same run again.
    pub fn complete(mut self, answer: A) {
        self.answer = Some(answer);
    }
}

impl<N: Hash + Eq + Copy, A> Drop for LeaderGuard<N, A> {
    fn drop(&mut self) {
        let mut memory = self.cache.generations.lock();
        let underway = memory.in_flight.remove(&self.run);
        if let Some(answer) = self.answer.take() {
            memory.store(self.run, underway.as_ref().and_then(|underway| underway.content), answer);
        }
        drop(memory);
        if let Some(done) = underway.and_then(|underway| underway.done) {
            done.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_delivered_run_is_answered_from_memory() {
        let repeats = Arc::new(IdempotencyCache::default());
        let Lookup::Leader(first) = repeats.begin(&"run_1", None, TIME).await else {
            panic!("nobody has seen it")
        };
        first.complete("hit");
        assert!(matches!(repeats.begin(&"run_1", None, TIME).await, Lookup::Cached("hit")));
        assert!(matches!(repeats.begin(&"run_2", None, TIME).await, Lookup::Leader(_)));
    }

    #[tokio::test]
    async fn a_run_that_failed_is_tried_again_by_those_who_waited() {
        let repeats = Arc::new(IdempotencyCache::<&str, &str>::default());
        let Lookup::Leader(first) = repeats.begin(&"run_1", None, TIME).await else {
            panic!("nobody has seen it")
        };
        let second = repeats.begin(&"run_1", None, TIME);
        let third = repeats.begin(&"run_1", None, TIME);
        drop(first);
        let Lookup::Leader(second) = second.await else { panic!("the first was not delivered") };
        second.complete("hit");
        assert!(matches!(third.await, Lookup::Cached("hit")));
    }

    fn remembered(repeats: &IdempotencyCache<u32, ()>) -> (usize, usize) {
        let memory = repeats.generations.lock();
        (memory.current.len() + memory.previous.len(), memory.current.capacity() + memory.previous.capacity())
    }

    async fn post(repeats: &Arc<IdempotencyCache<u32, ()>>, run: u32) {
        let Lookup::Leader(first) = repeats.begin(&run, None, TIME).await else {
            panic!("{run} is another run")
        };
        first.complete(());
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let repeats = Arc::default();
        for run in 0..250_000 {
            post(&repeats, run).await;
        }
        assert_eq!(remembered(&repeats).0, REMEMBERED);
    }

    #[tokio::test]
    async fn an_even_rate_takes_no_more_room_with_time_and_idleness_gives_it_back() {
        let repeats = Arc::default();
        let mut room = Vec::new();
        for generation in 0..50 {
            for run in 0..1000 {
                post(&repeats, generation * 1000 + run).await;
            }
            repeats.shrink(Duration::ZERO);
            room.push(remembered(&repeats).1 + repeats.generations.lock().spare.capacity());
        }
        assert_eq!(room[3], room[49]);
        for _ in 0..4 {
            repeats.shrink(Duration::ZERO);
        }
        assert_eq!(remembered(&repeats), (0, 0));
    }

    #[tokio::test]
    async fn what_was_answered_too_long_ago_counts_for_nothing() {
        let repeats = Arc::new(IdempotencyCache::default());
        let Lookup::Leader(first) = repeats.begin(&"run_1", None, TIME).await else {
            panic!("nobody has seen it")
        };
        first.complete("hit");
        assert!(matches!(repeats.begin(&"run_1", None, Duration::ZERO).await, Lookup::Leader(_)));
        assert!(matches!(repeats.begin(&"run_1", None, TIME).await, Lookup::Cached("hit")));
    }

    #[tokio::test]
    async fn another_content_under_the_same_name_is_told_at_once() {
        let repeats = Arc::new(IdempotencyCache::default());
        let [one, other] = [NonZeroU64::new(1), NonZeroU64::new(2)];
        let Lookup::Leader(first) = repeats.begin(&"run_1", one, TIME).await else {
            panic!("nobody has seen it")
        };
        assert!(
            matches!(repeats.begin(&"run_1", other, TIME).await, Lookup::Conflict),
            "while it is under way"
        );
        first.complete("hit");
        assert!(matches!(repeats.begin(&"run_1", other, TIME).await, Lookup::Conflict));
        assert!(matches!(repeats.begin(&"run_1", one, TIME).await, Lookup::Cached("hit")));
        assert!(
            matches!(repeats.begin(&"run_1", None, TIME).await, Lookup::Cached("hit")),
            "it is not compared"
        );
        let long_ago = repeats.begin(&"run_1", other, Duration::ZERO).await;
        let Lookup::Leader(failed) = long_ago else { panic!("that was too long ago") };
        drop(failed);
    }

    #[tokio::test]
    async fn the_window_is_what_is_remembered() {
        let begun = Instant::now();
        let repeats: Arc<IdempotencyCache<u32, ()>> = Arc::default();
        assert!(repeats.window(TIME) <= begun.elapsed(), "nothing is known from before the start");
        for run in 0..100 {
            post(&repeats, run).await;
        }
        repeats.shrink(Duration::ZERO);
        let since = begun.elapsed();
        assert!(repeats.window(TIME) >= since / 2, "nothing is forgotten yet");
        assert_eq!(repeats.window(Duration::ZERO), Duration::ZERO);
        repeats.shrink(Duration::ZERO);
        let forgotten = Instant::now();
        repeats.shrink(Duration::ZERO);
        repeats.shrink(Duration::ZERO);
        assert!(repeats.window(TIME) <= forgotten.elapsed(), "what came before is forgotten");
    }
}
