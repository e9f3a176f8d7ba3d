//! Owns the tests that need the journal's internals: what subscribers miss, what its two rings keep, and threads that end.

use std::time::Instant;

use serde_json::Value;

use super::event_log::epoch;
use super::ring::CAPACITY;
use super::*;
use crate::broker::{KeyRef, Number};
use crate::model::{DispatchOutcome, PollEnd, Proof, ReplyOutcome, Verdict};
use record::{ReplyRecord, unix_millis};

const PATIENCE: Duration = Duration::from_secs(20);

/// A dispatch that ended without an offer.
pub(super) fn dispatch(run: &str, at: u64) -> DispatchRecord {
    DispatchRecord {
        at,
        names: PackedStrs::new([run, "d1", "20260821.3"]),
        cpu: 0.5,
        memory: 0.5,
        outcome: DispatchOutcome::Aborted,
        proof: None,
        earlier_offers: 0,
        offers: Vec::new(),
        took: Duration::from_millis(1),
        trace: None,
    }
}

/// A run that a waiter of this broker did not prove, and one of another broker did.
pub(super) fn delivered_elsewhere(run: &str, broker: &str) -> DispatchRecord {
    let (since, took) = (Duration::from_millis(1), Duration::from_millis(2));
    let offer = |broker, verdict| OfferRecord { controller: "one".into(), broker, verdict, since, took };
    DispatchRecord {
        outcome: DispatchOutcome::Hit,
        proof: Some(Proof::Received),
        offers: vec![offer(None, Verdict::Frozen), offer(Some(broker.into()), Verdict::Received)],
        ..dispatch(run, unix_millis())
    }
}

/// The reply to a run of [`dispatch`] or [`delivered_elsewhere`], of this many bytes.
pub(super) fn reply(run: &str, bytes: u64) -> ReplyRecord {
    ReplyRecord {
        at: unix_millis(),
        names: PackedStrs::new([run, "d1", "20260821.3"]),
        cpu: 0.5,
        memory: 0.5,
        outcome: ReplyOutcome::Replied,
        status: Some(201),
        first_byte: Some(Duration::from_millis(20)),
        took: Duration::from_millis(500),
        bytes,
        trace: None,
    }
}

fn open() -> Journal {
    Journal::open(&JournalConfig::default(), Arc::new(Metrics::new().unwrap())).unwrap()
}

fn is_in_history(journal: &Journal, run: &str) -> bool {
    let query = HistoryQuery { run: Some(run.to_owned()), limit: 1, ..HistoryQuery::default() };
    !journal.find(&query).unwrap().is_empty()
}

/// A run as it is recorded.
fn event_run(names: &PackedStrs<3>, cpu: f64, memory: f64, trace: Option<TraceParent>) -> EventRun<'_> {
    let [name, deployment, version] = [0, 1, 2].map(|index| names.get(index).as_bytes());
    EventRun { name, deployment, version, cpu, memory, trace }
}

/// A dispatch as it is recorded, if it ended now.
fn event(dispatch: &DispatchRecord) -> DispatchEvent<'_> {
    let &DispatchRecord { ref names, cpu, memory, outcome, proof, took, trace, .. } = dispatch;
    let (ended, run) = (Instant::now(), event_run(names, cpu, memory, trace));
    DispatchEvent { ended, run, outcome, proof, took }
}

/// A reply as it is recorded, if it ended now.
fn reply_event(reply: &ReplyRecord) -> ReplyEvent<'_> {
    let &ReplyRecord { ref names, cpu, memory, outcome, first_byte, took, bytes, trace, .. } = reply;
    let (ended, run) = (Instant::now(), event_run(names, cpu, memory, trace));
    ReplyEvent { ended, run, outcome, status: reply.status.unwrap_or(0), first_byte, took, bytes }
}

/// The bytes in which a dispatch is queued.
pub(super) fn encode(dispatch: &DispatchRecord) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::put_dispatch(&event(dispatch), dispatch.offers.iter().map(OfferRecord::event), &mut bytes);
    bytes
}

/// The bytes in which a reply is queued.
pub(super) fn encode_reply(reply: &ReplyRecord) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::put_reply(&reply_event(reply), &mut bytes);
    bytes
}

fn record_now(journal: &Journal, dispatch: &DispatchRecord) {
    journal.record_dispatch(&event(dispatch), dispatch.offers.iter().map(OfferRecord::event));
}

/// Records a dispatch and waits until the journal's thread has processed it.
fn record(journal: &Journal, dispatch: &DispatchRecord) {
    let run = dispatch.names.get(0).to_owned();
    record_now(journal, dispatch);
    let deadline = Instant::now() + PATIENCE;
    while !is_in_history(journal, &run) {
        assert!(Instant::now() < deadline, "{run} is not in the history");
        std::thread::yield_now();
    }
}

/// Records a dispatch without an offer.
fn record_run(journal: &Journal, run: &str) {
    record(journal, &dispatch(run, 0));
}

async fn next(reader: &EventReader) -> String {
    let EventBatch(bytes) = tokio::time::timeout(PATIENCE, reader.next()).await.expect("a batch");
    String::from_utf8(bytes.into()).unwrap()
}

fn first_id() -> String {
    format!("{}-0", epoch())
}

#[tokio::test]
async fn a_subscriber_that_resumes_misses_nothing_while_another_reads_other_kinds() {
    let journal = open();
    let _other = journal.subscribe(None, EventKinds::DRAIN).unwrap();
    let reader = journal.subscribe(None, EventKinds::DISPATCH).unwrap();
    record_run(&journal, "run_1");
    let first = next(&reader).await;
    drop(reader);
    record_run(&journal, "run_2");
    let id = first.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let again = next(&journal.subscribe(Some(id), EventKinds::DISPATCH).unwrap()).await;
    assert!(again.contains("\"run_2\""), "{again}");
    journal.close();
}

#[tokio::test]
async fn a_subscriber_that_resumes_is_notified_at_once_of_events_that_were_not_logged() {
    let journal = open();
    // The second is processed only after the first was skipped.
    record_run(&journal, "run_1");
    record_run(&journal, "run_2");
    let again = next(&journal.subscribe(Some(&first_id()), EventKinds::DISPATCH).unwrap()).await;
    assert!(again.starts_with("event: missed\n"), "{again}");
    journal.close();
}

#[tokio::test]
async fn dispatches_stay_in_the_history_however_many_polls_are_logged_after_them() {
    let journal = open();
    let reader = journal.subscribe(None, EventKinds::POLL | EventKinds::DISPATCH).unwrap();
    record_run(&journal, "run_1");
    let half = Number::new(0.5).unwrap();
    let key = KeyRef { deployment: "d1", version: "20260821.3", cpu: half, memory: half };
    for _ in 0..CAPACITY {
        journal.record(PollEvent::ended(key, "one", PollEnd::Expired, Duration::ZERO));
    }
    record_run(&journal, "run_2");
    tokio::time::timeout(PATIENCE, reader.lagged()).await.expect("run_1 has left the log");
    assert!(is_in_history(&journal, "run_1"));
    journal.close();
}

#[tokio::test]
async fn a_verdict_stays_in_the_log_however_many_dispatches_without_an_offer_follow() {
    let journal = open();
    let reader = journal.subscribe(None, EventKinds::VERDICT).unwrap();
    let (verdict, time) = (Verdict::Written, Duration::ZERO);
    let offer = OfferRecord { controller: "one".into(), broker: None, verdict, since: time, took: time };
    record(&journal, &DispatchRecord { offers: vec![offer], ..dispatch("run_1", 0) });
    for number in 0..CAPACITY {
        record_now(&journal, &dispatch(&format!("miss_{number}"), 0));
    }
    record_run(&journal, "run_2");
    assert!(!is_in_history(&journal, "run_1"));
    let batch = next(&reader).await;
    assert!(batch.contains("\"run_1\""), "{batch}");
    journal.close();
}

#[tokio::test]
async fn every_dispatch_is_kept_or_counted_as_dropped() {
    const DISPATCHES: u64 = 10_000;
    let metrics = Arc::new(Metrics::new().unwrap());
    let mut journal = Journal::open(&JournalConfig::default(), metrics.clone()).unwrap();
    let reader = journal.subscribe(None, EventKinds::DISPATCH).unwrap();
    // Nobody reads the queue until it is full.
    journal.close();
    let (queues, events) = queue::open();
    journal.queues = queues;
    let large = dispatch(&"x".repeat(256), 0);
    (0..DISPATCHES).for_each(|_| record_now(&journal, &large));
    let worker = JournalWorker {
        events,
        log: journal.log.clone(),
        history: journal.history.clone(),
        tracer: None,
        wanted_kinds: Arc::default(),
        metrics: metrics.clone(),
    };
    journal.thread = Mutex::new(Some(std::thread::spawn(move || worker.run())));
    journal.close();

    let dropped = metric(&metrics, "pilotlight_events_dropped_total");
    assert_eq!(metric(&metrics, "pilotlight_history_dropped_total"), dropped);
    let kept = usize::try_from(DISPATCHES - dropped).unwrap();
    assert!(kept > 2_000 && kept < 4_000, "{kept} of 300 bytes fit into a queue");
    let query = HistoryQuery { limit: CAPACITY, ..HistoryQuery::default() };
    assert_eq!(journal.find(&query).unwrap().len(), kept);
    let mut logged = 0;
    while logged < kept {
        logged += next(&reader).await.matches("\nevent: dispatch\n").count();
    }
    assert_eq!(logged, kept);
}

fn metric(metrics: &Metrics, name: &str) -> u64 {
    let text = String::from_utf8(metrics.render((0, 0)).unwrap()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

#[test]
fn a_dispatch_has_the_time_of_its_end_however_late_it_is_read() {
    let journal = open();
    let (ended, at_end) = (Instant::now(), unix_millis());
    std::thread::sleep(Duration::from_millis(100));
    let record = dispatch("run_1", 0);
    let event = DispatchEvent { ended, ..event(&record) };
    journal.record_dispatch(&event, std::iter::empty());
    journal.close();
    let query = HistoryQuery { limit: 1, ..HistoryQuery::default() };
    let at = journal.find(&query).unwrap()[0].at;
    assert!(at.abs_diff(at_end) < 50, "{at} against {at_end}");
}

#[test]
fn offers_that_are_only_counted_are_numbered_and_counted_as_dropped() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let journal = Journal::open(&JournalConfig::default(), metrics.clone()).unwrap();
    let (verdict, time) = (Verdict::Gone, Duration::ZERO);
    let offer = OfferRecord { controller: "one".into(), broker: None, verdict, since: time, took: time };
    record(&journal, &DispatchRecord { offers: vec![offer; 1_000], ..dispatch("run_1", 0) });
    let query = HistoryQuery { limit: 1, ..HistoryQuery::default() };
    assert_eq!(journal.find(&query).unwrap()[0].offers, 1_000);
    let dropped = (1_000 - codec::MAX_OFFERS) as u64;
    assert_eq!(metric(&metrics, "pilotlight_events_dropped_total"), dropped);
    assert_eq!(metric(&metrics, "pilotlight_history_dropped_total"), 0);
    journal.close();
}

#[test]
fn a_thread_that_ends_is_named() {
    let journal = open();
    assert_eq!(journal.stopped_thread(), None);
    // The thread ends although `close` was not called.
    journal.queues.close();
    let deadline = Instant::now() + PATIENCE;
    while journal.stopped_thread() != Some("journal") {
        assert!(Instant::now() < deadline, "the thread goes on");
        std::thread::yield_now();
    }
    journal.close();
    assert_eq!(journal.stopped_thread(), None, "it was closed");
}

#[tokio::test]
async fn what_another_broker_offered_is_recorded_with_its_name() {
    let journal = open();
    let reader = journal.subscribe(None, EventKinds::VERDICT | EventKinds::DISPATCH).unwrap();
    record(&journal, &delivered_elsewhere("run_1", "b2:7070"));
    record(&journal, &DispatchRecord { proof: None, ..delivered_elsewhere("run_2", "b2:7070") });
    let mut brokers = Vec::new();
    while brokers.len() < 6 {
        let batch = next(&reader).await;
        let events = batch.lines().filter_map(|line| line.strip_prefix("data: "));
        brokers.extend(events.map(|json| serde_json::from_str::<Value>(json).unwrap()["broker"].clone()));
    }
    let brokers: Vec<_> = brokers.iter().map(Value::as_str).collect();
    let other = Some("b2:7070");
    assert_eq!(brokers, [None, other, other, None, other, None], "two offers, then their dispatch");
    let query = HistoryQuery { limit: 2, ..HistoryQuery::default() };
    let rows = journal.find(&query).unwrap();
    let brokers: Vec<_> = rows.iter().map(|row| row.broker.as_deref()).collect();
    assert_eq!(brokers, [None, other], "the latest first: it was not delivered");
    journal.close();
}

#[tokio::test]
async fn a_reply_is_an_event_of_its_run_and_a_part_of_the_record_of_its_dispatch() {
    let journal = open();
    let topic = |run: &str| Topic { run: Some(run.into()), ..Topic::from(EventKinds::all()) };
    let reader = journal.subscribe(None, topic("run_1")).unwrap();
    let missed = dispatch("run_2", 0);
    let of_others = journal.subscribe(None, topic("run_2")).unwrap();
    record(&journal, &delivered_elsewhere("run_1", "b2:7070"));
    journal.record_reply(&reply_event(&reply("run_1", 7)));
    let mut events = String::new();
    while !events.contains("event: reply\n") {
        events += &next(&reader).await;
    }
    let data: Vec<Value> = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|json| serde_json::from_str(json).unwrap())
        .collect();
    let [_, _, dispatch, reply] = &data[..] else { panic!("{events}") };
    assert_eq!(dispatch.get("reply"), None, "it is not known then");
    let at = reply["at"].as_u64().unwrap();
    assert!(at.abs_diff(unix_millis()) < 20_000, "{at}");
    assert_eq!(
        *reply,
        serde_json::json!({
            "at": at, "run": "run_1", "deployment": "d1", "version": "20260821.3", "cpu": 0.5, "memory": 0.5,
            "outcome": "replied", "status": 201, "first_byte_seconds": 0.02, "seconds": 0.5, "bytes": 7,
        })
    );
    let query = HistoryQuery { limit: 1, ..HistoryQuery::default() };
    let row = journal.find(&query).unwrap().remove(0);
    assert_eq!(row.reply.unwrap().bytes, 7);
    record(&journal, &missed);
    let others = next(&of_others).await;
    assert!(others.contains("run_2") && !others.contains("run_1"), "{others}");
    journal.close();
}

#[test]
fn a_reply_that_finds_no_room_is_counted() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let journal = Journal::open(&JournalConfig::default(), metrics.clone()).unwrap();
    journal.close();
    journal.record_reply(&reply_event(&reply("run_1", 7)));
    assert_eq!(metric(&metrics, "pilotlight_events_dropped_total"), 1);
    assert_eq!(metric(&metrics, "pilotlight_history_dropped_total"), 1);
}
