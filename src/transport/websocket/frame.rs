//! Owns WebSocket frames (RFC 6455, no extensions): from bytes to messages, and the frames that a server writes.
//!
//! A frame that has come whole is read where it lies. Only an incomplete frame or message is copied, so a connection between
//! two messages keeps no bytes (docs/decisions/027-websocket-frames.md).

use std::borrow::Cow;
use std::io::Cursor;
use std::mem;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The most bytes of a message, in one frame or in several.
const MAX_MESSAGE: usize = 4096;
/// The most bytes that a control frame may carry.
const MAX_CONTROL: usize = 125;
const CLOSE_CODE_LENGTH: usize = 2;

/// Bytes that were read, as far as they are not consumed.
pub(in crate::transport) struct Input<'a>(&'a mut [u8]);

impl<'a> From<&'a mut [u8]> for Input<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Input<'a> {
    /// Whether all bytes are consumed.
    pub(in crate::transport) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes the first bytes.
    fn take(&mut self, length: usize) -> &'a mut [u8] {
        let (taken, rest) = mem::take(&mut self.0).split_at_mut(length);
        self.0 = rest;
        taken
    }
}

/// A whole frame: its head, and its payload, unmasked.
type Frame<'a> = (Head, Cow<'a, [u8]>);

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::transport) enum Incoming<'a> {
    /// A whole message, of at most 4096 bytes.
    Text(Cow<'a, str>),
    /// To be answered by a pong with the same bytes, at most 125.
    Ping(Cow<'a, [u8]>),
    /// An answer to a ping, or none.
    Pong,
    /// The client closes, with its code. What follows it is to be ignored.
    Close(Option<u16>),
}

/// Why a connection is to be closed. No more frames are read then. The text is the reason that the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::transport) enum Violation {
    #[error("a frame that is not masked")]
    Unmasked,
    #[error("a reserved bit or opcode")]
    Reserved,
    #[error("a length that is not encoded in the fewest bytes")]
    Length,
    #[error("a control frame that is fragmented or has more than 125 bytes")]
    Control,
    #[error("a frame that does not follow its predecessor")]
    Sequence,
    #[error("a close frame without a valid code")]
    Close,
    #[error("only text messages are accepted")]
    Binary,
    #[error("text that is not UTF-8")]
    Utf8,
    #[error("a message of more than 4096 bytes")]
    TooLong,
}

impl Violation {
    /// The code to close with.
    pub(in crate::transport) fn close_code(self) -> u16 {
        match self {
            Self::Unmasked | Self::Reserved | Self::Length | Self::Control | Self::Sequence | Self::Close => {
                1002
            }
            Self::Binary => 1003,
            Self::Utf8 => 1007,
            Self::TooLong => 1009,
        }
    }
}

/// Reads what a client sends, from bytes that may be split anywhere. It takes time linear in their number.
#[derive(Debug, Default)]
pub(in crate::transport) struct Decoder {
    /// `None` between two messages.
    partial: Option<Box<Partial>>,
}

/// What has come of a frame or a message whose end has not.
#[derive(Debug, Default)]
struct Partial {
    /// The frame, masked, with its head.
    frame: Vec<u8>,
    /// The message whose last fragment is awaited.
    message: Option<Message>,
}

#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    /// How many of the bytes are known to be UTF-8.
    checked: usize,
}

impl Decoder {
    /// The next message or control frame, whose bytes are removed from the input and unmasked there. `None` once the whole
    /// input is consumed; until then it is to be called again.
    ///
    /// # Errors
    ///
    /// The client breaks the protocol, or its message is too long, of which no more bytes are awaited.
    pub(in crate::transport) fn next<'a>(
        &mut self,
        input: &mut Input<'a>,
    ) -> Result<Option<Incoming<'a>>, Violation> {
        while let Some((head, payload)) = self.next_frame(input)? {
            let incoming = self.receive(&head, payload)?;
            if incoming.is_some() {
                return Ok(incoming);
            }
        }
        Ok(None)
    }

    /// Whether a client may be idle here: no message and no frame has begun. It owns no memory then.
    #[cfg(any(test, fuzzing))]
    pub(in crate::transport) fn is_empty(&self) -> bool {
        self.partial.is_none()
    }

    /// The next whole frame with its payload, unmasked.
    fn next_frame<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<Frame<'a>>, Violation> {
        let mut frame =
            self.partial.as_mut().map(|partial| mem::take(&mut partial.frame)).unwrap_or_default();
        if frame.is_empty()
            && let Some(head) = self.head(input.0)?
            && head.frame_length() <= input.0.len()
        {
            let payload = &mut input.take(head.frame_length())[head.size..];
            unmask(payload, head.mask);
            return Ok(Some((head, Cow::Borrowed(payload))));
        }
        while !input.is_empty() {
            // Byte by byte at first, because the head says how long it is itself.
            let missing = self.head(&frame)?.map_or(1, |head| head.frame_length() - frame.len());
            frame.extend_from_slice(input.take(missing.min(input.0.len())));
            if let Some(head) = self.head(&frame)?
                && frame.len() == head.frame_length()
            {
                frame.drain(..head.size);
                unmask(&mut frame, head.mask);
                return Ok(Some((head, Cow::Owned(frame))));
            }
        }
        if !frame.is_empty() {
            self.partial.get_or_insert_default().frame = frame;
        }
        Ok(None)
    }

    /// The head at the beginning of a frame, if it is complete and the frame may come now.
    fn head(&self, frame: &[u8]) -> Result<Option<Head>, Violation> {
        let Some(head) = Head::parse(frame)? else { return Ok(None) };
        let message = self.partial.as_ref().and_then(|partial| partial.message.as_ref());
        let is_misplaced = match head.kind {
            Kind::Text | Kind::Binary => message.is_some(),
            Kind::Continuation => message.is_none(),
            Kind::Close | Kind::Ping | Kind::Pong => false,
        };
        if is_misplaced {
            return Err(Violation::Sequence);
        }
        if head.kind == Kind::Binary {
            return Err(Violation::Binary);
        }
        let before =
            message.filter(|_| head.kind == Kind::Continuation).map_or(0, |message| message.bytes.len());
        if head.length > MAX_MESSAGE - before {
            return Err(Violation::TooLong);
        }
        Ok(Some(head))
    }

    fn receive<'a>(
        &mut self,
        head: &Head,
        payload: Cow<'a, [u8]>,
    ) -> Result<Option<Incoming<'a>>, Violation> {
        let incoming = match head.kind {
            Kind::Text if head.is_final => Some(Incoming::Text(text(payload)?)),
            Kind::Text | Kind::Binary | Kind::Continuation => self.append(&payload, head.is_final)?,
            Kind::Ping => Some(Incoming::Ping(payload)),
            Kind::Pong => Some(Incoming::Pong),
            Kind::Close => Some(Incoming::Close(close_code(&payload)?)),
        };
        self.partial.take_if(|partial| partial.message.is_none());
        Ok(incoming)
    }

    /// Adds a fragment. Returns the message after its last one.
    fn append<'a>(&mut self, fragment: &[u8], is_last: bool) -> Result<Option<Incoming<'a>>, Violation> {
        let partial = self.partial.get_or_insert_default();
        let message = partial.message.get_or_insert_default();
        message.bytes.extend_from_slice(fragment);
        if !is_last {
            message.check()?;
            return Ok(None);
        }
        let bytes = partial.message.take().unwrap_or_default().bytes;
        Ok(Some(Incoming::Text(text(Cow::Owned(bytes))?)))
    }
}

impl Message {
    /// Refuses text that cannot become UTF-8, before the rest of it has come.
    fn check(&mut self) -> Result<(), Violation> {
        match str::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = self.bytes.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::Utf8),
        }
        Ok(())
    }
}

/// What a frame is, of the opcodes that are not reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// The head of a masked frame.
#[derive(Debug, Clone, Copy)]
struct Head {
    kind: Kind,
    is_final: bool,
    mask: [u8; 4],
    /// The bytes of the head itself.
    size: usize,
    /// The bytes of the payload. They may exceed the limit until [`Decoder::head`] has checked it.
    length: usize,
}

impl Head {
    /// The head at the beginning of a frame, if it is complete.
    fn parse(frame: &[u8]) -> Result<Option<Self>, Violation> {
        let mut cursor = Cursor::new(frame);
        // Reading from memory, it fails for reserved opcodes only.
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Violation::Reserved)?;
        let Some((header, length)) = parsed else { return Ok(None) };
        let kind = match header.opcode {
            OpCode::Data(Data::Continue) => Kind::Continuation,
            OpCode::Data(Data::Text) => Kind::Text,
            OpCode::Data(Data::Binary) => Kind::Binary,
            OpCode::Control(Control::Close) => Kind::Close,
            OpCode::Control(Control::Ping) => Kind::Ping,
            OpCode::Control(Control::Pong) => Kind::Pong,
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
                return Err(Violation::Reserved);
            }
        };
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::Reserved);
        }
        let Some(mask) = header.mask else { return Err(Violation::Unmasked) };
        let is_control = matches!(kind, Kind::Close | Kind::Ping | Kind::Pong);
        if is_control && (length > MAX_CONTROL as u64 || !header.is_final) {
            return Err(Violation::Control);
        }
        let size = header.len(length);
        if cursor.position() != size as u64 {
            return Err(Violation::Length);
        }
        // More than memory can hold is more than the limit, too.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        Ok(Some(Self { kind, is_final: header.is_final, mask, size, length }))
    }

    fn frame_length(&self) -> usize {
        self.size + self.length
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

fn text(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, Violation> {
    match bytes {
        Cow::Borrowed(bytes) => str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Violation::Utf8),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Violation::Utf8),
    }
}

/// The code of a close frame, unless it is empty.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<CLOSE_CODE_LENGTH>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::Close) };
    };
    let code = u16::from_be_bytes(*code);
    // The codes that IANA lists for use on the wire, and the ranges that are registered or private.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Close);
    }
    str::from_utf8(reason).map_err(|_| Violation::Utf8)?;
    Ok(Some(code))
}

/// Appends the head of a text message, whose bytes follow it.
pub(in crate::transport) fn write_text_head(length: usize, out: &mut Vec<u8>) {
    write_head(OpCode::Data(Data::Text), length, out);
}

/// Appends the head of a binary message, whose bytes follow it.
pub(in crate::transport) fn write_binary_head(length: usize, out: &mut Vec<u8>) {
    write_head(OpCode::Data(Data::Binary), length, out);
}

/// Appends an empty ping.
pub(in crate::transport) fn write_ping(out: &mut Vec<u8>) {
    write_head(OpCode::Control(Control::Ping), 0, out);
}

/// Appends the answer to a ping, with its payload.
pub(in crate::transport) fn write_pong(payload: &[u8], out: &mut Vec<u8>) {
    write_head(OpCode::Control(Control::Pong), payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a close frame. Of a longer reason, only as many characters as fit into 123 bytes are told.
pub(in crate::transport) fn write_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let fits = reason.char_indices().map(|(at, char)| at + char.len_utf8());
    let length = fits.take_while(|&end| end <= MAX_CONTROL - CLOSE_CODE_LENGTH).last().unwrap_or(0);
    let reason = &reason[..length];
    write_head(OpCode::Control(Control::Close), CLOSE_CODE_LENGTH + reason.len(), out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

fn write_head(opcode: OpCode, length: usize, out: &mut Vec<u8>) {
    let head = FrameHeader { opcode, ..FrameHeader::default() };
    let written = head.format(length as u64, out);
    debug_assert!(written.is_ok(), "memory takes every write");
}

#[cfg(test)]
mod autobahn_tests;
#[cfg(test)]
mod tests;
