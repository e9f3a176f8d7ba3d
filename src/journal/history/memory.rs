//! Owns the history without a file: the latest dispatches, in memory, as the bytes that they were queued in.

use parking_lot::Mutex;

use super::query::HistoryQuery;
use crate::journal::codec::RecordedDispatch;
use crate::journal::record::DispatchRecord;
use crate::journal::ring::Ring;
use crate::journal::row::DispatchRow;

/// It has a ring of its own beside that of the event log: dispatches stay in the history however many polls are logged after
/// them, and are in the log only while a subscriber wants them.
pub(in crate::journal) struct MemoryHistory(Mutex<Ring<RecordedDispatch>>);

impl MemoryHistory {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Ring::new()))
    }

    pub(super) fn append(&self, dispatch: RecordedDispatch) {
        self.0.lock().push(dispatch);
    }

    pub(super) fn find(&self, query: &HistoryQuery) -> Vec<DispatchRow> {
        let dispatches = self.0.lock();
        // They are not quite in the order of their times: that of a POST whose supervisor left comes with its last offer.
        let recent =
            dispatches.iter().rev().filter(|dispatch| query.since.is_none_or(|since| dispatch.at() >= since));
        let found = recent.filter_map(RecordedDispatch::decode).filter(|record| matches(query, record));
        found.take(query.limit).map(|record| DispatchRow::from(&record)).collect()
    }
}

fn matches(query: &HistoryQuery, record: &DispatchRecord) -> bool {
    let is = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted == text);
    is(&query.run, record.names.get(0))
        && is(&query.deployment, record.names.get(1))
        && is(&query.outcome, record.outcome.kind().text())
}
