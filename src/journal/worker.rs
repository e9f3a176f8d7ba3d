//! Owns the journal's thread. It looks into the queues every 10 ms, and every 2 ms while events come, so that recording an event wakes no thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::codec::{Recorded, decode};
use super::event_log::{EventLog, LINGER, LogEntry};
use super::history::History;
use super::otlp::Tracer;
use super::priority::{Urgency, lower_priority};
use super::queue::{Batch, QueueReader};
use super::record::{DispatchRecord, Event, EventKinds, ReplyRecord, millis_since_1970};
use crate::metrics::Metrics;

/// The pause between two batches while events arrive. It is short, because the thread then works through few events at a time:
/// a dispatch that waits for the core meanwhile does not wait long.
const BUSY_INTERVAL: Duration = Duration::from_millis(2);
const IDLE_INTERVAL: Duration = Duration::from_millis(10);
/// Events that are read from one queue before subscribers are notified.
const BATCH: usize = 4096;

pub(super) struct JournalWorker {
    pub(super) events: QueueReader,
    pub(super) log: Arc<EventLog>,
    pub(super) history: Arc<History>,
    pub(super) tracer: Option<Tracer>,
    /// The [`EventKinds`] that are logged, for those who record events.
    pub(super) wanted_kinds: Arc<AtomicU32>,
    pub(super) metrics: Arc<Metrics>,
}

impl JournalWorker {
    pub(super) fn run(mut self) {
        // Dispatches are more urgent than the record of them.
        lower_priority(Urgency::Some);
        let mut interest = Interest::default();
        loop {
            let Batch { events, has_more, is_last } = self.read_batch();
            // Determined after the events were read, so that a new subscriber misses none that came after it.
            let now = Instant::now();
            let wanted = interest.update(self.log.subscribed_kinds(now), now);
            let skipped = if wanted.is_empty() { events.len() as u64 } else { 0 };
            self.wanted_kinds.store(wanted.bits(), Ordering::Relaxed);
            let interval = if events.is_empty() { IDLE_INTERVAL } else { BUSY_INTERVAL };
            let mut entries = Vec::new();
            for (_, event) in events {
                self.process(event, wanted, &mut entries);
            }
            // Skipped events are counted at once, so that a subscriber that resumes before the next event is notified of them.
            if !entries.is_empty() || skipped > 0 {
                self.log.add(entries, skipped);
            }
            if is_last {
                return;
            }
            if !has_more {
                std::thread::sleep(interval);
            }
        }
    }

    /// The queued events, at most [`BATCH`] of each thread.
    fn read_batch(&mut self) -> Batch<Recorded> {
        let now = SystemTime::now();
        self.events.read(BATCH, |age, bytes| {
            let event = decode(millis_since_1970(now.checked_sub(age).unwrap_or(now)), bytes);
            if event.is_none() {
                debug_assert!(false, "an event that no thread has written");
                self.metrics.event_dropped(true);
            }
            event
        })
    }

    /// Adds the entries of the wanted kinds that an event makes. Dispatches and replies also go to the history and to traces.
    fn process(&self, event: Recorded, wanted: EventKinds, entries: &mut Vec<LogEntry>) {
        match event {
            Recorded::Dispatch(dispatch) => {
                let is_logged = wanted.intersects(EventKinds::VERDICT | EventKinds::DISPATCH);
                let record = self.read(is_logged, || dispatch.decode());
                if let Some(record) = &record {
                    self.publish(record, wanted, entries);
                }
                if !self.history.append(dispatch, record) {
                    self.metrics.history_dropped(1);
                }
            }
            Recorded::Reply(reply) => {
                let is_logged = wanted.contains(EventKinds::REPLY);
                let record = self.read(is_logged, || reply.decode());
                if let Some(record) = &record {
                    self.publish_reply(record, wanted, entries);
                }
                if !self.history.append_reply(reply, record) {
                    self.metrics.history_dropped(1);
                }
            }
            Recorded::Event(Event::Poll(event)) if wanted.contains(EventKinds::POLL) => {
                entries.push(LogEntry::Poll(Arc::new(event)));
            }
            Recorded::Event(Event::Drain(event)) if wanted.contains(EventKinds::DRAIN) => {
                entries.push(LogEntry::Drain(Arc::new(event)));
            }
            Recorded::Event(Event::Retire(event)) if wanted.contains(EventKinds::RETIRE) => {
                entries.push(LogEntry::Retire(Arc::new(event)));
            }
            Recorded::Event(Event::Poll(_) | Event::Drain(_) | Event::Retire(_)) => {}
        }
    }

    /// A record, decoded if anyone reads it now.
    fn read<R>(&self, is_logged: bool, decode: impl FnOnce() -> Option<R>) -> Option<Arc<R>> {
        let is_read = is_logged || self.tracer.is_some() || self.history.reads_records();
        is_read.then(decode).flatten().map(Arc::new)
    }

    fn publish(&self, record: &Arc<DispatchRecord>, wanted: EventKinds, entries: &mut Vec<LogEntry>) {
        if let Some(tracer) = &self.tracer {
            tracer.export(record);
        }
        if wanted.contains(EventKinds::VERDICT) {
            entries.extend(verdicts(record));
        }
        if wanted.contains(EventKinds::DISPATCH) {
            entries.push(LogEntry::Dispatch(record.clone()));
        }
    }

    fn publish_reply(&self, record: &Arc<ReplyRecord>, wanted: EventKinds, entries: &mut Vec<LogEntry>) {
        if let Some(tracer) = &self.tracer {
            tracer.export_reply(record);
        }
        if wanted.contains(EventKinds::REPLY) {
            entries.push(LogEntry::Reply(record.clone()));
        }
    }
}

fn verdicts(record: &Arc<DispatchRecord>) -> impl Iterator<Item = LogEntry> {
    (0..).zip(&record.offers).map(|(index, _)| LogEntry::Verdict(record.clone(), index))
}

/// Until when events of each kind are logged.
#[derive(Default)]
struct Interest([Option<Instant>; EventKinds::NAMED.len()]);

impl Interest {
    /// The kinds that have a subscriber, and those that had one until recently. Each kind lingers for a time of its own,
    /// whatever other kinds are subscribed to.
    fn update(&mut self, subscribed: EventKinds, now: Instant) -> EventKinds {
        let wanted = EventKinds::all().iter().zip(&mut self.0).filter_map(|(kind, until)| {
            if subscribed.contains(kind) {
                *until = Some(now + LINGER);
            }
            until.is_some_and(|until| now < until).then_some(kind)
        });
        wanted.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_lingers_for_its_own_time() {
        let none = EventKinds::empty();
        let (drain, both) = (EventKinds::DRAIN, EventKinds::DRAIN | EventKinds::DISPATCH);
        let mut interest = Interest::default();
        let now = Instant::now();
        assert_eq!(interest.update(none, now), none);
        assert_eq!(interest.update(both, now), both);
        assert_eq!(interest.update(drain, now + LINGER / 2), both);
        assert_eq!(interest.update(drain, now + LINGER), drain);
        assert_eq!(interest.update(none, now + LINGER), drain);
        assert_eq!(interest.update(none, now + LINGER * 2), none);
    }
}
