//! Owns the journal's thread: it looks a hundred times a second, so that telling it something wakes nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::event::{self, Event, Kind};
use super::history::History;
use super::ring::Ring;
use super::trace::Tracer;
use crate::metrics::Metrics;

const PACE: Duration = Duration::from_millis(10);
/// After the last reader has left, events are kept for its return for so long.
const LINGER: Duration = Duration::from_secs(60);
/// So many events are taken before readers hear of them.
const BATCH: usize = 4096;

pub(super) struct Work {
    pub(super) events: Receiver<Event>,
    pub(super) ring: Arc<Ring>,
    pub(super) history: Arc<History>,
    pub(super) tracer: Option<Tracer>,
    pub(super) reading: Arc<AtomicU32>,
    pub(super) metrics: Arc<Metrics>,
}

impl Work {
    pub(super) fn run(self) {
        let mut read_until = None::<Instant>;
        // Dispatches that nobody was there to read.
        let mut skipped = 0;
        loop {
            let (events, ends) = self.batch();
            // Asked after the events were taken, so that a reader misses none that came after it.
            let now = Instant::now();
            if self.ring.readers() > 0 {
                read_until = Some(now + LINGER);
            }
            let is_read = read_until.is_some_and(|until| now < until);
            self.reading.store(u32::from(is_read), Ordering::Relaxed);
            let is_full = events.len() == BATCH;
            let mut told = Vec::new();
            for event in events {
                skipped += u64::from(!is_read);
                self.take(event, is_read.then_some(&mut told));
            }
            if !told.is_empty() {
                self.ring.add(told, std::mem::take(&mut skipped));
            }
            if ends {
                return;
            }
            if !is_full {
                std::thread::sleep(PACE);
            }
        }
    }

    /// What has come since the last look; true with the last of all.
    fn batch(&self) -> (Vec<Event>, bool) {
        let mut events = Vec::new();
        while events.len() < BATCH {
            match self.events.try_recv() {
                Ok(Event::End) | Err(TryRecvError::Disconnected) => return (events, true),
                Err(TryRecvError::Empty) => break,
                Ok(event) => events.push(event),
            }
        }
        (events, false)
    }

    fn take(&self, event: Event, told: Option<&mut Vec<(Kind, String)>>) {
        let mut texts = Vec::new();
        match event {
            Event::Dispatch(dispatch) => {
                if let Some(tracer) = &self.tracer {
                    tracer.span(&dispatch);
                }
                if told.is_some() {
                    texts.extend(dispatch.verdicts().map(|data| (Kind::Verdict, data)));
                    texts.push((Kind::Dispatch, event::json(&dispatch.row())));
                }
                if !self.history.keep(dispatch) {
                    self.metrics.history_dropped(1);
                }
            }
            Event::Poll(poll) => texts.push((Kind::Poll, poll.json())),
            Event::Drain(waiters) => texts.push((Kind::Drain, event::drained(waiters))),
            Event::Retire(filter, count) => texts.push((Kind::Retire, event::retired(&filter, count))),
            Event::End => {}
        }
        if let Some(told) = told {
            told.extend(texts);
        }
    }
}
