//! Owns the account of one POST: counted whichever way it ends, and told to the journal if it named a run.

use std::sync::Arc;
use std::time::Instant;

use super::{HttpState, Outcome};
use crate::broker::KeyRef;
use crate::http::Problem;
use crate::journal::{self, Event, OfferRecord, PackedStrs, TraceParent};
use crate::model::MissReason;
use crate::model::{DispatchOutcome, Proof};

/// A run that is dispatched, as the journal names it.
#[derive(Debug, Clone)]
pub(in crate::http) struct RunLabels {
    pub(super) names: Arc<PackedStrs<3>>,
    pub(super) cpu: f64,
    pub(super) memory: f64,
    pub(super) trace: Option<TraceParent>,
}

impl RunLabels {
    /// A run with its key.
    pub(in crate::http) fn new(run: &str, key: KeyRef<'_>, trace: Option<TraceParent>) -> Self {
        let names = Arc::new(PackedStrs::new([run, key.deployment, key.version]));
        Self { names, cpu: key.cpu.get(), memory: key.memory.get(), trace }
    }

    /// What the journal is told of its end.
    pub(super) fn ended(
        &self,
        since: Instant,
        outcome: DispatchOutcome,
        proof: Option<Proof>,
        attempts: Vec<OfferRecord>,
    ) -> Event {
        let Self { names, cpu, memory, trace } = self.clone();
        let (at, took) = (journal::unix_millis(), since.elapsed());
        Event::Dispatch(Arc::new(journal::DispatchRecord {
            at,
            names,
            cpu,
            memory,
            outcome,
            proof,
            offers: attempts,
            took,
            trace,
        }))
    }
}

/// Counts one POST, whichever way it ends; dropped without a word, its client left.
pub(in crate::http) struct DispatchRecorder<'a> {
    front: &'a HttpState,
    since: Instant,
    outcome: DispatchOutcome,
    named: Option<RunLabels>,
    proof: Option<Proof>,
    attempts: Vec<OfferRecord>,
}

impl<'a> DispatchRecorder<'a> {
    pub(in crate::http) fn new(front: &'a HttpState) -> Self {
        front.admission.post_came();
        Self {
            front,
            since: Instant::now(),
            outcome: DispatchOutcome::Aborted,
            named: None,
            proof: None,
            attempts: Vec::new(),
        }
    }

    /// The body is there: the time to the answer counts from here. Returns the moment.
    pub(in crate::http) fn body_read(&mut self) -> Instant {
        self.since = Instant::now();
        self.since
    }

    /// The run is known: from here on the journal hears of it.
    pub(in crate::http) fn named(&mut self, named: RunLabels) {
        self.named = Some(named);
    }

    /// Nobody was offered anything: the journal, which may know of a run of this name, is told nothing.
    pub(in crate::http) fn refused(&mut self, problem: &Problem) {
        let is_miss = problem.is_overloaded();
        self.outcome =
            if is_miss { DispatchOutcome::Miss(MissReason::Overloaded) } else { DispatchOutcome::Refused };
        self.named = None;
    }

    /// It is over; the outcome's attempts are the journal's now.
    pub(in crate::http) fn done(&mut self, outcome: &mut Outcome) {
        self.attempts = std::mem::take(&mut outcome.attempts);
        (self.outcome, self.proof) = match &outcome.result {
            Ok(hit) => (DispatchOutcome::Hit, Some(hit.proof)),
            Err(miss) => (DispatchOutcome::Miss(*miss), None),
        };
    }
}

impl Drop for DispatchRecorder<'_> {
    fn drop(&mut self) {
        self.front.admission.post_left();
        self.front.metrics.dispatched(self.outcome, self.since.elapsed());
        let Some(named) = self.named.take() else { return };
        // An offer that goes on without its POST tells the rest.
        if self.outcome == DispatchOutcome::Aborted && Arc::strong_count(&named.names) > 1 {
            return;
        }
        let attempts = std::mem::take(&mut self.attempts);
        self.front.journal.record(named.ended(self.since, self.outcome, self.proof, attempts));
    }
}
