//! Owns the record of one POST: counted in the metrics when it ends, and written to the journal, if it named a run, when it
//! has been answered or its run was handed over; and that of the reply which follows then.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use super::names::RunNames;
use super::policy::Step;
use super::request::{Outcome, RunNameConflict};
use super::shared::{Flight, InFlightGuard, Shared};
use crate::broker::KeyRef;
use crate::journal::{DispatchEvent, EventRun, OfferRecord, ReplyEvent, TraceParent};
use crate::model::{DispatchOutcome, Proof, ReplyOutcome};

/// Accounts for one POST, from its head until its answer is written. Dropped before the POST has ended, it counts the POST as
/// aborted: its client has left.
pub struct DispatchRecorder {
    since: Instant,
    /// When the POST was counted.
    ended: Option<Instant>,
    /// None while an offer has it.
    record: Option<Box<Record>>,
    shared: Arc<Shared>,
}

/// The record of one POST. There is one: an offer takes it along, and so completes it although the POST's client may have left.
pub(super) struct Record {
    since: Instant,
    run: Option<RunLabels>,
    /// Nearly always one.
    offers: SmallVec<[OfferRecord; 1]>,
    proof: Option<Proof>,
    /// How the POST ended, and how long that took; none if its client left before.
    ended: Option<(DispatchOutcome, Duration)>,
    /// Released when the POST is counted, or with an offer that goes on without its client.
    in_flight: InFlightGuard,
}

/// Records how the reply to a run ends that was handed over.
pub struct ReplyRecorder {
    since: Instant,
    run: Option<RunLabels>,
    shared: Arc<Shared>,
}

/// A run as the journal names it.
#[derive(Clone)]
struct RunLabels {
    names: RunNames,
    cpu: f64,
    memory: f64,
    trace: Option<TraceParent>,
}

impl RunLabels {
    fn event(&self) -> EventRun<'_> {
        let &Self { ref names, cpu, memory, trace } = self;
        let [name, deployment, version] = names.as_bytes();
        EventRun { name, deployment, version, cpu, memory, trace }
    }
}

impl DispatchRecorder {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let (since, in_flight) = (Instant::now(), InFlightGuard::new(shared, Flight::Post));
        let record =
            Record { since, run: None, offers: SmallVec::new(), proof: None, ended: None, in_flight };
        Self { since, ended: None, record: Some(Box::new(record)), shared: shared.clone() }
    }

    /// When the POST began or, if its body came later, when that was complete. The POST's time and budget count from then.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When the POST had its outcome; none before.
    pub fn ended(&self) -> Option<Instant> {
        self.ended
    }

    /// The body, which came later than the head, is complete.
    pub fn body_read(&mut self) {
        self.since = Instant::now();
        if let Some(record) = &mut self.record {
            record.since = self.since;
        }
    }

    /// Names the run and its key, and the supervisor's trace if it is continued. Only a POST that names a run is recorded in
    /// the journal. Names that are a part of a short `body` are not copied. Returns the run's name.
    pub fn name_run(
        &mut self,
        body: &Bytes,
        run: &str,
        key: KeyRef<'_>,
        trace: Option<TraceParent>,
    ) -> Bytes {
        let names = RunNames::new(body, [run, key.deployment, key.version]);
        let name = names.shared_run();
        if let Some(record) = &mut self.record {
            record.run = Some(RunLabels { names, cpu: key.cpu.get(), memory: key.memory.get(), trace });
        }
        name
    }

    /// The POST ends without an offer, because it is refused. The journal, which may know a run of this name, gets no record.
    pub fn refuse(&mut self, outcome: DispatchOutcome) {
        if let Some(record) = &mut self.record {
            record.run = None;
        }
        self.count(outcome, None, Instant::now());
    }

    /// The POST was only checked: it is no dispatch, and is not counted as one.
    pub fn discard(&mut self) {
        self.ended = Some(Instant::now());
        if let Some(record) = &mut self.record {
            record.run = None;
            record.in_flight.release();
        }
    }

    /// The POST has this outcome now: it is counted, before its client can see the answer, and recorded when this is dropped.
    pub fn finish(&mut self, outcome: &Outcome, now: Instant) {
        self.count(outcome.kind(), outcome.result.as_ref().ok().map(|hit| hit.proof), now);
    }

    /// The run was handed over: the record of its dispatch is complete, and that of its reply follows.
    pub fn into_reply(self) -> ReplyRecorder {
        let run = self.record.as_ref().and_then(|record| record.run.clone());
        ReplyRecorder { since: self.since, run, shared: self.shared.clone() }
    }

    fn count(&mut self, outcome: DispatchOutcome, proof: Option<Proof>, now: Instant) {
        let took = now.saturating_duration_since(self.since);
        self.ended = Some(now);
        self.shared.metrics.dispatched(outcome, took);
        if let Some(record) = &mut self.record {
            (record.ended, record.proof) = (Some((outcome, took)), proof);
            // Its client may post again as soon as it has read the answer.
            record.in_flight.release();
        }
    }

    /// The POST is answered like an earlier one.
    pub(super) fn finish_cached(
        &mut self,
        cached: Result<Outcome, RunNameConflict>,
    ) -> Result<Outcome, RunNameConflict> {
        let outcome = cached?;
        self.finish(&outcome, Instant::now());
        Ok(outcome)
    }

    /// Gives the record to an offer, which gives it back by [`DispatchRecorder::put_record`].
    pub(super) fn take_record(&mut self) -> Option<Box<Record>> {
        self.record.take()
    }

    pub(super) fn put_record(&mut self, record: Box<Record>) {
        self.record = Some(record);
    }
}

impl Drop for DispatchRecorder {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.count(DispatchOutcome::Aborted, None, Instant::now());
        }
    }
}

impl ReplyRecorder {
    /// The reply has ended, after so many bytes. `status` is what the caller got, 0 if it left before.
    pub fn ended(&self, outcome: ReplyOutcome, status: u16, first_byte: Option<Instant>, bytes: u64) {
        let Some(run) = &self.run else { return };
        let ended = Instant::now();
        self.shared.journal.record_reply(&ReplyEvent {
            ended,
            run: run.event(),
            outcome,
            status,
            first_byte: first_byte.map(|at| at.saturating_duration_since(self.since)),
            took: ended.saturating_duration_since(self.since),
            bytes,
        });
    }
}

impl Record {
    /// Of a run that another broker has forwarded. It is not written to the journal, because that broker records the POST.
    pub(super) fn of_forward(shared: &Arc<Shared>) -> Self {
        let in_flight = InFlightGuard::new(shared, Flight::Forward);
        let since = Instant::now();
        Self { since, run: None, offers: SmallVec::new(), proof: None, ended: None, in_flight }
    }

    /// The offers so far.
    pub(super) fn take_offers(&mut self) -> Vec<OfferRecord> {
        std::mem::take(&mut self.offers).into_vec()
    }

    /// When the last byte of the POST arrived.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// The run's name; empty if the POST has named none.
    pub(super) fn run_name(&self) -> &str {
        self.run.as_ref().map_or("", |run| run.names.run())
    }

    /// One more waiter was offered the run, and this follows.
    pub(super) fn add_offer(&mut self, offer: OfferRecord, step: Step) {
        self.offers.push(offer);
        self.proof = match step {
            Step::Delivered(proof) => Some(proof),
            Step::OfferAgain | Step::GiveUp(_) => None,
        };
    }

    pub(super) fn shared(&self) -> &Shared {
        self.in_flight.shared()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(run) = &self.run else { return };
        let (outcome, took) = self.ended.unwrap_or_else(|| (DispatchOutcome::Aborted, self.since.elapsed()));
        let (ended, proof) = (self.since + took, self.proof);
        let dispatch = DispatchEvent { ended, run: run.event(), outcome, proof, took };
        self.shared().journal.record_dispatch(&dispatch, self.offers.iter().map(OfferRecord::event));
    }
}

impl fmt::Debug for DispatchRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DispatchRecorder").field("ended", &self.ended).finish_non_exhaustive()
    }
}
