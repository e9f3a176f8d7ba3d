//! Owns the end: the phases of a polite one, in their order.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::accept::ListenerContext;
use super::housekeeping::close_drained;
use super::{Phase, Signal, systemd};
use crate::http::HttpState;

const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A client that was sent elsewhere is back within this time.
const LAST_CLOSES: Duration = Duration::from_millis(250);

/// Returns when the process may end: after a drain at the first signal, at once at the second. An error if no signal can come
/// any more.
pub(super) async fn run_phases(
    entrance: &ListenerContext,
    signals: &mut mpsc::Receiver<Signal>,
    window: Duration,
    phase: &watch::Sender<Phase>,
) -> anyhow::Result<()> {
    if !wait_for_end(entrance, signals).await {
        anyhow::bail!("whoever listened for signals is gone, so that none could end the broker any more");
    }
    systemd::stopping();
    tokio::select! {
        () = drain(&entrance.front, window, phase) => tracing::info!("drained; ending"),
        true = wait_for_end(entrance, signals) => tracing::warn!("second signal; ending at once"),
    }
    Ok(())
}

/// Reads the settings again whenever that is asked for, until an end is. False if nobody can ask any more.
async fn wait_for_end(entrance: &ListenerContext, signals: &mut mpsc::Receiver<Signal>) -> bool {
    while let Some(signal) = signals.recv().await {
        match signal {
            Signal::End => return true,
            Signal::Reload(settings) => {
                systemd::reloading();
                entrance.reload(settings);
                systemd::ready();
            }
        }
    }
    false
}

async fn drain(front: &HttpState, window: Duration, phase: &watch::Sender<Phase>) {
    let shown = humantime::format_duration(window);
    tracing::info!(window = %shown, waiters = front.exchange.counts().0, "draining");
    front.admission.set_ending();
    // 1. Readiness goes off, and every dispatch is answered "draining".
    front.exchange.drain();
    // 2. The keeper says the goodbyes, spread over the window. New polls are held meanwhile.
    until(Instant::now() + window, || front.exchange.counts().0 == 0).await;
    // 3. Who comes from now on to a socket that outlives this process waits there for the next one.
    let _ = phase.send(Phase::Draining);
    // 4. Who came late is sent elsewhere, too, and who is just coming back on a connection that rested.
    let last = Instant::now() + LAST_CLOSES;
    while Instant::now() < last {
        front.exchange.drain_all(close_drained);
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    // 5. Dispatches under way end within their budget, those whose client has left as well.
    until(Instant::now() + front.limits().dispatch_budget + LAST_CLOSES, || front.posts_in_flight() == 0)
        .await;
}

async fn until(deadline: Instant, done: impl Fn() -> bool) {
    while !done() && Instant::now() < deadline {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
