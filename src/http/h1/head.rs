//! Owns a request's head as the routes see it, whichever parser has read it.

use hyper::Method;

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
}

impl RequestHead<'_> {
    /// Whether the connection may carry another request after the response to this one.
    pub(in crate::http) fn is_reusable(&self) -> bool {
        self.is_http_11 && !self.fields.show(Signs::CLOSE)
    }
}
