//! Owns the core's stories: who gets what, told as scripts with the expected answer on each line.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::time::Duration;

use pilotlight::broker::{
    AcceptedPayload, Broker, Claim, ClaimRequest, Filter, HostId, Key, Limits, MonotonicTime, Number,
    ParkRequest, PayloadKind, RemovedWaiter, SelectionPolicy, WaiterId, Watermark,
};

const ROOMY: Limits = Limits { waiters: 100, waiters_per_pool: 100, pools: 100 };

/// A pool is written `deployment/version/cpu/memory`.
fn key(text: &str) -> Key {
    let parts: Vec<&str> = text.split('/').collect();
    let [deployment, version, cpu, memory] = parts[..] else { panic!("{text} is no pool") };
    let number = |text| Number::parse(text).unwrap();
    Key { deployment: deployment.into(), version: version.into(), cpu: number(cpu), memory: number(memory) }
}

/// `NAME` is a machine known by its address alone, `ADDRESS:NAME` one known by both.
fn machine(text: &str) -> HostId {
    let print = |text: &str| text.bytes().fold(7_u64, |print, byte| print * 31 + u64::from(byte));
    match text.split_once(':') {
        Some((address, name)) => HostId { address: print(address), name: Some(print(name) << 32) },
        None => HostId { address: print(text), name: None },
    }
}

struct Stage {
    broker: Broker<String>,
    ids: HashMap<String, WaiterId>,
    now: Duration,
    mark: Option<Watermark>,
}

impl Stage {
    fn now(&self) -> MonotonicTime {
        MonotonicTime::from_micros(0).plus(self.now)
    }

    /// `park NAME POOL [as CONTROLLER] [from IP] [on MACHINE] [anything] [offered 50s] [held 52s]`
    fn park(&mut self, words: &[&str]) -> String {
        let option = |name: &str| words.iter().position(|word| *word == name).map(|at| words[at + 1]);
        let lasts = |name, default| {
            self.now().plus(option(name).map_or(default, |d| humantime::parse_duration(d).unwrap()))
        };
        let ticket = ParkRequest {
            key: key(words[1]),
            accepts: if words.contains(&"anything") {
                AcceptedPayload::Any
            } else {
                AcceptedPayload::TriggerMessage
            },
            controller: option("as").unwrap_or_default().into(),
            origin: option("from").unwrap_or("10.0.0.1").parse().unwrap(),
            host: machine(option("on").unwrap_or(words[0])),
            offer_until: lasts("offered", Duration::from_secs(50)),
            deadline: lasts("held", Duration::from_secs(52)),
            waiter: words[0].to_owned(),
        };
        match self.broker.park(ticket, self.now()) {
            Ok(parked) => {
                self.ids.insert(words[0].to_owned(), parked.id);
                parked.replaced.map_or("parked".to_owned(), |old| format!("parked, replacing {}", old.waiter))
            }
            Err((full, _)) => format!("{full:?} full").to_lowercase(),
        }
    }

    fn offer(&mut self, words: &[&str]) -> String {
        let key = key(words[0]);
        let payload_kind =
            if words.contains(&"opaque") { PayloadKind::Opaque } else { PayloadKind::TriggerMessage };
        let ask = ClaimRequest { key: key.as_ref(), payload_kind };
        let now = self.now();
        // One step at a time: how many are taken at once changes nothing.
        let offer = std::iter::repeat_with(|| self.broker.claim(&ask, now, 1).ok()).flatten().next().unwrap();
        match offer {
            Claim::Matched(taken) => taken.waiter,
            Claim::Miss(miss) => miss.text().to_owned(),
        }
    }

    fn take_before(&mut self, before: Watermark, filter: &Filter, most: usize) -> Vec<RemovedWaiter<String>> {
        let (mut all, mut from, now) = (Vec::new(), Some(0), self.now());
        while let Some(at) = from.filter(|_| all.len() < most) {
            let page = self.broker.remove_parked_before(before, filter, now, at, 1, 1);
            all.extend(page.rows);
            from = page.next;
        }
        all
    }

    fn act(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let now = self.now();
        let before = self.mark.unwrap_or(self.broker.watermark());
        let filter = |text: &str| Filter { deployment: Some(text.to_owned()), ..Filter::default() };
        let said = match (words[0], &words[1..]) {
            ("park", words) => self.park(words),
            ("offer", words) => self.offer(words),
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
                    let (taken, goes_on) = self.broker.expire(now, 1, 1);
                    all.extend(taken);
                    if !goes_on {
                        break names(all);
                    }
                }
            }
            ("retire", [deployment]) => names(self.take_before(before, &filter(deployment), usize::MAX)),
            ("mark", []) => {
                self.mark = Some(self.broker.watermark());
                String::new()
            }
            ("suspect", [name]) => {
                self.broker.suspect(machine(name), now);
                String::new()
            }
            ("trust", [name]) => {
                self.broker.trust(machine(name));
                String::new()
            }
            ("review", alive) => {
                let see = |suspicion, waiter: &String| (suspicion, alive.contains(&waiter.as_str()));
                let mut from = Some(0);
                while let Some(at) = from {
                    let page = self.broker.suspects_page(at, 1, see);
                    let living = page.rows.into_iter().filter(|(_, lives)| *lives);
                    living.for_each(|(suspicion, _)| self.broker.clear_suspicion(suspicion, now));
                    from = page.next;
                }
                let left = self.broker.forget_old_suspects(now);
                if left { "some suspect".to_owned() } else { "none suspect".to_owned() }
            }
            ("drain", []) => {
                self.broker.drain();
                String::new()
            }
            ("goodbye", [most]) => names(self.take_before(before, &Filter::default(), most.parse().unwrap())),
            ("standing", []) => self.broker.draining().unwrap().waiting.to_string(),
            ("count", []) => format!("{} in {}", self.broker.waiters_len(), self.broker.pools_len()),
            _ => panic!("{line} is no act"),
        };
        self.broker.audit().unwrap();
        said
    }
}

fn names(taken: Vec<RemovedWaiter<String>>) -> String {
    let mut names: Vec<String> = taken.into_iter().map(|taken| taken.waiter).collect();
    names.sort();
    names.join(" ")
}

fn check_with(limits: Limits, pick: SelectionPolicy, script: &str) {
    let mut stage =
        Stage { broker: Broker::new(limits, pick), ids: HashMap::new(), now: Duration::ZERO, mark: None };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (act, expected) = line.split_once("=>").unwrap_or((line, ""));
        assert_eq!(stage.act(act), expected.trim(), "at `{line}` of\n{script}");
    }
}

fn check(script: &str) {
    check_with(ROOMY, SelectionPolicy::Newest, script);
}

#[test]
fn the_newest_waiter_is_matched_first() {
    check(
        "park a d/1/1/1 => parked
         park b d/1/1/1 => parked
         park c d/1/1/1 => parked
         offer d/1/1/1 => c
         offer d/1/1/1 => b
         park d d/1/1/1 => parked
         offer d/1/1/1 => d
         offer d/1/1/1 => a",
    );
}

#[test]
fn the_oldest_waiter_is_matched_first_if_so_chosen() {
    check_with(
        ROOMY,
        SelectionPolicy::Oldest,
        "park a d/1/1/1 => parked
         park b d/1/1/1 anything => parked
         park c d/1/1/1 => parked
         offer d/1/1/1 => a
         offer d/1/1/1 => b
         offer d/1/1/1 => c",
    );
}

#[test]
fn numbers_meet_by_value_and_machines_never_by_likeness() {
    check(
        "park a d/1/0.50/0.5 => parked
         offer d/1/1/0.5 => wrong_machine
         offer d/1/0.5/1 => wrong_machine
         offer d/1/5e-1/.5 => a",
    );
}

#[test]
fn a_key_is_a_tuple_and_no_joined_text() {
    check(
        "park a ab/c/1/1 => parked
         offer a/bc/1/1 => no_pool
         offer ab/c/1/1 => a",
    );
}

#[test]
fn a_miss_says_why() {
    check(
        "offer d/1/1/1 => no_pool
         park a d/1/1/1 => parked
         offer e/1/1/1 => no_pool
         offer d/2/1/1 => wrong_version
         offer d/1/2/1 => wrong_machine
         offer d/1/1/1 => a
         offer d/1/1/1 => all_taken
         offer d/1/2/1 => no_pool
         at 61s
         offer d/1/1/1 => no_pool",
    );
}

#[test]
fn a_pool_that_emptied_by_departure_was_not_taken() {
    check(
        "park a d/1/1/1 => parked
         leave a => left
         offer d/1/1/1 => no_pool
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
         offer d/1/1/1 => new
         at 50s
         offer d/1/1/1 => all_taken
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
         offer d/1/1/1 => all_taken
         leave b => left
         retire d => a c
         count => 0 in 0",
    );
}

#[test]
fn deadlines_end_in_their_order_even_laps_apart() {
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
         offer d/1/1/1 => c
         offer d/1/1/1 => b",
    );
}

#[test]
fn nobody_replaces_a_controller_from_elsewhere_or_of_another_pool() {
    check(
        "park a d/1/1/1 as one from 10.0.0.1 => parked
         park b d/1/1/1 as one from 10.0.0.2 => parked
         park c d/2/1/1 as one from 10.0.0.1 => parked
         park d d/1/1/1 => parked
         park e d/1/1/1 => parked
         count => 5 in 2",
    );
}

#[test]
fn a_replacement_needs_no_free_place() {
    check_with(
        Limits { waiters: 1, ..ROOMY },
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
         offer d/1/1/1 => a
         park d f/1/1/1 => parked",
    );
}

#[test]
fn an_opaque_run_is_never_handed_to_a_stock_controller() {
    check(
        "park stock d/1/1/1 => parked
         offer d/1/1/1 opaque => not_a_message
         park native d/1/1/1 anything => parked
         park stock2 d/1/1/1 => parked
         offer d/1/1/1 opaque => native
         offer d/1/1/1 => stock2
         park native2 d/1/1/1 anything => parked
         offer d/1/1/1 => native2
         offer d/1/1/1 => stock",
    );
}

#[test]
fn a_draining_broker_matches_nobody_and_lets_all_go() {
    check(
        "park a d/1/1/1 => parked
         park b e/1/1/1 => parked
         drain
         offer d/1/1/1 => draining
         park c d/1/1/1 => parked
         standing => 2
         leave a => left
         standing => 1
         goodbye 2 => b c
         standing => 0
         count => 0 in 0",
    );
}

#[test]
fn time_that_comes_late_does_no_harm() {
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
         offer d/1/1/1 => c
         suspect dead
         offer d/1/1/1 => alive
         park new d/1/1/1 on dead => parked
         offer d/1/1/1 => new
         offer d/1/1/1 => b
         offer d/1/1/1 => a
         offer d/1/1/1 => all_taken",
    );
}

#[test]
fn a_machine_is_known_by_either_name() {
    check(
        "park x d/1/1/1 on other:other => parked
         park a d/1/1/1 on 10:node => parked
         park b d/1/1/1 on 11:node => parked
         park c d/1/1/1 on 10:pod => parked
         suspect 10:node
         offer d/1/1/1 => x
         offer d/1/1/1 => c",
    );
}

#[test]
fn a_receipt_clears_a_machine_and_who_was_set_aside_comes_after_the_others() {
    check(
        "park a d/1/1/1 on m => parked
         park b d/1/1/1 on n => parked
         park c d/1/1/1 on m => parked
         suspect m
         offer d/1/1/1 => b
         park d d/1/1/1 on n => parked
         trust m
         park e d/1/1/1 on n => parked
         offer d/1/1/1 => e
         offer d/1/1/1 => d
         offer d/1/1/1 => a
         offer d/1/1/1 => c",
    );
}

#[test]
fn a_sign_of_life_or_time_clears_a_machine() {
    check(
        "park living d/1/1/1 on n => parked
         park a d/1/1/1 on m => parked
         suspect m
         review => some suspect
         offer d/1/1/1 => living
         park living d/1/1/1 on n => parked
         review a => none suspect
         park newest d/1/1/1 on n => parked
         suspect m
         offer d/1/1/1 => newest
         at 61s
         review => none suspect",
    );
}

#[test]
fn the_cleared_are_not_stuck_behind_those_that_are_still_suspect() {
    check(
        "park old d/1/1/1 on b => parked
         park other d/1/1/1 on c => parked
         park new d/1/1/1 on a => parked
         suspect a
         suspect b
         offer d/1/1/1 => other
         trust b
         park later d/1/1/1 on c => parked
         offer d/1/1/1 => later
         offer d/1/1/1 => old
         offer d/1/1/1 => new",
    );
}

#[test]
fn a_suspect_of_a_stock_pool_is_still_stock() {
    check(
        "park a d/1/1/1 on m => parked
         suspect m
         offer d/1/1/1 opaque => not_a_message
         park b d/1/1/1 on m anything => parked
         offer d/1/1/1 opaque => b
         offer d/1/1/1 opaque => not_a_message
         offer d/1/1/1 => a",
    );
}

#[test]
fn who_comes_after_the_mark_is_not_sent_away() {
    check(
        "park a d/1/1/1 => parked
         park b d/1/1/1 => parked
         mark
         leave a => left
         park c d/1/1/1 => parked
         goodbye 5 => b
         goodbye 5 =>
         retire d =>
         count => 1 in 1",
    );
}

#[test]
fn a_dead_node_of_many_addresses_costs_one_unproven_offer() {
    check(
        "park living d/1/1/1 on 9:other => parked
         park a d/1/1/1 on 1:node => parked
         park b d/1/1/1 on 2:node => parked
         park c d/1/1/1 on 3:node => parked
         offer d/1/1/1 => c
         suspect 3:node
         review => some suspect
         offer d/1/1/1 => living",
    );
}

/// A stranger gives another machine's name, and lets its offers fail.
#[test]
fn a_name_that_is_refuted_demotes_nobody_for_a_minute() {
    check(
        "park other d/1/1/1 on 9:other => parked
         park victim d/1/1/1 on 1:node => parked
         park stranger d/1/1/1 on 2:node => parked
         offer d/1/1/1 => stranger
         suspect 2:node
         review victim => some suspect
         park stranger2 d/1/1/1 on 2:node => parked
         suspect 2:node
         offer d/1/1/1 => victim
         park victim d/1/1/1 on 1:node => parked
         at 2900ms
         offer d/1/1/1 => victim
         park victim d/1/1/1 on 1:node => parked
         review victim => some suspect
         at 20s
         suspect 2:node
         at 22s
         offer d/1/1/1 => victim
         offer d/1/1/1 => other
         offer d/1/1/1 => stranger2",
    );
}

/// Once refuted, a name is suspect again if all of its waiters are silent.
#[test]
fn a_node_that_dies_after_its_name_was_refuted_is_known_by_its_silence() {
    check(
        "park living d/1/1/1 on 9:other => parked
         park a d/1/1/1 on 1:node => parked
         park b d/1/1/1 on 2:node => parked
         suspect 2:node
         review a => some suspect
         at 10s
         suspect 2:node
         at 13s
         review => some suspect
         offer d/1/1/1 => living",
    );
}
