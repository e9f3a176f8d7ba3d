//! Owns the journal's thread: it looks a hundred times a second and more, so that telling it something wakes nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::event::{self, Event, Kind, Kinds};
use super::history::History;
use super::ring::{EventLog, LogEntry};
use super::trace::Tracer;
use crate::metrics::Metrics;

/// While there is something to do it rests shortly, so that no dispatch waits long for it on a core that both share.
const BUSY_PACE: Duration = Duration::from_millis(1);
const PACE: Duration = Duration::from_millis(10);
/// After the last reader of a kind has left, events of that kind are kept for its return for so long.
const LINGER: Duration = Duration::from_secs(60);
/// So many events are taken before readers hear of them.
const BATCH: usize = 4096;

pub(super) struct JournalWorker {
    pub(super) events: Receiver<Event>,
    pub(super) ring: Arc<EventLog>,
    pub(super) history: Arc<History>,
    pub(super) tracer: Option<Tracer>,
    pub(super) reading: Arc<AtomicU32>,
    pub(super) metrics: Arc<Metrics>,
}

impl JournalWorker {
    pub(super) fn run(self) {
        // A dispatch is more urgent than what is told of it.
        lower_priority(10);
        let mut interest = Interest::default();
        loop {
            let (events, ends) = self.batch();
            // Asked after the events were taken, so that a reader misses none that came after it.
            let kinds = interest.in_kinds(self.ring.kinds_read(), Instant::now());
            // What nobody is there to read.
            let skipped = if kinds == Kinds::default() { events.len() as u64 } else { 0 };
            self.reading.store(kinds.bits(), Ordering::Relaxed);
            let is_full = events.len() == BATCH;
            let pace = if events.is_empty() { PACE } else { BUSY_PACE };
            let mut told = Vec::new();
            for event in events {
                self.take(event, kinds, &mut told);
            }
            // A gap is told of when it arises: who comes back before the next event must find it.
            if !told.is_empty() || skipped > 0 {
                self.ring.add(told, skipped);
            }
            if ends {
                return;
            }
            if !is_full {
                std::thread::sleep(pace);
            }
        }
    }

    /// What has come since the last look; true with the last of all.
    fn batch(&self) -> (Vec<Event>, bool) {
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

    /// Passes an event on to all whom it concerns; what is read is told.
    fn take(&self, event: Event, read: Kinds, told: &mut Vec<LogEntry>) {
        match event {
            Event::Dispatch(dispatch) => {
                if let Some(tracer) = &self.tracer {
                    tracer.span(&dispatch);
                }
                if read.has(Kind::Verdict) {
                    let offers = 0..dispatch.offers.len();
                    told.extend(offers.map(|offer| LogEntry::Verdict(dispatch.clone(), offer)));
                }
                if read.has(Kind::Dispatch) {
                    told.push(LogEntry::Dispatch(dispatch.clone()));
                }
                if !self.history.append(dispatch) {
                    self.metrics.history_dropped(1);
                }
            }
            Event::Poll(poll) if read.has(Kind::Poll) => told.push(LogEntry::Poll(poll)),
            Event::Drain(waiters) if read.has(Kind::Drain) => {
                told.push(LogEntry::Text(Kind::Drain, event::drained(waiters).into()));
            }
            Event::Retire(filter, count) if read.has(Kind::Retire) => {
                told.push(LogEntry::Text(Kind::Retire, event::retired(&filter, count).into()));
            }
            Event::Poll(_) | Event::Drain(_) | Event::Retire(..) | Event::Close => {}
        }
    }
}

/// Makes this thread nicer than others, by so much. Only Linux has a niceness of threads: elsewhere the whole process would
/// be less urgent than its neighbours.
pub(super) fn lower_priority(by: i32) {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, by)
    {
        tracing::debug!(%error, "a thread works at the usual priority");
    }
}

/// Until when events of each kind are kept.
#[derive(Default)]
struct Interest([Option<Instant>; Kind::ALL.len()]);

impl Interest {
    /// The kinds that are read, and those that were until lately. Each kind has a time of its own: whoever reads another
    /// kind does not keep it, and does not end it.
    fn in_kinds(&mut self, read: Kinds, now: Instant) -> Kinds {
        let kept = Kind::ALL.into_iter().filter(|&kind| {
            let until = &mut self.0[kind as usize];
            if read.has(kind) {
                *until = Some(now + LINGER);
            }
            until.is_some_and(|until| now < until)
        });
        kept.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_lingers_for_its_own_time() {
        let kinds = |kinds: &[Kind]| kinds.iter().copied().collect::<Kinds>();
        let (drain, both) = (kinds(&[Kind::Drain]), kinds(&[Kind::Drain, Kind::Dispatch]));
        let mut interest = Interest::default();
        let now = Instant::now();
        assert_eq!(interest.in_kinds(Kinds::default(), now), Kinds::default());
        assert_eq!(interest.in_kinds(both, now), both);
        assert_eq!(interest.in_kinds(drain, now + LINGER / 2), both);
        assert_eq!(interest.in_kinds(drain, now + LINGER), drain);
        assert_eq!(interest.in_kinds(Kinds::default(), now + LINGER), drain);
        assert_eq!(interest.in_kinds(Kinds::default(), now + LINGER * 2), Kinds::default());
    }
}
