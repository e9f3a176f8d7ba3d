//! Owns an entry of the event log: one event, what it is about, and its text for `/events`.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::topic::Subject;
use crate::journal::json;
use crate::journal::record::{DispatchRecord, DrainEvent, EventKinds, PollEvent, ReplyRecord, RetireEvent};

/// One event. It is rendered only when a subscriber reads it.
#[derive(Debug, Clone)]
pub(in crate::journal) enum LogEntry {
    Poll(Arc<PollEvent>),
    Dispatch(Arc<DispatchRecord>),
    /// The verdict of the offer with this index.
    Verdict(Arc<DispatchRecord>, u32),
    Reply(Arc<ReplyRecord>),
    Drain(Arc<DrainEvent>),
    Retire(Arc<RetireEvent>),
}

impl LogEntry {
    pub(super) const fn kind(&self) -> EventKinds {
        match self {
            Self::Poll(_) => EventKinds::POLL,
            Self::Dispatch(_) => EventKinds::DISPATCH,
            Self::Verdict(..) => EventKinds::VERDICT,
            Self::Reply(_) => EventKinds::REPLY,
            Self::Drain(_) => EventKinds::DRAIN,
            Self::Retire(_) => EventKinds::RETIRE,
        }
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        match self {
            Self::Poll(event) => Subject::Names([Some(event.names.get(0)), Some(event.names.get(1)), None]),
            Self::Dispatch(record) | Self::Verdict(record, _) => {
                Subject::Names([1, 2, 0].map(|index| Some(record.names.get(index))))
            }
            Self::Reply(record) => Subject::Names([1, 2, 0].map(|index| Some(record.names.get(index)))),
            Self::Drain(_) => Subject::Broker,
            Self::Retire(event) => Subject::Pools(&event.filter),
        }
    }

    /// Writes the event as a server-sent event with this id.
    pub(super) fn write(&self, id: &str, out: &mut BytesMut) {
        let (name, data) = match self {
            Self::Poll(event) => ("poll", json::poll(event)),
            Self::Dispatch(record) => ("dispatch", json::dispatch(record)),
            Self::Verdict(record, offer) => ("verdict", json::verdict(record, *offer as usize)),
            Self::Reply(record) => ("reply", json::reply(record)),
            Self::Drain(event) => ("drain", json::drain(event)),
            Self::Retire(event) => ("retire", json::retire(event)),
        };
        out.put_slice(format!("id: {id}\nevent: {name}\ndata: {data}\n\n").as_bytes());
    }
}
