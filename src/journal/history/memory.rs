//! Owns the history without a file: the latest dispatches and the latest replies, in memory, as the bytes that they were queued in.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::query::HistoryQuery;
use crate::journal::codec::Undecoded;
use crate::journal::record::{DispatchRecord, ReplyRecord};
use crate::journal::ring::Ring;
use crate::journal::row::{DispatchRow, ReplyRow};

/// It has rings of its own beside that of the event log: dispatches stay in the history however many polls are logged after
/// them, and are in the log only while a subscriber wants them.
pub(in crate::journal) struct MemoryHistory(Mutex<Latest>);

/// Replies are put together with their dispatches by those who ask for them, so that a dispatch without a reply costs nothing more.
struct Latest {
    dispatches: Ring<Undecoded<DispatchRecord>>,
    /// How many dispatches were ever added.
    added: u64,
    replies: Ring<AddedReply>,
}

struct AddedReply {
    reply: Undecoded<ReplyRecord>,
    /// How many dispatches were added before it.
    dispatches_before: u64,
}

impl MemoryHistory {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Latest { dispatches: Ring::new(), added: 0, replies: Ring::new() }))
    }

    pub(super) fn append(&self, dispatch: Undecoded<DispatchRecord>) {
        let mut latest = self.0.lock();
        latest.added += 1;
        latest.dispatches.push(dispatch);
    }

    pub(super) fn append_reply(&self, reply: Undecoded<ReplyRecord>) {
        let mut latest = self.0.lock();
        let dispatches_before = latest.added;
        latest.replies.push(AddedReply { reply, dispatches_before });
    }

    pub(super) fn find(&self, query: &HistoryQuery) -> Vec<DispatchRow> {
        let latest = self.0.lock();
        let mut replies = UnmatchedReplies::of(&latest.replies);
        let first = latest.added - latest.dispatches.len() as u64;
        // They are not quite in the order of their times: that of a POST whose supervisor left comes with its last offer.
        let recent = (0_u64..latest.dispatches.len() as u64).rev().filter_map(|index| {
            let dispatch = latest.dispatches.get(index)?;
            query.since.is_none_or(|since| dispatch.at() >= since).then_some((first + index, dispatch))
        });
        let decoded = recent.filter_map(|(number, dispatch)| Some((number, dispatch, dispatch.decode()?)));
        let found = decoded.filter(|(_, _, record)| matches(query, record)).take(query.limit);
        found
            .map(|(number, dispatch, record)| {
                let reply = if record.was_handed_over() { replies.take(number, dispatch) } else { None };
                DispatchRow { reply, ..DispatchRow::from(&record) }
            })
            .collect()
    }
}

fn matches(query: &HistoryQuery, record: &DispatchRecord) -> bool {
    let is = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted == text);
    is(&query.run, record.names.get(0))
        && is(&query.deployment, record.names.get(1))
        && is(&query.outcome, record.outcome.kind().text())
}

/// The replies by their runs and pools, from the oldest to the newest, without those whose dispatch was found.
struct UnmatchedReplies<'a>(HashMap<&'a [u8], Vec<&'a AddedReply>>);

impl<'a> UnmatchedReplies<'a> {
    fn of(replies: &'a Ring<AddedReply>) -> Self {
        let mut by_run = HashMap::<_, Vec<_>>::new();
        for added in replies.iter() {
            if let Some(run) = added.reply.run() {
                by_run.entry(run).or_default().push(added);
            }
        }
        Self(by_run)
    }

    /// The reply to the dispatch with this number, whose run was handed over. Dispatches are asked for from the latest to the oldest.
    fn take(&mut self, number: u64, dispatch: &Undecoded<DispatchRecord>) -> Option<ReplyRow> {
        let replies = self.0.get_mut(dispatch.run()?)?;
        let found = replies.iter().position(|added| added.dispatches_before > number)?;
        Some(ReplyRow::from(&replies.remove(found).reply.decode()?))
    }
}
