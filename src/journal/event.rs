//! Owns what can be told: dispatches, polls, drains and retirements, and how each reads as JSON.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::history::DispatchRow;
use super::trace::TraceParent;
use crate::broker::{Filter, KeyRef};
use crate::metrics::{DispatchOutcome, End, Proof, Verdict};

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A run was posted, and how that ended.
    Dispatch(Arc<DispatchRecord>),
    /// A poll began or ended.
    Poll(Arc<PollEvent>),
    /// The broker drains, with so many waiters.
    Drain(usize),
    /// So many waiters of the selected pools were sent away for good.
    Retire(Box<Filter>, usize),
    /// The journal is to end.
    Close,
}

/// One kind of event, as readers choose them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Polls.
    Poll,
    /// Dispatches.
    Dispatch,
    /// Offers to one waiter each.
    Verdict,
    /// Drains.
    Drain,
    /// Retirements.
    Retire,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Poll, Self::Dispatch, Self::Verdict, Self::Drain, Self::Retire];

    /// Its name on the wire.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Dispatch => "dispatch",
            Self::Verdict => "verdict",
            Self::Drain => "drain",
            Self::Retire => "retire",
        }
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kinds {
    /// Every kind.
    pub fn all() -> Self {
        Kind::ALL.into_iter().collect()
    }

    /// Whether a kind is among them.
    pub const fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u32) != 0
    }

    /// These and others.
    #[must_use]
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub(super) const fn bits(self) -> u32 {
        self.0
    }

    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self(0), |all, kind| Self(all.0 | 1 << kind as u32))
    }
}

/// Short texts in one allocation: a dispatch tells four of them, sixty thousand times a second.
#[derive(Debug, Clone)]
pub struct PackedStrs<const N: usize> {
    text: Box<str>,
    ends: [u16; N],
}

impl<const N: usize> PackedStrs<N> {
    /// Puts them together. Each is bounded where it comes in; all of them are far below 64 KiB.
    pub fn new(names: [&str; N]) -> Self {
        let mut text = String::with_capacity(names.iter().map(|name| name.len()).sum());
        let ends = names.map(|name| {
            text.push_str(name);
            u16::try_from(text.len()).unwrap_or(u16::MAX)
        });
        Self { text: text.into(), ends }
    }

    /// The one at this place.
    pub fn get(&self, place: usize) -> &str {
        let from = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(usize::from(from)..usize::from(self.ends[place])).unwrap_or_default()
    }
}

/// One run's POST and how it ended.
#[derive(Debug, Clone)]
pub struct DispatchRecord {
    /// Milliseconds since 1970, when it was over.
    pub at: u64,
    /// The run, its deployment, its version.
    pub names: Arc<PackedStrs<3>>,
    /// vCPUs.
    pub cpu: f64,
    /// GB of memory.
    pub memory: f64,
    /// How it ended.
    pub outcome: DispatchOutcome,
    /// The proof of its delivery, if it was delivered.
    pub proof: Option<Proof>,
    /// Each waiter that it was offered to.
    pub offers: Vec<OfferRecord>,
    /// From the POST's last byte to the answer.
    pub took: Duration,
    /// The supervisor's trace, if it is to be continued.
    pub trace: Option<TraceParent>,
}

/// One offer to one waiter.
#[derive(Debug, Clone)]
pub struct OfferRecord {
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// What is known of it.
    pub verdict: Verdict,
    /// From the POST's last byte to the match.
    pub since: Duration,
    /// From the match to the verdict.
    pub took: Duration,
}

/// A poll that was parked, or that ended.
#[derive(Debug)]
pub struct PollEvent {
    /// Milliseconds since 1970.
    pub at: u64,
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// What happened to the poll.
    pub phase: PollPhase,
}

/// What happened to a poll.
#[derive(Debug)]
pub enum PollPhase {
    /// It was parked in the pool of this key.
    Parked {
        /// The deployment and the version.
        names: PackedStrs<2>,
        /// vCPUs.
        cpu: f64,
        /// GB of memory.
        memory: f64,
    },
    /// It ended.
    Ended {
        /// How it ended.
        end: End,
        /// How long it was held.
        held: Duration,
    },
}

impl PollEvent {
    /// A controller's poll was parked.
    pub fn parked(key: KeyRef<'_>, controller: &str) -> Event {
        let names = PackedStrs::new([key.deployment, key.version]);
        let phase = PollPhase::Parked { names, cpu: key.cpu.get(), memory: key.memory.get() };
        Self::event(controller, phase)
    }

    /// A controller's poll ended.
    pub fn ended(controller: &str, end: End, held: Duration) -> Event {
        Self::event(controller, PollPhase::Ended { end, held })
    }

    fn event(controller: &str, phase: PollPhase) -> Event {
        Event::Poll(Arc::new(Self { at: unix_millis(), controller: controller.into(), phase }))
    }

    pub(super) fn json(&self) -> String {
        let Self { at, controller, phase } = self;
        let (at, unset) = (*at, PollJson::default());
        json(&match phase {
            PollPhase::Parked { names, cpu, memory } => PollJson {
                at,
                controller,
                deployment: Some(names.get(0)),
                version: Some(names.get(1)),
                cpu: Some(*cpu),
                memory: Some(*memory),
                ..unset
            },
            PollPhase::Ended { end, held } => PollJson {
                at,
                controller,
                end: Some(end.text()),
                held_seconds: Some(held.as_secs_f64()),
                ..unset
            },
        })
    }
}

#[derive(Default, Serialize)]
struct PollJson<'a> {
    at: u64,
    controller: &'a str,
    deployment: Option<&'a str>,
    version: Option<&'a str>,
    cpu: Option<f64>,
    memory: Option<f64>,
    end: Option<&'static str>,
    held_seconds: Option<f64>,
}

impl DispatchRecord {
    /// The same as a row of the history.
    pub fn row(&self) -> DispatchRow {
        let reason = match self.outcome {
            DispatchOutcome::Miss(miss) => Some(miss.reason().into()),
            DispatchOutcome::Hit | DispatchOutcome::Refused | DispatchOutcome::Aborted => None,
        };
        let delivered = self.offers.last().filter(|_| self.proof.is_some());
        DispatchRow {
            at: self.at,
            run: self.names.get(0).to_owned(),
            deployment: self.names.get(1).to_owned(),
            version: self.names.get(2).to_owned(),
            cpu: self.cpu,
            memory: self.memory,
            outcome: self.outcome.kind().text().into(),
            reason,
            proof: self.proof.map(|proof| proof.text().into()),
            offers: u32::try_from(self.offers.len()).unwrap_or(u32::MAX),
            controller: delivered.map(|attempt| attempt.controller.to_string()),
            seconds: self.took.as_secs_f64(),
        }
    }

    /// One of its offers, as an event of its own.
    pub(super) fn verdict(&self, place: usize) -> String {
        self.offers.get(place).map_or_else(String::new, |attempt| {
            json(&VerdictJson {
                at: self.at,
                run: self.names.get(0),
                controller: &attempt.controller,
                verdict: attempt.verdict.text(),
                offer: place + 1,
                seconds: attempt.took.as_secs_f64(),
            })
        })
    }
}

#[derive(Serialize)]
struct VerdictJson<'a> {
    at: u64,
    run: &'a str,
    controller: &'a str,
    verdict: &'static str,
    offer: usize,
    seconds: f64,
}

pub(super) fn drained(waiters: usize) -> String {
    serde_json::json!({ "at": unix_millis(), "waiters": waiters }).to_string()
}

pub(super) fn retired(filter: &Filter, retired: usize) -> String {
    let Filter { deployment, version, cpu, memory } = filter;
    serde_json::json!({
        "at": unix_millis(), "retired": retired, "deployment": deployment, "version": version,
        "cpu": cpu.map(crate::broker::Number::get), "memory": memory.map(crate::broker::Number::get),
    })
    .to_string()
}

/// Text, numbers and nothing that could fail.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Milliseconds since 1970.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
