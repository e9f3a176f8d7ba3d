//! Owns the bytes that carry a run, partly written.

use std::io::{self, IoSlice};

use bytes::Bytes;

use crate::transport::connection::Connection;

/// A payload of this size is copied behind its head: the kernel takes one buffer sooner than two.
const MAX_COPIED_BYTES: usize = 2048;
/// At most this much of a payload is written at once, before other tasks have their turn.
const MAX_WRITE_BYTES: usize = 256 * 1024;

/// Copies a short payload behind its head. Returns what follows the head as it is.
pub(super) fn join_short(head: &mut Vec<u8>, payload: &Bytes) -> Bytes {
    if payload.len() > MAX_COPIED_BYTES {
        return payload.clone();
    }
    head.extend_from_slice(payload);
    Bytes::new()
}

/// What carries a run, partly written.
pub(super) struct RunWrite<'a> {
    /// The head; nothing is read of it once all of it was sent.
    pub(super) head: &'a [u8],
    pub(super) head_length: usize,
    pub(super) payload: &'a [u8],
    /// Bytes that the kernel has taken.
    pub(super) sent: usize,
}

impl RunWrite<'_> {
    pub(super) fn total(&self) -> usize {
        self.head_length + self.payload.len()
    }

    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.total()
    }

    /// What of the head must be kept until it is sent.
    pub(super) fn unsent_head(&self) -> Box<[u8]> {
        if self.sent < self.head_length { self.head.into() } else { Box::default() }
    }

    /// Writes as much of the rest as the kernel takes now, and returns how much that was.
    pub(super) fn write(&mut self, connection: &Connection) -> io::Result<usize> {
        let head = self.head.get(self.sent..).unwrap_or_default();
        let payload = &self.payload[self.sent.saturating_sub(self.head_length)..];
        let payload = &payload[..payload.len().min(MAX_WRITE_BYTES)];
        let parts = [IoSlice::new(head), IoSlice::new(payload)];
        let written = connection.write_now(if payload.is_empty() { &parts[..1] } else { &parts })?;
        self.sent += written;
        Ok(written)
    }
}
