//! Owns the oracle's records: POSTs, receipts, held polls and disturbances, and the failures found in them.

use std::collections::BTreeMap;

use super::held_polls::HeldPolls;
use crate::fleet::{Event, Report};
use crate::supervisors::{Outcome, Post};

/// A fault that affects some of the participants, and when it did. Times are in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disturbance {
    pub(crate) affected: Affected,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// The participants that a disturbance affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Affected {
    /// The broker with this number was stopped, draining, dead, starting, or cut off from others.
    Broker(usize),
    /// NATS was stopped, dead or starting, so that the brokers of a cluster could not reach each other.
    Nats,
    /// The broker did not accept new connections in time.
    NewConnections,
    /// A fleet's process was stopped or not scheduled.
    Fleet(u64),
    /// A fleet's process was killed.
    Killed(u64),
    /// A controller misbehaves, by instruction.
    Controller(u64),
    /// This program was not scheduled.
    Harness,
}

/// A controller has read a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Receipt {
    pub(super) controller: u64,
    pub(super) at: u64,
}

#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) posts: Vec<Post>,
    pub(super) receipts: Vec<Receipt>,
    /// The number of receipts when the run was last judged; `None` if it has to be judged.
    pub(super) judged: Option<usize>,
}

/// Counts over all POSTs and receipts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    pub(crate) posts: u64,
    pub(crate) hits: u64,
    pub(crate) misses: BTreeMap<Box<str>, u64>,
    pub(crate) refused: u64,
    pub(crate) unanswered: u64,
    pub(crate) receipts: u64,
    /// Second receipts that are explained by the dialect and a failing controller.
    pub(crate) duplicates: u64,
    /// Second receipts of healthy controllers, after an offer at another broker of which no answer came back in time.
    pub(crate) unanswered_offers: u64,
    /// Second receipts of native runs that were posted to two brokers at the same time, or while these could not talk.
    pub(crate) posted_twice: u64,
    /// Receipts of runs that were answered `false`, with the same explanation.
    pub(crate) read_though_false: u64,
    /// Hits without a receipt where a process was killed between the POST and its response.
    pub(crate) unknowable: u64,
    /// The longest time from a POST's last byte to its response, in microseconds.
    pub(crate) longest: u64,
}

/// The limits that responses are judged by, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How long a POST may take, and how much longer on a busy machine.
    pub(crate) budget: u64,
    pub(crate) margin: u64,
    /// When a controller ends its poll.
    pub(crate) timeout: u64,
    /// Whether runs are posted to several brokers that answer as one.
    pub(crate) is_cluster: bool,
}

pub(crate) struct Oracle {
    pub(super) rules: Rules,
    pub(super) runs: BTreeMap<u64, Run>,
    pub(super) held_polls: HeldPolls,
    pub(super) disturbances: Vec<Disturbance>,
    /// Runs up to this one have been judged and forgotten.
    forgotten: u64,
    pub(crate) totals: Totals,
    pub(crate) failures: BTreeMap<&'static str, u64>,
    messages: Vec<String>,
}

/// Further failures are counted without a message.
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

    /// Records a violation of this invariant.
    pub(crate) fn fail(&mut self, invariant: &'static str, what: &str) {
        *self.failures.entry(invariant).or_default() += 1;
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push(format!("{invariant}: {what}"));
        }
    }

    /// Takes the messages of all failures since the last call.
    pub(crate) fn take_messages(&mut self) -> Vec<String> {
        std::mem::take(&mut self.messages)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(crate) fn disturbed(&mut self, trouble: Disturbance) {
        self.disturbances.push(trouble);
    }

    /// Records a controller's report.
    pub(crate) fn record_report(&mut self, heard: Report) {
        let Report { controller, at, what } = heard;
        match what {
            Event::PollSent(pool) => self.held_polls.begin(controller, pool, at),
            Event::Leaving => self.held_polls.end(controller, Some(at)),
            Event::ConnectionEnded | Event::NoRun | Event::Redirected => {
                self.held_polls.end(controller, None);
            }
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
                    &format!(
                        "controller {controller} was answered {status}, after which a stock controller exits"
                    ),
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
                // The run was posted before it was matched, so the poll was certainly held until then.
                let stood = known.posts.iter().map(|post| post.sent).min();
                self.held_polls.end(controller, stood);
            }
        }
    }

    /// Records a POST and its outcome.
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

    /// How many controllers have an open poll by their own reports, and in how many pools.
    pub(crate) fn held(&self) -> (u64, u64) {
        self.held_polls.counts()
    }

    /// All controllers of this process are gone.
    pub(crate) fn remove_fleet(&mut self, fleet: u64) {
        self.held_polls.remove_fleet(fleet);
    }

    /// Judges every run whose POSTs all ended before this time, and forgets older ones.
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

    /// Judges all runs. A receipt of a run without a POST is a failure, too.
    pub(crate) fn finish(&mut self) {
        self.settle(u64::MAX - 1);
        let unknown: Vec<u64> =
            self.runs.iter().filter(|(_, run)| run.posts.is_empty()).map(|(number, _)| *number).collect();
        for run in unknown {
            self.fail("I1", &format!("run {run} was received and never posted"));
        }
    }

    pub(super) fn disturbances_between(&self, from: u64, to: u64) -> impl Iterator<Item = &Disturbance> {
        self.disturbances.iter().filter(move |trouble| trouble.from <= to && from <= trouble.to)
    }

    /// How long disturbances of the given kind lasted within this time.
    pub(super) fn disturbed_for(&self, from: u64, to: u64, is_meant: impl Fn(Affected) -> bool) -> u64 {
        let meant = self.disturbances_between(from, to).filter(|trouble| is_meant(trouble.affected));
        meant.map(|trouble| trouble.to.min(to) - trouble.from.max(from)).sum()
    }
}

/// How long a judged run is kept, in microseconds, in case it is received again.
const KEPT: u64 = 60_000_000;
