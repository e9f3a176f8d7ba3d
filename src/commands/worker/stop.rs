//! Owns the request that a worker stops.

use tokio::sync::watch;

/// Tells each slot whether the worker is to stop.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    pub(super) fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    pub(super) fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is requested.
    pub(super) async fn requested(&mut self) {
        // An error means that the worker has ended.
        let _ = self.0.wait_for(|is_requested| *is_requested).await;
    }
}
