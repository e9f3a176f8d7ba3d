//! Owns HTTP/1.1 on a connection: bytes become a request, and a response becomes bytes. Knows no routes.
//!
//! ```text
//! read ─► parse ─┬─ plain and complete ─────────────► RequestHead
//!                ├─ plain, of a body that streams ──► RequestHead, BodyReader
//!                ├─ valid, but not plain ─► hyper ──► RequestHead
//!                └─ invalid ────────────────────────► Problem
//! ```

mod body;
mod body_decoder;
mod body_reader;
mod fast_path;
mod field_names;
mod fields;
mod head;
mod hyper_fallback;
mod parse;
mod read;
mod streamed_body;
mod validate;
mod write;

pub(in crate::http) use body::{RequestBody, discard, read_body};
pub(in crate::http) use body_decoder::BadBody;
#[cfg(fuzzing)]
pub(in crate::http) use body_decoder::{BodyDecoder, BodyFraming};
pub(in crate::http) use body_reader::BodyReader;
pub(in crate::http) use field_names::{FieldName, METADATA, REPLY, Signs};
pub(in crate::http) use fields::HeaderFields;
pub(in crate::http) use head::{AllFields, RequestHead};
pub(in crate::http) use hyper_fallback::{HyperEnd, HyperRead, read_with_hyper};
pub(in crate::http) use parse::{BodyBegin, HeadParse, parse};
pub(in crate::http) use read::{read_idle, read_line, read_more};
pub(in crate::http) use streamed_body::StreamedBody;
pub(in crate::http) use validate::MAX_TARGET_BYTES;
#[cfg(fuzzing)]
pub(in crate::http) use validate::violation;
pub(in crate::http) use write::{write_and_cut_off, write_and_linger, write_response};
