//! Owns requests whose body is read as it comes: workers' replies. Nothing of their head is kept meanwhile.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::h1::{BodyBegin, BodyReader, RequestHead, Signs, StreamedBody, discard, write_and_linger};
use super::replies::{HeldReply, ReceivedReply, ReplyRequest, receive};
use super::response::HttpResponse;
use super::routes::{Action, Routed, route};
use super::state::HttpState;
use crate::metrics::Listener;
use crate::transport::Connection;

/// A request that has found its route, and of which nothing but the body is needed any more.
pub(super) struct StreamedRequest {
    begun: Begun,
    begin: BodyBegin,
    is_reusable: bool,
}

enum Begun {
    Reply(ReceivedReply),
    /// It is answered, with or without its body.
    Answered(Box<HttpResponse>),
}

impl StreamedRequest {
    /// Routes a request with this head. `Break` if the connection is to be closed.
    pub(super) fn route(
        state: &HttpState,
        listener: Listener,
        connection: &Connection,
        head: &RequestHead<'_>,
        begin: BodyBegin,
    ) -> ControlFlow<(), Self> {
        let begun = match route(state, listener, connection.origin(), head) {
            Routed::Reply(path) => {
                let (expects, length) = (head.fields.show(Signs::EXPECT), begin.length());
                let RequestHead { query, all_fields: fields, .. } = *head;
                let request = ReplyRequest { path, query, fields, expects, length };
                Begun::Reply(receive(state, connection, &request))
            }
            Routed::Now(Action::Respond(mut response)) => {
                // A client that expects to be asked for its body is not asked.
                response.close |= head.fields.show(Signs::EXPECT);
                Begun::Answered(Box::new(response))
            }
            Routed::Now(Action::Close | Action::Park(_)) | Routed::Dispatch(..) | Routed::PassOn(_) => {
                return ControlFlow::Break(());
            }
        };
        ControlFlow::Continue(Self { begun, begin, is_reusable: head.is_reusable() })
    }

    /// Handles the request, of which these bytes have come.
    pub(super) fn hold(
        self,
        state: &Arc<HttpState>,
        connection: &Arc<Connection>,
        bytes: Bytes,
    ) -> HeldReply {
        let Self { begun, begin, is_reusable } = self;
        let (state, connection) = (state.clone(), connection.clone());
        let body = StreamedBody::Own(BodyReader::new(bytes, begin));
        match begun {
            Begun::Reply(reply) => Box::pin(reply.hold(state, connection, body, is_reusable)),
            Begun::Answered(response) => {
                Box::pin(respond_without_body(state, connection, response, body, is_reusable))
            }
        }
    }
}

/// Answers a request whose body is not needed. A body that is not read would be taken for the next request.
async fn respond_without_body(
    state: Arc<HttpState>,
    connection: Arc<Connection>,
    mut response: Box<HttpResponse>,
    mut body: StreamedBody,
    is_reusable: bool,
) -> ControlFlow<(), BytesMut> {
    let is_read = !response.close && discard(&mut body, &connection).await;
    response.close |= !is_read || !is_reusable || state.admission.closes_connections();
    write_and_linger(&connection, *response).await?;
    ControlFlow::Continue(body.take_unread())
}
