//! Owns the queues between the threads that record events and the journal's thread: a ring of bytes for each recording thread.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};
use parking_lot::Mutex;
use rtrb::{Consumer, Producer, RingBuffer};

/// Bytes that one thread can queue: about 6,900 dispatches. Pages that were never written take no memory.
pub(super) const CAPACITY: usize = 1 << 20;
/// New queues that wait for the reader. A thread that finds no room tries again with its next event.
const NEW_QUEUES: usize = 1024;
/// Most events take less. A longer one grows the buffer once.
const EVENT_BYTES: usize = 1024;
/// Before each event: its length in bytes, and its time in nanoseconds since the journal was opened.
const HEADER: usize = size_of::<u32>() + size_of::<u64>();

thread_local! {
    /// The queues of this thread: one, except in tests, where a thread may use several journals.
    static QUEUES: RefCell<Vec<ThreadQueue>> = const { RefCell::new(Vec::new()) };
}

/// The writing side of all queues of one journal.
pub(super) struct QueueWriter {
    /// Different for each journal of the process.
    journal: u64,
    opened: Instant,
    /// To where a new queue's reading side is sent; none if the journal is closed.
    queues: Mutex<Option<SyncSender<Consumer<u8>>>>,
}

/// The reading side of all queues of one journal.
pub(super) struct QueueReader {
    opened: Instant,
    new_queues: Receiver<Consumer<u8>>,
    queues: Vec<Consumer<u8>>,
    /// The event that is being read.
    bytes: Vec<u8>,
}

/// The writing side of one thread's queue.
struct ThreadQueue {
    journal: u64,
    ring: Producer<u8>,
    /// The event that is being written.
    bytes: Vec<u8>,
}

/// The events of one read.
pub(super) struct Batch<T> {
    /// Each with a number by which they are in order.
    pub(super) events: Vec<(u64, T)>,
    /// A queue has more events than were wanted.
    pub(super) has_more: bool,
    /// The journal is closed, and these were the last events.
    pub(super) is_last: bool,
}

/// The two sides of a new journal's queues.
pub(super) fn open() -> (QueueWriter, QueueReader) {
    static JOURNALS: AtomicU64 = AtomicU64::new(0);
    let (opened, (sender, new_queues)) = (Instant::now(), sync_channel(NEW_QUEUES));
    let journal = JOURNALS.fetch_add(1, Ordering::Relaxed);
    let reader = QueueReader { opened, new_queues, queues: Vec::new(), bytes: Vec::new() };
    (QueueWriter { journal, opened, queues: Mutex::new(Some(sender)) }, reader)
}

impl QueueWriter {
    /// Queues the event that `encode` writes, with its time. False if it does not fit, or if the journal is closed.
    pub(super) fn push(&self, time: Instant, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let nanos = nanos_between(self.opened, time);
        let pushed = QUEUES.try_with(|queues| {
            let mut queues = queues.borrow_mut();
            match queues.iter_mut().find(|queue| queue.journal == self.journal) {
                Some(queue) => queue.push(nanos, encode),
                None => self.add_queue(&mut queues).is_some_and(|queue| queue.push(nanos, encode)),
            }
        });
        // The thread's queues are gone if it is ending.
        pushed.unwrap_or(false)
    }

    /// Adds a queue to those of this thread; none if the journal is closed, or too many threads have begun to record at once.
    #[cold]
    fn add_queue<'a>(&self, queues: &'a mut Vec<ThreadQueue>) -> Option<&'a mut ThreadQueue> {
        queues.retain(|queue| !queue.ring.is_abandoned());
        let (ring, reader) = RingBuffer::new(CAPACITY);
        self.queues.lock().as_ref()?.try_send(reader).ok()?;
        queues.push(ThreadQueue { journal: self.journal, ring, bytes: Vec::with_capacity(EVENT_BYTES) });
        queues.last_mut()
    }

    /// The reader's next read is its last one.
    pub(super) fn close(&self) {
        *self.queues.lock() = None;
    }
}

impl ThreadQueue {
    fn push(&mut self, nanos: u64, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Self { ring, bytes, .. } = self;
        bytes.clear();
        bytes.put_u32_ne(0);
        bytes.put_u64_ne(nanos);
        encode(bytes);
        let Ok(length) = u32::try_from(bytes.len() - HEADER) else { return false };
        bytes[..size_of::<u32>()].copy_from_slice(&length.to_ne_bytes());
        !ring.is_abandoned() && ring.push_entire_slice(bytes).is_ok()
    }
}

impl QueueReader {
    /// Reads the events that were queued before this call, at most `most` of each thread, in the order of their times. Those
    /// of one thread stay in the order in which they were recorded. `decode` gets the age and the bytes of each.
    pub(super) fn read<T>(
        &mut self,
        most: usize,
        mut decode: impl FnMut(Duration, &[u8]) -> Option<T>,
    ) -> Batch<T> {
        // An event may follow from one of another thread, whose queue has been read by now, so neither is read that is
        // recorded from now on: the two are read next time, in order.
        let now = nanos_between(self.opened, Instant::now());
        let is_last = self.add_new_queues();
        let (until, most) = if is_last { (u64::MAX, usize::MAX) } else { (now, most) };
        let (mut events, mut has_more) = (Vec::new(), false);
        for queue in &mut self.queues {
            let mut latest = 0;
            has_more |= read_queue(queue, &mut self.bytes, until, most, |nanos, bytes| {
                latest = nanos.max(latest);
                let event = decode(Duration::from_nanos(now.saturating_sub(nanos)), bytes);
                events.extend(event.map(|event| (latest, event)));
            });
        }
        if self.queues.len() > 1 {
            events.sort_by_key(|&(time, _)| time);
        }
        // A thread that has ended leaves its queue to be read.
        self.queues.retain(|queue| !queue.is_abandoned() || queue.slots() > 0);
        Batch { events, has_more, is_last }
    }

    /// Adds the queues of threads that have recorded their first event; true if the journal is closed.
    fn add_new_queues(&mut self) -> bool {
        loop {
            match self.new_queues.try_recv() {
                Ok(queue) => self.queues.push(queue),
                Err(error) => return error == TryRecvError::Disconnected,
            }
        }
    }
}

/// Reads the events that are in a queue now, until one is later than `until`; true if there are more than `most`.
fn read_queue(
    queue: &mut Consumer<u8>,
    bytes: &mut Vec<u8>,
    until: u64,
    most: usize,
    mut act: impl FnMut(u64, &[u8]),
) -> bool {
    let mut queued = queue.slots();
    for _ in 0..most {
        let Some((length, nanos)) = next_header(queue).filter(|&(_, nanos)| queued > 0 && nanos <= until)
        else {
            return false;
        };
        bytes.resize(HEADER + length, 0);
        // An event is queued as a whole, so all of it is there.
        if queue.pop_entire_slice(bytes).is_err() {
            return false;
        }
        queued = queued.saturating_sub(bytes.len());
        act(nanos, &bytes[HEADER..]);
    }
    queued > 0
}

/// The length and the time of a queue's next event.
fn next_header(queue: &mut Consumer<u8>) -> Option<(usize, u64)> {
    let chunk = queue.read_chunk(HEADER).ok()?;
    let (first, second) = chunk.as_slices();
    let mut header = first.chain(second);
    Some((usize::try_from(header.get_u32_ne()).ok()?, header.get_u64_ne()))
}

fn nanos_between(earlier: Instant, later: Instant) -> u64 {
    u64::try_from(later.saturating_duration_since(earlier).as_nanos()).unwrap_or(u64::MAX)
}
