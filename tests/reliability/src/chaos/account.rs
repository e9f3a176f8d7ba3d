//! Owns the conservation of counters: what the broker counted, beside what was done to it.

use std::collections::BTreeMap;

use crate::supervisors::{Post, Told};
use pilotlight_bench::scrape::Scrape;

/// What is known on this side of one broker's time.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    /// Answers by outcome and reason, as the broker labels them.
    answered: BTreeMap<(&'static str, Box<str>), u64>,
    /// POSTs that may have been counted any way, or not at all.
    uncertain: u64,
    /// Polls that were sent, and those of them that surely came in.
    pub(super) polls: u64,
    pub(super) polls_surely: u64,
    /// A process that was killed may have sent one more poll for each of its controllers.
    pub(super) polls_unheard: u64,
}

impl Account {
    pub(super) fn post(&mut self, post: &Post) {
        let key = match &post.told {
            Told::Hit(..) => ("hit", "none".into()),
            Told::Miss(reason) => ("miss", reason.clone()),
            Told::Status(_) => ("refused", "none".into()),
            Told::Broken | Told::Silence | Told::Left => {
                self.uncertain += 1;
                return;
            }
        };
        *self.answered.entry(key).or_default() += 1;
    }

    /// Everything that does not add up, once the broker is quiet. `standing` controllers wait now.
    pub(super) fn check(&self, scrape: &Scrape, standing: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut between = |what: &str, counted: u64, least: u64, most: u64| {
            if counted < least || counted > most {
                wrong.push(format!("{what}: the broker counted {counted}, and it was {least} to {most}"));
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
        let polls = scrape.count("pilotlight_polls_total{") + scrape.count("pilotlight_waiters");
        let least = self.polls_surely + standing;
        between("polls, held and ended", polls, least, self.polls + self.polls_unheard);
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisors::{Dialect, Way};

    fn post(told: Told) -> Post {
        let (dialect, way) = (Dialect::Trigger, Way::Whole);
        Post {
            run: 1,
            pool: 0,
            dialect,
            way,
            sent: 0,
            whole: 0,
            done: 0,
            is_fresh: false,
            era: 0,
            told,
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
        let mut account = Account { polls: 5, polls_surely: 2, ..Account::default() };
        account.post(&post(Told::Hit("received".into(), None)));
        account.post(&post(Told::Hit("received".into(), None)));
        account.post(&post(Told::Miss("no_pool".into())));
        let wrong = |scrape: &Scrape, account: &Account| account.check(scrape, 3).len();
        assert_eq!(wrong(&scrape(2, 1, 2, 2, 3), &account), 0);
        assert_eq!(wrong(&scrape(1, 1, 2, 2, 3), &account), 2, "a hit is missing, and a post with it");
        assert_eq!(wrong(&scrape(2, 2, 2, 2, 3), &account), 2, "a miss too many");
        assert_eq!(wrong(&scrape(2, 1, 2, 1, 3), &account), 1, "a match without an offer's verdict");
        assert_eq!(wrong(&scrape(2, 1, 2, 2, 2), &account), 1, "a waiter was lost");
        assert_eq!(wrong(&scrape(2, 1, 2, 2, 4), &account), 1, "a waiter was leaked");
        account.post(&post(Told::Left));
        assert_eq!(wrong(&scrape(2, 2, 2, 2, 3), &account), 0, "nobody knows how that one ended");
    }
}
