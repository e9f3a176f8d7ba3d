//! Owns the shutdown: the phases of a drain, in their order.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::context::ListenerContext;
use super::housekeeping::close_drained;
use super::phase::{Phase, Signal};
use super::systemd;
use crate::http::HttpState;

const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// A balancer has noticed within this time that a broker of a cluster is not ready.
const NOTICED_WITHIN: Duration = Duration::from_secs(2);
/// A client that was about to send a request on an open connection has done so within this time.
const LATE_REQUESTS: Duration = Duration::from_millis(250);

/// Returns when the process may end: after the drain that the first signal begins, or at once after a second one. An error if
/// the sender of signals is gone.
pub(super) async fn run_phases(
    context: &ListenerContext,
    signals: &mut mpsc::Receiver<Signal>,
    window: Duration,
    phase: &watch::Sender<Phase>,
) -> anyhow::Result<()> {
    if !wait_for_end(context, signals).await {
        anyhow::bail!("the signal handler is gone, so no signal can end the broker");
    }
    systemd::notify_stopping();
    tokio::select! {
        () = drain(&context.state, window, phase) => tracing::info!("drained; ending"),
        true = wait_for_end(context, signals) => tracing::warn!("second signal; ending at once"),
    }
    Ok(())
}

/// Waits for a signal to end, and reloads the settings meanwhile. False if the sender of signals is gone.
async fn wait_for_end(context: &ListenerContext, signals: &mut mpsc::Receiver<Signal>) -> bool {
    while let Some(signal) = signals.recv().await {
        match signal {
            Signal::End => return true,
            Signal::Reload(settings) => {
                systemd::notify_reloading();
                context.reload(settings);
                systemd::notify_ready();
            }
        }
    }
    false
}

async fn drain(state: &HttpState, window: Duration, phase: &watch::Sender<Phase>) {
    let shown = humantime::format_duration(window);
    tracing::info!(window = %shown, waiters = state.exchange.counts().0, "draining");
    state.admission.set_ending();
    // 1. The broker is not ready any more. Alone, it answers dispatches "draining"; in a cluster it goes on matching.
    state.drain();
    // 2. Housekeeping ends the held polls, spread over the window. New polls are held meanwhile.
    let began = Instant::now();
    //    Replies end meanwhile: their workers still come with new connections.
    until(began + window, || state.exchange.counts().0 == 0 && state.replies.count() == 0).await;
    if let Some(cluster) = &state.cluster {
        // Even without waiters: the balancer must notice first that the broker is not ready.
        tokio::time::sleep_until((began + window.min(NOTICED_WITHIN)).into()).await;
        // The other brokers do not forward to this one any more, and it forwards what it still gets.
        cluster.leave().await;
        state.exchange.stop_matching();
    }
    break_off_replies(state);
    // 3. New connections to a socket that outlives this process wait there for the next process.
    let _ = phase.send(Phase::Draining);
    // 4. Late polls end, too, on new connections and on idle ones.
    let last = Instant::now() + LATE_REQUESTS;
    while Instant::now() < last {
        state.exchange.drain_all(|removed| close_drained(state, removed));
        // Those without a waiter, too.
        state.sessions.drain();
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    // 5. Unfinished dispatches end within their budget, also those whose client has disconnected.
    let deadline = Instant::now() + state.limits().dispatch_budget + LATE_REQUESTS;
    until(deadline, || state.posts_in_flight() == 0 && state.dispatcher.forwards_in_flight() == 0).await;
    break_off_replies(state);
    until(Instant::now() + LATE_REQUESTS, || state.replies.count() == 0).await;
    // 6. The other brokers of a cluster forget this one.
    if let Some(cluster) = &state.cluster {
        cluster.end().await;
    }
}

/// Replies whose workers are not done yet cannot outlive the broker: their callers see that they are broken.
fn break_off_replies(state: &HttpState) {
    let replies = state.replies.break_off();
    if replies > 0 {
        tracing::warn!(
            replies,
            "broke off replies that had not ended; a longer --drain-window leaves them more time"
        );
    }
}

async fn until(deadline: Instant, done: impl Fn() -> bool) {
    while !done() && Instant::now() < deadline {
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}
