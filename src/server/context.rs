//! Owns what all accept loops of the server share.

use std::sync::Arc;

use super::connection_limit::ConnectionLimiter;
use super::tls::ReloadableTls;
use crate::http::HttpState;

/// What every accept loop needs.
#[derive(Clone)]
pub(super) struct ListenerContext {
    pub(super) state: Arc<HttpState>,
    /// Of the public listeners and those for dispatches.
    pub(super) limiter: Arc<ConnectionLimiter>,
    /// Of the public listeners and those for dispatches.
    pub(super) tls: Arc<ReloadableTls>,
    pub(super) ops_tls: Arc<ReloadableTls>,
}
