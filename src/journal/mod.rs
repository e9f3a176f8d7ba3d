//! Owns the journal: a record of polls, dispatches and replies for subscribers, the history and traces. It observes and never decides.
//!
//! ```text
//! dispatch ─bytes─► its thread's queue ─► the journal's thread ─► event log ─► subscribers of /events
//!                                                │  └───────────► traces (--otlp)
//!                                                └─try_send─────► history: in memory, or SQLite with a thread of its own (--history)
//! ```
//! No dispatch ever waits for the journal: what does not fit into a full queue is dropped and counted.

mod codec;
mod event_log;
mod history;
mod json;
mod otlp;
mod priority;
mod queue;
mod record;
mod ring;
mod row;
mod trace_parent;
mod worker;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;

use crate::collector::Collector;
use crate::metrics::Metrics;

pub use event_log::{EventBatch, EventReader, Topic};
pub use history::{HistoryQuery, QueryTimedOut};
pub use record::{
    DispatchEvent, DispatchRecord, DrainEvent, Event, EventKinds, EventRun, OfferEvent, OfferRecord,
    PackedStrs, PollEvent, PollPhase, ReplyEvent, RetireEvent, unix_millis,
};
pub use row::{DispatchRow, ReplyRow};
pub use trace_parent::TraceParent;

use event_log::EventLog;
use history::History;
use otlp::Tracer;
use queue::QueueWriter;
use worker::JournalWorker;

/// Where the journal keeps and sends what it records.
#[derive(Debug, Clone, Default)]
pub struct JournalConfig {
    /// The file of the history; without one, the latest dispatches are kept in memory.
    pub history: Option<PathBuf>,
    /// Dispatches older than this are deleted from the file.
    pub history_age: Duration,
    /// The file is kept below this size, in bytes.
    pub history_size: u64,
    /// The collector that traces are exported to.
    pub otlp: Option<String>,
}

impl JournalConfig {
    fn collector(&self) -> anyhow::Result<Option<Collector>> {
        let parse = |url: &String| Collector::parse(url).map_err(|why| anyhow::anyhow!("--otlp {why}"));
        self.otlp.as_ref().map(parse).transpose()
    }
}

/// The journal, as the other modules see it.
pub struct Journal {
    queues: QueueWriter,
    log: Arc<EventLog>,
    history: Arc<History>,
    metrics: Arc<Metrics>,
    /// The [`EventKinds`] that are logged: polls are recorded only while a subscriber wants them.
    wanted_kinds: Arc<AtomicU32>,
    exports_traces: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Checks that a journal could be opened with this configuration, and creates nothing.
pub fn preflight(config: &JournalConfig) -> anyhow::Result<()> {
    if let Some(path) = &config.history {
        history::sqlite::preflight(path).with_context(|| cannot_be_used(path))?;
    }
    if let Some(collector) = config.collector()? {
        let what = || {
            format!(
                "--otlp {} does not accept traces (the broker would start, and lose them)",
                collector.redacted_url()
            )
        };
        otlp::preflight(&collector).with_context(what)?;
    }
    Ok(())
}

fn cannot_be_used(history: &Path) -> String {
    format!("--history {} cannot be used", history.display())
}

impl Journal {
    /// Opens the history and starts the thread.
    pub fn open(config: &JournalConfig, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let history = Arc::new(match &config.history {
            None => History::in_memory(),
            Some(path) => History::in_file(path, config.history_age, config.history_size, metrics.clone())
                .with_context(|| cannot_be_used(path))?,
        });
        let tracer = config
            .collector()?
            .map(|collector| Tracer::new(&collector, metrics.clone()))
            .transpose()
            .context("--otlp cannot be used")?;
        let exports_traces = tracer.is_some();
        let (queues, events) = queue::open();
        let log = Arc::new(EventLog::new());
        let wanted_kinds = Arc::new(AtomicU32::new(0));
        let worker = JournalWorker {
            events,
            log: log.clone(),
            history: history.clone(),
            tracer,
            wanted_kinds: wanted_kinds.clone(),
            metrics: metrics.clone(),
        };
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || worker.run())?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { queues, log, history, metrics, wanted_kinds, exports_traces, thread })
    }

    /// Records a dispatch with its offers, in order. It allocates nothing and takes no lock, except when a thread records its
    /// first event. What does not fit into the thread's queue is dropped and counted.
    pub fn record_dispatch<'a>(
        &self,
        dispatch: &DispatchEvent<'_>,
        offers: impl ExactSizeIterator<Item = OfferEvent<'a>>,
    ) {
        // The offers that are only counted make no event.
        for _ in codec::MAX_OFFERS..offers.len() {
            self.metrics.event_dropped(false);
        }
        if !self.queues.push(dispatch.ended, |out| codec::put_dispatch(dispatch, offers, out)) {
            self.metrics.event_dropped(true);
        }
    }

    /// Records how the reply to a run ended, once the run's dispatch is recorded: the history adds it to that dispatch. Like a
    /// dispatch, it allocates nothing and takes no lock, and what does not fit into the thread's queue is dropped and counted.
    pub fn record_reply(&self, reply: &ReplyEvent<'_>) {
        if !self.queues.push(reply.ended, |out| codec::put_reply(reply, out)) {
            self.metrics.event_dropped(true);
        }
    }

    /// Records another event. One that does not fit into the thread's queue is dropped and counted.
    pub fn record(&self, event: Event) {
        if !self.queues.push(Instant::now(), |out| codec::put_event(event, out)) {
            self.metrics.event_dropped(false);
        }
    }

    /// Whether a subscriber wants polls, so that they are worth recording.
    pub fn wants_polls(&self) -> bool {
        self.wanted_kinds.load(Ordering::Relaxed) & EventKinds::POLL.bits() != 0
    }

    /// Whether the traces of supervisors are continued.
    pub fn exports_traces(&self) -> bool {
        self.exports_traces
    }

    /// Subscribes to a topic's events after the one with the id `after`, or to those from now on. None if there are too many subscribers.
    pub fn subscribe(&self, after: Option<&str>, topic: impl Into<Topic>) -> Option<EventReader> {
        EventLog::subscribe(&self.log, after, topic.into())
    }

    /// Dispatches of the past, the latest first. It may wait for a disk.
    pub fn find(&self, query: &HistoryQuery) -> anyhow::Result<Vec<DispatchRow>> {
        self.history.find(query)
    }

    /// The name of a thread that has ended before the journal was closed.
    pub fn stopped_thread(&self) -> Option<&'static str> {
        if self.thread.lock().as_ref().is_some_and(JoinHandle::is_finished) {
            return Some("journal");
        }
        self.history.has_stopped().then_some("history")
    }

    /// Processes the events that are queued, and ends the threads.
    pub fn close(&self) {
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            self.queues.close();
            if thread.join().is_err() {
                tracing::error!("the journal ended with a panic");
            }
            self.history.close();
        }
    }
}
