//! Owns the history without a file: the latest dispatches, in memory.

use std::sync::Arc;

use parking_lot::Mutex;

use super::query::HistoryQuery;
use crate::journal::record::DispatchRecord;
use crate::journal::ring::Ring;
use crate::journal::row::DispatchRow;

/// It has a ring of its own, but shares each record with the event log. The two cannot have one ring: dispatches stay in the
/// history however many polls are logged after them, and are in the log only while a subscriber wants them.
pub(in crate::journal) struct MemoryHistory(Mutex<Ring<Arc<DispatchRecord>>>);

impl MemoryHistory {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Ring::new()))
    }

    pub(super) fn append(&self, record: Arc<DispatchRecord>) {
        self.0.lock().push(record);
    }

    pub(super) fn find(&self, query: &HistoryQuery) -> Vec<DispatchRow> {
        let records = self.0.lock();
        let found = records.iter().rev().filter(|record| matches(query, record)).take(query.limit);
        found.map(|record| DispatchRow::from(&**record)).collect()
    }
}

fn matches(query: &HistoryQuery, record: &DispatchRecord) -> bool {
    let is = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted == text);
    // The records are not quite in the order of their times: that of a POST whose supervisor left comes with its last offer.
    query.since.is_none_or(|since| record.at >= since)
        && is(&query.run, record.names.get(0))
        && is(&query.deployment, record.names.get(1))
        && is(&query.outcome, record.outcome.kind().text())
}
