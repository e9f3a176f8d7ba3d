//! Owns the keeper: twenty times a second it ends polls whose time is over and, in a drain, says some goodbyes.
//!
//! It has a thread of its own, so that nothing an operator asks for makes it late.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Phase;
use super::health::Pulse;
use super::memory::Memory;
use crate::broker::RemovedWaiter;
use crate::exchange::SuspectSweep;
use crate::http::HttpState;
use crate::model::PollEnd;
use crate::transport::{CloseReason, Liveness, Waiter};

const TICK: Duration = Duration::from_millis(50);
/// What need not be done at every tick.
const A_SECOND: Duration = Duration::from_secs(1);
/// Memory is looked at every so many ticks: the kernel adds up what a group is charged each time that it is asked.
const TICKS_OF_MEMORY: u32 = 4;

/// Keeps until nobody is served any more.
pub(super) fn run(
    front: &HttpState,
    drain_window: Duration,
    mut memory: Memory,
    pulse: &Pulse,
    phases: &watch::Receiver<Phase>,
) {
    let exchange = &front.exchange;
    let mut review = SuspectSweep::default();
    let mut drain = None;
    let mut last_second = Instant::now();
    let mut ticks: u32 = 0;
    while phases.has_changed().is_ok() && *phases.borrow() != Phase::Stopped {
        pulse.beat();
        let is_draining = exchange.is_draining();
        if is_draining {
            // Nobody is offered a run any more: whoever's time is over is sent elsewhere, as all others are.
            exchange.expire(PollEnd::Drained, close_drained);
        } else {
            exchange.expire(PollEnd::Expired, |taken| taken.waiter.close(CloseReason::Expired));
        }
        exchange.sweep_suspects(
            &mut review,
            Waiter::liveness,
            Liveness::send_keepalive_probe,
            Liveness::acked_within,
        );
        front.idle.sweep();
        if ticks.is_multiple_of(TICKS_OF_MEMORY) {
            front.admission.set_memory_left(memory.left().unwrap_or(u64::MAX));
        }
        ticks = ticks.wrapping_add(1);
        let now = Instant::now();
        let a_second_passed = now - last_second >= A_SECOND;
        if a_second_passed {
            last_second = now;
            front.shrink();
        }
        if is_draining {
            // Who stood when it began is sent away within the window; who came later has its own short time.
            let left = (*drain.get_or_insert(now) + drain_window).saturating_duration_since(now);
            exchange.drain_share(|standing| share(standing, left), close_drained);
        }
        std::thread::sleep(TICK);
    }
}

/// Sends a waiter of a draining broker elsewhere.
pub(super) fn close_drained(taken: RemovedWaiter<Waiter>) {
    taken.waiter.close(CloseReason::Drained);
}

/// This tick's share of the goodbyes, so that all are said when the window ends.
fn share(waiters: usize, left: Duration) -> usize {
    let ticks_left = usize::try_from(left.as_millis() / TICK.as_millis()).unwrap_or(usize::MAX);
    waiters.div_ceil(ticks_left.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodbyes_are_spread_over_the_window() {
        let mut waiters = 1000;
        let mut left = Duration::from_secs(1);
        let mut most = 0;
        while !left.is_zero() {
            let some = share(waiters, left);
            most = most.max(some);
            waiters -= some;
            left -= TICK;
        }
        assert_eq!((waiters, most), (0, 50));
    }

    #[test]
    fn without_a_window_all_go_at_once() {
        assert_eq!(share(1000, Duration::ZERO), 1000);
    }
}
