//! Owns the expected counters: what the broker has to have counted, from what was sent to it.

use std::collections::BTreeMap;

use crate::supervisors::{Outcome, Post};
use pilotlight_bench::scrape::Scrape;

/// What clients know of one broker process.
#[derive(Debug, Clone, Default)]
pub(super) struct ExpectedCounters {
    /// Responses by outcome and reason, as the broker labels them.
    answered: BTreeMap<(&'static str, Box<str>), u64>,
    /// POSTs whose outcome is unknown: they may be counted under any label, or not at all.
    uncertain: u64,
    /// Polls that were sent, and those that certainly arrived.
    pub(super) polls: u64,
    pub(super) polls_surely: u64,
    /// Each controller of a killed process may have sent one more poll without a report.
    pub(super) polls_unheard: u64,
}

impl ExpectedCounters {
    pub(super) fn record_post(&mut self, post: &Post) {
        let key = match &post.outcome {
            Outcome::Hit(..) => ("hit", "none".into()),
            Outcome::Miss(reason) => ("miss", reason.clone()),
            Outcome::Status(_) => ("refused", "none".into()),
            Outcome::NoResponse | Outcome::TimedOut | Outcome::Abandoned => {
                self.uncertain += 1;
                return;
            }
        };
        *self.answered.entry(key).or_default() += 1;
    }

    /// All counters that are outside their bounds. The broker is quiet, and `standing` controllers wait.
    pub(super) fn check(&self, scrape: &Scrape, standing: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut between = |what: &str, counted: u64, least: u64, most: u64| {
            if counted < least || counted > most {
                wrong.push(format!("{what}: the broker counted {counted}, expected {least} to {most}"));
            }
        };
        let all: u64 = self.answered.values().sum();
        between("posts", scrape.count("pilotlight_dispatches_total{"), all, all + self.uncertain);
        for ((outcome, reason), count) in &self.answered {
            let name = format!("pilotlight_dispatches_total{{outcome=\"{outcome}\",reason=\"{reason}\"}}");
            between(&name, scrape.count(&name), *count, count + self.uncertain);
        }
        let matched = scrape.count("pilotlight_polls_total{end=\"matched\"}");
        between("offers, by verdict", scrape.count("pilotlight_offers_total{"), matched, matched);
        // The slots of a connection that is written to leave their pool, and come back without being ready once more.
        let returned = scrape.count("pilotlight_polls_total{end=\"set_aside\"}")
            + scrape.count("pilotlight_offers_total{verdict=\"busy\"}");
        let polls = scrape.count("pilotlight_polls_total{") + scrape.count("pilotlight_waiters") - returned;
        let least = self.polls_surely + standing;
        between("polls, held and ended", polls, least, self.polls + self.polls_unheard);
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisors::{Dialect, SendMode};

    fn post(outcome: Outcome) -> Post {
        let (dialect, mode) = (Dialect::Trigger, SendMode::Whole);
        Post {
            run: 1,
            pool: 0,
            dialect,
            mode,
            broker: 0,
            sent: 0,
            whole: 0,
            done: 0,
            is_fresh: false,
            generation: 0,
            outcome,
            offers: 0,
        }
    }

    fn scrape(hits: u64, misses: u64, matched: u64, offers: u64, waiters: u64) -> Scrape {
        Scrape::parse(&format!(
            "pilotlight_dispatches_total{{outcome=\"hit\",reason=\"none\"}} {hits}\n\
             pilotlight_dispatches_total{{outcome=\"miss\",reason=\"no_pool\"}} {misses}\n\
             pilotlight_polls_total{{end=\"matched\"}} {matched}\n\
             pilotlight_offers_total{{verdict=\"received\"}} {offers}\npilotlight_waiters {waiters}\n"
        ))
    }

    #[test]
    fn i8_what_is_counted_is_what_was_done() {
        let mut account = ExpectedCounters { polls: 5, polls_surely: 2, ..ExpectedCounters::default() };
        account.record_post(&post(Outcome::Hit("received".into(), None)));
        account.record_post(&post(Outcome::Hit("received".into(), None)));
        account.record_post(&post(Outcome::Miss("no_pool".into())));
        let wrong = |scrape: &Scrape, account: &ExpectedCounters| account.check(scrape, 3).len();
        assert_eq!(wrong(&scrape(2, 1, 2, 2, 3), &account), 0);
        assert_eq!(wrong(&scrape(1, 1, 2, 2, 3), &account), 2, "a hit is missing, and so is its POST");
        assert_eq!(wrong(&scrape(2, 2, 2, 2, 3), &account), 2, "a miss too many");
        assert_eq!(wrong(&scrape(2, 1, 2, 1, 3), &account), 1, "a match without an offer's verdict");
        assert_eq!(wrong(&scrape(2, 1, 2, 2, 2), &account), 1, "a waiter was lost");
        assert_eq!(wrong(&scrape(2, 1, 2, 2, 4), &account), 1, "a waiter was leaked");
        account.record_post(&post(Outcome::Abandoned));
        assert_eq!(wrong(&scrape(2, 2, 2, 2, 3), &account), 0, "the outcome of that POST is unknown");
    }
}
