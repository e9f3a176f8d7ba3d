//! Owns a session as its connection's task sees it: it keeps the session's slots in their pool, and reads what the controller sends.

use std::ops::ControlFlow::{self, Break, Continue};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Sleep;

use super::connection::Connection;
use super::read_buffer::return_buffer;
use super::sessions::{SessionPlace, Sessions};
use super::waiter::{
    AckEnd, Duty, Exchange, Goodbye, Session, SessionKind, SessionOwner, Slot, TooManySlots, Waiter,
};
use super::websocket::{ControlMessage, Decoder, Incoming, Input};
use crate::broker::{HostId, MonotonicTime, ParkRequest};

/// After the last bytes, the peer may take this long to close its side.
const LINGER: Duration = Duration::from_secs(1);
/// After this many steps in a row, other tasks of the thread have their turn.
const STEPS_PER_TURN: usize = 32;

/// A session until its connection is over.
pub struct HeldSession {
    session: Arc<Session>,
    exchange: Arc<Exchange>,
    sessions: Arc<Sessions>,
    /// Reads a WebSocket; empty between two messages.
    decoder: Decoder,
    /// What the controller still says is ignored.
    is_deaf: bool,
    /// Set once nothing more will be written.
    linger: Option<Pin<Box<Sleep>>>,
}

impl HeldSession {
    /// Opens a session on a connection whose response head was written. It ends what the same controller waited on before. `unread`
    /// came behind the request.
    pub fn open(
        exchange: &Arc<Exchange>,
        place: SessionPlace,
        connection: Arc<Connection>,
        kind: SessionKind,
        owner: SessionOwner,
        slots: u16,
        unread: &mut [u8],
    ) -> Self {
        let (sessions, session) = place.open(connection, kind, owner);
        // Only a number of slots that was checked before comes here.
        let added = session.add_slots(slots);
        debug_assert_eq!(added, Ok(()));
        let (exchange, decoder) = (exchange.clone(), Decoder::default());
        let mut held = Self { session, exchange, sessions, decoder, is_deaf: false, linger: None };
        if held.receive(unread).is_break() {
            held.session.end();
        }
        held
    }

    fn park(&self, ticket: u32) {
        let now = self.exchange.now();
        let owner = &self.session.owner;
        let slot = Slot::new(self.session.clone(), ticket);
        let request = ParkRequest {
            key: owner.key(),
            accepts: owner.accepts(),
            controller: owner.controller().into(),
            host: HostId { address: owner.address(), name: None },
            is_exclusive: false,
            offer_until: MonotonicTime::from_micros(u64::MAX),
            deadline: MonotonicTime::from_micros(u64::MAX),
            waiter: match self.session.kind {
                SessionKind::WebSocket => Waiter::WebSocket(slot),
                SessionKind::EventStream { .. } => Waiter::EventStream(slot),
            },
        };
        match self.exchange.park(request, now) {
            Ok((guard, _)) => self.session.parked(guard.into_id()),
            Err(limit) => self.session.not_parked(limit),
        }
    }

    /// Closes our side, and waits for as long as the peer may take to close its own.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| {
            self.session.connection.shutdown_write();
            Box::pin(tokio::time::sleep(LINGER))
        });
        linger.as_mut().poll(cx)
    }

    /// Reads what has come. `Break` if the connection is over.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<ControlFlow<()>> {
        let connection = &*self.session.connection;
        if ready!(connection.poll_read_ready(cx)).is_err() {
            return Poll::Ready(Break(()));
        }
        let mut buffer = BytesMut::new();
        let read = connection.try_read(&mut buffer);
        let flow = match read {
            Ok(0) => Break(()),
            Ok(_) => self.receive(&mut buffer),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Continue(()),
            Err(_) => Break(()),
        };
        return_buffer(buffer.freeze());
        Poll::Ready(flow)
    }

    /// Acts on what was read. `Break` if the connection is over.
    fn receive(&mut self, bytes: &mut [u8]) -> ControlFlow<()> {
        match self.session.kind {
            _ if bytes.is_empty() => return Continue(()),
            SessionKind::WebSocket => {}
            // The client of a stream has nothing to say before its end.
            SessionKind::EventStream { .. } if self.linger.is_some() => return Continue(()),
            SessionKind::EventStream { .. } => return Break(()),
        }
        let mut input = Input::from(bytes);
        while !self.is_deaf {
            let goodbye = match self.decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Incoming::Text(text))) => match obey(&self.session, &text) {
                    Ok(()) => continue,
                    Err(goodbye) => goodbye,
                },
                Ok(Some(Incoming::Ping(payload))) => {
                    self.session.answer_ping(&payload);
                    continue;
                }
                Ok(Some(Incoming::Pong)) => {
                    self.session.pong_received();
                    continue;
                }
                Ok(Some(Incoming::Close(code))) => Goodbye::Closed(code),
                Err(violation) => Goodbye::Violation(violation),
            };
            self.is_deaf = true;
            self.session.fail(goodbye);
        }
        Continue(())
    }
}

/// Does what a message of a controller says.
fn obey(session: &Session, text: &str) -> Result<(), Goodbye> {
    match ControlMessage::parse(text).map_err(Goodbye::Rejected)? {
        ControlMessage::Ready(slots) => {
            session.add_slots(slots).map_err(|TooManySlots| Goodbye::TooManySlots)
        }
        ControlMessage::Ack { run, offer } => match session.ack(&run, offer) {
            AckEnd::Counted | AckEnd::Ignored => Ok(()),
            AckEnd::NeverMade => Err(Goodbye::UnknownOffer),
        },
    }
}

impl Future for HeldSession {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..STEPS_PER_TURN {
            match self.session.next_duty(cx.waker()) {
                Duty::Park(ticket) => {
                    self.park(ticket);
                    continue;
                }
                Duty::Withdraw(end) => {
                    self.session.withdraw(end);
                    continue;
                }
                Duty::Wait => {}
                Duty::Finish => {
                    if self.poll_end(cx).is_ready() {
                        return Poll::Ready(());
                    }
                }
                Duty::End => return Poll::Ready(()),
            }
            if self.session.has_control() && self.session.connection.poll_write_ready(cx).is_ready() {
                continue;
            }
            match self.poll_read(cx) {
                Poll::Ready(Continue(())) => {}
                Poll::Ready(Break(())) => self.session.end(),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for HeldSession {
    fn drop(&mut self) {
        self.session.end();
        self.sessions.remove(&self.session);
    }
}
