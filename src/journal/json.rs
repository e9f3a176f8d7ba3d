//! Owns the JSON of `/events`: how each record is rendered when a subscriber reads it.

use serde::Serialize;

use super::record::{DispatchRecord, DrainEvent, PollEvent, PollPhase, ReplyRecord, RetireEvent};
use super::row::{DispatchRow, ReplyRow};
use crate::broker::{Filter, Number};

pub(super) fn dispatch(record: &DispatchRecord) -> String {
    render(&DispatchRow::from(record))
}

/// One offer of a dispatch, by its index. Empty if there is no such offer.
pub(super) fn verdict(record: &DispatchRecord, index: usize) -> String {
    record.offers.get(index).map_or_else(String::new, |offer| {
        render(&VerdictJson {
            at: record.at,
            run: record.names.get(0),
            controller: &offer.controller,
            broker: offer.broker.as_deref(),
            verdict: offer.verdict.text(),
            offer: record.earlier_offers + index + 1,
            seconds: offer.took.as_secs_f64(),
        })
    })
}

pub(super) fn reply(record: &ReplyRecord) -> String {
    let &ReplyRecord { at, ref names, cpu, memory, .. } = record;
    let [run, deployment, version] = [0, 1, 2].map(|index| names.get(index));
    render(&ReplyJson { at, run, deployment, version, cpu, memory, end: record.into() })
}

pub(super) fn poll(event: &PollEvent) -> String {
    let PollEvent { at, ref controller, ref names, cpu, memory, ref phase } = *event;
    let (end, held_seconds) = match phase {
        PollPhase::Parked => (None, None),
        PollPhase::Ended { end, held } => (Some(end.text()), Some(held.as_secs_f64())),
    };
    let (deployment, version) = (names.get(0), names.get(1));
    render(&PollJson { at, controller, deployment, version, cpu, memory, end, held_seconds })
}

pub(super) fn drain(event: &DrainEvent) -> String {
    serde_json::json!({ "at": event.at, "waiters": event.waiters }).to_string()
}

pub(super) fn retire(event: &RetireEvent) -> String {
    let Filter { deployment, version, cpu, memory } = &event.filter;
    serde_json::json!({
        "at": event.at, "retired": event.retired, "deployment": deployment, "version": version,
        "cpu": cpu.map(Number::get), "memory": memory.map(Number::get),
    })
    .to_string()
}

#[derive(Serialize)]
struct VerdictJson<'a> {
    at: u64,
    run: &'a str,
    controller: &'a str,
    broker: Option<&'a str>,
    verdict: &'static str,
    /// Counted from 1.
    offer: usize,
    seconds: f64,
}

#[derive(Serialize)]
struct ReplyJson<'a> {
    at: u64,
    run: &'a str,
    deployment: &'a str,
    version: &'a str,
    cpu: f64,
    memory: f64,
    #[serde(flatten)]
    end: ReplyRow,
}

#[derive(Serialize)]
struct PollJson<'a> {
    at: u64,
    controller: &'a str,
    deployment: &'a str,
    version: &'a str,
    cpu: f64,
    memory: f64,
    end: Option<&'static str>,
    held_seconds: Option<f64>,
}

/// Serialization cannot fail: these structs have only strings and numbers.
fn render(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
