//! Owns the journal: what happened to polls and runs, for readers, the history and traces. It watches and never steers.
//!
//! ```text
//! dispatch ─try_send─► journal's thread ─► ring ─► readers of /events
//!                             │ └────────► traces (--otlp)
//!                             └─try_send─► history: memory, or SQLite's own thread (--history)
//! ```
//! Nothing here makes a dispatch wait: a full channel drops, and what is dropped is counted.

mod collector_client;
mod event;
mod export;
mod history;
mod ring;
mod thread;
mod trace;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;

use crate::collector::Collector;
use crate::metrics::Metrics;

pub use event::{DispatchRecord, Event, Kind, Kinds, OfferRecord, PackedStrs, PollEvent, unix_millis};
pub use history::{DispatchRow, HistoryQuery, QueryTimedOut};
pub use ring::{EventBatch, EventReader};
pub use trace::TraceParent;

use history::History;
use ring::EventLog;

/// Events between the dispatches and the journal's thread; it looks every 10 ms.
const QUEUE: usize = 16_384;

/// What the journal does with what it is told.
#[derive(Debug, Clone, Default)]
pub struct JournalConfig {
    /// The file of the history; without one, the latest dispatches stand in memory.
    pub history: Option<PathBuf>,
    /// Dispatches older than this leave the file.
    pub history_age: Duration,
    /// The file is kept below this size, in bytes.
    pub history_size: u64,
    /// Where traces are exported to.
    pub otlp: Option<String>,
}

/// The journal, as everyone who has something to tell knows it.
pub struct Journal {
    sender: SyncSender<Event>,
    ring: Arc<EventLog>,
    history: Arc<History>,
    metrics: Arc<Metrics>,
    /// The kinds of events that are read: polls are told only while somebody reads of them.
    wanted_kinds: Arc<AtomicU32>,
    exports_traces: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Looks whether a journal could be opened with this plan, and makes nothing.
pub fn preflight(plan: &JournalConfig) -> anyhow::Result<()> {
    if let Some(path) = &plan.history {
        history::file::preflight(path).with_context(|| cannot_be_used(path))?;
    }
    if let Some(collector) = collector(plan)? {
        let what = || {
            format!("--otlp {} takes no traces (the broker would serve, and lose them)", collector.shown())
        };
        export::try_out(&collector).with_context(what)?;
    }
    Ok(())
}

fn collector(plan: &JournalConfig) -> anyhow::Result<Option<Collector>> {
    let parse = |url: &String| Collector::parse(url).map_err(|why| anyhow::anyhow!("--otlp {why}"));
    plan.otlp.as_ref().map(parse).transpose()
}

fn cannot_be_used(history: &Path) -> String {
    format!("--history {} cannot be used", history.display())
}

impl Journal {
    /// Opens the history and starts the thread.
    pub fn open(plan: &JournalConfig, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let history = Arc::new(match &plan.history {
            None => History::in_memory(),
            Some(path) => History::in_file(path, plan.history_age, plan.history_size, metrics.clone())
                .with_context(|| cannot_be_used(path))?,
        });
        let tracer = collector(plan)?
            .map(|collector| trace::Tracer::to(&collector, metrics.clone()))
            .transpose()
            .context("--otlp cannot be used")?;
        let (sender, events) = sync_channel(QUEUE);
        let ring = Arc::new(EventLog::new());
        let reading = Arc::new(AtomicU32::new(0));
        let traces = tracer.is_some();
        let work = thread::JournalWorker {
            events,
            ring: ring.clone(),
            history: history.clone(),
            tracer,
            reading: reading.clone(),
            metrics: metrics.clone(),
        };
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || work.run())?;
        Ok(Self {
            sender,
            ring,
            history,
            metrics,
            wanted_kinds: reading,
            exports_traces: traces,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Tells what happened.
    pub fn record(&self, event: Event) {
        let is_dispatch = matches!(event, Event::Dispatch(_));
        if self.sender.try_send(event).is_err() {
            self.metrics.event_dropped(is_dispatch);
        }
    }

    /// Whether anybody reads of polls, so that they are worth telling.
    pub fn wants_polls(&self) -> bool {
        Kinds::from_bits(self.wanted_kinds.load(Ordering::Relaxed)).has(Kind::Poll)
    }

    /// Whether a supervisor's trace is continued.
    pub fn exports_traces(&self) -> bool {
        self.exports_traces
    }

    /// A reader of events, from after the given id, or from now on. None if there are too many.
    pub fn subscribe(&self, after: Option<&str>, kinds: Kinds) -> Option<EventReader> {
        EventLog::read(&self.ring, after, kinds)
    }

    /// Dispatches of the past, the latest first. It may wait for a disk.
    pub fn find(&self, query: &HistoryQuery) -> anyhow::Result<Vec<DispatchRow>> {
        self.history.find(query)
    }

    /// The name of a thread that has ended although nobody closed the journal.
    pub fn stopped_thread(&self) -> Option<&'static str> {
        if self.thread.lock().as_ref().is_some_and(JoinHandle::is_finished) {
            return Some("journal");
        }
        self.history.has_stopped().then_some("history")
    }

    /// Writes what is still on its way, and ends the thread.
    pub fn close(&self) {
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // The thread takes everything before it, and is gone only if it has panicked.
            let _ = self.sender.send(Event::Close);
            if thread.join().is_err() {
                tracing::error!("the journal ended with a panic");
            }
            self.history.close();
        }
    }
}

/// The name of this process's life, so that an event's id from an earlier one is not taken for one of ours.
fn epoch() -> &'static str {
    static EPOCH: OnceLock<String> = OnceLock::new();
    EPOCH.get_or_init(|| format!("{:x}", unix_millis()))
}
