//! Owns the tests of the event log and of its index of topics.

use std::collections::HashMap;
use std::time::Duration;

use fastrand::Rng;
use futures_util::FutureExt;

use super::*;
use crate::broker::Filter;
use crate::journal::record::{DispatchRecord, DrainEvent, PackedStrs, PollEvent, PollPhase, RetireEvent};
use crate::journal::ring::CAPACITY;
use crate::journal::tests::dispatch;

fn drain() -> LogEntry {
    LogEntry::Drain(Arc::new(DrainEvent { at: 0, waiters: 0 }))
}

fn poll(deployment: &str, version: &str) -> LogEntry {
    let names = PackedStrs::new([deployment, version]);
    let phase = PollPhase::Parked;
    LogEntry::Poll(Arc::new(PollEvent {
        at: 0,
        controller: "one".into(),
        names,
        cpu: 1.0,
        memory: 1.0,
        phase,
    }))
}

fn record(deployment: &str, version: &str, run: &str) -> Arc<DispatchRecord> {
    Arc::new(DispatchRecord { names: PackedStrs::new([run, deployment, version]), ..dispatch(run, 0) })
}

fn ended(deployment: &str) -> LogEntry {
    LogEntry::Dispatch(record(deployment, "1", "run_1"))
}

fn retire(deployment: Option<&str>, version: Option<&str>) -> LogEntry {
    let [deployment, version] = [deployment, version].map(|name| name.map(str::to_owned));
    let filter = Filter { deployment, version, cpu: None, memory: None };
    LogEntry::Retire(Arc::new(RetireEvent { at: 0, filter, retired: 0 }))
}

fn topic(kinds: EventKinds, names: [Option<&str>; 3]) -> Topic {
    let [deployment, version, run] = names.map(|name| name.map(Into::into));
    Topic { kinds, deployment, version, run }
}

/// The dispatches of a deployment.
fn of(deployment: &str) -> Topic {
    topic(EventKinds::DISPATCH, [Some(deployment), None, None])
}

fn subscribe(log: &Arc<EventLog>, after: Option<u64>, topic: Topic) -> EventReader {
    EventLog::subscribe(log, after.map(event_id).as_deref(), topic).unwrap()
}

/// What a reader reads at once: how many events it is told that it missed, and the numbers of its events.
fn read(reader: &EventReader) -> (u64, Vec<u64>) {
    let text = reader.read().map(|batch| String::from_utf8(batch.0.into()).unwrap()).unwrap_or_default();
    let number = |line: &str, before: &str| line.strip_prefix(before)?.trim_end_matches('}').parse().ok();
    let missed = text.lines().find_map(|line| number(line, "data: {\"missed\":"));
    let id = format!("id: {}-", epoch());
    (missed.unwrap_or(0), text.lines().filter_map(|line| number(line, &id)).collect())
}

fn is_woken(reader: &EventReader) -> bool {
    reader.cursor.added.notified().now_or_never().is_some()
}

fn has_lagged(reader: &EventReader) -> bool {
    reader.lagged().now_or_never().is_some()
}

/// Replaces everything in the log by dispatches of a deployment.
fn replace_all(log: &EventLog, deployment: &str) {
    log.add((0..CAPACITY).map(|_| ended(deployment)).collect(), 0);
}

#[test]
fn a_subscriber_that_lags_reads_nothing_more() {
    let log = Arc::new(EventLog::new());
    let reader = subscribe(&log, None, EventKinds::all().into());
    log.add((0..=CAPACITY).map(|_| drain()).collect(), 0);
    // It would not notice that the events before those in the log are missing.
    assert!(reader.read().is_none());
    assert!(has_lagged(&reader));
    // A subscriber that resumes after the last number that it read is notified of what it missed.
    let (missed, numbers) = read(&subscribe(&log, Some(0), EventKinds::all().into()));
    assert_eq!((missed, numbers[0]), (1, 2));
}

#[test]
fn an_event_is_looked_up_once_for_each_shape_however_many_subscribers_there_are() {
    let log = Arc::new(EventLog::new());
    let lookups = |events: usize| {
        let before = log.state.lock().index.lookups;
        log.add((0..events).map(|_| ended("d7")).collect(), 0);
        log.state.lock().index.lookups - before
    };
    assert_eq!(lookups(10), 0, "nobody subscribes");
    let distinct: Vec<_> = (0..200).map(|n| subscribe(&log, None, of(&format!("d{n}")))).collect();
    assert_eq!(lookups(10), 10);
    let same: Vec<_> = (0..50).map(|_| subscribe(&log, None, of("d7"))).collect();
    assert_eq!(lookups(10), 10);
    assert_eq!(log.state.lock().index.topics(), 200, "the subscribers of one topic share it");
    for reader in distinct.iter().filter(|reader| !Arc::ptr_eq(&reader.cursor, &distinct[7].cursor)) {
        assert!(!is_woken(reader) && reader.read().is_none());
    }
    for reader in same.iter().chain([&distinct[7]]) {
        assert!(is_woken(reader));
        assert!(read(reader).1.ends_with(&[28, 29, 30]));
    }
    drop(same);
    let others = TopicShapes::all().map(|names| subscribe(&log, None, topic(EventKinds::DISPATCH, names)));
    let others: Vec<_> = others.collect();
    assert_eq!(lookups(10), 80, "eight shapes are all there are");
    drop(others);
}

/// One choice of names for each shape of a topic.
struct TopicShapes;

impl TopicShapes {
    fn all() -> impl Iterator<Item = [Option<&'static str>; 3]> {
        (0..8).map(|bits| {
            ["d7", "1", "run_1"].map(Some).map(|name| {
                name.filter(|name| {
                    let bit = ["d7", "1", "run_1"].iter().position(|other| other == name).unwrap();
                    bits & 1 << bit != 0
                })
            })
        })
    }
}

#[test]
fn a_subscriber_that_is_idle_in_its_topic_has_not_lagged_and_misses_nothing() {
    let log = Arc::new(EventLog::new());
    let (quiet, never) = (subscribe(&log, None, of("quiet")), subscribe(&log, None, of("never")));
    log.add(vec![ended("quiet")], 0);
    assert_eq!(read(&quiet), (0, vec![1]));
    for _ in 0..3 {
        replace_all(&log, "busy");
    }
    assert!(!has_lagged(&quiet) && !has_lagged(&never));
    assert!(quiet.read().is_none() && never.read().is_none());
    // It comes back after the only event of its topic, which has left the log, as have thousands of others.
    drop(quiet);
    replace_all(&log, "busy");
    let quiet = subscribe(&log, Some(1), of("quiet"));
    assert!(quiet.read().is_none());
    log.add(vec![ended("quiet")], 0);
    assert_eq!(read(&quiet), (0, vec![40_002]));
}

#[test]
fn a_subscriber_has_lagged_once_an_event_of_its_topic_has_left_the_log() {
    let log = Arc::new(EventLog::new());
    let (slow, other) = (subscribe(&log, None, of("slow")), subscribe(&log, None, of("other")));
    log.add(vec![ended("slow"), ended("slow")], 0);
    log.add((2..CAPACITY).map(|_| ended("busy")).collect(), 0);
    assert!(!has_lagged(&slow));
    log.add(vec![ended("busy")], 0);
    assert!(has_lagged(&slow) && !has_lagged(&other));
    assert!(slow.read().is_none(), "the second is in the log still");
    drop(slow);
    let slow = subscribe(&log, Some(0), of("slow"));
    assert_eq!(read(&slow), (1, vec![2]));
    assert_eq!(read(&subscribe(&log, Some(1), of("slow"))), (0, vec![2]));
}

#[test]
fn of_a_topic_that_was_given_up_a_subscriber_may_have_missed_events() {
    let log = Arc::new(EventLog::new());
    drop(subscribe(&log, None, of("d1")));
    log.subscribed_kinds(Instant::now() + LINGER.saturating_sub(Duration::from_secs(1)));
    assert_eq!(log.state.lock().index.topics(), 1);
    log.subscribed_kinds(Instant::now() + LINGER);
    assert_eq!(log.state.lock().index.topics(), 0);
    replace_all(&log, "d2");
    assert!(subscribe(&log, Some(0), of("d1")).read().is_none(), "all events since are in the log");
    log.subscribed_kinds(Instant::now() + LINGER);
    log.add(vec![ended("d2")], 0);
    assert_eq!(read(&subscribe(&log, Some(0), of("d1"))), (1, vec![]));
}

#[test]
fn a_heartbeat_has_the_id_to_resume_after() {
    let log = Arc::new(EventLog::new());
    let reader = subscribe(&log, None, of("d1"));
    let heartbeat = || String::from_utf8(reader.heartbeat().0.into()).unwrap();
    assert_eq!(heartbeat(), format!(": still here\nid: {}-0\n\n", epoch()));
    log.add(vec![ended("d2"), ended("d2")], 0);
    assert_eq!(heartbeat(), format!(": still here\nid: {}-2\n\n", epoch()));
    log.add(vec![ended("d1")], 0);
    assert_eq!(heartbeat(), ": still here\n\n", "it has an event to read first");
}

#[test]
fn topics_are_bounded_and_those_in_use_are_kept() {
    let log = Arc::new(EventLog::new());
    let kept = subscribe(&log, None, of("kept"));
    for number in 0..2 * MAX_SUBSCRIBERS {
        drop(subscribe(&log, None, of(&format!("d{number}"))));
    }
    assert_eq!(log.state.lock().index.topics(), MAX_SUBSCRIBERS);
    log.add(vec![ended("kept")], 0);
    assert_eq!(read(&kept), (0, vec![1]));
    let others: Vec<_> = (1..MAX_SUBSCRIBERS).map(|n| subscribe(&log, None, of(&format!("e{n}")))).collect();
    assert!(EventLog::subscribe(&log, None, of("d1")).is_none());
    assert_eq!(log.state.lock().index.topics(), MAX_SUBSCRIBERS);
    drop(others);
    // The numbers of events that have left the log are not kept.
    replace_all(&log, "kept");
    replace_all(&log, "busy");
    replace_all(&log, "busy");
    assert_eq!(log.state.lock().index.listed(), 0);
}

// ---- a naive model

const NAMES: [[&str; 3]; 3] = [["d1", "d2", "d3"], ["1", "2", "3"], ["run_1", "run_2", "run_3"]];

/// An event as the model knows it.
struct Known {
    kind: EventKinds,
    /// None is any, for a retirement; a poll has no run.
    names: [Option<&'static str>; 3],
}

fn is_in(known: &Known, topic: &Topic) -> bool {
    let fits = |own: &Option<Box<str>>, other: Option<&str>| match own {
        None => true,
        Some(own) => other == Some(&**own),
    };
    let may_fit = |own: &Option<Box<str>>, other: Option<&str>| other.is_none() || fits(own, other);
    let [deployment, version, run] = known.names;
    topic.kinds.contains(known.kind)
        && match known.kind {
            EventKinds::DRAIN => true,
            EventKinds::RETIRE => {
                topic.run.is_none()
                    && may_fit(&topic.deployment, deployment)
                    && may_fit(&topic.version, version)
            }
            _ => {
                fits(&topic.deployment, deployment) && fits(&topic.version, version) && fits(&topic.run, run)
            }
        }
}

fn any_event(rng: &mut Rng) -> (Known, LogEntry) {
    let [deployment, version, run] = NAMES.map(|names| names[rng.usize(..3)]);
    let names = [Some(deployment), Some(version), Some(run)];
    match rng.u8(..100) {
        0 => (Known { kind: EventKinds::DRAIN, names: [None; 3] }, drain()),
        1..4 => {
            let [deployment, version] = [deployment, version].map(|name| rng.bool().then_some(name));
            let names = [deployment, version, None];
            (Known { kind: EventKinds::RETIRE, names }, retire(deployment, version))
        }
        4..40 => {
            let names = [Some(deployment), Some(version), None];
            (Known { kind: EventKinds::POLL, names }, poll(deployment, version))
        }
        40..70 => {
            let entry = LogEntry::Verdict(record(deployment, version, run), 0);
            (Known { kind: EventKinds::VERDICT, names }, entry)
        }
        _ => (
            Known { kind: EventKinds::DISPATCH, names },
            LogEntry::Dispatch(record(deployment, version, run)),
        ),
    }
}

fn any_topic(rng: &mut Rng) -> Topic {
    let names = NAMES.map(|names| rng.bool().then(|| names[rng.usize(..3)]));
    let kinds = EventKinds::from_bits_truncate(rng.u32(1..1 << 5));
    topic(kinds, names)
}

struct ModelReader {
    reader: EventReader,
    topic: Topic,
    /// The number of the first event that it has not read.
    next: u64,
    missed: u64,
    /// Events from this number on were added after it was last checked whether it was woken.
    checked: u64,
}

/// A topic's deployment, version and run, and the bit of a kind.
type KindOfTopic = ([Option<Box<str>>; 3], u32);

#[derive(Default)]
struct Model {
    events: Vec<Known>,
    /// From which event on each topic's events of each kind are known.
    known_from: HashMap<KindOfTopic, u64>,
}

impl Model {
    fn end(&self) -> u64 {
        self.events.len() as u64 + 1
    }

    fn first(&self) -> u64 {
        self.end().saturating_sub(CAPACITY as u64).max(1)
    }

    /// The numbers of the topic's events in a range.
    fn numbers(&self, topic: &Topic, from: u64, to: u64) -> impl Iterator<Item = u64> {
        (from..to).filter(|&number| is_in(&self.events[usize::try_from(number).unwrap() - 1], topic))
    }

    fn subscribe(&mut self, log: &Arc<EventLog>, topic: Topic, after: Option<u64>) -> ModelReader {
        let reader = subscribe(log, after, topic.clone());
        let (first, wanted) = (self.first(), after.map_or(self.end(), |after| after + 1));
        let names = [topic.deployment.clone(), topic.version.clone(), topic.run.clone()];
        let listed = topic.possible_kinds().difference(EventKinds::DRAIN);
        let known_from =
            listed.iter().map(|kind| *self.known_from.entry((names.clone(), kind.bits())).or_insert(first));
        let is_unknown = known_from.max().is_some_and(|known_from| wanted < known_from);
        let missed = reader.cursor.missed.load(Ordering::Relaxed);
        let dropped = self.numbers(&topic, wanted, first).count() as u64;
        assert!(missed >= dropped, "{missed} of {dropped} after {after:?} in {topic:?}");
        assert_eq!(missed > 0, dropped > 0 || is_unknown, "after {after:?} in {topic:?}");
        ModelReader { reader, topic, next: wanted.max(first), missed, checked: self.end() }
    }

    fn check_read(&self, it: &mut ModelReader) {
        let has_lagged = self.numbers(&it.topic, it.next, self.first()).next().is_some();
        assert_eq!(has_lagged, it.reader.cursor.has_lagged(), "{:?}", it.topic);
        let from = it.next.max(self.first());
        let expected: Vec<u64> = self.numbers(&it.topic, from, self.end()).take(BATCH).collect();
        let expected = if has_lagged { Vec::new() } else { expected };
        let is_concerned = self.numbers(&it.topic, it.checked, self.end()).next().is_some();
        assert_eq!(is_woken(&it.reader), is_concerned, "{:?}", it.topic);
        it.checked = self.end();
        assert_eq!(read(&it.reader), (it.missed, expected.clone()), "{:?}", it.topic);
        it.missed = 0;
        if !has_lagged {
            it.next = if expected.len() < BATCH { self.end() } else { expected[BATCH - 1] + 1 };
        }
    }
}

#[test]
fn every_reader_reads_the_events_of_its_topic_as_a_naive_model_does() {
    for seed in 17..21 {
        let mut rng = Rng::with_seed(seed);
        let log = Arc::new(EventLog::new());
        let (mut model, mut readers, mut lagged) = (Model::default(), Vec::<ModelReader>::new(), 0);
        for _ in 0..250 {
            match rng.u8(..10) {
                0 | 1 => {
                    let after = rng.bool().then(|| rng.u64(..model.end()));
                    readers.push(model.subscribe(&log, any_topic(&mut rng), after));
                }
                2 if !readers.is_empty() => {
                    let ModelReader { reader, topic, next, .. } =
                        readers.swap_remove(rng.usize(..readers.len()));
                    lagged += usize::from(reader.cursor.has_lagged());
                    drop(reader);
                    if rng.bool() {
                        readers.push(model.subscribe(&log, topic, Some(next - 1)));
                    }
                }
                3..6 => {
                    let count = if rng.u8(..8) == 0 { 6_000 } else { rng.usize(1..300) };
                    let (known, entries): (Vec<_>, Vec<_>) = (0..count).map(|_| any_event(&mut rng)).unzip();
                    model.events.extend(known);
                    log.add(entries, 0);
                }
                _ => readers.iter_mut().filter(|_| rng.bool()).for_each(|reader| model.check_read(reader)),
            }
        }
        assert!(model.first() > 1 && lagged > 0, "seed {seed} is no test: {} events", model.events.len());
    }
}
