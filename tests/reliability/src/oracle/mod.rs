//! Owns the oracle: what supervisors were told, beside what controllers received, judged by the invariants' numbers.
//!
//! What it cannot know: a controller that is killed after its read and before its word has received a run that nobody
//! heard of. Such a `true` is counted as unknowable, if a process was killed between the POST and its answer. What it
//! excuses: a second receipt in Trigger.dev's dialect, which may offer a run again, if the answer's offers allow it and the
//! controller that received it was failing at the time, by order or because its machine gave it no time.

mod judge;
mod stands;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::fleet::{Heard, What};
use crate::supervisors::{Post, Told};
use stands::Stands;

/// What somebody suffered from, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) whose: Whose,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Whom trouble befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The broker was stopped, ending, dead or starting.
    Broker,
    /// Its door was: new connections waited.
    Door,
    /// A fleet's process was stopped or had no time.
    Fleet(u64),
    /// A fleet's process was killed.
    Killed(u64),
    /// A controller does not behave as one.
    Controller(u64),
    /// This program had no time.
    Here,
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
pub(crate) struct Tally {
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
    stands: Stands,
    troubles: Vec<Trouble>,
    /// Runs up to this one have been judged and forgotten.
    forgotten: u64,
    pub(crate) tally: Tally,
    pub(crate) failures: BTreeMap<&'static str, u64>,
    told: Vec<String>,
}

/// So many failures are told; the others are only counted.
const TOLD: usize = 40;

impl Oracle {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            runs: BTreeMap::new(),
            stands: Stands::default(),
            troubles: Vec::new(),
            forgotten: 0,
            tally: Tally::default(),
            failures: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    /// A failure of this invariant.
    pub(crate) fn fail(&mut self, invariant: &'static str, what: &str) {
        *self.failures.entry(invariant).or_default() += 1;
        if self.told.len() < TOLD {
            self.told.push(format!("{invariant}: {what}"));
        }
    }

    /// What failed since the last time, in words.
    pub(crate) fn take_told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(crate) fn troubled(&mut self, trouble: Trouble) {
        self.troubles.push(trouble);
    }

    /// Takes note of what a controller said.
    pub(crate) fn hear(&mut self, heard: Heard) {
        let Heard { controller, at, what } = heard;
        match what {
            What::Polls(pool) => self.stands.begin(controller, pool, at),
            What::Leaves => self.stands.end(controller, Some(at)),
            What::Cut | What::Elsewhere => self.stands.end(controller, None),
            What::Fails => {
                self.stands.fail(controller, at);
                self.troubled(Trouble { whose: Whose::Controller(controller), from: at, to: u64::MAX });
            }
            What::Late(micros) => {
                let whose = Whose::Fleet(heard.fleet());
                self.troubled(Trouble { whose, from: at.saturating_sub(micros), to: at });
            }
            What::Status(status) => {
                self.stands.end(controller, None);
                self.fail(
                    "I5",
                    &format!("controller {controller} was answered {status}, which ends a stock one"),
                );
            }
            What::Wrong(run) => {
                self.stands.end(controller, None);
                self.fail("I9", &format!("controller {controller} received run {run} of another pool"));
            }
            What::Received(run) => {
                self.tally.receipts += 1;
                if run <= self.forgotten {
                    self.stands.end(controller, None);
                    return self
                        .fail("I1", &format!("run {run} was received by {controller} long after its time"));
                }
                let known = self.runs.entry(run).or_default();
                known.receipts.push(Receipt { controller, at });
                // It was taken after the run was posted, and surely stood until then.
                let stood = known.posts.iter().map(|post| post.sent).min();
                self.stands.end(controller, stood);
            }
        }
    }

    /// Takes note of a POST.
    pub(crate) fn post(&mut self, post: Post) {
        let tally = &mut self.tally;
        tally.posts += 1;
        match &post.told {
            Told::Hit(..) => tally.hits += 1,
            Told::Miss(reason) => *tally.misses.entry(reason.clone()).or_default() += 1,
            Told::Status(_) => tally.refused += 1,
            Told::Broken | Told::Silence | Told::Left => tally.unanswered += 1,
        }
        if post.is_answered() {
            tally.longest = tally.longest.max(post.done - post.whole);
        }
        let run = self.runs.entry(post.run).or_default();
        run.judged = None;
        run.posts.push(post);
    }

    /// Controllers that stand in a pool as far as they know, and in how many pools.
    pub(crate) fn standing(&self) -> (u64, u64) {
        self.stands.standing()
    }

    /// Whoever belonged to this process stands no more.
    pub(crate) fn gone(&mut self, fleet: u64) {
        self.stands.gone(fleet);
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
        self.stands.forget(old);
        self.troubles.retain(|trouble| trouble.to >= old.saturating_sub(KEPT));
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

    fn troubles_of(&self, from: u64, to: u64) -> impl Iterator<Item = &Trouble> {
        self.troubles.iter().filter(move |trouble| trouble.from <= to && from <= trouble.to)
    }

    /// For how long of this time the matching troubles lasted.
    fn troubled_for(&self, from: u64, to: u64, is_meant: impl Fn(Whose) -> bool) -> u64 {
        let meant = self.troubles_of(from, to).filter(|trouble| is_meant(trouble.whose));
        meant.map(|trouble| trouble.to.min(to) - trouble.from.max(from)).sum()
    }
}

/// For so many microseconds a judged run is remembered, in case it is received again.
const KEPT: u64 = 60_000_000;
