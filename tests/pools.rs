//! Owns the scenarios of the core: scripts with the expected result on each line.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::time::Duration;

use pilotlight::broker::{
    AcceptedPayload, Broker, Claim, ClaimRequest, Filter, HostId, Key, Limits, MonotonicTime, Number,
    ParkRequest, PayloadKind, RemovedWaiter, SelectionPolicy, WaiterId, Watermark,
};

const AMPLE: Limits = Limits { waiters: 100, waiters_per_pool: 100, pools: 100 };

/// A pool is written `deployment/version/cpu/memory`.
fn key(text: &str) -> Key {
    let parts: Vec<&str> = text.split('/').collect();
    let [deployment, version, cpu, memory] = parts[..] else { panic!("{text} is not a pool") };
    let number = |text| Number::parse(text).unwrap();
    Key { deployment: deployment.into(), version: version.into(), cpu: number(cpu), memory: number(memory) }
}

/// `ADDRESS` is a host without a name, `ADDRESS:NAME` one with a name.
fn host(text: &str) -> HostId {
    let hash = |text: &str| text.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31) + u32::from(byte));
    let (address, name) = text.split_once(':').map_or((text, None), |(address, name)| (address, Some(name)));
    HostId {
        address: Ipv4Addr::from_bits(hash(address)).into(),
        name: name.and_then(|name| NonZeroU64::new(hash(name).into())),
    }
}

struct Scenario {
    broker: Broker<String>,
    ids: HashMap<String, WaiterId>,
    now: Duration,
    mark: Option<Watermark>,
}

impl Scenario {
    fn now(&self) -> MonotonicTime {
        MonotonicTime::from_micros(0).plus(self.now)
    }

    /// `park NAME POOL [as CONTROLLER] [on HOST] [any] [offered 50s] [held 52s]`
    fn park(&mut self, words: &[&str]) -> String {
        let option = |name: &str| words.iter().position(|word| *word == name).map(|at| words[at + 1]);
        let deadline = |name, default| {
            self.now().plus(option(name).map_or(default, |d| humantime::parse_duration(d).unwrap()))
        };
        let key = key(words[1]);
        let request = ParkRequest {
            key: key.as_ref(),
            accepts: if words.contains(&"any") {
                AcceptedPayload::Any
            } else {
                AcceptedPayload::TriggerMessage
            },
            controller: option("as").unwrap_or_default().into(),
            host: host(option("on").unwrap_or(if option("as").is_some() { "10.0.0.1" } else { words[0] })),
            is_exclusive: true,
            offer_until: deadline("offered", Duration::from_secs(50)),
            deadline: deadline("held", Duration::from_secs(52)),
            waiter: words[0].to_owned(),
        };
        match self.broker.park(request, self.now()) {
            Ok(parked) => {
                self.ids.insert(words[0].to_owned(), parked.id);
                parked.replaced.map_or("parked".to_owned(), |old| format!("parked, replacing {}", old.waiter))
            }
            Err((full, _)) => format!("{full:?} full").to_lowercase(),
        }
    }

    fn claim(&mut self, words: &[&str]) -> String {
        let key = key(words[0]);
        let payload_kind =
            if words.contains(&"opaque") { PayloadKind::Opaque } else { PayloadKind::TriggerMessage };
        let request = ClaimRequest { key: key.as_ref(), payload_kind };
        let now = self.now();
        // The smallest budget: the number of steps per call must not change the result.
        let claim =
            std::iter::repeat_with(|| self.broker.claim(&request, now, 1).ok()).flatten().next().unwrap();
        match claim {
            Claim::Matched(removed) => removed.waiter,
            Claim::Miss(miss) => miss.text().to_owned(),
        }
    }

    fn remove_before(
        &mut self,
        before: Watermark,
        filter: &Filter,
        limit: usize,
    ) -> Vec<RemovedWaiter<String>> {
        let (mut all, mut from, now) = (Vec::new(), Some(0), self.now());
        while let Some(slot) = from.filter(|_| all.len() < limit) {
            let page = self.broker.remove_parked_before(before, filter, now, slot, 1, 1);
            all.extend(page.rows);
            from = page.next;
        }
        all
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let now = self.now();
        let before = self.mark.unwrap_or(self.broker.watermark());
        let filter = |text: &str| Filter { deployment: Some(text.to_owned()), ..Filter::default() };
        let result = match (words[0], &words[1..]) {
            ("park", words) => self.park(words),
            ("claim", words) => self.claim(words),
            ("at", [time]) => {
                self.now = humantime::parse_duration(time).unwrap();
                String::new()
            }
            ("leave", [name]) => {
                let left = self.broker.leave(self.ids[*name], now);
                if left.is_some() { "left".to_owned() } else { "was gone".to_owned() }
            }
            ("expire", []) => {
                let mut all = Vec::new();
                loop {
                    let (removed, continues) = self.broker.expire(now, 1, 1);
                    all.extend(removed);
                    if !continues {
                        break names(all);
                    }
                }
            }
            ("retire", [deployment]) => names(self.remove_before(before, &filter(deployment), usize::MAX)),
            ("mark", []) => {
                self.mark = Some(self.broker.watermark());
                String::new()
            }
            ("suspect", [name]) => {
                self.broker.suspect(host(name), now);
                String::new()
            }
            ("trust", [name]) => {
                self.broker.trust(host(name));
                String::new()
            }
            ("sweep", alive) => {
                let view = |suspicion, waiter: &String| (suspicion, alive.contains(&waiter.as_str()));
                let mut from = Some(0);
                while let Some(slot) = from {
                    let page = self.broker.suspects_page(slot, 1, view);
                    let live = page.rows.into_iter().filter(|(_, is_alive)| *is_alive);
                    live.for_each(|(suspicion, _)| self.broker.clear_suspicion(suspicion, now));
                    from = page.next;
                }
                let left = self.broker.forget_old_suspects(now);
                if left { "some suspect".to_owned() } else { "none suspect".to_owned() }
            }
            ("drain", []) => {
                self.broker.begin_drain();
                String::new()
            }
            ("stop", []) => {
                self.broker.stop_matching();
                String::new()
            }
            ("drained", [limit]) => {
                names(self.remove_before(before, &Filter::default(), limit.parse().unwrap()))
            }
            ("undrained", []) => self.broker.draining().unwrap().waiting.to_string(),
            ("count", []) => format!("{} in {}", self.broker.waiters_len(), self.broker.pools_len()),
            _ => panic!("{line} is not a command"),
        };
        self.broker.audit().unwrap();
        result
    }
}

fn names(removed: Vec<RemovedWaiter<String>>) -> String {
    let mut names: Vec<String> = removed.into_iter().map(|removed| removed.waiter).collect();
    names.sort();
    names.join(" ")
}

fn check_with(limits: Limits, policy: SelectionPolicy, script: &str) {
    let mut scenario = Scenario {
        broker: Broker::new(limits, policy),
        ids: HashMap::new(),
        now: Duration::ZERO,
        mark: None,
    };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (command, expected) = line.split_once("=>").unwrap_or((line, ""));
        assert_eq!(scenario.run(command), expected.trim(), "at `{line}` of\n{script}");
    }
}

fn check(script: &str) {
    check_with(AMPLE, SelectionPolicy::Newest, script);
}

#[test]
fn the_newest_waiter_is_matched_first() {
    check(
        "park a d/1/1/1 => parked
         park b d/1/1/1 => parked
         park c d/1/1/1 => parked
         claim d/1/1/1 => c
         claim d/1/1/1 => b
         park d d/1/1/1 => parked
         claim d/1/1/1 => d
         claim d/1/1/1 => a",
    );
}

#[test]
fn the_oldest_waiter_is_matched_first_if_so_chosen() {
    check_with(
        AMPLE,
        SelectionPolicy::Oldest,
        "park a d/1/1/1 => parked
         park b d/1/1/1 any => parked
         park c d/1/1/1 => parked
         claim d/1/1/1 => a
         claim d/1/1/1 => b
         claim d/1/1/1 => c",
    );
}

#[test]
fn numbers_match_by_value_and_only_if_both_are_equal() {
    check(
        "park a d/1/0.50/0.5 => parked
         claim d/1/1/0.5 => wrong_machine
         claim d/1/0.5/1 => wrong_machine
         claim d/1/5e-1/.5 => a",
    );
}

#[test]
fn a_key_is_a_tuple_and_not_a_joined_text() {
    check(
        "park a ab/c/1/1 => parked
         claim a/bc/1/1 => no_pool
         claim ab/c/1/1 => a",
    );
}

#[test]
fn a_miss_says_why() {
    check(
        "claim d/1/1/1 => no_pool
         park a d/1/1/1 => parked
         claim e/1/1/1 => no_pool
         claim d/2/1/1 => wrong_version
         claim d/1/2/1 => wrong_machine
         claim d/1/1/1 => a
         claim d/1/1/1 => all_taken
         claim d/1/2/1 => no_pool
         at 61s
         claim d/1/1/1 => no_pool",
    );
}

#[test]
fn a_pool_that_was_emptied_by_a_departure_is_not_reported_as_taken() {
    check(
        "park a d/1/1/1 => parked
         leave a => left
         claim d/1/1/1 => no_pool
         leave a => was gone
         count => 0 in 0",
    );
}

#[test]
fn a_waiter_near_its_deadline_is_held_but_not_offered() {
    check(
        "park old d/1/1/1 => parked
         at 20s
         park new d/1/1/1 => parked
         at 49s
         claim d/1/1/1 => new
         at 50s
         claim d/1/1/1 => all_taken
         count => 1 in 1
         expire =>
         at 52s
         expire => old
         count => 0 in 0",
    );
}

#[test]
fn a_late_waiter_can_still_leave_be_retired_and_be_drained() {
    check(
        "park a d/1/1/1 => parked
         park b d/1/1/1 => parked
         park c d/1/1/1 => parked
         at 51s
         claim d/1/1/1 => all_taken
         leave b => left
         retire d => a c
         count => 0 in 0",
    );
}

#[test]
fn waiters_expire_in_the_order_of_their_deadlines_even_laps_apart() {
    check(
        "park short d/1/1/1 held 1s => parked
         park long d/1/1/1 held 200s => parked
         park middle d/1/1/1 held 70s => parked
         at 900ms
         expire =>
         at 1s
         expire => short
         at 69s
         expire =>
         at 70100ms
         expire => middle
         at 500s
         expire => long",
    );
}

#[test]
fn the_same_controllers_newest_poll_wins() {
    check(
        "park a d/1/1/1 as one => parked
         park b d/1/1/1 as one => parked, replacing a
         park c d/1/1/1 as two => parked
         leave a => was gone
         count => 2 in 1
         claim d/1/1/1 => c
         claim d/1/1/1 => b",
    );
}

#[test]
fn a_controller_of_another_origin_or_pool_is_not_replaced() {
    check(
        "park a d/1/1/1 as one on 10.0.0.1 => parked
         park b d/1/1/1 as one on 10.0.0.2 => parked
         park c d/2/1/1 as one on 10.0.0.1 => parked
         park d d/1/1/1 => parked
         park e d/1/1/1 => parked
         count => 5 in 2",
    );
}

#[test]
fn a_replacement_needs_no_free_place() {
    check_with(
        Limits { waiters: 1, ..AMPLE },
        SelectionPolicy::Newest,
        "park a d/1/1/1 as one => parked
         park b d/1/1/1 as one => parked, replacing a
         park c d/1/1/1 as two => waiters full",
    );
}

#[test]
fn a_full_pool_refuses_the_next_waiter_and_others_do_not() {
    check_with(
        Limits { waiters: 3, waiters_per_pool: 1, pools: 2 },
        SelectionPolicy::Newest,
        "park a d/1/1/1 => parked
         park b d/1/1/1 => pool full
         park c e/1/1/1 => parked
         park d f/1/1/1 => pools full
         claim d/1/1/1 => a
         park d f/1/1/1 => parked",
    );
}

#[test]
fn an_opaque_run_is_never_handed_to_a_stock_controller() {
    check(
        "park stock d/1/1/1 => parked
         claim d/1/1/1 opaque => not_a_message
         park native d/1/1/1 any => parked
         park stock2 d/1/1/1 => parked
         claim d/1/1/1 opaque => native
         claim d/1/1/1 => stock2
         park native2 d/1/1/1 any => parked
         claim d/1/1/1 => native2
         claim d/1/1/1 => stock",
    );
}

#[test]
fn a_draining_broker_matches_no_run_and_removes_all_waiters() {
    check(
        "park a d/1/1/1 => parked
         park b e/1/1/1 => parked
         drain
         stop
         claim d/1/1/1 => draining
         park c d/1/1/1 => parked
         undrained => 2
         leave a => left
         undrained => 1
         drained 2 => b c
         undrained => 0
         count => 0 in 0",
    );
}

#[test]
fn a_drain_that_goes_on_matching_ends_as_any_other() {
    check(
        "park a d/1/1/1 => parked
         park b d/1/1/1 => parked
         park c d/1/1/1 => parked
         drain
         undrained => 3
         claim d/1/1/1 => c
         undrained => 2
         drained 1 => a
         park d d/1/1/1 => parked
         undrained => 1
         claim d/1/1/1 => d
         claim d/1/1/1 => b
         claim d/1/1/1 => all_taken
         undrained => 0
         park e d/1/1/1 => parked
         stop
         claim d/1/1/1 => draining
         drained 1 => e",
    );
}

#[test]
fn an_earlier_time_than_before_does_no_harm() {
    check(
        "at 100s
         expire =>
         at 10s
         park a d/1/1/1 held 1s => parked
         at 100s
         expire => a",
    );
}

#[test]
fn suspects_are_offered_last_and_by_age() {
    check(
        "park alive d/1/1/1 on living => parked
         park a d/1/1/1 on dead => parked
         park b d/1/1/1 on dead => parked
         park c d/1/1/1 on dead => parked
         claim d/1/1/1 => c
         suspect dead
         claim d/1/1/1 => alive
         park new d/1/1/1 on dead => parked
         claim d/1/1/1 => new
         claim d/1/1/1 => b
         claim d/1/1/1 => a
         claim d/1/1/1 => all_taken",
    );
}

#[test]
fn a_host_is_identified_by_its_address_or_its_name() {
    check(
        "park x d/1/1/1 on other:other => parked
         park a d/1/1/1 on 10:node => parked
         park b d/1/1/1 on 11:node => parked
         park c d/1/1/1 on 10:pod => parked
         suspect 10:node
         claim d/1/1/1 => x
         claim d/1/1/1 => c",
    );
}

#[test]
fn a_proof_clears_a_host_and_its_waiters_are_offered_runs_after_the_others() {
    check(
        "park a d/1/1/1 on m => parked
         park b d/1/1/1 on n => parked
         park c d/1/1/1 on m => parked
         suspect m
         claim d/1/1/1 => b
         park d d/1/1/1 on n => parked
         trust m
         park e d/1/1/1 on n => parked
         claim d/1/1/1 => e
         claim d/1/1/1 => d
         claim d/1/1/1 => a
         claim d/1/1/1 => c",
    );
}

#[test]
fn a_sign_of_life_or_time_clears_a_host() {
    check(
        "park living d/1/1/1 on n => parked
         park a d/1/1/1 on m => parked
         suspect m
         sweep => some suspect
         claim d/1/1/1 => living
         park living d/1/1/1 on n => parked
         sweep a => none suspect
         park newest d/1/1/1 on n => parked
         suspect m
         claim d/1/1/1 => newest
         at 61s
         sweep => none suspect",
    );
}

#[test]
fn a_cleared_waiter_is_offered_before_those_that_are_still_suspect() {
    check(
        "park old d/1/1/1 on b => parked
         park other d/1/1/1 on c => parked
         park new d/1/1/1 on a => parked
         suspect a
         suspect b
         claim d/1/1/1 => other
         trust b
         park later d/1/1/1 on c => parked
         claim d/1/1/1 => later
         claim d/1/1/1 => old
         claim d/1/1/1 => new",
    );
}

#[test]
fn a_suspect_stock_controller_still_refuses_an_opaque_run() {
    check(
        "park a d/1/1/1 on m => parked
         suspect m
         claim d/1/1/1 opaque => not_a_message
         park b d/1/1/1 on m any => parked
         claim d/1/1/1 opaque => b
         claim d/1/1/1 opaque => not_a_message
         claim d/1/1/1 => a",
    );
}

#[test]
fn a_waiter_parked_after_the_watermark_stays() {
    check(
        "park a d/1/1/1 => parked
         park b d/1/1/1 => parked
         mark
         leave a => left
         park c d/1/1/1 => parked
         drained 5 => b
         drained 5 =>
         retire d =>
         count => 1 in 1",
    );
}

#[test]
fn a_dead_host_with_many_addresses_costs_one_unproven_offer() {
    check(
        "park living d/1/1/1 on 9:other => parked
         park a d/1/1/1 on 1:node => parked
         park b d/1/1/1 on 2:node => parked
         park c d/1/1/1 on 3:node => parked
         claim d/1/1/1 => c
         suspect 3:node
         sweep => some suspect
         claim d/1/1/1 => living",
    );
}

/// A host gives another host's name, and lets its offers fail.
#[test]
fn a_refuted_name_makes_no_other_host_suspect_for_a_minute() {
    check(
        "park other d/1/1/1 on 9:other => parked
         park victim d/1/1/1 on 1:node => parked
         park stranger d/1/1/1 on 2:node => parked
         claim d/1/1/1 => stranger
         suspect 2:node
         sweep victim => some suspect
         park stranger2 d/1/1/1 on 2:node => parked
         suspect 2:node
         claim d/1/1/1 => victim
         park victim d/1/1/1 on 1:node => parked
         at 2900ms
         claim d/1/1/1 => victim
         park victim d/1/1/1 on 1:node => parked
         sweep victim => some suspect
         at 20s
         suspect 2:node
         at 22s
         claim d/1/1/1 => victim
         claim d/1/1/1 => other
         claim d/1/1/1 => stranger2",
    );
}

/// A refuted name is suspect again if all of its waiters are silent.
#[test]
fn a_host_that_dies_after_its_name_was_refuted_is_found_by_its_silence() {
    check(
        "park living d/1/1/1 on 9:other => parked
         park a d/1/1/1 on 1:node => parked
         park b d/1/1/1 on 2:node => parked
         suspect 2:node
         sweep a => some suspect
         at 10s
         suspect 2:node
         at 13s
         sweep => some suspect
         claim d/1/1/1 => living",
    );
}
