//! Owns the oracle's own trial: each invariant broken once, and what looks like a breach and is none.

use super::*;
use crate::fleet::CONTROLLERS;
use crate::supervisors::{Dialect, Way};

const SECOND: u64 = 1_000_000;
const START: u64 = 1000 * SECOND;
const HEALTHY: u64 = CONTROLLERS + 1;
const OTHER: u64 = 2 * CONTROLLERS + 1;

fn hit(offers: u64) -> (Told, u64) {
    (Told::Hit("received".into(), None), offers)
}

fn miss(reason: &str, offers: u64) -> (Told, u64) {
    (Told::Miss(reason.into()), offers)
}

fn post((told, offers): (Told, u64)) -> Post {
    Post {
        run: 7,
        pool: 3,
        dialect: Dialect::Trigger,
        way: Way::Whole,
        sent: START,
        whole: START,
        done: START + SECOND,
        is_fresh: false,
        era: 0,
        told,
        offers,
    }
}

fn native((told, offers): (Told, u64)) -> Post {
    Post { dialect: Dialect::Native, ..post((told, offers)) }
}

fn said(controller: u64, at: u64, what: What) -> Heard {
    Heard { controller, at, what }
}

fn receipt(controller: u64) -> Heard {
    said(controller, START + SECOND / 2, What::Received(7))
}

fn during(whose: Whose) -> Trouble {
    Trouble { whose, from: START + 1, to: START + SECOND / 4 }
}

/// Judges, and says which invariants failed.
fn check(posts: &[Post], heard: &[Heard], troubles: &[Trouble], failed: &[&str]) -> Tally {
    let mut oracle = Oracle::new(Rules { budget: 2 * SECOND, margin: SECOND, timeout: 20 * SECOND });
    for trouble in troubles {
        oracle.troubled(*trouble);
    }
    for heard in heard {
        oracle.hear(*heard);
    }
    for post in posts {
        oracle.post(post.clone());
    }
    oracle.finish();
    let invariants: Vec<&str> = oracle.failures.keys().copied().collect();
    assert_eq!(invariants, failed, "{:?}", oracle.take_told());
    oracle.tally
}

#[test]
fn an_honest_broker_passes() {
    check(&[post(hit(1))], &[receipt(HEALTHY)], &[], &[]);
    check(&[native(hit(1))], &[receipt(HEALTHY)], &[], &[]);
    check(&[post(miss("no_pool", 0))], &[], &[], &[]);
}

#[test]
fn i1_a_second_healthy_receipt_is_a_breach() {
    let both = [receipt(HEALTHY), receipt(OTHER)];
    check(&[post(hit(1))], &both, &[], &["I1"]);
    check(&[post(hit(2))], &both, &[], &["I1"]);
    check(&[native(hit(1))], &both, &[], &["I1"]);
    check(&[native((Told::Broken, 0))], &both, &[during(Whose::Broker)], &["I1"]);
}

#[test]
fn i1_a_second_receipt_of_a_failing_controller_is_a_counted_duplicate() {
    let both = [receipt(HEALTHY), receipt(OTHER)];
    let frozen = during(Whose::Fleet(OTHER / CONTROLLERS));
    assert_eq!(check(&[post(hit(2))], &both, &[frozen], &[]).duplicates, 1);
    check(&[post(hit(1))], &both, &[frozen], &["I1"]);
    check(&[native(hit(1))], &both, &[frozen], &["I1"]);
}

#[test]
fn i1_a_run_that_was_answered_false_stays_unread() {
    check(&[post(miss("no_pool", 0))], &[receipt(HEALTHY)], &[], &["I1"]);
    check(&[post(miss("undelivered", 1))], &[receipt(HEALTHY)], &[], &["I1"]);
    let failing = [said(OTHER, START, What::Fails), receipt(OTHER)];
    assert_eq!(check(&[post(miss("undelivered", 1))], &failing, &[], &[]).read_though_false, 1);
    check(&[native(miss("unknown", 1))], &[receipt(HEALTHY)], &[], &[]);
    check(&[native(miss("undelivered", 1))], &[receipt(HEALTHY)], &[], &["I1"]);
}

#[test]
fn i1_a_run_that_nobody_posted_is_a_breach() {
    check(&[], &[receipt(HEALTHY)], &[], &["I1"]);
}

#[test]
fn i1_a_run_of_long_ago_is_not_received_again() {
    let mut oracle = Oracle::new(Rules { budget: 2 * SECOND, margin: SECOND, timeout: 20 * SECOND });
    oracle.hear(receipt(HEALTHY));
    oracle.post(post(hit(1)));
    oracle.settle(START + 100 * SECOND);
    assert_eq!(oracle.failed(), 0);
    oracle.hear(said(OTHER, START + 100 * SECOND, What::Received(7)));
    assert_eq!(oracle.failures.get("I1"), Some(&1));
}

#[test]
fn i1_a_run_that_is_posted_twice_is_delivered_once() {
    let both = [receipt(HEALTHY), receipt(OTHER)];
    for once in [native(hit(1)), post(hit(1))] {
        let twice = [once.clone(), once];
        check(&twice, &[receipt(HEALTHY)], &[], &[]);
        check(&twice, &both, &[], &["I1"]);
        check(&twice, &[], &[], &["I2"]);
    }
    check(&[native(miss("unknown", 1)), native(hit(1))], &both, &[], &["I1"]);
    let restarted = Post { era: 1, ..native(hit(1)) };
    check(&[native(hit(1)), restarted], &both, &[], &[]);
}

#[test]
fn i2_a_true_without_a_receipt_is_a_breach() {
    check(&[post(hit(1))], &[], &[], &["I2"]);
    check(&[native(hit(1))], &[], &[], &["I2"]);
    let late = said(HEALTHY, START + 2 * SECOND, What::Received(7));
    check(&[post(hit(1))], &[late], &[], &["I2"]);
}

#[test]
fn i2_the_receipt_is_of_whom_the_answer_names() {
    let named = |controller| native((Told::Hit("received".into(), Some(controller)), 1));
    check(&[named(HEALTHY)], &[receipt(HEALTHY)], &[], &[]);
    check(&[named(OTHER)], &[receipt(HEALTHY)], &[], &["I2"]);
}

#[test]
fn i2_who_is_killed_between_its_read_and_its_word_cannot_be_known() {
    let killed = during(Whose::Killed(1));
    assert_eq!(check(&[post(hit(1))], &[], &[killed], &[]).unknowable, 1);
    let before = Trouble { whose: Whose::Killed(1), from: START - 5, to: START - 1 };
    check(&[post(hit(1))], &[], &[before], &["I2"]);
    let another = native((Told::Hit("received".into(), Some(OTHER)), 1));
    check(&[another], &[], &[killed], &["I2"]);
}

#[test]
fn i3_a_run_whose_body_never_came_whole_goes_to_nobody() {
    let cut = Post { way: Way::CutInBody, ..post((Told::Left, 0)) };
    check(std::slice::from_ref(&cut), &[], &[], &[]);
    check(&[cut], &[receipt(HEALTHY)], &[], &["I3"]);
}

#[test]
fn i5_a_status_ends_a_stock_controller() {
    check(&[], &[said(HEALTHY, START, What::Status(429))], &[], &["I5"]);
}

#[test]
fn i9_a_run_stays_in_its_pool() {
    check(&[], &[said(HEALTHY, START, What::Wrong(7))], &[], &["I9"]);
}

#[test]
fn i11_who_stands_is_not_overlooked() {
    let stands = said(HEALTHY, START - 2 * SECOND, What::Polls(3));
    let leaves = said(HEALTHY, START + 2 * SECOND, What::Leaves);
    let nobody = [post(miss("no_pool", 0))];
    check(&nobody, &[stands], &[], &["I11"]);
    check(&nobody, &[stands, leaves], &[], &["I11"]);
    check(&nobody, &[said(HEALTHY, START, What::Polls(3))], &[], &[]);
    check(&nobody, &[said(HEALTHY, START - 2 * SECOND, What::Polls(4))], &[], &[]);
    check(&nobody, &[stands, said(HEALTHY, START + 2 * SECOND, What::Cut)], &[], &[]);
    check(&nobody, &[stands, said(HEALTHY, START + 1, What::Leaves)], &[], &[]);
    check(&nobody, &[stands, said(HEALTHY, START + 1, What::Fails)], &[], &[]);
    check(&nobody, &[said(HEALTHY, START - 18 * SECOND - 1, What::Polls(3))], &[], &[]);
    check(&nobody, &[stands], &[during(Whose::Fleet(1))], &[]);
    check(&nobody, &[stands], &[during(Whose::Broker)], &[]);
}

#[test]
fn i12_an_answer_comes_in_time_while_there_is_a_broker() {
    let slow = Post { done: START + 4 * SECOND, ..post(miss("undelivered", 3)) };
    check(std::slice::from_ref(&slow), &[], &[], &["I12"]);
    let stopped = Trouble { whose: Whose::Broker, from: START + SECOND, to: START + 3 * SECOND };
    check(&[slow], &[], &[stopped], &[]);
    check(&[post((Told::Silence, 0))], &[], &[], &[]);
    check(&[Post { done: START + 10 * SECOND, ..post((Told::Silence, 0)) }], &[], &[], &["I12"]);
    check(&[post((Told::Broken, 0))], &[], &[], &["I12"]);
    check(&[post((Told::Broken, 0))], &[], &[during(Whose::Broker)], &[]);
    let door = during(Whose::Door);
    check(&[Post { is_fresh: true, ..post((Told::Broken, 0)) }], &[], &[door], &[]);
    check(&[post((Told::Broken, 0))], &[], &[door], &["I12"]);
    check(&[post((Told::Status(503), 0))], &[], &[], &["I12"]);
}
