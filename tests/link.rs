//! Owns what the connection to NATS promises, against a real nats-server: nothing waits, nothing that was refused is delivered
//! later, order is kept, and what is lost is reported.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test may panic")]
#![allow(clippy::needless_pass_by_value, reason = "texts and numbers are given alike")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use pilotlight::cluster::link::{
    self, CLIENT_CAPACITY, Inbound, Link, NotSent, Received, SUBSCRIPTION_CAPACITY,
};
use pilotlight::cluster::subjects::Subjects;
use pilotlight::cluster::{Credentials, LinkConfig};
use pilotlight::nats_url::NatsUrl;
use support::PATIENCE;
use support::nats::NatsServer;

const CLUSTER: &str = "testing";

fn config(url: &str, credentials: Credentials) -> LinkConfig {
    LinkConfig {
        servers: url.split(',').map(|url| NatsUrl::parse(url).unwrap()).collect(),
        cluster: CLUSTER.to_owned(),
        credentials,
        ca: None,
    }
}

fn open(server: &NatsServer, id: u128) -> (Link, Inbound) {
    link::open(&config(&server.url(), Credentials::None), id, 0).unwrap()
}

/// A connection that is up, with subscriptions in force.
async fn connected(server: &NatsServer, id: u128) -> (Link, Inbound) {
    let (link, mut inbound) = open(server, id);
    assert_eq!(next(&mut inbound).await, Received::Connected);
    assert!(link.is_connected());
    settle(&link, &mut inbound, id).await;
    (link, inbound)
}

/// Waits until the server has handled everything that was sent before: it answers a request to nobody by itself. Nothing else
/// may arrive meanwhile.
async fn settle(link: &Link, inbound: &mut Inbound, id: u128) {
    assert_eq!(all_until_now(link, inbound, id).await, []);
}

/// Everything that the server has sent by now: it answers a request to nobody behind it.
async fn all_until_now(link: &Link, inbound: &mut Inbound, id: u128) -> Vec<Received> {
    let token = fastrand::u128(..);
    let nobody = format!("nobody.{:032x}", fastrand::u128(..));
    link.publish(nobody, Some(subjects().answer(id, token)), Bytes::new()).unwrap();
    let mut all = Vec::new();
    loop {
        match next(inbound).await {
            Received::Answer { token: answered, payload: None } if answered == token => break,
            received => all.push(received),
        }
    }
    // The answer may have overtaken messages of other subscriptions, which have arrived as well.
    while let Some(received) = tokio::task::unconstrained(inbound.next()).now_or_never() {
        all.push(received);
    }
    all
}

async fn next(inbound: &mut Inbound) -> Received {
    tokio::time::timeout(PATIENCE, inbound.next()).await.expect("nothing arrives")
}

async fn wait_for(inbound: &mut Inbound, wanted: &Received) {
    while next(inbound).await != *wanted {}
}

fn subjects() -> Subjects {
    Subjects::new(CLUSTER)
}

fn bytes(text: impl ToString) -> Bytes {
    text.to_string().into()
}

/// A client that sees everything on the cluster's subjects, and has seen that it does.
async fn observer(server: &NatsServer) -> (async_nats::Client, Subscriber) {
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut all = client.subscribe(subjects().all()).await.unwrap();
    mark(&client, &mut all).await;
    (client, all)
}

/// Publishes a mark, and returns the payloads that arrived before it.
async fn mark(client: &async_nats::Client, all: &mut Subscriber) -> Vec<Bytes> {
    let mark = format!("{CLUSTER}.v1.mark.{:032x}", fastrand::u128(..));
    client.publish(mark.clone(), Bytes::new()).await.unwrap();
    let mut before = Vec::new();
    loop {
        let message = tokio::time::timeout(PATIENCE, all.next()).await.unwrap().unwrap();
        if message.subject.as_str() == mark {
            return before;
        }
        before.push(message.payload);
    }
}

/// Waits until this payload has been seen, and returns all that arrived.
async fn wait_until_seen(client: &async_nats::Client, all: &mut Subscriber, wanted: &Bytes) -> Vec<Bytes> {
    let seen = async {
        let mut seen = Vec::new();
        while !seen.contains(wanted) {
            seen.extend(mark(client, all).await);
        }
        seen
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("it does not arrive")
}

#[tokio::test]
async fn a_message_an_announcement_and_an_answer_arrive() {
    let Some(server) = NatsServer::start("") else { return };
    let (one, mut at_one) = connected(&server, 1).await;
    let (two, mut at_two) = connected(&server, 2).await;
    let answer_to = subjects().answer(1, 77);
    one.publish(subjects().direct(2), Some(answer_to.clone()), bytes("forward")).unwrap();
    assert_eq!(
        next(&mut at_two).await,
        Received::Direct { reply: Some(answer_to.clone()), payload: bytes("forward") }
    );
    two.publish(answer_to, None, bytes("answer")).unwrap();
    assert_eq!(next(&mut at_one).await, Received::Answer { token: 77, payload: Some(bytes("answer")) });
    one.publish(subjects().directory(), None, bytes("mine")).unwrap();
    assert_eq!(next(&mut at_two).await, Received::Directory(bytes("mine")));
    two.publish(subjects().directory(), None, Bytes::new()).unwrap();
    two.publish(format!("{CLUSTER}.v1.re.{:032x}.nonsense", 1), None, bytes("x")).unwrap();
    assert_eq!(
        next(&mut at_one).await,
        Received::MalformedAnswer,
        "neither its own announcement nor an empty one"
    );
}

#[tokio::test]
async fn a_request_to_a_broker_that_is_gone_is_answered_with_its_token_and_no_payload() {
    let Some(server) = NatsServer::start("") else { return };
    let (one, mut at_one) = connected(&server, 1).await;
    let (_two, mut at_two) = connected(&server, 2).await;
    one.publish(subjects().direct(2), Some(subjects().answer(1, 7)), bytes("forward")).unwrap();
    assert!(matches!(next(&mut at_two).await, Received::Direct { .. }));
    one.publish(subjects().direct(3), Some(subjects().answer(1, 8)), bytes("forward")).unwrap();
    assert_eq!(next(&mut at_one).await, Received::Answer { token: 8, payload: None });
    // An answer without a payload is something else.
    let (client, _all) = observer(&server).await;
    client.publish(subjects().answer(1, 9), Bytes::new()).await.unwrap();
    assert_eq!(next(&mut at_one).await, Received::Answer { token: 9, payload: Some(Bytes::new()) });
}

#[tokio::test]
async fn two_brokers_with_one_id_share_its_messages_and_hear_each_others_announcements() {
    let Some(server) = NatsServer::start("") else { return };
    let (one, mut at_one) = connected(&server, 1).await;
    let (clone, mut at_clone) = connected(&server, 1).await;
    let (other, mut at_other) = connected(&server, 2).await;
    for number in 0..20 {
        other.publish(subjects().direct(1), None, bytes(number)).unwrap();
    }
    one.publish(subjects().directory(), None, bytes("of id 1")).unwrap();
    other.publish(subjects().directory(), None, bytes("end")).unwrap();
    let mut direct = Vec::new();
    let mut announced = Vec::new();
    // After these two, the server has handled everything that was published.
    let mut received = all_until_now(&one, &mut at_one, 1).await;
    all_until_now(&other, &mut at_other, 2).await;
    received.extend(all_until_now(&one, &mut at_one, 1).await);
    received.extend(all_until_now(&clone, &mut at_clone, 1).await);
    for received in received {
        match received {
            Received::Direct { payload, .. } => direct.push(payload),
            Received::Directory(payload) => announced.push(payload),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((direct.len(), direct.iter().collect::<BTreeSet<_>>().len()), (20, 20), "each message once");
    announced.sort();
    assert_eq!(announced, ["end", "end", "of id 1"].map(bytes), "only the clone hears its own id");
}

#[tokio::test]
async fn a_broker_hears_nothing_under_its_old_id() {
    let Some(server) = NatsServer::start("") else { return };
    let (one, mut at_one) = connected(&server, 1).await;
    let (two, mut at_two) = connected(&server, 2).await;
    at_two.change_id(5).await.unwrap();
    // After this round trip the server has the new subscriptions.
    two.publish(subjects().directory(), None, bytes("now 5")).unwrap();
    wait_for(&mut at_one, &Received::Directory(bytes("now 5"))).await;
    one.publish(subjects().direct(2), Some(subjects().answer(1, 2)), bytes("old")).unwrap();
    one.publish(subjects().direct(5), Some(subjects().answer(1, 5)), bytes("new")).unwrap();
    assert!(matches!(next(&mut at_two).await, Received::Direct { payload, .. } if payload == "new"));
    assert_eq!(next(&mut at_one).await, Received::Answer { token: 2, payload: None });
}

#[tokio::test]
async fn announcements_keep_their_order_and_do_not_hold_up_messages() {
    let Some(server) = NatsServer::start("") else { return };
    let (_one, mut at_one) = connected(&server, 1).await;
    let (client, mut all) = observer(&server).await;
    for number in 0..400 {
        client.publish(subjects().directory(), bytes(number)).await.unwrap();
        client.publish(subjects().direct(1), bytes(number)).await.unwrap();
    }
    mark(&client, &mut all).await;
    let (mut announced, mut direct) = (Vec::new(), Vec::new());
    let mut early = 0;
    while announced.len() + direct.len() < 800 {
        match next(&mut at_one).await {
            Received::Directory(payload) => announced.push(payload),
            Received::Direct { payload, .. } => direct.push(payload),
            other => panic!("{other:?}"),
        }
        if announced.len() + direct.len() == 200 {
            early = direct.len();
        }
    }
    let sent: Vec<Bytes> = (0..400).map(bytes).collect();
    assert!(announced == sent && direct == sent, "the order has changed");
    assert_eq!(early, 100, "they take turns");
}

#[tokio::test]
async fn nats_may_come_after_the_broker_and_go_and_come_back() {
    let Some(mut server) = NatsServer::start("") else { return };
    server.stop();
    let (link, mut inbound) = open(&server, 1);
    let publish = |text: &str| link.publish(subjects().directory(), None, bytes(text));
    assert_eq!(publish("before"), Err(NotSent::NotConnected));
    server.restart();
    assert_eq!(next(&mut inbound).await, Received::Connected);
    let (client, mut all) = observer(&server).await;
    publish("first").unwrap();
    wait_until_seen(&client, &mut all, &bytes("first")).await;
    server.stop();
    assert_eq!(next(&mut inbound).await, Received::Disconnected);
    assert_eq!(publish("while it is down"), Err(NotSent::NotConnected));
    server.restart();
    assert_eq!(next(&mut inbound).await, Received::Connected);
    let (client, mut all) = observer(&server).await;
    settle(&link, &mut inbound, 1).await;
    publish("second").unwrap();
    client.publish(subjects().direct(1), bytes("subscribed again")).await.unwrap();
    assert_eq!(
        next(&mut inbound).await,
        Received::Direct { reply: None, payload: bytes("subscribed again") }
    );
    let seen = wait_until_seen(&client, &mut all, &bytes("second")).await;
    assert!(!seen.contains(&bytes("while it is down")), "{seen:?}");
}

#[tokio::test]
async fn publishing_never_waits_for_the_connections_task() {
    let Some(server) = NatsServer::start("") else { return };
    let (link, mut inbound) = connected(&server, 1).await;
    let (client, mut all) = observer(&server).await;
    // The runtime has one thread, and this task does not yield: if a publish waited, it would wait for ever.
    let results: Vec<_> = (0..CLIENT_CAPACITY + 50)
        .map(|number| link.publish(subjects().directory(), None, bytes(number)))
        .collect();
    let sent = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(sent, CLIENT_CAPACITY);
    assert!(results[CLIENT_CAPACITY..].iter().all(|result| *result == Err(NotSent::WouldWait)));
    let arrived = wait_until_seen(&client, &mut all, &bytes(sent - 1)).await;
    assert_eq!(arrived, (0..sent).map(bytes).collect::<Vec<_>>(), "what was refused is not delivered");
    link.publish(subjects().directory(), None, bytes("again")).unwrap();
    settle(&link, &mut inbound, 1).await;
}

#[tokio::test]
async fn a_task_that_has_used_up_its_turn_can_still_publish() {
    let Some(server) = NatsServer::start("") else { return };
    let (link, _inbound) = connected(&server, 1).await;
    while tokio::task::coop::consume_budget().now_or_never().is_some() {}
    link.publish(subjects().directory(), None, bytes("x")).unwrap();
}

#[tokio::test]
async fn a_paused_server_is_noticed_and_gets_nothing_that_was_refused() {
    let Some(server) = NatsServer::start("") else { return };
    let (link, mut inbound) = connected(&server, 1).await;
    server.pause();
    let (mut accepted, mut would_wait) = (BTreeSet::new(), 0);
    let mut number = 0;
    let until = Instant::now() + PATIENCE;
    while link.is_connected() {
        assert!(Instant::now() < until, "the pause is not noticed");
        for _ in 0..100 {
            number += 1;
            let payload = Bytes::from(format!("{number:0>30000}"));
            match link.publish(subjects().directory(), None, payload.clone()) {
                Ok(()) => drop(accepted.insert(payload)),
                Err(NotSent::WouldWait) => would_wait += 1,
                Err(refused) => panic!("{refused}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(would_wait > 0, "the buffers are full long before the pause is noticed");
    assert_eq!(next(&mut inbound).await, Received::Disconnected);
    let refused = link.publish(subjects().directory(), None, bytes("while it is paused"));
    assert_eq!(refused, Err(NotSent::NotConnected));
    server.resume();
    let (client, mut all) = observer(&server).await;
    wait_for(&mut inbound, &Received::Connected).await;
    let mut late = mark(&client, &mut all).await;
    late.extend(mark(&client, &mut all).await);
    assert!(late.iter().all(|payload| accepted.contains(payload)), "{} arrived late", late.len());
    link.publish(subjects().directory(), None, bytes("after it")).unwrap();
    late.extend(wait_until_seen(&client, &mut all, &bytes("after it")).await);
    eprintln!("{} of {} accepted messages arrived after the pause", late.len() - 1, accepted.len());
}

#[tokio::test]
async fn a_message_over_the_servers_limit_is_refused() {
    let Some(mut server) = NatsServer::start("max_payload: 1024") else { return };
    let (link, mut inbound) = connected(&server, 1).await;
    assert_eq!(link.max_payload(), 1024);
    let publish = |length| link.publish(subjects().directory(), None, Bytes::from(vec![b'x'; length]));
    assert_eq!(publish(1025), Err(NotSent::TooLarge));
    let (client, mut all) = observer(&server).await;
    publish(1024).unwrap();
    wait_until_seen(&client, &mut all, &Bytes::from(vec![b'x'; 1024])).await;
    server.configure("max_payload: 2048");
    server.restart();
    assert_eq!(next(&mut inbound).await, Received::Disconnected);
    assert_eq!(next(&mut inbound).await, Received::Connected);
    assert_eq!((link.max_payload(), publish(2049)), (2048, Err(NotSent::TooLarge)));
}

#[tokio::test]
async fn what_is_not_read_in_time_is_dropped_and_counted() {
    const SENT: usize = 3000;
    let Some(server) = NatsServer::start("") else { return };
    let (one, mut at_one) = connected(&server, 1).await;
    let (client, mut all) = observer(&server).await;
    for number in 0..SENT {
        client.publish(subjects().direct(1), bytes(number)).await.unwrap();
    }
    mark(&client, &mut all).await;
    let (mut arrived, mut dropped) = (Vec::new(), 0);
    for received in all_until_now(&one, &mut at_one, 1).await {
        match received {
            Received::Direct { payload, .. } => arrived.push(payload),
            Received::SlowConsumer(count) => dropped += usize::try_from(count).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    let first = arrived.iter().take(SUBSCRIPTION_CAPACITY).cloned();
    assert!(first.eq((0..SUBSCRIPTION_CAPACITY).map(bytes)), "those that had room arrive in order");
    assert!(
        dropped > 0 && arrived.len() + dropped <= SENT,
        "{} arrived, {dropped} were dropped",
        arrived.len()
    );
}

#[tokio::test]
async fn a_refusal_of_the_server_is_reported() {
    let permissions = format!(
        "authorization {{ users: [{{ user: u, password: s3cret, permissions: {{ publish: \"{CLUSTER}.v1.to.*\", \
         subscribe: \"{CLUSTER}.v1.>\" }} }}] }}"
    );
    let Some(server) = NatsServer::start(&permissions) else { return };
    let url = format!("nats://u:s3cret@{}", server.address);
    let (link, mut inbound) = link::open(&config(&url, Credentials::None), 1, 0).unwrap();
    assert_eq!(next(&mut inbound).await, Received::Connected);
    link.publish(subjects().directory(), None, bytes("x")).unwrap();
    let Received::ServerError(error) = next(&mut inbound).await else { panic!("no error") };
    assert!(
        error.contains(&format!("Permissions Violation for Publish to \"{}\"", subjects().directory())),
        "{error}"
    );
    assert!(link.is_connected());
}
