//! Owns the broker's health: whether every socket is accepted from, and every thread sends heartbeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// A thread without a heartbeat for this long is taken for hung.
const HANG_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of the threads and of their accept loops.
pub(super) struct Health {
    epoch: Instant,
    /// The names of the threads, and when each sent its last heartbeat, in microseconds since the epoch.
    threads: Vec<(String, Arc<AtomicU64>)>,
    /// How many accept loops run.
    accepting: watch::Sender<usize>,
    /// How many must run.
    accept_loops: usize,
    has_started: AtomicBool,
}

impl Health {
    /// For threads with these names, and this many accept loops.
    pub(super) fn new(threads: impl IntoIterator<Item = String>, accept_loops: usize) -> Self {
        let threads = threads.into_iter().map(|name| (name, Arc::default())).collect();
        let (epoch, accepting) = (Instant::now(), watch::Sender::new(0));
        Self { epoch, threads, accepting, accept_loops, has_started: AtomicBool::new(false) }
    }

    /// The heartbeat of the thread with this index.
    pub(super) fn heartbeat(&self, thread: usize) -> Heartbeat {
        Heartbeat { epoch: self.epoch, last: self.threads[thread].1.clone() }
    }

    /// Counts an accept loop until the guard is dropped.
    pub(super) fn begin_accepting(self: &Arc<Self>) -> AcceptGuard {
        self.accepting.send_modify(|loops| *loops += 1);
        AcceptGuard(self.clone())
    }

    /// Waits until all accept loops run.
    pub(super) async fn started(&self) {
        // Fails only without a sender, which `self` has.
        let _ = self.accepting.subscribe().wait_for(|loops| *loops >= self.accept_loops).await;
        self.has_started.store(true, Ordering::Relaxed);
    }

    /// Why the broker should get no new connections; `None` if it is ready.
    pub(super) fn not_ready_reason(&self) -> Option<&'static str> {
        let is_accepting = *self.accepting.borrow() >= self.accept_loops;
        if !self.has_started.load(Ordering::Relaxed) {
            Some("starting\n")
        } else if !is_accepting {
            Some("not accepting\n")
        } else {
            self.silent_since(self.epoch.elapsed().saturating_sub(HANG_TIMEOUT)).map(|_| "a thread hangs\n")
        }
    }

    /// The time since the epoch.
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// A thread without a heartbeat since this moment.
    pub(super) fn silent_since(&self, moment: Duration) -> Option<&str> {
        let moment = micros(moment);
        let silent = self.threads.iter().find(|(_, last)| last.load(Ordering::Relaxed) < moment);
        silent.map(|(name, _)| name.as_str())
    }
}

/// Where a thread records its heartbeats.
pub(super) struct Heartbeat {
    epoch: Instant,
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    /// Records that the thread is running.
    pub(super) fn beat(&self) {
        self.last.store(micros(self.epoch.elapsed()), Ordering::Relaxed);
    }
}

/// Counts a running accept loop.
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
    async fn it_is_ready_while_every_socket_is_accepted_from_and_every_thread_sends_heartbeats() {
        let mut health = Health::new(["one".to_owned(), "two".to_owned()], 2);
        // As if it had started long ago.
        health.epoch -= HANG_TIMEOUT * 2;
        let health = Arc::new(health);
        let (one, two) = (health.heartbeat(0), health.heartbeat(1));
        assert_eq!(health.not_ready_reason(), Some("starting\n"));
        let first = health.begin_accepting();
        assert_eq!(health.not_ready_reason(), Some("starting\n"));
        let _second = health.begin_accepting();
        health.started().await;
        one.beat();
        assert_eq!(health.not_ready_reason(), Some("a thread hangs\n"));
        two.beat();
        assert_eq!(health.not_ready_reason(), None);
        drop(first);
        assert_eq!(health.not_ready_reason(), Some("not accepting\n"));
    }

    #[test]
    fn the_thread_without_heartbeats_is_named() {
        let health = Health::new(["one".to_owned(), "two".to_owned()], 0);
        let moment = health.now();
        health.heartbeat(0).beat();
        health.heartbeat(1).beat();
        assert_eq!(health.silent_since(moment), None);
        std::thread::sleep(Duration::from_millis(2));
        let moment = health.now();
        health.heartbeat(0).beat();
        assert_eq!(health.silent_since(moment), Some("two"));
    }
}
