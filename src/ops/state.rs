//! Owns what the ops routes read and act on.

use std::sync::Arc;

use hyper::StatusCode;
use tokio::sync::Mutex;

use super::response::text;
use crate::config::Endpoint;
use crate::http::{HttpResponse, HttpState, Problem};

/// Returns why the broker is not ready, as the body of the response, or `None` if it is ready.
pub type ReadinessCheck = Arc<dyn Fn() -> Option<&'static str> + Send + Sync>;

/// What the requests of one ops listener are served with.
#[derive(Clone)]
pub struct OpsState {
    /// The pools, the metrics and the journal.
    pub http_state: Arc<HttpState>,
    /// The addresses of the public listeners, for the console.
    pub public: Arc<[Endpoint]>,
    /// Whether the listener has a loopback address. A page of a browser on this machine could reach it under a host name of
    /// the page's own domain (DNS rebinding).
    pub is_local: bool,
    /// What `/readyz` asks.
    pub readiness: ReadinessCheck,
    /// Locked while a large response is built, so that only one thread at a time builds one.
    pub large_responses: Arc<Mutex<()>>,
}

impl OpsState {
    /// Builds a response that may be large on a thread of its own, so that health probes are answered meanwhile.
    pub(super) async fn build_large(
        &self,
        build: impl FnOnce(&HttpState) -> Result<HttpResponse, Problem> + Send + 'static,
    ) -> Result<HttpResponse, Problem> {
        self.run_large(build).await.unwrap_or_else(Ok)
    }

    /// The same for what is only a part of a response. An error is a response of its own.
    pub(super) async fn run_large<T: Send + 'static>(
        &self,
        run: impl FnOnce(&HttpState) -> T + Send + 'static,
    ) -> Result<T, HttpResponse> {
        let state = self.http_state.clone();
        let _turn = self.large_responses.lock().await;
        tokio::task::spawn_blocking(move || run(&state)).await.map_err(|error| {
            tracing::error!(%error, "a request to the ops listener panicked");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the request failed; the reason is in the broker's log\n")
        })
    }
}
