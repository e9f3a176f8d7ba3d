//! Owns the event log: the latest events for `/events`, and the subscribers that read them, each its own topic at its own pace.

mod cursor;
mod entry;
mod index;
mod numbers;
mod topic;

#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use super::record::{EventKinds, unix_millis};
use super::ring::Ring;

pub use topic::Topic;

pub(super) use entry::LogEntry;
pub(super) use index::LINGER;

use cursor::EventCursor;
use index::{MAX_SUBSCRIBERS, TopicIndex};

/// Events that a subscriber reads at a time.
const BATCH: usize = 256;

/// The latest events, numbered from 1 without gaps.
pub(super) struct EventLog {
    state: Mutex<LogState>,
}

struct LogState {
    entries: Ring<LogEntry>,
    /// The number of the next event.
    next: u64,
    index: TopicIndex,
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
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(LogState { entries: Ring::new(), next: 1, index: TopicIndex::new() }) }
    }

    /// Adds events. Before them, `skipped` events happened that no subscriber wanted.
    pub(super) fn add(&self, events: Vec<LogEntry>, skipped: u64) {
        let mut state = self.state.lock();
        if skipped > 0 {
            state.skip(skipped);
        }
        for event in events {
            state.push(event);
        }
        let (first, next) = (state.first(), state.next);
        state.index.finish_batch(first, next);
    }

    /// The kinds that have a subscriber now.
    pub(super) fn subscribed_kinds(&self, now: Instant) -> EventKinds {
        let mut state = self.state.lock();
        state.index.expire(now);
        state.index.subscribed_kinds()
    }

    /// A reader of the topic's events after the one with the id `after`; without an id, of the events from now on. None if there
    /// are too many subscribers.
    pub(super) fn subscribe(log: &Arc<Self>, after: Option<&str>, topic: Topic) -> Option<EventReader> {
        let mut state = log.state.lock();
        if state.index.subscribers() >= MAX_SUBSCRIBERS {
            return None;
        }
        let (first, wanted) = (state.first(), after.map_or(state.next, |id| state.number_after(id)));
        let LogState { entries, index, .. } = &mut *state;
        let cursor = index.subscribe(topic, (first..).zip(entries.iter()), (wanted, first));
        drop(state);
        Some(EventReader { log: log.clone(), cursor })
    }
}

impl LogState {
    /// The number of the event that follows the one with this id.
    fn number_after(&self, id: &str) -> u64 {
        let number = id.strip_prefix(epoch()).and_then(|rest| rest.strip_prefix('-'));
        // The id is another process's, so every event of this process is new.
        let Some(number) = number else { return 1 };
        number.parse::<u64>().map_or(self.next, |number| number.saturating_add(1)).min(self.next)
    }

    fn push(&mut self, event: LogEntry) {
        let number = self.next;
        self.next += 1;
        self.entries.push(event);
        let first = self.first();
        if let Some(event) = self.entries.iter().next_back() {
            self.index.add(number, event, first);
        }
    }

    /// Counts events that are not in the log. Drops the buffered ones, so that the numbers in the log stay contiguous.
    fn skip(&mut self, events: u64) {
        let before = self.next;
        self.entries.clear();
        self.next += events;
        for cursor in self.index.clear(self.next) {
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
    /// The next events of the topic, as soon as there are any.
    pub async fn next(&self) -> EventBatch {
        loop {
            if let Some(batch) = self.read() {
                return batch;
            }
            self.cursor.added.notified().await;
        }
    }

    /// A comment for a stream without events. If the subscriber has read everything, an id follows: with it, it can resume later
    /// than after its last event.
    pub fn heartbeat(&self) -> EventBatch {
        let comment = ": still here\n";
        let mut state = self.log.state.lock();
        let (first, next) = (state.first(), state.next);
        let has_read_all = state.index.unread(&self.cursor, first, 1).is_some_and(|unread| unread.is_empty());
        drop(state);
        let id = has_read_all.then(|| format!("id: {}\n", event_id(next - 1)));
        EventBatch(format!("{comment}{}\n", id.unwrap_or_default()).into())
    }

    fn read(&self) -> Option<EventBatch> {
        let mut bytes = BytesMut::new();
        let missed = self.cursor.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            bytes.put_slice(format!("event: missed\ndata: {{\"missed\":{missed}}}\n\n").as_bytes());
        }
        for (number, entry) in self.take_entries() {
            entry.write(&event_id(number), &mut bytes);
        }
        (!bytes.is_empty()).then(|| EventBatch(bytes.freeze()))
    }

    /// The next entries of the topic, with their numbers.
    fn take_entries(&self) -> Vec<(u64, LogEntry)> {
        let mut state = self.log.state.lock();
        let first = state.first();
        // A subscriber that lags may read once more before its connection is closed. It gets nothing, because it would not notice
        // that events in between are missing.
        let Some(numbers) = state.index.unread(&self.cursor, first, BATCH) else {
            self.cursor.set_lagged();
            return Vec::new();
        };
        let end = if numbers.len() < BATCH { Some(state.next) } else { numbers.last().map(|last| last + 1) };
        self.cursor.next.store(end.unwrap_or(state.next), Ordering::Relaxed);
        let entry = |number: u64| Some((number, state.entries.get(number - first)?.clone()));
        numbers.into_iter().filter_map(entry).collect()
    }

    /// Resolves once the log has dropped an event of the topic that the subscriber has not read yet.
    pub fn lagged(&self) -> impl Future<Output = ()> + Send + 'static {
        let cursor = self.cursor.clone();
        async move { cursor.lagged().await }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.log.state.lock().index.unsubscribe(&self.cursor, Instant::now());
    }
}

fn event_id(number: u64) -> String {
    format!("{}-{number}", epoch())
}

/// A prefix of every event id, different in each process, so that the id of an earlier process is recognized as such.
pub(super) fn epoch() -> &'static str {
    static EPOCH: OnceLock<String> = OnceLock::new();
    EPOCH.get_or_init(|| format!("{:x}", unix_millis()))
}
