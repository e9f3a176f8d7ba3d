//! Owns a request's head as the routes see it, whichever parser has read it.

use hyper::Method;
use hyper::header::{HeaderMap, SEC_WEBSOCKET_KEY};

use super::field_names::Signs;
use super::fields::HeaderFields;

/// A request without its body.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct RequestHead<'a> {
    pub(in crate::http) method: &'a Method,
    pub(in crate::http) path: &'a str,
    pub(in crate::http) query: Option<&'a str>,
    /// Whether its version of HTTP keeps connections open by default.
    pub(in crate::http) is_http_11: bool,
    pub(in crate::http) fields: &'a HeaderFields<'a>,
    /// The key of a WebSocket handshake, whose fields are never those of a plain request; none if it has not exactly one.
    pub(in crate::http) websocket_key: Option<&'a [u8]>,
}

impl RequestHead<'_> {
    /// Whether the connection may carry another request after the response to this one.
    pub(in crate::http) fn is_reusable(&self) -> bool {
        self.is_http_11 && !self.fields.show(Signs::CLOSE)
    }
}

/// The key of a WebSocket handshake, if there is exactly one.
pub(in crate::http) fn websocket_key(fields: &HeaderMap) -> Option<&[u8]> {
    let mut keys = fields.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = keys.next()?;
    keys.next().is_none().then(|| key.as_bytes())
}
