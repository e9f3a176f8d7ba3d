//! Owns HTTP/1.1 on a connection: bytes become a request, and a response becomes bytes. Knows no routes.
//!
//! ```text
//! read ─► parse ─┬─ plain and complete ─────────────► RequestHead
//!                ├─ valid, but not plain ─► hyper ──► RequestHead
//!                └─ invalid ────────────────────────► Problem
//! ```

mod body;
mod fast_path;
mod field_names;
mod fields;
mod head;
mod hyper_fallback;
mod parse;
mod read;
mod validate;
mod write;

pub(in crate::http) use body::{RequestBody, discard, read_body};
pub(in crate::http) use field_names::{FieldName, METADATA, Signs};
pub(in crate::http) use fields::HeaderFields;
pub(in crate::http) use head::{AllFields, RequestHead};
pub(in crate::http) use hyper_fallback::{HyperEnd, HyperRead, read_with_hyper};
pub(in crate::http) use parse::{HeadParse, parse};
pub(in crate::http) use read::{read_idle, read_line, read_more};
pub(in crate::http) use validate::MAX_TARGET_BYTES;
#[cfg(fuzzing)]
pub(in crate::http) use validate::violation;
pub(in crate::http) use write::{write_and_cut_off, write_and_linger, write_response};
