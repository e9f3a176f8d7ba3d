//! Owns the event log: the latest events for `/events`, and the subscribers that read them, each at its own pace.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::json;
use super::record::{DispatchRecord, DrainEvent, EventKinds, PollEvent, RetireEvent, unix_millis};
use super::ring::Ring;

/// More subscribers at once are refused.
const MAX_SUBSCRIBERS: usize = 256;
/// Events that a subscriber reads at a time.
const BATCH: usize = 256;

/// One event. It is rendered only when a subscriber reads it.
#[derive(Debug, Clone)]
pub(super) enum LogEntry {
    Poll(Arc<PollEvent>),
    Dispatch(Arc<DispatchRecord>),
    /// The verdict of the offer with this index.
    Verdict(Arc<DispatchRecord>, u32),
    Drain(Arc<DrainEvent>),
    Retire(Arc<RetireEvent>),
}

impl LogEntry {
    const fn kind(&self) -> EventKinds {
        match self {
            Self::Poll(_) => EventKinds::POLL,
            Self::Dispatch(_) => EventKinds::DISPATCH,
            Self::Verdict(..) => EventKinds::VERDICT,
            Self::Drain(_) => EventKinds::DRAIN,
            Self::Retire(_) => EventKinds::RETIRE,
        }
    }

    /// Writes the event as a server-sent event.
    fn write(&self, number: u64, out: &mut BytesMut) {
        let (name, data) = match self {
            Self::Poll(event) => ("poll", json::poll(event)),
            Self::Dispatch(record) => ("dispatch", json::dispatch(record)),
            Self::Verdict(record, offer) => ("verdict", json::verdict(record, *offer as usize)),
            Self::Drain(event) => ("drain", json::drain(event)),
            Self::Retire(event) => ("retire", json::retire(event)),
        };
        out.put_slice(format!("id: {}-{number}\nevent: {name}\ndata: {data}\n\n", epoch()).as_bytes());
    }
}

/// The latest events, numbered from 1 without gaps.
pub(super) struct EventLog {
    state: Mutex<LogState>,
}

struct LogState {
    entries: Ring<LogEntry>,
    /// The number of the next event.
    next: u64,
    cursors: Vec<Arc<EventCursor>>,
}

/// Where a subscriber is in the log.
struct EventCursor {
    /// The number of the event that the subscriber reads next.
    next: AtomicU64,
    /// Events that were dropped before the subscriber could read them; it has not been notified of them yet.
    missed: AtomicU64,
    kinds: EventKinds,
    added: Notify,
    /// Whether the next event has been dropped from the log.
    has_lagged: AtomicBool,
    lagged: Notify,
}

/// A subscriber's end of the log.
pub struct EventReader {
    log: Arc<EventLog>,
    cursor: Arc<EventCursor>,
}

/// Events that a subscriber reads at a time, as server-sent events.
#[derive(Debug)]
pub struct EventBatch(pub Bytes);

impl EventLog {
    pub(super) const fn new() -> Self {
        Self { state: Mutex::new(LogState { entries: Ring::new(), next: 1, cursors: Vec::new() }) }
    }

    /// Adds events. Before them, `skipped` events happened that no subscriber wanted.
    pub(super) fn add(&self, events: Vec<LogEntry>, skipped: u64) {
        let mut state = self.state.lock();
        if skipped > 0 {
            state.skip(skipped);
        }
        state.next += events.len() as u64;
        for event in events {
            state.entries.push(event);
        }
        let first = state.first();
        for cursor in &state.cursors {
            if cursor.next.load(Ordering::Relaxed) < first {
                cursor.has_lagged.store(true, Ordering::Relaxed);
                cursor.lagged.notify_one();
            }
            cursor.added.notify_one();
        }
    }

    /// The kinds that have a subscriber now.
    pub(super) fn subscribed_kinds(&self) -> EventKinds {
        self.state.lock().cursors.iter().map(|cursor| cursor.kinds).collect()
    }

    /// A reader of the events after the one with the id `after`; without an id, of the events from now on. None if there are
    /// too many subscribers.
    pub(super) fn subscribe(log: &Arc<Self>, after: Option<&str>, kinds: EventKinds) -> Option<EventReader> {
        let mut state = log.state.lock();
        if state.cursors.len() >= MAX_SUBSCRIBERS {
            return None;
        }
        let (next, missed) = state.resume(after);
        let cursor = Arc::new(EventCursor {
            next: AtomicU64::new(next),
            missed: AtomicU64::new(missed),
            kinds,
            added: Notify::new(),
            has_lagged: AtomicBool::new(false),
            lagged: Notify::new(),
        });
        state.cursors.push(cursor.clone());
        Some(EventReader { log: log.clone(), cursor })
    }
}

impl LogState {
    /// The number of the event that follows the one with this id, and how many events in between were dropped.
    fn resume(&self, after: Option<&str>) -> (u64, u64) {
        let (first, next) = (self.first(), self.next);
        let Some(id) = after else { return (next, 0) };
        let number = id.strip_prefix(epoch()).and_then(|rest| rest.strip_prefix('-'));
        // The id is another process's, so every event of this process is new.
        let Some(number) = number else { return (first, first - 1) };
        let wanted = number.parse::<u64>().map_or(next, |number| number.saturating_add(1)).min(next);
        (wanted.max(first), first.saturating_sub(wanted))
    }

    /// Counts events that are not in the log. Drops the buffered ones, so that the numbers in the log stay contiguous.
    fn skip(&mut self, events: u64) {
        let before = self.next;
        self.entries.clear();
        self.next += events;
        for cursor in &self.cursors {
            let next = cursor.next.swap(self.next, Ordering::Relaxed);
            // A cursor at the end of the log belongs to a new subscriber, which asked for later events only. A cursor before
            // the end belongs to a subscriber that resumes: it misses what is dropped and what is skipped.
            if next < before {
                cursor.missed.fetch_add(self.next - next, Ordering::Relaxed);
            }
        }
    }

    /// The number of the oldest event in the log.
    fn first(&self) -> u64 {
        self.next - self.entries.len() as u64
    }
}

impl EventReader {
    /// The next events of the subscribed kinds, as soon as there are any.
    pub async fn next(&self) -> EventBatch {
        loop {
            if let Some(batch) = self.read() {
                return batch;
            }
            self.cursor.added.notified().await;
        }
    }

    fn read(&self) -> Option<EventBatch> {
        let mut bytes = BytesMut::new();
        let missed = self.cursor.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            bytes.put_slice(format!("event: missed\ndata: {{\"missed\":{missed}}}\n\n").as_bytes());
        }
        for (number, entry) in self.take_entries() {
            entry.write(number, &mut bytes);
        }
        (!bytes.is_empty()).then(|| EventBatch(bytes.freeze()))
    }

    /// The next entries of the subscribed kinds, with their numbers.
    fn take_entries(&self) -> Vec<(u64, LogEntry)> {
        let state = self.log.state.lock();
        let start = self.cursor.next.load(Ordering::Relaxed);
        // A subscriber that lags may read once more before its connection is closed. It gets nothing, because the entries in
        // the log have later numbers than the one that it expects.
        let Some(index) = start.checked_sub(state.first()) else { return Vec::new() };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let mut entries = Vec::new();
        let mut next = start;
        for entry in state.entries.iter().skip(index) {
            if entries.len() == BATCH {
                break;
            }
            if self.cursor.kinds.contains(entry.kind()) {
                entries.push((next, entry.clone()));
            }
            next += 1;
        }
        self.cursor.next.store(next, Ordering::Relaxed);
        entries
    }

    /// Resolves once the log has dropped an event that the subscriber has not read yet.
    pub fn lagged(&self) -> impl Future<Output = ()> + Send + 'static {
        let cursor = self.cursor.clone();
        async move {
            while !cursor.has_lagged.load(Ordering::Relaxed) {
                cursor.lagged.notified().await;
            }
        }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        let cursor = &self.cursor;
        self.log.state.lock().cursors.retain(|other| !Arc::ptr_eq(other, cursor));
    }
}

/// A prefix of every event id, different in each process, so that the id of an earlier process is recognized as such.
pub(super) fn epoch() -> &'static str {
    static EPOCH: OnceLock<String> = OnceLock::new();
    EPOCH.get_or_init(|| format!("{:x}", unix_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::ring::CAPACITY;

    #[test]
    fn a_subscriber_that_lags_reads_nothing_more() {
        let log = Arc::new(EventLog::new());
        let reader = EventLog::subscribe(&log, None, EventKinds::all()).unwrap();
        let entry = |waiters| LogEntry::Drain(Arc::new(DrainEvent { at: 0, waiters }));
        log.add((0..=CAPACITY).map(entry).collect(), 0);
        // The entries in the log are later ones: they would be sent under the numbers of those that were dropped.
        assert!(reader.read().is_none());
        assert!(reader.cursor.has_lagged.load(Ordering::Relaxed));
        // A subscriber that resumes after the last number that it read is notified of what it missed.
        let last = format!("{}-0", epoch());
        let EventBatch(again) =
            EventLog::subscribe(&log, Some(&last), EventKinds::all()).unwrap().read().unwrap();
        let expected = format!("event: missed\ndata: {{\"missed\":1}}\n\nid: {}-2\n", epoch());
        assert!(std::str::from_utf8(&again).unwrap().starts_with(&expected), "{again:?}");
    }
}
