//! Owns what a worker sends to the path of a reply, and what it is told.

use std::ops::ControlFlow;

use crate::http::h1::{AllFields, write_and_cut_off, write_and_linger};
use crate::http::response::HttpResponse;
use crate::http::run_request::RunPath;
use crate::transport::Connection;

/// A request that has come to the path of a reply.
pub(in crate::http) struct ReplyRequest<'a> {
    pub(in crate::http) path: RunPath<'a>,
    pub(in crate::http) query: Option<&'a str>,
    pub(in crate::http) fields: AllFields<'a>,
    /// Whether its client may wait to be asked for the body.
    pub(in crate::http) expects: bool,
    /// The length of its body, if it is announced.
    pub(in crate::http) length: Option<u64>,
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
    /// Writes the answer. `Break` if the connection is over with it.
    pub(in crate::http) async fn write(self, connection: &Connection, closes: bool) -> ControlFlow<()> {
        match self {
            Self::Respond(mut response) => {
                response.close |= closes;
                write_and_linger(connection, response).await
            }
            Self::CutOff(response) => {
                write_and_cut_off(connection, &response).await;
                ControlFlow::Break(())
            }
            Self::Close => ControlFlow::Break(()),
        }
    }

    /// The status, if there is one.
    pub(in crate::http) fn status(&self) -> Option<u16> {
        match self {
            Self::Respond(response) | Self::CutOff(response) => Some(response.status.as_u16()),
            Self::Close => None,
        }
    }
}
