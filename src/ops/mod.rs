//! Owns one connection to an ops listener: its requests, from the first to the last.
//!
//! The server accepts the connection, takes its slot and does the TLS handshake.

mod brokers;
mod connection_slots;
mod console;
mod events;
mod guard;
mod pools;
mod response;
mod routes;
mod runs;
mod state;

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Either;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::metrics::Route;
pub use connection_slots::{ConnectionSlot, ConnectionSlots};
pub use state::{OpsState, ReadinessCheck};

const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves the requests of one connection. Returns when the connection ends, or when its event stream lags.
pub async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    ops_state: &OpsState,
    slot: &ConnectionSlot,
) {
    let metrics = &ops_state.http_state.metrics;
    let lag = Mutex::new(None);
    let service = service_fn(async |request| {
        slot.begin_request();
        let response = routes::respond(ops_state, request, &lag, slot).await;
        if matches!(response.body(), Either::Left(_)) {
            slot.end_request();
        }
        metrics.answered(Route::Ops, response.status().as_u16());
        Ok::<_, Infallible>(response)
    });
    let mut http = http1::Builder::new();
    let http = http.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    tokio::select! {
        done = http.serve_connection(TokioIo::new(stream), service) => {
            if let Err(error) = done {
                tracing::debug!(%error, "a connection to the ops listener failed");
            }
        }
        () = events::lagged(&lag) => metrics.events_cut_off(),
    }
}
