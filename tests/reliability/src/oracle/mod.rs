//! Owns the oracle: what supervisors were told, beside what controllers received, judged by the invariants' numbers.
//!
//! What it cannot know: a controller that is killed after its read and before its word has received a run that nobody
//! heard of. Such a `true` is counted as unknowable, if a process was killed between the POST and its answer. What it
//! excuses: a second receipt in Trigger.dev's dialect, which may offer a run again, if the answer's offers allow it and the
//! controller that received it was failing at the time, by order or because its machine gave it no time.

mod checks;
mod held_polls;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::fleet::{Event, Report};
use crate::supervisors::{Outcome, Post};
use held_polls::HeldPolls;

/// What somebody suffered from, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disturbance {
    pub(crate) affected: Affected,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Whom trouble befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Affected {
    /// The broker was stopped, ending, dead or starting.
    Broker,
    /// Its door was: new connections waited.
    NewConnections,
    /// A fleet's process was stopped or had no time.
    Fleet(u64),
    /// A fleet's process was killed.
    Killed(u64),
    /// A controller does not behave as one.
    Controller(u64),
    /// This program had no time.
    Harness,
}

/// A controller has read a run.
#[derive(Debug, Clone, Copy)]
struct Receipt {
    controller: u64,
    at: u64,
}

#[derive(Debug, Default)]
struct Run {
    posts: Vec<Post>,
    receipts: Vec<Receipt>,
    /// Receipts that have been judged; all, if the run has been.
    judged: Option<usize>,
}

/// What was counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    pub(crate) posts: u64,
    pub(crate) hits: u64,
    pub(crate) misses: BTreeMap<Box<str>, u64>,
    pub(crate) refused: u64,
    pub(crate) unanswered: u64,
    pub(crate) receipts: u64,
    /// Second receipts that the dialect and a failing controller explain.
    pub(crate) duplicates: u64,
    /// Receipts of runs that were answered `false`, explained alike.
    pub(crate) read_though_false: u64,
    /// Hits without a receipt where a process was killed between the POST and its answer.
    pub(crate) unknowable: u64,
    /// The longest time from a POST's last byte to its answer, in microseconds.
    pub(crate) longest: u64,
}

/// What answers are judged by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Microseconds in which a POST must be answered, and what is granted on top.
    pub(crate) budget: u64,
    pub(crate) margin: u64,
    /// After which a controller ends its poll.
    pub(crate) timeout: u64,
}

pub(crate) struct Oracle {
    rules: Rules,
    runs: BTreeMap<u64, Run>,
    held_polls: HeldPolls,
    disturbances: Vec<Disturbance>,
    /// Runs up to this one have been judged and forgotten.
    forgotten: u64,
    pub(crate) totals: Totals,
    pub(crate) failures: BTreeMap<&'static str, u64>,
    messages: Vec<String>,
}

/// So many failures are told; the others are only counted.
const MAX_MESSAGES: usize = 40;

impl Oracle {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            runs: BTreeMap::new(),
            held_polls: HeldPolls::default(),
            disturbances: Vec::new(),
            forgotten: 0,
            totals: Totals::default(),
            failures: BTreeMap::new(),
            messages: Vec::new(),
        }
    }

    /// A failure of this invariant.
    pub(crate) fn fail(&mut self, invariant: &'static str, what: &str) {
        *self.failures.entry(invariant).or_default() += 1;
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push(format!("{invariant}: {what}"));
        }
    }

    /// What failed since the last time, in words.
    pub(crate) fn take_messages(&mut self) -> Vec<String> {
        std::mem::take(&mut self.messages)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(crate) fn disturbed(&mut self, trouble: Disturbance) {
        self.disturbances.push(trouble);
    }

    /// Takes note of what a controller said.
    pub(crate) fn record_report(&mut self, heard: Report) {
        let Report { controller, at, what } = heard;
        match what {
            Event::PollSent(pool) => self.held_polls.begin(controller, pool, at),
            Event::Leaving => self.held_polls.end(controller, Some(at)),
            Event::ConnectionEnded | Event::Redirected => self.held_polls.end(controller, None),
            Event::Unhealthy => {
                self.held_polls.mark_unhealthy(controller, at);
                self.disturbed(Disturbance {
                    affected: Affected::Controller(controller),
                    from: at,
                    to: u64::MAX,
                });
            }
            Event::ProcessLate(micros) => {
                let whose = Affected::Fleet(heard.fleet());
                self.disturbed(Disturbance { affected: whose, from: at.saturating_sub(micros), to: at });
            }
            Event::Status(status) => {
                self.held_polls.end(controller, None);
                self.fail(
                    "I5",
                    &format!("controller {controller} was answered {status}, which ends a stock one"),
                );
            }
            Event::WrongPool(run) => {
                self.held_polls.end(controller, None);
                self.fail("I9", &format!("controller {controller} received run {run} of another pool"));
            }
            Event::Received(run) => {
                self.totals.receipts += 1;
                if run <= self.forgotten {
                    self.held_polls.end(controller, None);
                    return self
                        .fail("I1", &format!("run {run} was received by {controller} long after its time"));
                }
                let known = self.runs.entry(run).or_default();
                known.receipts.push(Receipt { controller, at });
                // It was taken after the run was posted, and surely stood until then.
                let stood = known.posts.iter().map(|post| post.sent).min();
                self.held_polls.end(controller, stood);
            }
        }
    }

    /// Takes note of a POST.
    pub(crate) fn record_post(&mut self, post: Post) {
        let tally = &mut self.totals;
        tally.posts += 1;
        match &post.outcome {
            Outcome::Hit(..) => tally.hits += 1,
            Outcome::Miss(reason) => *tally.misses.entry(reason.clone()).or_default() += 1,
            Outcome::Status(_) => tally.refused += 1,
            Outcome::NoResponse | Outcome::TimedOut | Outcome::Abandoned => tally.unanswered += 1,
        }
        if post.is_answered() {
            tally.longest = tally.longest.max(post.done - post.whole);
        }
        let run = self.runs.entry(post.run).or_default();
        run.judged = None;
        run.posts.push(post);
    }

    /// Controllers that stand in a pool as far as they know, and in how many pools.
    pub(crate) fn held(&self) -> (u64, u64) {
        self.held_polls.counts()
    }

    /// Whoever belonged to this process stands no more.
    pub(crate) fn remove_fleet(&mut self, fleet: u64) {
        self.held_polls.remove_fleet(fleet);
    }

    /// Judges every run whose POSTs were done before this moment; what is older still is forgotten.
    pub(crate) fn settle(&mut self, before: u64) {
        let ripe = |run: &Run| !run.posts.is_empty() && run.posts.iter().all(|post| post.done < before);
        let due = |run: &Run| ripe(run) && run.judged != Some(run.receipts.len());
        let numbers: Vec<u64> =
            self.runs.iter().filter(|(_, run)| due(run)).map(|(number, _)| *number).collect();
        for number in numbers {
            self.judge(number);
        }
        let old = before.saturating_sub(KEPT);
        while let Some(first) = self.runs.first_entry() {
            let is_old = first.get().posts.iter().all(|post| post.done < old) && ripe(first.get());
            if !is_old {
                break;
            }
            self.forgotten = *first.key();
            first.remove();
        }
        self.held_polls.forget(old);
        self.disturbances.retain(|trouble| trouble.to >= old.saturating_sub(KEPT));
    }

    /// Judges everything. A receipt of a run that nobody posted is one, too.
    pub(crate) fn finish(&mut self) {
        self.settle(u64::MAX - 1);
        let unknown: Vec<u64> =
            self.runs.iter().filter(|(_, run)| run.posts.is_empty()).map(|(number, _)| *number).collect();
        for run in unknown {
            self.fail("I1", &format!("run {run} was received and never posted"));
        }
    }

    fn disturbances_between(&self, from: u64, to: u64) -> impl Iterator<Item = &Disturbance> {
        self.disturbances.iter().filter(move |trouble| trouble.from <= to && from <= trouble.to)
    }

    /// For how long of this time the matching troubles lasted.
    fn disturbed_for(&self, from: u64, to: u64, is_meant: impl Fn(Affected) -> bool) -> u64 {
        let meant = self.disturbances_between(from, to).filter(|trouble| is_meant(trouble.affected));
        meant.map(|trouble| trouble.to.min(to) - trouble.from.max(from)).sum()
    }
}

/// For so many microseconds a judged run is remembered, in case it is received again.
const KEPT: u64 = 60_000_000;
