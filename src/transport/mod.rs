//! Owns the delivery of runs to waiters: connections, held polls, and the proof that a run has arrived.
//!
//! [`Waiter`] is the seam: an entry of a pool that a run can be offered to. It uses sockets and no HTTP statuses; what is written to
//! one is rendered by the dialect's [`ResponseFormat`].

mod atomic_addr;
mod atomics;
mod connection;
mod delivery;
mod flags;
#[cfg(fuzzing)]
pub mod fuzz;
mod handover;
mod held_poll;
mod held_session;
mod idle;
mod liveness;
mod prefixed_io;
mod probe;
mod proof;
mod proxy_protocol;
mod read_buffer;
mod reply_target;
mod response_format;
mod retire;
mod run_fields;
mod run_path;
mod sessions;
mod socket;
mod tls;
mod waiter;
mod websocket;
mod write_buffer;

pub use connection::{Connection, IdleConnections};
pub use delivery::{Delivery, DeliveryRequirements, Run};
pub use held_poll::{HeldPoll, HoldEnd};
pub use held_session::HeldSession;
pub use liveness::{KEEPALIVE_IDLE, Liveness, SlowReader, UNACKED_TIMEOUT};
pub use prefixed_io::PrefixedIo;
pub use read_buffer::return_buffer;
pub use reply_target::ReplyTarget;
pub use response_format::{CloseReason, CloseResponse, ResponseFormat};
pub use retire::retire_pools;
pub use run_fields::RunFields;
pub use run_path::{RUNS_PATH, run_path};
pub use sessions::{SessionPlace, Sessions};
pub use tls::TlsSession;
pub use waiter::write_beginning as write_stream_beginning;
pub use waiter::{
    Exchange, LongPoll, MAX_SLOTS, OfferToken, ParkedGuard, PendingProof, ProvingLongPoll, ProvingSlot,
    Receipt, ReceiptError, Session, SessionKind, SessionOwner, Slot, TooManySlots, Waiter,
};
pub use websocket::accept_key;
pub use write_buffer::with_write_buffer;
