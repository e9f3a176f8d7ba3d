//! Owns periodic work: twenty times a second it ends expired polls and, in a drain, a share of the others.
//!
//! It has a thread of its own, so that requests to the ops listeners do not delay it.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::health::Heartbeat;
use super::memory::MemoryBudget;
use super::phase::Phase;
use crate::broker::RemovedWaiter;
use crate::exchange::SuspectSweep;
use crate::http::HttpState;
use crate::model::PollEnd;
use crate::transport::{CloseReason, Liveness, Sessions, Waiter};

const TICK: Duration = Sessions::TICK;
/// The interval of work that is not needed at every tick.
const SHRINK_INTERVAL: Duration = Duration::from_secs(1);
/// Memory is measured once in this many ticks, because the kernel sums up a cgroup's charges at each read. That takes
/// 0.3 ms, in which a thread that serves on the same core waits.
const TICKS_PER_MEMORY_CHECK: u32 = 4;
/// The same while less than half of the memory is used.
const TICKS_PER_AMPLE_MEMORY_CHECK: u32 = 20;

/// Runs until the phase is `Stopped`.
pub(super) fn run(
    state: &HttpState,
    drain_window: Duration,
    mut memory: MemoryBudget,
    heartbeat: &Heartbeat,
    phases: &watch::Receiver<Phase>,
) {
    let exchange = &state.exchange;
    let mut sweep = SuspectSweep::default();
    let mut drain_began = None;
    let mut last_shrink = Instant::now();
    let mut ticks: u32 = 0;
    while phases.has_changed().is_ok() && *phases.borrow() != Phase::Stopped {
        heartbeat.beat();
        let is_draining = exchange.is_draining();
        if is_draining {
            // A draining broker ends, so an expired poll is sent to another broker like all others.
            exchange.expire(PollEnd::Drained, |removed| close_drained(state, removed));
        } else {
            exchange.expire(PollEnd::Expired, |removed| removed.waiter.close(CloseReason::Expired));
        }
        exchange.sweep_suspects(
            &mut sweep,
            Waiter::liveness,
            Liveness::send_keepalive_probe,
            Liveness::acked_within,
        );
        state.idle.sweep();
        state.sessions.send_heartbeats();
        state.clear_forgotten_runs();
        let ticks_per_check =
            if memory.is_ample() { TICKS_PER_AMPLE_MEMORY_CHECK } else { TICKS_PER_MEMORY_CHECK };
        if ticks.is_multiple_of(ticks_per_check) {
            state.admission.set_memory_left(memory.remaining().unwrap_or(u64::MAX));
        }
        ticks = ticks.wrapping_add(1);
        let now = Instant::now();
        if now - last_shrink >= SHRINK_INTERVAL {
            last_shrink = now;
            state.shrink();
        }
        if is_draining {
            // Waiters that were parked when the drain began end within its window. Later polls have a short time of their own.
            let left = (*drain_began.get_or_insert(now) + drain_window).saturating_duration_since(now);
            exchange.drain_share(|waiters| share(waiters, left), |removed| close_drained(state, removed));
        }
        std::thread::sleep(TICK);
    }
}

/// Answers a poll so that its controller connects to another broker.
pub(super) fn close_drained(state: &HttpState, removed: RemovedWaiter<Waiter>) {
    removed.waiter.close(CloseReason::Drained { redirect_to: state.limits().redirect_to.as_deref() });
}

/// How many waiters end in this tick, so that all have ended at the end of the window.
fn share(waiters: usize, left: Duration) -> usize {
    let ticks_left = usize::try_from(left.as_millis() / TICK.as_millis()).unwrap_or(usize::MAX);
    waiters.div_ceil(ticks_left.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_spread_over_the_window() {
        let mut waiters = 1000;
        let mut left = Duration::from_secs(1);
        let mut largest = 0;
        while !left.is_zero() {
            let share = share(waiters, left);
            largest = largest.max(share);
            waiters -= share;
            left -= TICK;
        }
        assert_eq!((waiters, largest), (0, 50));
    }

    #[test]
    fn without_a_window_all_waiters_end_at_once() {
        assert_eq!(share(1000, Duration::ZERO), 1000);
    }
}
