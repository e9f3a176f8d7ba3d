//! Owns the journal's thread. It polls its channel at least a hundred times a second, so that recording an event wakes no thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::event_log::{EventLog, LogEntry};
use super::history::History;
use super::otlp::Tracer;
use super::priority::lower_priority;
use super::record::{DispatchRecord, Event, EventKinds};
use crate::metrics::Metrics;

/// The pause between two batches while events arrive. It is short, because the thread then works through few events at a time:
/// no dispatch on the same core waits long for it.
const BUSY_INTERVAL: Duration = Duration::from_millis(1);
const IDLE_INTERVAL: Duration = Duration::from_millis(10);
/// For this long after the last subscriber of a kind has left, events of the kind are still logged, so that it can resume.
const LINGER: Duration = Duration::from_secs(60);
/// Events that are taken from the channel before subscribers are notified.
const BATCH: usize = 4096;

pub(super) struct JournalWorker {
    pub(super) events: Receiver<Event>,
    pub(super) log: Arc<EventLog>,
    pub(super) history: Arc<History>,
    pub(super) tracer: Option<Tracer>,
    /// The [`EventKinds`] that are logged, for those who record events.
    pub(super) wanted_kinds: Arc<AtomicU32>,
    pub(super) metrics: Arc<Metrics>,
}

impl JournalWorker {
    pub(super) fn run(self) {
        // Dispatches are more urgent than the record of them.
        lower_priority(10);
        let mut interest = Interest::default();
        loop {
            let (events, is_last) = self.receive_batch();
            // Determined after the events were received, so that a new subscriber misses none that came after it.
            let wanted = interest.update(self.log.subscribed_kinds(), Instant::now());
            let skipped = if wanted.is_empty() { events.len() as u64 } else { 0 };
            self.wanted_kinds.store(wanted.bits(), Ordering::Relaxed);
            let is_full = events.len() == BATCH;
            let interval = if events.is_empty() { IDLE_INTERVAL } else { BUSY_INTERVAL };
            let mut entries = Vec::new();
            for event in events {
                self.process(event, wanted, &mut entries);
            }
            // Skipped events are counted at once, so that a subscriber that resumes before the next event is notified of them.
            if !entries.is_empty() || skipped > 0 {
                self.log.add(entries, skipped);
            }
            if is_last {
                return;
            }
            if !is_full {
                std::thread::sleep(interval);
            }
        }
    }

    /// The events in the channel, at most [`BATCH`]; true if the journal closes after them.
    fn receive_batch(&self) -> (Vec<Event>, bool) {
        let mut events = Vec::new();
        while events.len() < BATCH {
            match self.events.try_recv() {
                Ok(Event::Close) | Err(TryRecvError::Disconnected) => return (events, true),
                Err(TryRecvError::Empty) => break,
                Ok(event) => events.push(event),
            }
        }
        (events, false)
    }

    /// Adds the entries of the wanted kinds that an event makes. A dispatch also goes to the history and to traces.
    fn process(&self, event: Event, wanted: EventKinds, entries: &mut Vec<LogEntry>) {
        match event {
            Event::Dispatch(record) => {
                if let Some(tracer) = &self.tracer {
                    tracer.export(&record);
                }
                if wanted.contains(EventKinds::VERDICT) {
                    entries.extend(verdicts(&record));
                }
                if wanted.contains(EventKinds::DISPATCH) {
                    entries.push(LogEntry::Dispatch(record.clone()));
                }
                if !self.history.append(record) {
                    self.metrics.history_dropped(1);
                }
            }
            Event::Poll(event) if wanted.contains(EventKinds::POLL) => entries.push(LogEntry::Poll(event)),
            Event::Drain(event) if wanted.contains(EventKinds::DRAIN) => entries.push(LogEntry::Drain(event)),
            Event::Retire(event) if wanted.contains(EventKinds::RETIRE) => {
                entries.push(LogEntry::Retire(event));
            }
            Event::Poll(_) | Event::Drain(_) | Event::Retire(_) | Event::Close => {}
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
