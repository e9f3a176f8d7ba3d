//! Owns what a worker sends to the path of a reply, and what it is told.

use hyper::HeaderMap;

use crate::http::response::HttpResponse;
use crate::http::run_request::RunPath;

/// A request that has come to the path of a reply.
pub(in crate::http) struct ReplyRequest<'a> {
    pub(in crate::http) path: RunPath<'a>,
    pub(in crate::http) query: Option<&'a str>,
    pub(in crate::http) fields: &'a HeaderMap,
}

/// What a worker is told.
pub(in crate::http) enum WorkerAnswer {
    /// It is answered, and its body was read.
    Respond(HttpResponse),
    /// It is answered, and its connection is cut off: a client that only writes hears nothing else.
    CutOff(HttpResponse),
    /// Its request broke off.
    Close,
}

impl WorkerAnswer {
    /// The status, if there is one.
    pub(in crate::http) fn status(&self) -> Option<u16> {
        match self {
            Self::Respond(response) | Self::CutOff(response) => Some(response.status.as_u16()),
            Self::Close => None,
        }
    }
}
