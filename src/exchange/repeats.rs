//! Owns the memory of runs just delivered, so that a run posted twice is delivered once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashMap;

use super::sync::{Mutex, Notify};

/// For so long a delivered run's answer is repeated.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// So many runs are remembered at most; the oldest is forgotten first.
const REMEMBERED: usize = 100_000;

/// What is known of a run's name.
pub enum Seen<A> {
    /// Nobody posts or posted it: deliver it, and say how that went.
    First(First<A>),
    /// It was delivered: this was the answer.
    Before(A),
}

/// Remembers the answers to delivered runs by name.
pub struct Repeats<A> {
    memory: Mutex<Memory<A>>,
}

struct Memory<A> {
    runs: HashMap<Box<str>, Run<A>, RandomState>,
    delivered: VecDeque<(Instant, Box<str>)>,
}

enum Run<A> {
    Underway(Arc<Notify>),
    Delivered(A),
}

impl<A: Clone> Default for Repeats<A> {
    fn default() -> Self {
        let memory = Memory { runs: HashMap::default(), delivered: VecDeque::new() };
        Self { memory: Mutex::new(memory) }
    }
}

impl<A: Clone> Repeats<A> {
    /// Asks about a run. While another POST of the same run is under way, waits for its outcome.
    pub async fn see(self: &Arc<Self>, run: &str) -> Seen<A> {
        loop {
            let underway = {
                let mut memory = self.memory.lock();
                memory.forget(Instant::now());
                match memory.runs.get(run) {
                    Some(Run::Delivered(answer)) => return Seen::Before(answer.clone()),
                    Some(Run::Underway(done)) => done.clone(),
                    None => {
                        let done = Arc::new(Notify::new());
                        memory.runs.insert(run.into(), Run::Underway(done.clone()));
                        return Seen::First(First { repeats: self.clone(), run: run.into(), done });
                    }
                }
            };
            underway.notified().await;
            // One wake is one look: the next one that waits for the same outcome gets its own.
            underway.notify_one();
        }
    }
}

impl<A> Memory<A> {
    fn forget(&mut self, now: Instant) {
        while let Some((when, _)) = self.delivered.front() {
            if now.duration_since(*when) < REMEMBERED_FOR && self.delivered.len() <= REMEMBERED {
                return;
            }
            if let Some((_, run)) = self.delivered.pop_front() {
                self.runs.remove(&*run);
            }
        }
    }
}

/// The one POST that delivers a run; dropped without [`First::delivered`], the next POST tries again.
pub struct First<A> {
    repeats: Arc<Repeats<A>>,
    run: Box<str>,
    done: Arc<Notify>,
}

impl<A> First<A> {
    /// Remembers the answer for those who post the same run again.
    pub fn delivered(self, answer: A) {
        let mut memory = self.repeats.memory.lock();
        memory.runs.insert(self.run.clone(), Run::Delivered(answer));
        memory.delivered.push_back((Instant::now(), self.run.clone()));
    }
}

impl<A> Drop for First<A> {
    fn drop(&mut self) {
        let mut memory = self.repeats.memory.lock();
        if matches!(memory.runs.get(&*self.run), Some(Run::Underway(_))) {
            memory.runs.remove(&*self.run);
        }
        drop(memory);
        self.done.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_delivered_run_is_answered_from_memory() {
        let repeats = Arc::new(Repeats::default());
        let Seen::First(first) = repeats.see("run_1").await else { panic!("nobody has seen it") };
        first.delivered("hit");
        assert!(matches!(repeats.see("run_1").await, Seen::Before("hit")));
        assert!(matches!(repeats.see("run_2").await, Seen::First(_)));
    }

    #[tokio::test]
    async fn a_run_that_failed_is_tried_again_by_those_who_waited() {
        let repeats = Arc::new(Repeats::<&str>::default());
        let Seen::First(first) = repeats.see("run_1").await else { panic!("nobody has seen it") };
        let second = repeats.see("run_1");
        let third = repeats.see("run_1");
        drop(first);
        let Seen::First(second) = second.await else { panic!("the first was not delivered") };
        second.delivered("hit");
        assert!(matches!(third.await, Seen::Before("hit")));
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory { runs: HashMap::default(), delivered: VecDeque::new() };
        let now = Instant::now();
        for run in 0..=REMEMBERED {
            let run: Box<str> = run.to_string().into();
            memory.runs.insert(run.clone(), Run::Delivered(()));
            memory.delivered.push_back((now, run));
        }
        memory.forget(now);
        assert_eq!((memory.runs.len(), memory.delivered.len()), (REMEMBERED, REMEMBERED));
        memory.forget(now + REMEMBERED_FOR);
        assert!(memory.runs.is_empty());
    }
}
