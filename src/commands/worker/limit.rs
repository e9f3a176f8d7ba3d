//! Owns the time limit of a run.

use std::time::Duration;

use tokio::time::timeout;

/// Awaits a future, for at most this time if there is a limit. The error is the limit.
pub(super) async fn within<F: Future>(limit: Option<Duration>, future: F) -> Result<F::Output, Duration> {
    match limit {
        Some(limit) => timeout(limit, future).await.map_err(|_| limit),
        None => Ok(future.await),
    }
}
