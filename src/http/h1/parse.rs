//! Owns the only parse of a request's head outside of hyper: what the bytes that have come so far begin with.
//!
//! One pass of httparse serves the fast path, the validation and the refusal. hyper parses a head again where it has to
//! read the body; such a head has passed the validation, so that hyper's leniency decides nothing.

use std::mem::MaybeUninit;
use std::ops::Range;

use httparse::{Error, Request, Status};

use super::body_decoder::BodyFraming;
use super::fast_path::{FastPath, classify};
use super::field_names::Signs;
use super::fields::HeaderFields;
use super::head::{AllFields, MAX_FIELDS, RequestHead};
use super::validate::{MAX_HEAD_BYTES, violation};
use crate::http::problem::Problem;

/// What a read buffer begins with.
pub(in crate::http) enum HeadParse<'a> {
    /// One plain request and nothing after it; its body is at this range of the buffer.
    Complete(RequestHead<'a>, Range<usize>),
    /// A head whose end has not come yet.
    PartialHead,
    /// The head of a plain request whose body has not come completely.
    PartialBody,
    /// A request whose body is read as it comes.
    Streamed(RequestHead<'a>, BodyBegin),
    /// A valid head of a request that only hyper reads: it is not plain, or more bytes follow it.
    NeedsHyper,
    /// The request is refused, whatever follows.
    Refused(Problem),
}

/// Where a body that is read as it comes begins, and how it is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct BodyBegin {
    /// The length of the head.
    pub(in crate::http) at: usize,
    pub(in crate::http) framing: BodyFraming,
    /// Whether the client waits to be asked for it.
    pub(in crate::http) expects: bool,
}

impl BodyBegin {
    /// The length of the body, if it is announced.
    pub(in crate::http) fn length(self) -> Option<u64> {
        match self.framing {
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Chunked => None,
        }
    }
}

/// Parses and validates the head at the beginning of `bytes`. `fields` are empty before, and those of the head afterwards.
/// The bodies of POSTs to paths that `is_streamed` are read as they come. `body_limit` is named in the refusal of a body whose
/// announced length overflows.
pub(in crate::http) fn parse<'a, 'b: 'a>(
    bytes: &'b [u8],
    fields: &'a mut HeaderFields<'b>,
    is_streamed: impl FnOnce(&str) -> bool,
    body_limit: impl FnOnce() -> usize,
) -> HeadParse<'a> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = Request::new(&mut []);
    let head_length = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(Status::Partial) if bytes.len() <= MAX_HEAD_BYTES => return HeadParse::PartialHead,
        Ok(_) | Err(Error::TooManyHeaders) => return HeadParse::Refused(Problem::head_too_large()),
        Err(error) => return HeadParse::Refused(Problem::malformed(error)),
    };
    fields.extend(request.headers.iter().map(|header| (header.name, header.value)));
    match classify(&request, fields, head_length, bytes.len(), is_streamed) {
        FastPath::Complete { method, path, query, body } => {
            let all_fields = AllFields::Bytes(bytes);
            let head = RequestHead { method, path, query, is_http_11: true, fields, all_fields };
            HeadParse::Complete(head, body)
        }
        FastPath::Streamed { method, path, query, framing } => {
            let all_fields = AllFields::Bytes(bytes);
            let expects = fields.show(Signs::EXPECT)
                && all_fields.only("expect").is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
            let head = RequestHead { method, path, query, is_http_11: true, fields, all_fields };
            HeadParse::Streamed(head, BodyBegin { at: head_length, framing, expects })
        }
        FastPath::PartialBody => HeadParse::PartialBody,
        FastPath::Fallback => match violation(&request, fields, body_limit) {
            None => HeadParse::NeedsHyper,
            Some(problem) => HeadParse::Refused(problem),
        },
    }
}
