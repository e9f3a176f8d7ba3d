//! Owns the end: the phases of a polite one, in their order.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::keeper::goodbye;
use crate::http::Front;

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Returns when the process may end: after a drain at the first signal, at once at the second.
pub(super) async fn ended(front: &Front, signals: &mut mpsc::Receiver<()>, window: Duration) {
    if signals.recv().await.is_none() {
        // Nobody can signal any more, so nobody wants an end.
        std::future::pending::<()>().await;
    }
    tokio::select! {
        () = drained(front, window) => tracing::info!("drained; ending"),
        _ = signals.recv() => tracing::warn!("second signal; ending at once"),
    }
}

async fn drained(front: &Front, window: Duration) {
    tracing::info!(?window, waiters = front.exchange.counts().0, "draining");
    // 1. Readiness goes off, and every dispatch is answered "draining".
    front.exchange.drain();
    // 2. The keeper says the goodbyes, spread over the window. New polls are held meanwhile.
    until(Instant::now() + window, || front.exchange.counts().0 == 0).await;
    // 3. Who came late is sent elsewhere, too.
    front.exchange.drain_all(goodbye);
    // 4. Dispatches under way end within their budget.
    until(Instant::now() + front.terms.dispatch_budget, || front.posts_in_flight() == 0).await;
}

async fn until(deadline: Instant, done: impl Fn() -> bool) {
    while !done() && Instant::now() < deadline {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
