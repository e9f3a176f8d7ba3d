//! Owns what the journal records: dispatches with their offers, replies, polls, drains and retirements, and the kinds of events.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bitflags::bitflags;

use super::trace_parent::TraceParent;
use crate::broker::{Filter, KeyRef};
use crate::model::{DispatchOutcome, PollEnd, Proof, ReplyOutcome, Verdict};

/// Something other than a dispatch, as it is recorded.
#[derive(Debug)]
pub enum Event {
    /// A poll was parked, or has ended.
    Poll(PollEvent),
    /// The broker began to drain.
    Drain(DrainEvent),
    /// An operator retired pools.
    Retire(RetireEvent),
}

/// A run, as it is recorded.
#[derive(Debug, Clone, Copy)]
pub struct EventRun<'a> {
    /// Its name, in UTF-8.
    pub name: &'a [u8],
    /// Its deployment, in UTF-8.
    pub deployment: &'a [u8],
    /// Its version, in UTF-8.
    pub version: &'a [u8],
    /// vCPUs.
    pub cpu: f64,
    /// GB of memory.
    pub memory: f64,
    /// The supervisor's trace, if it is continued.
    pub trace: Option<TraceParent>,
}

/// The POST of one run, as it is recorded. The offers of the run are recorded with it.
#[derive(Debug, Clone, Copy)]
pub struct DispatchEvent<'a> {
    /// When it ended.
    pub ended: Instant,
    /// The run.
    pub run: EventRun<'a>,
    /// How it ended.
    pub outcome: DispatchOutcome,
    /// The proof of delivery, if the run was delivered.
    pub proof: Option<Proof>,
    /// From the last byte of the POST to its answer.
    pub took: Duration,
}

/// One offer to one waiter, as it is recorded.
#[derive(Debug, Clone, Copy)]
pub struct OfferEvent<'a> {
    /// The controller's name for itself; empty if it gave none.
    pub controller: &'a str,
    /// The name of the other broker of the cluster that has made the offer; none if this one has.
    pub broker: Option<&'a str>,
    /// What is known of the delivery.
    pub verdict: Verdict,
    /// From the last byte of the POST to the match.
    pub since: Duration,
    /// From the match to the verdict.
    pub took: Duration,
}

/// How the reply to a run ended that was handed over, as it is recorded: after the run's dispatch.
#[derive(Debug, Clone, Copy)]
pub struct ReplyEvent<'a> {
    /// When it ended.
    pub ended: Instant,
    /// The run.
    pub run: EventRun<'a>,
    /// How it ended.
    pub outcome: ReplyOutcome,
    /// The status that the caller got; 0 if it left before.
    pub status: u16,
    /// From the last byte of the POST to the first of the reply, if one came.
    pub first_byte: Option<Duration>,
    /// From the last byte of the POST to the end of the reply.
    pub took: Duration,
    /// How many bytes of the reply the caller was sent.
    pub bytes: u64,
}

bitflags! {
    /// Kinds of events, as subscribers select them.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct EventKinds: u32 {
        /// Polls that are parked or that end.
        const POLL = 1 << 0;
        /// Dispatches, with their outcome.
        const DISPATCH = 1 << 1;
        /// Verdicts: one for each offer of a dispatch.
        const VERDICT = 1 << 2;
        /// Drains.
        const DRAIN = 1 << 3;
        /// Retirements.
        const RETIRE = 1 << 4;
        /// Ends of replies.
        const REPLY = 1 << 5;
    }
}

impl EventKinds {
    /// Each kind with its name in `/events`.
    pub const NAMED: [(&'static str, Self); 6] = [
        ("poll", Self::POLL),
        ("dispatch", Self::DISPATCH),
        ("verdict", Self::VERDICT),
        ("drain", Self::DRAIN),
        ("retire", Self::RETIRE),
        ("reply", Self::REPLY),
    ];
}

/// Short strings in one allocation, because every dispatch records three of them.
#[derive(Debug, Clone)]
pub struct PackedStrs<const N: usize> {
    text: Box<str>,
    ends: [u16; N],
}

impl<const N: usize> PackedStrs<N> {
    /// Packs the strings. Their lengths are limited where they are received; together they are far below 64 KiB.
    pub fn new(strings: [&str; N]) -> Self {
        Self::of(strings.concat(), strings.map(str::len))
    }

    /// The strings of these lengths, which `text` consists of.
    pub(super) fn of(text: impl Into<Box<str>>, lengths: [usize; N]) -> Self {
        let mut end = 0;
        let ends = lengths.map(|length| {
            end += length;
            u16::try_from(end).unwrap_or(u16::MAX)
        });
        Self { text: text.into(), ends }
    }

    /// The string at this index.
    pub fn get(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |previous| self.ends[previous]);
        self.text.get(usize::from(start)..usize::from(self.ends[index])).unwrap_or_default()
    }
}

/// The POST of one run, and how it ended, as the journal keeps it.
#[derive(Debug, Clone)]
pub struct DispatchRecord {
    /// When it ended, in milliseconds since 1970.
    pub at: u64,
    /// The run, its deployment, its version.
    pub names: PackedStrs<3>,
    /// vCPUs.
    pub cpu: f64,
    /// GB of memory.
    pub memory: f64,
    /// How it ended.
    pub outcome: DispatchOutcome,
    /// The proof of delivery, if the run was delivered.
    pub proof: Option<Proof>,
    /// The number of offers before those in `offers`.
    pub earlier_offers: usize,
    /// The offers, in order; of very many, the last ones.
    pub offers: Vec<OfferRecord>,
    /// From the last byte of the POST to its answer.
    pub took: Duration,
    /// The supervisor's trace, if it is continued.
    pub trace: Option<TraceParent>,
}

impl DispatchRecord {
    /// Whether a waiter got the run from this POST. One that was answered like an earlier POST of its run has no offer.
    pub(super) fn was_handed_over(&self) -> bool {
        self.outcome == DispatchOutcome::Hit && !self.offers.is_empty()
    }
}

/// One offer to one waiter.
#[derive(Debug, Clone)]
pub struct OfferRecord {
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// The name of the other broker of the cluster that has made the offer; none if this one has.
    pub broker: Option<Box<str>>,
    /// What is known of the delivery.
    pub verdict: Verdict,
    /// From the last byte of the POST to the match.
    pub since: Duration,
    /// From the match to the verdict.
    pub took: Duration,
}

impl OfferRecord {
    /// The offer, to be recorded.
    pub fn event(&self) -> OfferEvent<'_> {
        let &Self { ref controller, ref broker, verdict, since, took } = self;
        OfferEvent { controller, broker: broker.as_deref(), verdict, since, took }
    }
}

/// How the reply to a run ended, as the journal keeps it.
#[derive(Debug, Clone)]
pub struct ReplyRecord {
    /// When it ended, in milliseconds since 1970.
    pub at: u64,
    /// The run, its deployment, its version.
    pub names: PackedStrs<3>,
    /// vCPUs.
    pub cpu: f64,
    /// GB of memory.
    pub memory: f64,
    /// How it ended.
    pub outcome: ReplyOutcome,
    /// The status that the caller got, if it got one.
    pub status: Option<u16>,
    /// From the last byte of the POST to the first of the reply, if one came.
    pub first_byte: Option<Duration>,
    /// From the last byte of the POST to the end of the reply.
    pub took: Duration,
    /// How many bytes of the reply the caller was sent.
    pub bytes: u64,
    /// The caller's trace, if it is continued.
    pub trace: Option<TraceParent>,
}

/// A poll that was parked, or that has ended.
#[derive(Debug)]
pub struct PollEvent {
    /// Milliseconds since 1970.
    pub at: u64,
    /// The controller's name for itself; empty if it gave none.
    pub controller: Box<str>,
    /// The deployment and the version of its pool.
    pub names: PackedStrs<2>,
    /// vCPUs.
    pub cpu: f64,
    /// GB of memory.
    pub memory: f64,
    /// What happened to the poll.
    pub phase: PollPhase,
}

/// What happened to a poll.
#[derive(Debug)]
pub enum PollPhase {
    /// It was parked.
    Parked,
    /// It ended.
    Ended {
        /// How it ended.
        end: PollEnd,
        /// How long it was held.
        held: Duration,
    },
}

impl PollEvent {
    /// A controller's poll was parked.
    pub fn parked(key: KeyRef<'_>, controller: &str) -> Event {
        Self::event(key, controller, PollPhase::Parked)
    }

    /// A controller's poll ended.
    pub fn ended(key: KeyRef<'_>, controller: &str, end: PollEnd, held: Duration) -> Event {
        Self::event(key, controller, PollPhase::Ended { end, held })
    }

    fn event(key: KeyRef<'_>, controller: &str, phase: PollPhase) -> Event {
        Event::Poll(Self {
            at: unix_millis(),
            controller: controller.into(),
            names: PackedStrs::new([key.deployment, key.version]),
            cpu: key.cpu.get(),
            memory: key.memory.get(),
            phase,
        })
    }
}

/// The broker began to drain.
#[derive(Debug)]
pub struct DrainEvent {
    /// Milliseconds since 1970.
    pub at: u64,
    /// Waiters that were parked then.
    pub waiters: usize,
}

impl DrainEvent {
    /// The broker begins to drain with this number of waiters.
    pub fn began(waiters: usize) -> Event {
        Event::Drain(Self { at: unix_millis(), waiters })
    }
}

/// An operator retired the waiters of the selected pools.
#[derive(Debug)]
pub struct RetireEvent {
    /// Milliseconds since 1970.
    pub at: u64,
    /// Which pools.
    pub filter: Filter,
    /// The number of waiters that were retired.
    pub retired: usize,
}

impl RetireEvent {
    /// Waiters were retired.
    pub fn done(filter: Filter, retired: usize) -> Event {
        Event::Retire(Self { at: unix_millis(), filter, retired })
    }
}

/// The wall clock, in milliseconds since 1970.
pub fn unix_millis() -> u64 {
    millis_since_1970(SystemTime::now())
}

/// A time of the wall clock, in milliseconds since 1970.
pub(super) fn millis_since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
