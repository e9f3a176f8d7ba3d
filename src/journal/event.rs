//! Owns what can be told: dispatches, polls, drains and retirements, and how each reads as JSON.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::history::Row;
use super::trace::Parent;
use crate::broker::{Filter, KeyRef};
use crate::metrics::{DispatchOutcome, End, Proof, Verdict};

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A run was posted, and how that ended.
    Dispatch(Box<Dispatch>),
    /// A poll began or ended.
    Poll(Box<Poll>),
    /// The broker drains, with so many waiters.
    Drain(usize),
    /// So many waiters of the selected pools were sent away for good.
    Retire(Box<Filter>, usize),
    /// The journal is to end.
    End,
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
pub struct Names<const N: usize> {
    text: Box<str>,
    ends: [u16; N],
}

impl<const N: usize> Names<N> {
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
pub struct Dispatch {
    /// Milliseconds since 1970, when it was over.
    pub at: u64,
    /// The run, its deployment, its version.
    pub names: Arc<Names<3>>,
    /// vCPUs.
    pub cpu: f64,
    /// GB of memory.
    pub memory: f64,
    /// How it ended.
    pub outcome: DispatchOutcome,
    /// The proof of its delivery, if it was delivered.
    pub proof: Option<Proof>,
    /// Each waiter that it was offered to.
    pub attempts: Vec<Attempt>,
    /// From the POST's last byte to the answer.
    pub took: Duration,
    /// The supervisor's trace, if it is to be continued.
    pub trace: Option<Parent>,
}

/// One offer to one waiter.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// What is known of it.
    pub verdict: Verdict,
    /// From the POST's last byte to the match.
    pub since: Duration,
    /// From the match to the verdict.
    pub took: Duration,
}

/// A poll's beginning or end.
#[derive(Debug)]
pub struct Poll {
    /// Milliseconds since 1970.
    pub at: u64,
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// How and after what time it ended; before that, where it waits: deployment, version, cpu, memory.
    pub what: Result<PollEnd, (Names<2>, f64, f64)>,
}

/// A poll's end.
#[derive(Debug)]
pub struct PollEnd {
    /// How it ended.
    pub end: End,
    /// How long it was held.
    pub held: Duration,
}

impl Poll {
    /// A controller begins to wait.
    pub fn began(key: KeyRef<'_>, controller: &str) -> Event {
        let place = (Names::new([key.deployment, key.version]), key.cpu.get(), key.memory.get());
        Event::Poll(Box::new(Self { at: now(), controller: controller.into(), what: Err(place) }))
    }

    /// A controller waits no more.
    pub fn ended(controller: &str, end: End, held: Duration) -> Event {
        let what = Ok(PollEnd { end, held });
        Event::Poll(Box::new(Self { at: now(), controller: controller.into(), what }))
    }

    pub(super) fn json(&self) -> String {
        let Self { at, controller, what } = self;
        let place = what.as_ref().err();
        let end = what.as_ref().ok();
        json(&Polled {
            at: *at,
            controller,
            deployment: place.map(|(names, ..)| names.get(0)),
            version: place.map(|(names, ..)| names.get(1)),
            cpu: place.map(|place| place.1),
            memory: place.map(|place| place.2),
            end: end.map(|ended| ended.end.text()),
            held_seconds: end.map(|ended| ended.held.as_secs_f64()),
        })
    }
}

#[derive(Serialize)]
struct Polled<'a> {
    at: u64,
    controller: &'a str,
    deployment: Option<&'a str>,
    version: Option<&'a str>,
    cpu: Option<f64>,
    memory: Option<f64>,
    end: Option<&'static str>,
    held_seconds: Option<f64>,
}

impl Dispatch {
    /// The same as a row of the history.
    pub fn row(&self) -> Row {
        let reason = match self.outcome {
            DispatchOutcome::Miss(miss) => Some(miss.reason().into()),
            DispatchOutcome::Hit | DispatchOutcome::Refused | DispatchOutcome::Aborted => None,
        };
        let delivered = self.attempts.last().filter(|_| self.proof.is_some());
        Row {
            at: self.at,
            run: self.names.get(0).to_owned(),
            deployment: self.names.get(1).to_owned(),
            version: self.names.get(2).to_owned(),
            cpu: self.cpu,
            memory: self.memory,
            outcome: self.outcome.kind().text().into(),
            reason,
            proof: self.proof.map(|proof| proof.text().into()),
            offers: u32::try_from(self.attempts.len()).unwrap_or(u32::MAX),
            controller: delivered.map(|attempt| attempt.controller.to_string()),
            seconds: self.took.as_secs_f64(),
        }
    }

    /// One of its offers, as an event of its own.
    pub(super) fn verdict(&self, place: usize) -> String {
        self.attempts.get(place).map_or_else(String::new, |attempt| {
            json(&Judged {
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
struct Judged<'a> {
    at: u64,
    run: &'a str,
    controller: &'a str,
    verdict: &'static str,
    offer: usize,
    seconds: f64,
}

pub(super) fn drained(waiters: usize) -> String {
    serde_json::json!({ "at": now(), "waiters": waiters }).to_string()
}

pub(super) fn retired(filter: &Filter, retired: usize) -> String {
    let Filter { deployment, version, cpu, memory } = filter;
    serde_json::json!({
        "at": now(), "retired": retired, "deployment": deployment, "version": version,
        "cpu": cpu.map(crate::broker::Number::get), "memory": memory.map(crate::broker::Number::get),
    })
    .to_string()
}

/// Text, numbers and nothing that could fail.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
