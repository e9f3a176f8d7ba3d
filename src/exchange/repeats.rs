//! Owns the memory of runs just posted, so that a run posted twice is delivered once.

use std::collections::VecDeque;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashMap;

use super::sync::{Mutex, Notify};

/// So many runs are remembered at most; the oldest is forgotten first.
const REMEMBERED: usize = 100_000;

/// What is known of a run's name.
pub enum Seen<N: Hash + Eq, A> {
    /// Nobody posts or posted it: deliver it, and say how that went.
    First(First<N, A>),
    /// It was posted before: this was the answer.
    Before(A),
}

/// Remembers answers by the names of runs.
pub struct Repeats<N, A> {
    memory: Mutex<Memory<N, A>>,
}

struct Memory<N, A> {
    runs: HashMap<N, Run<A>, RandomState>,
    answered: VecDeque<(Instant, N)>,
}

enum Run<A> {
    Underway(Arc<Notify>),
    Answered(A),
}

impl<N, A> Default for Repeats<N, A> {
    fn default() -> Self {
        Self { memory: Mutex::new(Memory { runs: HashMap::default(), answered: VecDeque::new() }) }
    }
}

impl<N: Hash + Eq + Clone, A: Clone> Repeats<N, A> {
    /// Asks about a run, and forgets those that were answered longer ago than `time`. While another POST of the same run
    /// is under way, waits for its outcome.
    pub async fn see(self: &Arc<Self>, run: &N, time: Duration) -> Seen<N, A> {
        loop {
            let underway = {
                let mut memory = self.memory.lock();
                memory.forget(Instant::now(), time);
                match memory.runs.get(run) {
                    Some(Run::Answered(answer)) => return Seen::Before(answer.clone()),
                    Some(Run::Underway(done)) => done.clone(),
                    None => {
                        let done = Arc::new(Notify::new());
                        memory.runs.insert(run.clone(), Run::Underway(done.clone()));
                        return Seen::First(First { repeats: self.clone(), run: run.clone(), done });
                    }
                }
            };
            underway.notified().await;
            // One wake is one look: the next one that waits for the same outcome gets its own.
            underway.notify_one();
        }
    }
}

impl<N: Hash + Eq, A> Repeats<N, A> {
    /// Forgets what was answered longer ago than `time`, when nobody posts.
    pub fn tidy(&self, time: Duration) {
        self.memory.lock().forget(Instant::now(), time);
    }
}

impl<N: Hash + Eq, A> Memory<N, A> {
    fn forget(&mut self, now: Instant, time: Duration) {
        while let Some((when, _)) = self.answered.front() {
            if now.duration_since(*when) < time && self.answered.len() <= REMEMBERED {
                return;
            }
            if let Some((_, run)) = self.answered.pop_front() {
                self.runs.remove(&run);
            }
        }
    }
}

/// The one POST that delivers a run; dropped without [`First::answered`], the next POST tries again.
pub struct First<N: Hash + Eq, A> {
    repeats: Arc<Repeats<N, A>>,
    run: N,
    done: Arc<Notify>,
}

impl<N: Hash + Eq + Clone, A> First<N, A> {
    /// Remembers the answer for those who post the same run again.
    pub fn answered(self, answer: A) {
        let mut memory = self.repeats.memory.lock();
        memory.runs.insert(self.run.clone(), Run::Answered(answer));
        memory.answered.push_back((Instant::now(), self.run.clone()));
    }
}

impl<N: Hash + Eq, A> Drop for First<N, A> {
    fn drop(&mut self) {
        let mut memory = self.repeats.memory.lock();
        // Another one may be first meanwhile, if this one's answer was forgotten already.
        let mine = |run: &Run<A>| matches!(run, Run::Underway(done) if Arc::ptr_eq(done, &self.done));
        if memory.runs.get(&self.run).is_some_and(mine) {
            memory.runs.remove(&self.run);
        }
        drop(memory);
        self.done.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_delivered_run_is_answered_from_memory() {
        let repeats = Arc::new(Repeats::default());
        let Seen::First(first) = repeats.see(&"run_1", TIME).await else { panic!("nobody has seen it") };
        first.answered("hit");
        assert!(matches!(repeats.see(&"run_1", TIME).await, Seen::Before("hit")));
        assert!(matches!(repeats.see(&"run_2", TIME).await, Seen::First(_)));
    }

    #[tokio::test]
    async fn a_run_that_failed_is_tried_again_by_those_who_waited() {
        let repeats = Arc::new(Repeats::<&str, &str>::default());
        let Seen::First(first) = repeats.see(&"run_1", TIME).await else { panic!("nobody has seen it") };
        let second = repeats.see(&"run_1", TIME);
        let third = repeats.see(&"run_1", TIME);
        drop(first);
        let Seen::First(second) = second.await else { panic!("the first was not delivered") };
        second.answered("hit");
        assert!(matches!(third.await, Seen::Before("hit")));
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory { runs: HashMap::default(), answered: VecDeque::new() };
        let now = Instant::now();
        for run in 0..=REMEMBERED {
            memory.runs.insert(run, Run::Answered(()));
            memory.answered.push_back((now, run));
        }
        memory.forget(now, TIME);
        assert_eq!((memory.runs.len(), memory.answered.len()), (REMEMBERED, REMEMBERED));
        memory.forget(now + TIME, TIME);
        assert!(memory.runs.is_empty());
    }
}
