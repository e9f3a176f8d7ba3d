//! Owns the tests of the proof on real networks: whether a `true` is correct when machines die and links fail.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::client::Client;
use support::lab::{Lab, Node, broker, in_a_lab};
use support::{Broker, Pool};

fn outcome(answer: &Value) -> (bool, &str, u64) {
    let word = answer["proof"].as_str().or(answer["reason"].as_str()).unwrap();
    (answer["didWarmStart"].as_bool().unwrap(), word, answer["offers"].as_u64().unwrap())
}

async fn post(broker: &Broker, pool: &Pool, run: &str) -> Value {
    let begun = Instant::now();
    let (status, answer) = broker.post(&pool.body(run)).await;
    assert_eq!(status, 200);
    assert!(begun.elapsed() < Duration::from_millis(2500), "{answer} after {:?}", begun.elapsed());
    answer
}

/// Posts a run while this controller reads. Returns the response to the POST, and the id of the received run.
async fn post_to(broker: &Broker, pool: &Pool, run: &str, controller: &mut Client) -> (Value, String) {
    let receipt =
        async { controller.answer().await.json()["run"]["friendlyId"].as_str().unwrap().to_owned() };
    tokio::join!(post(broker, pool, run), receipt)
}

/// The controllers that are offered runs last.
async fn suspects(broker: &Broker) -> Vec<String> {
    let (_, body) = broker.operate("GET", "/waiters").await;
    let listing: Value = serde_json::from_str(&body).unwrap();
    let suspects = listing["waiters"].as_array().unwrap().iter().filter(|waiter| waiter["suspect"] == true);
    suspects.map(|waiter| waiter["controller"].as_str().unwrap().to_owned()).collect()
}

/// The nine newest controllers are on a machine that fails, the oldest on one that does not. Only the first run is offered
/// to the failed machine.
async fn nine_of_ten_fail(mut lab: Lab, fail: fn(&Node), first: &str) {
    let (failing, living) = (lab.node(), lab.node());
    let broker = broker();
    let pool = Pool::small("d1");
    let mut alive = living.held_poll(&broker, &pool, "alive").await;
    let mut dead = Vec::new();
    for number in 0..9 {
        dead.push(failing.held_poll(&broker, &pool, &format!("dead_{number}")).await);
    }
    fail(&failing);
    let (answer, receipt) = post_to(&broker, &pool, "run_1", &mut alive).await;
    assert_eq!((outcome(&answer), receipt.as_str()), ((true, "received", 2), "run_1"));
    assert_eq!(broker.metric(&format!("pilotlight_offers_total{{verdict=\"{first}\"}}")).await, 1);
    // The failed machine is suspect now, so the other one is offered runs first.
    for run in ["run_2", "run_3"] {
        let mut alive = living.held_poll(&broker, &pool, "alive").await;
        let (answer, receipt) = post_to(&broker, &pool, run, &mut alive).await;
        assert_eq!((outcome(&answer), receipt.as_str()), ((true, "received", 1), run));
    }
    for client in &mut dead {
        assert!(client.is_held_or_over().await, "no other controller ever gets a run");
    }
}

#[test]
fn a_dead_machine_costs_one_unproven_offer() {
    in_a_lab(|lab| nine_of_ten_fail(lab, Node::die, "unacked"));
}

#[test]
fn a_pulled_cable_costs_one_unproven_offer() {
    in_a_lab(|lab| nine_of_ten_fail(lab, Node::unplug, "unacked"));
}

#[test]
fn a_router_that_resets_is_found_at_once() {
    in_a_lab(|lab| nine_of_ten_fail(lab, Node::reset_by_router, "lost"));
}

/// The reset of a proxy may come before the acknowledgement.
#[test]
fn a_reset_from_where_a_proxy_is_inferred_is_unknown() {
    in_a_lab(async |mut lab| {
        let node = lab.node();
        let broker = broker();
        let pool = Pool::small("d1");
        let mut others = Vec::new();
        for number in 0..3 {
            others.push(node.held_poll(&broker, &pool, &format!("other_{number}")).await);
        }
        let like_haproxy = node.held_poll(&broker, &pool, "like haproxy").await;
        let resetting = async {
            like_haproxy.stream.readable().await.unwrap();
            like_haproxy.stream.set_zero_linger().unwrap();
            drop(like_haproxy);
        };
        let (answer, ()) = tokio::join!(post(&broker, &pool, "run_1"), resetting);
        assert_eq!(outcome(&answer), (false, "unknown", 1), "every byte was acknowledged");
        node.reset_by_router();
        let answer = post(&broker, &pool, "run_2").await;
        assert_eq!(
            outcome(&answer),
            (false, "unknown", 1),
            "no byte was acknowledged, but a proxy is inferred at this address"
        );
        assert_eq!(broker.metric("pilotlight_offers_total{verdict=\"lost\"}").await, 2);
    });
}

#[test]
fn an_unreachable_host_costs_one_unproven_offer() {
    in_a_lab(|lab| nine_of_ten_fail(lab, Node::cut_off_by_router, "unacked"));
}

#[test]
fn when_all_are_dead_the_answer_is_false_within_the_budget() {
    in_a_lab(async |mut lab| {
        let node = lab.node();
        let broker = broker();
        let pool = Pool::small("d1");
        let mut dead = Vec::new();
        for number in 0..5 {
            dead.push(node.held_poll(&broker, &pool, &format!("dead_{number}")).await);
        }
        node.die();
        let answer = post(&broker, &pool, "run_1").await;
        assert_eq!(outcome(&answer), (false, "undelivered", 3), "two more offers at most");
        assert_eq!(broker.metric("pilotlight_redeliveries_total").await, 2);
    });
}

#[test]
fn a_run_that_was_offered_again_never_arrives_late() {
    in_a_lab(async |mut lab| {
        let (paused, living) = (lab.node(), lab.node());
        let broker = broker();
        let pool = Pool::small("d1");
        let mut alive = living.held_poll(&broker, &pool, "alive").await;
        let mut late = paused.held_poll(&broker, &pool, "late").await;
        paused.die();
        let (answer, receipt) = post_to(&broker, &pool, "run_1", &mut alive).await;
        assert_eq!((outcome(&answer), receipt.as_str()), ((true, "received", 2), "run_1"));
        paused.revive();
        // Unacknowledged bytes would be retransmitted within this time: after 0.2, 0.4, 0.8 and 1.6 s.
        let came = tokio::time::timeout(Duration::from_secs(5), late.rest()).await;
        assert!(came.is_err() || came.is_ok_and(<[u8]>::is_empty), "the run arrived a second time");
    });
}

#[test]
fn lost_acknowledgements_cost_a_counted_duplicate_at_most() {
    in_a_lab(async |mut lab| {
        let (one_way, living) = (lab.node(), lab.node());
        let broker = broker();
        let pool = Pool::small("d1");
        let mut alive = living.held_poll(&broker, &pool, "alive").await;
        let mut unheard = one_way.held_poll(&broker, &pool, "unheard").await;
        one_way.lose_the_way_back();
        let both = async { (unheard.answer().await.json(), alive.answer().await.json()) };
        let (answer, (duplicate, receipt)) = tokio::join!(post(&broker, &pool, "run_1"), both);
        assert_eq!(outcome(&answer), (true, "received", 2));
        assert_eq!(duplicate, receipt, "the run did arrive, which the broker cannot see");
        assert_eq!(broker.metric("pilotlight_redeliveries_total").await, 1);
    });
}

#[test]
fn a_dead_machines_controllers_leave_the_pools_while_idle() {
    in_a_lab(async |mut lab| {
        let (failing, living) = (lab.node(), lab.node());
        let broker = broker();
        let pool = Pool::small("d1");
        let _alive = living.held_poll(&broker, &pool, "alive").await;
        let _dead = failing.held_poll(&broker, &pool, "dead").await;
        failing.die();
        let died = Instant::now();
        while broker.waiters("").await > 1 {
            assert!(died.elapsed() < Duration::from_secs(25), "still there after {:?}", died.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(broker.metric("pilotlight_polls_total{end=\"client_gone\"}").await, 1);
    });
}

#[test]
fn a_machine_that_answers_is_trusted_again() {
    in_a_lab(async |mut lab| {
        let (shaky, steady) = (lab.node(), lab.node());
        let broker = broker();
        let pool = Pool::small("d1");
        let mut spare = steady.held_poll(&broker, &pool, "steady").await;
        let passed_over = shaky.held_poll(&broker, &pool, "passed over").await;
        let _first = shaky.held_poll(&broker, &pool, "first").await;
        shaky.lose_the_way_back();
        assert!(outcome(&post_to(&broker, &pool, "run_1", &mut spare).await.0).0);
        assert_eq!(suspects(&broker).await, ["passed over"]);
        // A controller on the steady machine is preferred; the suspect one is passed over, and its acknowledgements are watched.
        let mut spare = steady.held_poll(&broker, &pool, "steady").await;
        let (answer, _) = post_to(&broker, &pool, "run_2", &mut spare).await;
        assert_eq!(outcome(&answer), (true, "received", 1));
        shaky.heal();
        let healed = Instant::now();
        while !suspects(&broker).await.is_empty() {
            assert!(
                healed.elapsed() < Duration::from_secs(20),
                "keepalive probes are acknowledged, but the machine is still suspect"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(passed_over);
    });
}

/// The pods of a node have different addresses and one name, which a stranger may send, too.
#[test]
fn a_machines_name_counts_for_other_addresses_until_one_of_them_answers() {
    in_a_lab(async |mut lab| {
        let (victim, other, stranger, again) = (lab.node(), lab.node(), lab.node(), lab.node());
        let broker = broker();
        let pool = Pool::small("d1");
        let mut spare = other.held_poll(&broker, &pool, "other").await;
        let _named = victim.held_poll(&broker, &pool, "victim").await;
        let _failing = stranger.held_poll_as(&victim, &broker, &pool, "stranger").await;
        stranger.die();
        let (answer, _) = post_to(&broker, &pool, "run_1", &mut spare).await;
        assert_eq!(outcome(&answer), (true, "received", 2), "a failed node costs one offer");
        let failed = Instant::now();
        while suspects(&broker).await.iter().any(|controller| controller == "victim") {
            assert!(
                failed.elapsed() < Duration::from_secs(6),
                "its keepalive probe is sent at once, not after 10 s"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }

        let _spare = other.held_poll(&broker, &pool, "other").await;
        let mut named = victim.held_poll(&broker, &pool, "victim, too").await;
        let _failing = again.held_poll_as(&victim, &broker, &pool, "stranger").await;
        again.die();
        let (answer, _) = post_to(&broker, &pool, "run_2", &mut named).await;
        assert_eq!(outcome(&answer), (true, "received", 2), "a refuted name makes no host suspect");
        assert!(suspects(&broker).await.is_empty());
    });
}
