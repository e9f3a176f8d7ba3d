//! Owns the checks of one run: all of its POSTs against all of its receipts.

use super::records::{Affected, Disturbance, Oracle, Receipt, Run};
use crate::fleet::{IDS_PER_FLEET, named_controller};
use crate::supervisors::{Dialect, Outcome, Post, SendMode};

/// The first offer, and at most two more after an unproven one.
const MAX_OFFERS: u64 = 3;
/// A poll that was sent this many microseconds before a POST is parked when the POST arrives.
const PARKING_TIME: u64 = 500_000;
/// A poll this close to its timeout is not offered a run: the broker's own margin, and the difference of clocks.
const GUARD: u64 = 1_000_000;
/// Reasons of a miss that claim that no waiter was there.
const NO_WAITER_REASONS: [&str; 4] = ["no_pool", "wrong_version", "wrong_machine", "all_taken"];

impl Oracle {
    pub(super) fn judge(&mut self, number: u64) {
        let Some(mut run) = self.runs.remove(&number) else { return };
        let is_first = run.judged.is_none();
        self.judge_receipts(number, &run);
        if is_first {
            for post in &run.posts {
                self.judge_answer(post);
                self.judge_miss(post);
            }
        }
        run.judged = Some(run.receipts.len());
        self.runs.insert(number, run);
    }

    /// I1, I2 and I3.
    fn judge_receipts(&mut self, number: u64, run: &Run) {
        let Run { posts, receipts, .. } = run;
        let Some(dialect) = posts.first().map(|post| post.dialect) else { return };
        if posts.iter().all(|post| post.mode == SendMode::CutInBody) {
            if !receipts.is_empty() {
                self.fail("I3", &format!("run {number} was received, but its POST was never complete"));
            }
            return;
        }
        let hits: Vec<&Post> = posts.iter().filter(|post| post.is_hit()).collect();
        // A run that is posted twice is delivered once per broker process, whose memory does not survive a restart.
        let delivered = distinct(hits.iter().copied().map(process));
        // In a cluster, each of several brokers may answer with the one outcome that one of them has come to.
        let least = if self.rules.is_cluster { delivered.min(1) } else { delivered };
        for post in &hits {
            self.judge_hit(post, receipts, least);
        }
        let allowed: u64 = match dialect {
            Dialect::Trigger => posts.iter().map(possible_receipts).sum(),
            Dialect::Native => {
                distinct(posts.iter().filter(|post| possible_receipts(post) > 0).map(process)) as u64
            }
        };
        if receipts.len() as u64 > allowed {
            let outcomes: Vec<_> = posts.iter().map(|post| (&post.outcome, post.offers)).collect();
            let who: Vec<u64> = receipts.iter().map(|receipt| receipt.controller).collect();
            self.fail(
                "I1",
                &format!("{dialect:?} run {number} was received by {who:?}, allowed {allowed}: {outcomes:?}"),
            );
        } else if dialect == Dialect::Trigger {
            self.judge_surplus(number, run, delivered);
        } else if self.rules.is_cluster && receipts.len() > 1 {
            self.judge_posted_twice(number, run);
        }
    }

    /// I1 for a native run that was posted to several brokers: they tell each other at once whose it is, so only POSTs at
    /// the same time may both be delivered, or those at brokers that could not talk.
    fn judge_posted_twice(&mut self, number: u64, run: &Run) {
        let Run { posts, receipts, judged } = run;
        let processes = distinct(posts.iter().map(process));
        let last_sent = posts.iter().map(|post| post.sent).max().unwrap_or(0);
        let first_done = posts.iter().map(|post| post.done).min().unwrap_or(0);
        let apart = |trouble: &Disturbance| match trouble.affected {
            Affected::Broker(_) | Affected::Nats | Affected::Harness => true,
            Affected::NewConnections | Affected::Fleet(_) | Affected::Killed(_) | Affected::Controller(_) => {
                false
            }
        };
        let first_sent = posts.iter().map(|post| post.sent).min().unwrap_or(0);
        let is_explained = last_sent <= first_done + ANNOUNCEMENT_TIME
            || self.disturbances_between(first_sent, last_sent).any(apart);
        if processes < 2 || !is_explained {
            let posts: Vec<_> = posts.iter().map(|post| (post.sent, post.done, &post.outcome)).collect();
            self.fail("I1", &format!("native run {number} was received {} times: {posts:?}", receipts.len()));
        } else if judged.is_none() {
            self.totals.posted_twice += receipts.len() as u64 - 1;
        }
    }

    /// I2: there is a receipt, and it is older than the response.
    fn judge_hit(&mut self, post: &Post, receipts: &[Receipt], delivered: usize) {
        let Outcome::Hit(proof, controller) = &post.outcome else { return };
        if **proof != *"received" {
            return;
        }
        let is_meant = |receipt: &&Receipt| {
            controller.is_none_or(|controller| controller == named_controller(receipt.controller))
        };
        let before = receipts.iter().filter(is_meant).filter(|receipt| receipt.at <= post.done).count();
        if before > 0 && receipts.len() >= delivered {
            return;
        }
        let killed = |trouble: &Disturbance| match trouble.affected {
            Affected::Killed(fleet) => {
                controller.is_none_or(|controller| controller / IDS_PER_FLEET == fleet)
            }
            Affected::Broker(_)
            | Affected::Nats
            | Affected::NewConnections
            | Affected::Fleet(_)
            | Affected::Controller(_)
            | Affected::Harness => false,
        };
        if self.disturbances_between(post.sent, post.done).any(killed) {
            self.totals.unknowable += 1;
            return;
        }
        let Post { run, dialect, offers, sent, done, .. } = post;
        let took = done - sent;
        self.fail(
            "I2",
            &format!("{dialect:?} run {run} is answered true after {took} µs and {offers} offers, receipts {receipts:?}"),
        );
    }

    /// I1 where a run may be offered again: each receipt beyond the proved ones needs an explanation.
    fn judge_surplus(&mut self, number: u64, run: &Run, delivered: usize) {
        let Run { posts, receipts, judged } = run;
        let first = posts.iter().map(|post| post.sent).min().unwrap_or(0);
        let mut proved = delivered;
        // `unknown` says that a controller may have the run.
        let is_open = |post: &&Post| {
            !post.is_answered() || matches!(&post.outcome, Outcome::Miss(reason) if **reason == *"unknown")
        };
        let mut unanswered = posts.iter().filter(is_open).count();
        // An offer at another broker is repeated if no answer comes back, though its controller may be healthy.
        let mut repeated: u64 = if self.rules.is_cluster {
            posts.iter().filter(|post| post.is_hit()).map(|post| post.offers.saturating_sub(1)).sum()
        } else {
            0
        };
        // The proved receipt is that of a healthy controller.
        let (sick, healthy): (Vec<&Receipt>, Vec<&Receipt>) =
            receipts.iter().partition(|receipt| self.was_failing(receipt, first));
        for receipt in healthy {
            if proved > 0 {
                proved -= 1;
            } else if unanswered > 0 {
                unanswered -= 1;
            } else if repeated > 0 {
                repeated -= 1;
                self.totals.unanswered_offers += u64::from(judged.is_none());
            } else {
                let outcomes: Vec<_> = posts.iter().map(|post| (&post.outcome, post.offers)).collect();
                let controller = receipt.controller;
                self.fail(
                    "I1",
                    &format!(
                        "run {number}: {controller} was healthy, received it, and is not the proof: {outcomes:?}"
                    ),
                );
            }
        }
        let surplus = sick.len().saturating_sub(proved + unanswered) as u64;
        if judged.is_none() && delivered > 0 {
            self.totals.duplicates += surplus;
        } else if judged.is_none() {
            self.totals.read_though_false += surplus;
        }
    }

    fn was_failing(&self, receipt: &Receipt, since: u64) -> bool {
        self.disturbances_between(since, receipt.at + LATER).any(|trouble| match trouble.affected {
            Affected::Fleet(fleet) | Affected::Killed(fleet) => receipt.controller / IDS_PER_FLEET == fleet,
            Affected::Controller(controller) => controller == receipt.controller,
            Affected::Broker(_) | Affected::Nats | Affected::Harness => true,
            Affected::NewConnections => false,
        })
    }

    /// I12: every POST is answered in time while a broker is running.
    fn judge_answer(&mut self, post: &Post) {
        let Post { run, dialect, mode, broker, sent, whole, done, outcome, .. } = post;
        if *outcome == Outcome::Abandoned || matches!(mode, SendMode::CutInBody | SendMode::CutBeforeResponse)
        {
            return;
        }
        // A body that arrives too slowly is refused.
        let is_slow = matches!(mode, SendMode::Slow(10_000..));
        let had_trouble = self
            .disturbances_between(*sent, *done)
            .any(|trouble| trouble.affected == Affected::Broker(*broker));
        match outcome {
            Outcome::Status(408) | Outcome::NoResponse if is_slow => return,
            Outcome::NoResponse if had_trouble => return,
            // A new connection may be refused during a flood of connections.
            Outcome::NoResponse if post.is_fresh && self.had_accept_disturbance(post) => return,
            Outcome::NoResponse => {
                let which = if post.is_fresh { "a new" } else { "a kept" };
                let after = done - sent;
                let story =
                    format!("{dialect:?} run {run}: {which} connection ended after {after} µs, no answer");
                return self.fail("I12", &story);
            }
            Outcome::Status(status) => {
                return self
                    .fail("I12", &format!("{dialect:?} run {run}, which is valid, was answered {status}"));
            }
            Outcome::Hit(..) | Outcome::Miss(_) | Outcome::TimedOut | Outcome::Abandoned => {}
        }
        let excused = self.disturbed_for(*whole, *done, |whose| match whose {
            Affected::Broker(other) => other == *broker,
            Affected::Harness => true,
            Affected::NewConnections => post.is_fresh,
            Affected::Nats | Affected::Fleet(_) | Affected::Killed(_) | Affected::Controller(_) => false,
        });
        let took = (done - whole).saturating_sub(excused);
        if took > self.rules.budget + self.rules.margin {
            self.fail("I12", &format!("{dialect:?} run {run} took {took} µs: {outcome:?}"));
        }
    }

    fn had_accept_disturbance(&self, post: &Post) -> bool {
        self.disturbances_between(post.sent, post.done)
            .any(|trouble| trouble.affected == Affected::NewConnections)
    }

    /// I11: no miss claims that no waiter was there while a healthy one was.
    fn judge_miss(&mut self, post: &Post) {
        let Outcome::Miss(reason) = &post.outcome else { return };
        if !NO_WAITER_REASONS.contains(&&**reason) || post.mode == SendMode::CutInBody {
            return;
        }
        let since = post.sent.saturating_sub(PARKING_TIME);
        let doubt = |trouble: &Disturbance| {
            use Affected::{Broker, Harness, Nats, NewConnections};
            matches!(trouble.affected, Broker(_) | Nats | NewConnections | Harness)
        };
        if self.disturbances_between(since, post.done).any(doubt) {
            return;
        }
        let stood = self.held_polls.throughout(post.pool, since, post.done).find(|stand| {
            let fleet = stand.controller / IDS_PER_FLEET;
            let suffers = |trouble: &Disturbance| match trouble.affected {
                Affected::Fleet(other) | Affected::Killed(other) => other == fleet,
                Affected::Broker(_) | Affected::Nats | Affected::NewConnections | Affected::Harness => {
                    trouble.from < stand.from + PARKING_TIME
                }
                Affected::Controller(_) => false,
            };
            let young = post.done + GUARD < stand.from + self.rules.timeout;
            young && !self.disturbances_between(stand.from, post.done).any(suffers)
        });
        if let Some(stand) = stood {
            let (controller, before) = (stand.controller, post.sent - stand.from);
            let Post { run, pool, dialect, offers, .. } = post;
            let story = format!(
                "{dialect:?} run {run}: {reason} after {offers} offers, though {controller} had stood in pool {pool} for {before} µs"
            );
            self.fail("I11", &story);
        }
    }
}

/// Microseconds after a receipt in which a disturbance still counts: a controller may be stopped between its report and the
/// close of its connection, which is the proof.
const LATER: u64 = 600_000;

/// A broker has told the others of a run that it has taken within this many microseconds: a batch of 10 ms, and a busy
/// machine.
const ANNOUNCEMENT_TIME: u64 = 150_000;

/// How many controllers may have received a byte of this POST's run.
fn possible_receipts(post: &Post) -> u64 {
    match &post.outcome {
        _ if post.mode == SendMode::CutInBody => 0,
        Outcome::Hit(..) => post.offers.clamp(1, u64::MAX),
        Outcome::Miss(reason) => match (&**reason, post.dialect) {
            ("undelivered", Dialect::Trigger) | ("unknown", _) => post.offers.max(1),
            _ => 0,
        },
        Outcome::Status(_) => 0,
        Outcome::NoResponse | Outcome::TimedOut | Outcome::Abandoned => MAX_OFFERS,
    }
}

/// The broker's process that a POST was sent to.
fn process(post: &Post) -> (usize, u64) {
    (post.broker, post.generation)
}

fn distinct(processes: impl Iterator<Item = (usize, u64)>) -> usize {
    processes.collect::<std::collections::BTreeSet<_>>().len()
}
