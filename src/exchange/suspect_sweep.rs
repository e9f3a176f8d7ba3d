//! Owns the review of suspects: their waiters are looked through in pages, and asked for a sign of life with the lock
//! let go.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Exchange, SCANNED_PER_LOCK};
use crate::broker::{MonotonicTime, Suspicion};

/// So many waiters are asked at once; the next ones are asked the next time.
const ASKED: usize = 1024;
/// All waiters are looked through at most so often, because of new suspects.
const MIN_PAUSE: Duration = Duration::from_millis(200);
/// And so often while anybody is suspect.
const USUAL_PAUSE: Duration = Duration::from_secs(1);

/// Whom the review has asked. `S` is what shows a waiter's signs of life, also when it has been taken out meanwhile.
pub struct SuspectSweep<S> {
    asked: Vec<(Suspicion, S)>,
    /// Where the next walk begins, and when the last one did.
    from: u32,
    walked: Option<MonotonicTime>,
}

impl<S> Default for SuspectSweep<S> {
    fn default() -> Self {
        Self { asked: Vec::new(), from: 0, walked: None }
    }
}

impl<W> Exchange<W> {
    /// Clears suspects of which a waiter `shows_life` since they became suspect, and those of long ago. Waiters whose
    /// machine is suspect by name are asked first. To be called often: it does nothing while nobody is suspect.
    pub fn sweep_suspects<S>(
        &self,
        review: &mut SuspectSweep<S>,
        sign_of: impl Fn(&W) -> S,
        ask: impl Fn(&S),
        shows_life: impl Fn(&S, Duration) -> bool,
    ) {
        if !self.any_suspect.load(Ordering::Relaxed) {
            review.asked.clear();
            return;
        }
        self.clear_alive(review, shows_life);
        let now = self.now();
        let pause = if self.new_suspect.load(Ordering::Relaxed) { MIN_PAUSE } else { USUAL_PAUSE };
        if review.walked.is_some_and(|walked| now.since(walked) < pause) {
            return;
        }
        review.walked = Some(now);
        self.new_suspect.store(false, Ordering::Relaxed);
        self.ask_more(review, sign_of);
        review.asked.iter().filter(|(suspicion, _)| suspicion.is_by_name()).for_each(|(_, sign)| ask(sign));
        let mut core = self.core.lock();
        let any = core.broker.forget_old_suspects(now);
        // Stored under the lock, so that no suspicion that comes meanwhile is overlooked.
        self.any_suspect.store(any, Ordering::Relaxed);
    }

    fn clear_alive<S>(&self, review: &mut SuspectSweep<S>, shows_life: impl Fn(&S, Duration) -> bool) {
        let now = self.now();
        let mut living = HashSet::new();
        for (suspicion, sign) in &review.asked {
            if !living.contains(suspicion) && shows_life(sign, now.since(suspicion.since)) {
                living.insert(*suspicion);
            }
        }
        review.asked.retain(|(suspicion, _)| !living.contains(suspicion));
        for suspicion in living {
            self.core.lock().broker.clear_suspicion(suspicion, now);
        }
    }

    fn ask_more<S>(&self, review: &mut SuspectSweep<S>, sign_of: impl Fn(&W) -> S) {
        review.asked.clear();
        let mut from = Some(review.from);
        while let Some(at) = from.filter(|_| review.asked.len() < ASKED) {
            let see = |suspicion, waiter: &W| (suspicion, sign_of(waiter));
            let page = self.core.lock().broker.suspects_page(at, SCANNED_PER_LOCK, see);
            review.asked.extend(page.rows);
            from = page.next;
        }
        review.from = from.unwrap_or(0);
    }
}
