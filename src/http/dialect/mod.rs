//! Owns the dialects: one table of them, and the dispatch that they share.
//!
//! A dialect is one value behind the [`Dialect`] trait. It parses requests and renders outcomes; routing, admission, reading the
//! body, dispatching and recording are the same for all.

mod dispatch;
mod interface;
mod invoke;
mod native;
mod run_name;
mod run_response;
mod trigger;

pub(in crate::http) use dispatch::{Dispatched, dispatch, refuse};
pub(in crate::http) use interface::{Dialect, PollKind, PollRequest, PollTerms, Resource};
pub use trigger::{Message, MessageError};

static DIALECTS: [&dyn Dialect; 4] =
    [&trigger::Trigger, &native::Native, &invoke::Invoke::BUFFERED, &invoke::Invoke::STREAMED];

/// The dialect that a path belongs to, and what the path names there.
pub(in crate::http) fn find(path: &str) -> Option<(&'static dyn Dialect, Resource)> {
    DIALECTS.iter().find_map(|dialect| Some((*dialect, dialect.resource(path)?)))
}
