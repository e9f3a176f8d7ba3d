//! Owns the sweep of suspect hosts: their waiters are listed in pages, and probed for a sign of life without the lock.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::shared_core::{SCANNED_PER_LOCK, SharedCore};
use super::sync::AtomicBool;
use crate::broker::{MonotonicTime, Suspicion};

/// At most this many waiters are watched at once; the next sweep continues behind them.
const WATCHED: usize = 1024;
/// The shortest time between two walks over all waiters, while hosts become suspect.
const MIN_PAUSE: Duration = Duration::from_millis(200);
/// The time between two walks over all waiters, while a host is suspect.
const USUAL_PAUSE: Duration = Duration::from_secs(1);

/// What is known of suspicions without the lock.
pub(super) struct SuspectFlags {
    any: AtomicBool,
    /// A host has become suspect since the last walk.
    new: AtomicBool,
}

impl SuspectFlags {
    pub(super) fn new() -> Self {
        Self { any: AtomicBool::new(false), new: AtomicBool::new(false) }
    }

    /// Whether any host is suspect.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// A host has become suspect. To be called under the lock.
    pub(super) fn raise(&self) {
        self.any.store(true, Ordering::Relaxed);
        self.new.store(true, Ordering::Relaxed);
    }
}

/// The state of the sweep. `S` shows a waiter's signs of life, also after the waiter is removed.
pub struct SuspectSweep<S> {
    watched: Vec<(Suspicion, S)>,
    /// The slot where the next walk begins.
    from: u32,
    walked_at: Option<MonotonicTime>,
}

impl<S> Default for SuspectSweep<S> {
    fn default() -> Self {
        Self { watched: Vec::new(), from: 0, walked_at: None }
    }
}

impl<S> SuspectSweep<S> {
    pub(super) fn run<W>(
        &mut self,
        core: &SharedCore<W>,
        flags: &SuspectFlags,
        sign_of: impl Fn(&W) -> S,
        probe: impl Fn(&S),
        shows_life: impl Fn(&S, Duration) -> bool,
    ) {
        if !flags.any() {
            self.watched.clear();
            return;
        }
        self.clear_alive(core, shows_life);
        let now = core.now();
        let pause = if flags.new.load(Ordering::Relaxed) { MIN_PAUSE } else { USUAL_PAUSE };
        if self.walked_at.is_some_and(|walked_at| now.since(walked_at) < pause) {
            return;
        }
        self.walked_at = Some(now);
        flags.new.store(false, Ordering::Relaxed);
        self.walk(core, sign_of);
        self.watched.iter().filter(|(suspicion, _)| suspicion.is_by_name()).for_each(|(_, sign)| probe(sign));
        let mut core = core.lock();
        let any = core.broker.forget_old_suspects(now);
        // Stored under the lock, so that it does not overwrite the flag of a new suspicion.
        flags.any.store(any, Ordering::Relaxed);
    }

    fn clear_alive<W>(&mut self, core: &SharedCore<W>, shows_life: impl Fn(&S, Duration) -> bool) {
        let now = core.now();
        let mut refuted = HashSet::new();
        for (suspicion, sign) in &self.watched {
            if !refuted.contains(suspicion) && shows_life(sign, now.since(suspicion.since)) {
                refuted.insert(*suspicion);
            }
        }
        self.watched.retain(|(suspicion, _)| !refuted.contains(suspicion));
        for suspicion in refuted {
            core.lock().broker.clear_suspicion(suspicion, now);
        }
    }

    fn walk<W>(&mut self, core: &SharedCore<W>, sign_of: impl Fn(&W) -> S) {
        self.watched.clear();
        let mut from = Some(self.from);
        while let Some(slot) = from.filter(|_| self.watched.len() < WATCHED) {
            let view = |suspicion, waiter: &W| (suspicion, sign_of(waiter));
            let page = core.lock().broker.suspects_page(slot, SCANNED_PER_LOCK, view);
            self.watched.extend(page.rows);
            from = page.next;
        }
        self.from = from.unwrap_or(0);
    }
}
