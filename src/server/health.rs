//! Owns health: whether every listener is accepted from, and every thread turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// A thread that has not turned for so long hangs.
const HANGS: Duration = Duration::from_secs(5);

/// What is known of the threads that serve.
pub(super) struct Health {
    epoch: Instant,
    /// The threads by name, and when each turned last, in microseconds since the epoch.
    threads: Vec<(String, Arc<AtomicU64>)>,
    /// Accept loops that there are, and that there must be.
    accepting: watch::Sender<usize>,
    accept_loops: usize,
    has_begun: AtomicBool,
}

impl Health {
    /// Of threads with these names, and so many accept loops.
    pub(super) fn new(threads: impl IntoIterator<Item = String>, accept_loops: usize) -> Self {
        let threads = threads.into_iter().map(|name| (name, Arc::default())).collect();
        let (epoch, accepting) = (Instant::now(), watch::Sender::new(0));
        Self { epoch, threads, accepting, accept_loops, has_begun: AtomicBool::new(false) }
    }

    /// The pulse of the thread at this place. Each thread has one.
    pub(super) fn pulse(&self, place: usize) -> Pulse {
        Pulse { epoch: self.epoch, last: self.threads[place].1.clone() }
    }

    /// Says that a listener is accepted from, until this is dropped.
    pub(super) fn accepts(self: &Arc<Self>) -> AcceptGuard {
        self.accepting.send_modify(|loops| *loops += 1);
        AcceptGuard(self.clone())
    }

    /// Waits until every listener is accepted from.
    pub(super) async fn begun(&self) {
        // The sender is here, so that there is no error.
        let _ = self.accepting.subscribe().wait_for(|loops| *loops >= self.accept_loops).await;
        self.has_begun.store(true, Ordering::Relaxed);
    }

    /// Why nobody should be sent here.
    pub(super) fn not_ready(&self) -> Option<&'static str> {
        let accepts = *self.accepting.borrow() >= self.accept_loops;
        if !self.has_begun.load(Ordering::Relaxed) {
            Some("starting\n")
        } else if !accepts {
            Some("not accepting\n")
        } else {
            self.resting_since(self.epoch.elapsed().saturating_sub(HANGS)).map(|_| "a thread hangs\n")
        }
    }

    /// Time since the epoch.
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// A thread that has not turned since this moment.
    pub(super) fn resting_since(&self, moment: Duration) -> Option<&str> {
        let moment = micros(moment);
        let resting = self.threads.iter().find(|(_, last)| last.load(Ordering::Relaxed) < moment);
        resting.map(|(name, _)| name.as_str())
    }
}

/// What a thread shows that it turns with.
pub(super) struct Pulse {
    epoch: Instant,
    last: Arc<AtomicU64>,
}

impl Pulse {
    /// The thread has come round.
    pub(super) fn beat(&self) {
        self.last.store(micros(self.epoch.elapsed()), Ordering::Relaxed);
    }
}

/// A listener that is accepted from.
pub(super) struct AcceptGuard(Arc<Health>);

impl Drop for AcceptGuard {
    fn drop(&mut self) {
        self.0.accepting.send_modify(|loops| *loops -= 1);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_ready_while_every_listener_is_accepted_from_and_every_thread_turns() {
        let mut health = Health::new(["one".to_owned(), "two".to_owned()], 2);
        // As if it had begun long ago.
        health.epoch -= HANGS * 2;
        let health = Arc::new(health);
        let (one, two) = (health.pulse(0), health.pulse(1));
        assert_eq!(health.not_ready(), Some("starting\n"));
        let first = health.accepts();
        assert_eq!(health.not_ready(), Some("starting\n"));
        let _second = health.accepts();
        health.begun().await;
        one.beat();
        assert_eq!(health.not_ready(), Some("a thread hangs\n"));
        two.beat();
        assert_eq!(health.not_ready(), None);
        drop(first);
        assert_eq!(health.not_ready(), Some("not accepting\n"));
    }

    #[test]
    fn the_thread_that_rests_is_named() {
        let health = Health::new(["one".to_owned(), "two".to_owned()], 0);
        let moment = health.now();
        health.pulse(0).beat();
        health.pulse(1).beat();
        assert_eq!(health.resting_since(moment), None);
        std::thread::sleep(Duration::from_millis(2));
        let moment = health.now();
        health.pulse(0).beat();
        assert_eq!(health.resting_since(moment), Some("two"));
    }
}
