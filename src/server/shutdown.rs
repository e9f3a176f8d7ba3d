//! Owns the end: the phases of a polite one, in their order.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::accept::Entrance;
use super::keeper::goodbye;
use super::{Phase, Signal, notify};
use crate::http::Front;

const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A client that was sent elsewhere is back within this time.
const LAST_GOODBYES: Duration = Duration::from_millis(250);

/// Returns when the process may end: after a drain at the first signal, at once at the second. An error if no signal can come
/// any more.
pub(super) async fn ended(
    entrance: &Entrance,
    signals: &mut mpsc::Receiver<Signal>,
    window: Duration,
    phase: &watch::Sender<Phase>,
) -> anyhow::Result<()> {
    if !asked_to_end(entrance, signals).await {
        anyhow::bail!("whoever listened for signals is gone, so that none could end the broker any more");
    }
    notify::stopping();
    tokio::select! {
        () = drained(&entrance.front, window, phase) => tracing::info!("drained; ending"),
        true = asked_to_end(entrance, signals) => tracing::warn!("second signal; ending at once"),
    }
    Ok(())
}

/// Reads the settings again whenever that is asked for, until an end is. False if nobody can ask any more.
async fn asked_to_end(entrance: &Entrance, signals: &mut mpsc::Receiver<Signal>) -> bool {
    while let Some(signal) = signals.recv().await {
        match signal {
            Signal::End => return true,
            Signal::Reload(settings) => {
                notify::reloading();
                entrance.reload(settings);
                notify::ready();
            }
        }
    }
    false
}

async fn drained(front: &Front, window: Duration, phase: &watch::Sender<Phase>) {
    let shown = humantime::format_duration(window);
    tracing::info!(window = %shown, waiters = front.exchange.counts().0, "draining");
    front.pressure.ends();
    // 1. Readiness goes off, and every dispatch is answered "draining".
    front.exchange.drain();
    // 2. The keeper says the goodbyes, spread over the window. New polls are held meanwhile.
    until(Instant::now() + window, || front.exchange.counts().0 == 0).await;
    // 3. Who comes from now on to a socket that outlives this process waits there for the next one.
    let _ = phase.send(Phase::Leaving);
    // 4. Who came late is sent elsewhere, too, and who is just coming back on a connection that rested.
    let last = Instant::now() + LAST_GOODBYES;
    while Instant::now() < last {
        front.exchange.drain_all(goodbye);
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    // 5. Dispatches under way end within their budget, those whose client has left as well.
    until(Instant::now() + front.terms().dispatch_budget + LAST_GOODBYES, || front.pressure.posts() == 0)
        .await;
}

async fn until(deadline: Instant, done: impl Fn() -> bool) {
    while !done() && Instant::now() < deadline {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
