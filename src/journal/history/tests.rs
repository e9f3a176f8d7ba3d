//! Owns the tests of what both kinds of history have in common: which dispatch a reply belongs to.

use std::time::Instant;

use super::*;
use crate::journal::codec::{Recorded, decode};
use crate::journal::record::PackedStrs;
use crate::journal::row::ReplyRow;
use crate::journal::tests::{delivered_elsewhere, dispatch, encode, encode_reply, reply};
use crate::model::ReplyOutcome;

const LIMIT: usize = 1000;

/// Adds what the journal's thread would add for this dispatch.
fn append(history: &History, record: &DispatchRecord) {
    let Some(Recorded::Dispatch(recorded)) = decode(record.at, &encode(record)) else {
        panic!("no dispatch")
    };
    assert!(history.append(recorded, Some(Arc::new(record.clone()))));
}

fn append_reply(history: &History, record: ReplyRecord) {
    let Some(Recorded::Reply(recorded)) = decode(record.at, &encode_reply(&record)) else {
        panic!("no reply")
    };
    assert!(history.append_reply(recorded, Some(Arc::new(record))));
}

/// A history of each kind, each with what `act` adds, and the rows that match the query: each run's name and the bytes of its reply.
fn check(query: &HistoryQuery, act: impl Fn(&History), expected: &[(&str, Option<u64>)]) {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let hour = Duration::from_secs(3600);
    let file = History::in_file(&folder.path().join("history.db"), hour, 1 << 30, metrics).unwrap();
    for (history, kind) in [(History::in_memory(), "memory"), (file, "file")] {
        act(&history);
        // What is written last is there: then all is.
        append(&history, &dispatch("the end", 0));
        let end = HistoryQuery { run: Some("the end".to_owned()), limit: 1, ..HistoryQuery::default() };
        let until = Instant::now() + Duration::from_secs(20);
        while history.find(&end).unwrap().is_empty() {
            assert!(Instant::now() < until, "the end is not in the history");
            std::thread::yield_now();
        }
        let rows = history.find(query).unwrap();
        let found = rows.iter().map(|row| (&*row.run, row.reply.as_ref().map(|reply| reply.bytes)));
        let found: Vec<_> = found.filter(|(run, _)| *run != "the end").collect();
        assert_eq!(found, expected, "{kind}");
        history.close();
    }
}

fn all() -> HistoryQuery {
    HistoryQuery { limit: LIMIT, ..HistoryQuery::default() }
}

fn hit(run: &str) -> DispatchRecord {
    delivered_elsewhere(run, "b2:7070")
}

/// A POST that was answered like an earlier one of its run.
fn answered_like_an_earlier_one(run: &str) -> DispatchRecord {
    DispatchRecord { offers: Vec::new(), ..hit(run) }
}

#[test]
fn a_reply_is_shown_with_the_dispatch_that_handed_its_run_over() {
    let act = |history: &History| {
        append(history, &hit("run_1"));
        append(history, &hit("run_2"));
        append(history, &hit("run_3"));
        append_reply(history, reply("run_2", 2));
        append(history, &answered_like_an_earlier_one("run_1"));
        append(history, &dispatch("run_1", 0));
        append_reply(history, reply("run_1", 1));
        append_reply(history, reply("run_of_nobody", 0));
    };
    let rows = [("run_1", None), ("run_1", None), ("run_3", None), ("run_2", Some(2)), ("run_1", Some(1))];
    check(&all(), act, &rows);
    let of_run = HistoryQuery { run: Some("run_2".to_owned()), ..all() };
    check(&of_run, act, &rows[3..4]);
    let hits = HistoryQuery { outcome: Some("hit".to_owned()), limit: 4, ..HistoryQuery::default() };
    check(&hits, act, &[rows[1], rows[2], rows[3], rows[4]]);
}

#[test]
fn each_dispatch_of_a_run_has_its_own_reply() {
    let act = |history: &History| {
        append(history, &hit("run_1"));
        append_reply(history, reply("run_1", 1));
        append(history, &hit("run_1"));
        append_reply(history, reply("run_1", 2));
        append(history, &hit("run_1"));
        append(history, &hit("run_1"));
        append_reply(history, reply("run_1", 4));
        append_reply(history, reply("run_1", 3));
        append_reply(history, reply("run_1", 5));
    };
    let rows = [4, 3, 2, 1].map(|bytes| ("run_1", Some(bytes)));
    check(&all(), act, &rows);
    check(&HistoryQuery { limit: 2, ..all() }, act, &rows[..1]);
}

#[test]
fn a_reply_of_another_pool_is_another_runs() {
    let act = |history: &History| {
        append(history, &hit("run_1"));
        append_reply(history, ReplyRecord { cpu: 1.0, ..reply("run_1", 1) });
        append_reply(history, ReplyRecord { memory: 1.0, ..reply("run_1", 1) });
        append_reply(
            history,
            ReplyRecord { names: PackedStrs::new(["run_1", "d2", "20260821.3"]), ..reply("run_1", 1) },
        );
        append_reply(
            history,
            ReplyRecord { names: PackedStrs::new(["run_1", "d1", "20260821.4"]), ..reply("run_1", 1) },
        );
    };
    check(&all(), act, &[("run_1", None)]);
}

#[test]
fn all_of_a_reply_is_kept_and_what_it_lacks_is_null() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let hour = Duration::from_secs(3600);
    let file = History::in_file(&folder.path().join("history.db"), hour, 1 << 30, metrics).unwrap();
    for history in [History::in_memory(), file] {
        append(&history, &hit("run_1"));
        append(&history, &hit("run_2"));
        append_reply(&history, reply("run_1", 7));
        let left = ReplyRecord {
            outcome: ReplyOutcome::Cancelled,
            status: None,
            first_byte: None,
            ..reply("run_2", 0)
        };
        append_reply(&history, left);
        let until = Instant::now() + Duration::from_secs(20);
        let rows = loop {
            let rows = history.find(&all()).unwrap();
            if rows.iter().filter(|row| row.reply.is_some()).count() == 2 {
                break rows;
            }
            assert!(Instant::now() < until, "{rows:?}");
            std::thread::yield_now();
        };
        let [left, replied]: [ReplyRow; 2] =
            rows.into_iter().filter_map(|row| row.reply).collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(
            serde_json::to_value(replied).unwrap(),
            serde_json::json!({
                "outcome": "replied", "status": 201, "first_byte_seconds": 0.02, "seconds": 0.5, "bytes": 7
            })
        );
        assert_eq!(
            serde_json::to_value(left).unwrap(),
            serde_json::json!({
                "outcome": "cancelled", "status": null, "first_byte_seconds": null, "seconds": 0.5, "bytes": 0
            })
        );
        history.close();
    }
}
