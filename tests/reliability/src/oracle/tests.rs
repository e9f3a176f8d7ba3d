//! Owns the tests of the oracle: each invariant is broken once, and sequences that only look like a violation are accepted.

use super::records::{Affected, Disturbance, Oracle, Rules, Totals};
use crate::fleet::{Event, IDS_PER_FLEET, Report, first_slot};
use crate::supervisors::{Dialect, Outcome, Post, SendMode};

const SECOND: u64 = 1_000_000;
const START: u64 = 1000 * SECOND;
const HEALTHY: u64 = IDS_PER_FLEET + 1;
const OTHER: u64 = 2 * IDS_PER_FLEET + 1;

fn hit(offers: u64) -> (Outcome, u64) {
    (Outcome::Hit("received".into(), None), offers)
}

fn miss(reason: &str, offers: u64) -> (Outcome, u64) {
    (Outcome::Miss(reason.into()), offers)
}

fn post((outcome, offers): (Outcome, u64)) -> Post {
    Post {
        run: 7,
        pool: 3,
        dialect: Dialect::Trigger,
        mode: SendMode::Whole,
        broker: 0,
        sent: START,
        whole: START,
        done: START + SECOND,
        is_fresh: false,
        generation: 0,
        outcome,
        offers,
    }
}

fn native((outcome, offers): (Outcome, u64)) -> Post {
    Post { dialect: Dialect::Native, ..post((outcome, offers)) }
}

fn said(controller: u64, at: u64, what: Event) -> Report {
    Report { controller, at, what }
}

fn receipt(controller: u64) -> Report {
    said(controller, START + SECOND / 2, Event::Received(7))
}

fn during(whose: Affected) -> Disturbance {
    Disturbance { affected: whose, from: START + 1, to: START + SECOND / 4 }
}

const ALONE: Rules = Rules { budget: 2 * SECOND, margin: SECOND, timeout: 20 * SECOND, is_cluster: false };
const CLUSTER: Rules = Rules { is_cluster: true, ..ALONE };

/// Judges the records, and returns the invariants that failed.
fn check(posts: &[Post], heard: &[Report], troubles: &[Disturbance], failed: &[&str]) -> Totals {
    check_by(ALONE, posts, heard, troubles, failed)
}

fn check_by(
    rules: Rules,
    posts: &[Post],
    heard: &[Report],
    troubles: &[Disturbance],
    failed: &[&str],
) -> Totals {
    let mut oracle = Oracle::new(rules);
    for trouble in troubles {
        oracle.disturbed(*trouble);
    }
    for heard in heard {
        oracle.record_report(*heard);
    }
    for post in posts {
        oracle.record_post(post.clone());
    }
    oracle.finish();
    let invariants: Vec<&str> = oracle.failures.keys().copied().collect();
    assert_eq!(invariants, failed, "{:?}", oracle.take_messages());
    oracle.totals
}

#[test]
fn an_honest_broker_passes() {
    check(&[post(hit(1))], &[receipt(HEALTHY)], &[], &[]);
    check(&[native(hit(1))], &[receipt(HEALTHY)], &[], &[]);
    check(&[post(miss("no_pool", 0))], &[], &[], &[]);
}

#[test]
fn i2_a_slot_receives_for_the_controller_that_the_answer_names() {
    let [one, other] = [4, 5].map(|place| first_slot(2, place));
    let named = |controller| (Outcome::Hit("received".into(), Some(controller)), 1);
    check(&[native(named(one))], &[receipt(one + 3)], &[], &[]);
    check(&[native(named(other))], &[receipt(one + 3)], &[], &["I2"]);
}

#[test]
fn i1_a_second_healthy_receipt_is_a_breach() {
    let both = [receipt(HEALTHY), receipt(OTHER)];
    check(&[post(hit(1))], &both, &[], &["I1"]);
    check(&[post(hit(2))], &both, &[], &["I1"]);
    check(&[native(hit(1))], &both, &[], &["I1"]);
    check(&[native((Outcome::NoResponse, 0))], &both, &[during(Affected::Broker(0))], &["I1"]);
}

#[test]
fn i1_a_second_receipt_of_a_failing_controller_is_a_counted_duplicate() {
    let both = [receipt(HEALTHY), receipt(OTHER)];
    let frozen = during(Affected::Fleet(OTHER / IDS_PER_FLEET));
    assert_eq!(check(&[post(hit(2))], &both, &[frozen], &[]).duplicates, 1);
    check(&[post(hit(1))], &both, &[frozen], &["I1"]);
    check(&[native(hit(1))], &both, &[frozen], &["I1"]);
}

#[test]
fn i1_a_run_that_was_answered_false_stays_unread() {
    check(&[post(miss("no_pool", 0))], &[receipt(HEALTHY)], &[], &["I1"]);
    check(&[post(miss("undelivered", 1))], &[receipt(HEALTHY)], &[], &["I1"]);
    let failing = [said(OTHER, START, Event::Unhealthy), receipt(OTHER)];
    assert_eq!(check(&[post(miss("undelivered", 1))], &failing, &[], &[]).read_though_false, 1);
    check(&[native(miss("unknown", 1))], &[receipt(HEALTHY)], &[], &[]);
    check(&[native(miss("undelivered", 1))], &[receipt(HEALTHY)], &[], &["I1"]);
}

#[test]
fn i1_a_run_that_was_not_posted_is_a_breach() {
    check(&[], &[receipt(HEALTHY)], &[], &["I1"]);
}

#[test]
fn i1_a_run_of_long_ago_is_not_received_again() {
    let mut oracle = Oracle::new(ALONE);
    oracle.record_report(receipt(HEALTHY));
    oracle.record_post(post(hit(1)));
    oracle.settle(START + 100 * SECOND);
    assert_eq!(oracle.failed(), 0);
    oracle.record_report(said(OTHER, START + 100 * SECOND, Event::Received(7)));
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
    let restarted = Post { generation: 1, ..native(hit(1)) };
    check(&[native(hit(1)), restarted], &both, &[], &[]);
}

#[test]
fn i1_in_a_cluster_an_offer_without_an_answer_may_have_arrived() {
    let both = [receipt(HEALTHY), receipt(OTHER)];
    assert_eq!(check_by(CLUSTER, &[post(hit(2))], &both, &[], &[]).unanswered_offers, 1);
    check_by(CLUSTER, &[post(hit(1))], &both, &[], &["I1"]);
    check_by(CLUSTER, &[native(hit(2))], &both, &[], &["I1"]);
    check_by(CLUSTER, &[post(miss("unknown", 1))], &[receipt(HEALTHY)], &[], &[]);
    check_by(CLUSTER, &[post(miss("undelivered", 1))], &[receipt(HEALTHY)], &[], &["I1"]);
}

#[test]
fn i1_in_a_cluster_a_native_run_is_delivered_twice_only_if_two_brokers_get_it_at_once() {
    let both = [receipt(HEALTHY), receipt(OTHER)];
    let first = native(hit(1));
    let at_once = Post { broker: 1, sent: first.done + SECOND / 100, ..first.clone() };
    let later = Post { broker: 1, sent: first.done + SECOND, done: first.done + 2 * SECOND, ..first.clone() };
    assert_eq!(check_by(CLUSTER, &[first.clone(), at_once], &both, &[], &[]).posted_twice, 1);
    check_by(CLUSTER, &[first.clone(), later.clone()], &both, &[], &["I1"]);
    let apart = Disturbance { affected: Affected::Nats, from: START, to: first.done + SECOND / 2 };
    check_by(CLUSTER, &[first.clone(), later.clone()], &both, &[apart], &[]);
    check_by(CLUSTER, &[first.clone(), later], &[receipt(HEALTHY)], &[], &[]);
    let same_broker = Post { sent: first.sent + 1, ..first.clone() };
    check_by(CLUSTER, &[first, same_broker], &both, &[], &["I1"]);
}

#[test]
fn i12_the_fault_of_another_broker_excuses_nothing() {
    let lost = [post((Outcome::NoResponse, 0))];
    check_by(CLUSTER, &lost, &[], &[during(Affected::Broker(0))], &[]);
    check_by(CLUSTER, &lost, &[], &[during(Affected::Broker(1))], &["I12"]);
    check_by(CLUSTER, &lost, &[], &[during(Affected::Nats)], &["I12"]);
}

#[test]
fn i2_a_true_without_a_receipt_is_a_breach() {
    check(&[post(hit(1))], &[], &[], &["I2"]);
    check(&[native(hit(1))], &[], &[], &["I2"]);
    let late = said(HEALTHY, START + 2 * SECOND, Event::Received(7));
    check(&[post(hit(1))], &[late], &[], &["I2"]);
}

#[test]
fn i2_the_receipt_is_of_whom_the_answer_names() {
    let named = |controller| native((Outcome::Hit("received".into(), Some(controller)), 1));
    check(&[named(HEALTHY)], &[receipt(HEALTHY)], &[], &[]);
    check(&[named(OTHER)], &[receipt(HEALTHY)], &[], &["I2"]);
}

#[test]
fn i2_a_controller_killed_between_its_read_and_its_report_is_undecided() {
    let killed = during(Affected::Killed(1));
    assert_eq!(check(&[post(hit(1))], &[], &[killed], &[]).unknowable, 1);
    let before = Disturbance { affected: Affected::Killed(1), from: START - 5, to: START - 1 };
    check(&[post(hit(1))], &[], &[before], &["I2"]);
    let another = native((Outcome::Hit("received".into(), Some(OTHER)), 1));
    check(&[another], &[], &[killed], &["I2"]);
}

#[test]
fn i3_a_run_whose_body_is_incomplete_goes_to_no_waiter() {
    let cut = Post { mode: SendMode::CutInBody, ..post((Outcome::Abandoned, 0)) };
    check(std::slice::from_ref(&cut), &[], &[], &[]);
    check(&[cut], &[receipt(HEALTHY)], &[], &["I3"]);
}

#[test]
fn i5_a_status_ends_a_stock_controller() {
    check(&[], &[said(HEALTHY, START, Event::Status(429))], &[], &["I5"]);
}

#[test]
fn i9_a_run_stays_in_its_pool() {
    check(&[], &[said(HEALTHY, START, Event::WrongPool(7))], &[], &["I9"]);
}

#[test]
fn i11_a_waiter_is_not_overlooked() {
    let stands = said(HEALTHY, START - 2 * SECOND, Event::PollSent(3));
    let leaves = said(HEALTHY, START + 2 * SECOND, Event::Leaving);
    let nobody = [post(miss("no_pool", 0))];
    check(&nobody, &[stands], &[], &["I11"]);
    check(&nobody, &[stands, leaves], &[], &["I11"]);
    check(&nobody, &[said(HEALTHY, START, Event::PollSent(3))], &[], &[]);
    check(&nobody, &[said(HEALTHY, START - 2 * SECOND, Event::PollSent(4))], &[], &[]);
    check(&nobody, &[stands, said(HEALTHY, START + 2 * SECOND, Event::ConnectionEnded)], &[], &[]);
    check(&nobody, &[stands, said(HEALTHY, START + 1, Event::Leaving)], &[], &[]);
    check(&nobody, &[stands, said(HEALTHY, START + 1, Event::Unhealthy)], &[], &[]);
    check(&nobody, &[said(HEALTHY, START - 18 * SECOND - 1, Event::PollSent(3))], &[], &[]);
    check(&nobody, &[stands], &[during(Affected::Fleet(1))], &[]);
    check(&nobody, &[stands], &[during(Affected::Broker(0))], &[]);
}

#[test]
fn i12_an_answer_comes_in_time_while_there_is_a_broker() {
    let slow = Post { done: START + 4 * SECOND, ..post(miss("undelivered", 3)) };
    check(std::slice::from_ref(&slow), &[], &[], &["I12"]);
    let stopped = Disturbance { affected: Affected::Broker(0), from: START + SECOND, to: START + 3 * SECOND };
    check(&[slow], &[], &[stopped], &[]);
    check(&[post((Outcome::TimedOut, 0))], &[], &[], &[]);
    check(&[Post { done: START + 10 * SECOND, ..post((Outcome::TimedOut, 0)) }], &[], &[], &["I12"]);
    check(&[post((Outcome::NoResponse, 0))], &[], &[], &["I12"]);
    check(&[post((Outcome::NoResponse, 0))], &[], &[during(Affected::Broker(0))], &[]);
    let door = during(Affected::NewConnections);
    check(&[Post { is_fresh: true, ..post((Outcome::NoResponse, 0)) }], &[], &[door], &[]);
    check(&[post((Outcome::NoResponse, 0))], &[], &[door], &["I12"]);
    check(&[post((Outcome::Status(503), 0))], &[], &[], &["I12"]);
}
