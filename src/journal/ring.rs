//! Owns the latest events, and the readers that follow them, each at its own pace; who falls behind is cut off.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::{self, DispatchRecord, PollEvent};
use super::{Kind, Kinds, epoch};

/// Events that stand for readers who come back or fall behind.
const KEPT: usize = 10_000;
/// More readers at once are refused.
const MOST_READERS: usize = 256;
/// A reader takes at most so many events at a time.
const BATCH: usize = 256;

/// What a reader is told; it becomes text only when somebody reads it.
#[derive(Debug, Clone)]
pub(super) enum LogEntry {
    Dispatch(Arc<DispatchRecord>),
    /// The verdict on the offer at this place.
    Verdict(Arc<DispatchRecord>, usize),
    Poll(Arc<PollEvent>),
    Text(Kind, Arc<str>),
}

impl LogEntry {
    fn kind(&self) -> Kind {
        match self {
            Self::Dispatch(_) => Kind::Dispatch,
            Self::Verdict(..) => Kind::Verdict,
            Self::Poll(_) => Kind::Poll,
            Self::Text(kind, _) => *kind,
        }
    }

    fn write(&self, number: u64, out: &mut BytesMut) {
        let data: Cow<'_, str> = match self {
            Self::Dispatch(dispatch) => event::json(&dispatch.row()).into(),
            Self::Verdict(dispatch, offer) => dispatch.verdict(*offer).into(),
            Self::Poll(poll) => poll.json().into(),
            Self::Text(_, text) => (&**text).into(),
        };
        let kind = self.kind().text();
        out.put_slice(format!("id: {}-{number}\nevent: {kind}\ndata: {data}\n\n", epoch()).as_bytes());
    }
}

/// The latest events.
pub(super) struct EventLog {
    state: Mutex<State>,
}

struct State {
    entries: VecDeque<LogEntry>,
    /// The number of the next event.
    next: u64,
    readers: Vec<Arc<EventCursor>>,
}

/// What the ring knows of a reader.
struct EventCursor {
    /// The number of the event that it takes next.
    at: AtomicU64,
    /// Events that were gone before it could take them.
    missed: AtomicU64,
    kinds: Kinds,
    news: Notify,
    is_behind: AtomicBool,
    cut: Notify,
}

/// Who follows the events.
pub struct EventReader {
    ring: Arc<EventLog>,
    follower: Arc<EventCursor>,
}

/// What a reader takes at a time.
#[derive(Debug)]
pub struct EventBatch(pub Bytes);

impl EventLog {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State { entries: VecDeque::new(), next: 1, readers: Vec::new() }) }
    }

    /// Adds events; `skipped` more happened that nobody was there to read.
    pub(super) fn add(&self, events: Vec<LogEntry>, skipped: u64) {
        let mut state = self.state.lock();
        if skipped > 0 {
            state.skip(skipped);
        }
        state.next += events.len() as u64;
        state.entries.extend(events);
        let surplus = state.entries.len().saturating_sub(KEPT);
        state.entries.drain(..surplus);
        let first = state.first();
        for reader in &state.readers {
            if reader.at.load(Ordering::Relaxed) < first {
                reader.is_behind.store(true, Ordering::Relaxed);
                reader.cut.notify_one();
            }
            reader.news.notify_one();
        }
    }

    /// The kinds that anybody reads now.
    pub(super) fn kinds_read(&self) -> Kinds {
        self.state.lock().readers.iter().fold(Kinds::default(), |all, reader| all.with(reader.kinds))
    }

    pub(super) fn read(ring: &Arc<Self>, after: Option<&str>, kinds: Kinds) -> Option<EventReader> {
        let mut state = ring.state.lock();
        if state.readers.len() >= MOST_READERS {
            return None;
        }
        let (first, next) = (state.first(), state.next);
        let (at, missed) = match after
            .map(|id| id.strip_prefix(epoch()).and_then(|rest| rest.strip_prefix('-')))
        {
            None => (next, 0),
            // The id of an earlier life: everything of this one is new.
            Some(None) => (first, first - 1),
            Some(Some(number)) => {
                let wanted = number.parse::<u64>().map_or(next, |number| number.saturating_add(1)).min(next);
                (wanted.max(first), first.saturating_sub(wanted))
            }
        };
        let follower = Arc::new(EventCursor {
            at: AtomicU64::new(at),
            missed: AtomicU64::new(missed),
            kinds,
            news: Notify::new(),
            is_behind: AtomicBool::new(false),
            cut: Notify::new(),
        });
        state.readers.push(follower.clone());
        Some(EventReader { ring: ring.clone(), follower })
    }
}

impl State {
    /// Leaves a gap: what stands would no longer be without one, so it goes.
    fn skip(&mut self, events: u64) {
        let before = self.next;
        self.entries.clear();
        self.next += events;
        for reader in &self.readers {
            let at = reader.at.swap(self.next, Ordering::Relaxed);
            // Who has just come wants what follows; who has come back has missed something.
            if at < before {
                reader.missed.fetch_add(self.next - at, Ordering::Relaxed);
            }
        }
    }

    /// The number of the oldest event that stands.
    fn first(&self) -> u64 {
        self.next - self.entries.len() as u64
    }
}

impl EventReader {
    /// The next events of its kinds. Empty if those that came were of other kinds.
    pub async fn next(&self) -> EventBatch {
        loop {
            if let Some(batch) = self.take() {
                return batch;
            }
            self.follower.news.notified().await;
        }
    }

    fn take(&self) -> Option<EventBatch> {
        let mut bytes = BytesMut::new();
        let missed = self.follower.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            bytes.put_slice(format!("event: missed\ndata: {{\"missed\":{missed}}}\n\n").as_bytes());
        }
        for (number, told) in self.some() {
            told.write(number, &mut bytes);
        }
        (!bytes.is_empty()).then(|| EventBatch(bytes.freeze()))
    }

    /// The next entries of its kinds, with their numbers.
    fn some(&self) -> Vec<(u64, LogEntry)> {
        let state = self.ring.state.lock();
        let at = self.follower.at.load(Ordering::Relaxed);
        // A reader that is behind is cut off, but may ask once more before: what stands has other numbers than it expects.
        let Some(from) = at.checked_sub(state.first()) else { return Vec::new() };
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let mut some = Vec::new();
        let mut next = at;
        for told in state.entries.iter().skip(from) {
            if some.len() == BATCH {
                break;
            }
            if self.follower.kinds.has(told.kind()) {
                some.push((next, told.clone()));
            }
            next += 1;
        }
        self.follower.at.store(next, Ordering::Relaxed);
        some
    }

    /// Comes to an end when the reader has fallen so far behind that events would be lost on it.
    pub fn lagged(&self) -> impl Future<Output = ()> + Send + 'static {
        let follower = self.follower.clone();
        async move {
            while !follower.is_behind.load(Ordering::Relaxed) {
                follower.cut.notified().await;
            }
        }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        let follower = &self.follower;
        self.ring.state.lock().readers.retain(|other| !Arc::ptr_eq(other, follower));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_behind_is_told_nothing_more() {
        let ring = Arc::new(EventLog::new());
        let reader = EventLog::read(&ring, None, Kinds::all()).unwrap();
        let text = |number: usize| LogEntry::Text(Kind::Drain, number.to_string().into());
        ring.add((0..=KEPT).map(text).collect(), 0);
        // What stands are later events: they would come under the numbers of those that are gone.
        assert!(reader.take().is_none());
        assert!(reader.follower.is_behind.load(Ordering::Relaxed));
        // Who comes back under the last number that it saw learns what it missed.
        let last = format!("{}-0", epoch());
        let EventBatch(again) = EventLog::read(&ring, Some(&last), Kinds::all()).unwrap().take().unwrap();
        let expected = format!("event: missed\ndata: {{\"missed\":1}}\n\nid: {}-2\n", epoch());
        assert!(std::str::from_utf8(&again).unwrap().starts_with(&expected), "{again:?}");
    }
}
