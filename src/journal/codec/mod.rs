//! Owns the bytes of a queued event. Only this process reads them, so their format has no version.

mod fields;

#[cfg(test)]
mod tests;

use std::marker::PhantomData;

use bytes::{Buf, BufMut};

use fields::{
    get_duration, get_flag, get_number, get_outcome, get_text, get_texts, get_trace, put_duration, put_flag,
    put_number, put_outcome, put_text, put_texts, put_trace, split_texts,
};

use super::record::{
    DispatchEvent, DispatchRecord, DrainEvent, Event, EventRun, OfferEvent, OfferRecord, PackedStrs,
    PollEvent, PollPhase, ReplyEvent, ReplyRecord, RetireEvent,
};
use crate::broker::{Filter, Number};
use crate::journal::trace_parent::TraceParent;
use crate::model::{PollEnd, Proof, ReplyOutcome, Verdict};

/// The last offers of a dispatch, which are recorded in detail; of further ones only the number is. More are rare: each is a
/// waiter whose connection had ended unnoticed.
pub(super) const MAX_OFFERS: usize = 128;

// The first byte of an event says what it is.
const DISPATCH: u8 = 0;
const PARKED: u8 = 1;
const ENDED: u8 = 2;
const DRAIN: u8 = 3;
const RETIRE: u8 = 4;
const REPLY: u8 = 5;

/// Added to an offer's verdict if the name of another broker follows.
const OF_OTHER_BROKER: u8 = 0x80;

/// An event that was queued.
#[derive(Debug)]
pub(super) enum Recorded {
    Dispatch(Undecoded<DispatchRecord>),
    Reply(Undecoded<ReplyRecord>),
    Event(Event),
}

/// A dispatch or a reply as it was queued. Nobody asks for most of them, so each is decoded only when it is wanted.
#[derive(Debug)]
pub(super) struct Undecoded<R> {
    at: u64,
    bytes: Box<[u8]>,
    record: PhantomData<R>,
}

impl<R> Undecoded<R> {
    fn new(at: u64, bytes: &[u8]) -> Self {
        Self { at, bytes: bytes.into(), record: PhantomData }
    }

    /// When it ended, in milliseconds since 1970.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The bytes of its run's names, cpu and memory, which a dispatch and its reply have in common. None if they are of no record.
    pub(super) fn run(&self) -> Option<&[u8]> {
        let mut rest = &*self.bytes;
        split_texts::<3>(&mut rest)?;
        self.bytes.get(..self.bytes.len() - rest.len() + 2 * size_of::<f64>())
    }
}

impl Undecoded<DispatchRecord> {
    /// None if the bytes are no dispatch.
    pub(super) fn decode(&self) -> Option<DispatchRecord> {
        get_dispatch(self.at, &mut &*self.bytes)
    }
}

impl Undecoded<ReplyRecord> {
    /// None if the bytes are no reply.
    pub(super) fn decode(&self) -> Option<ReplyRecord> {
        get_reply(self.at, &mut &*self.bytes)
    }
}

pub(super) fn put_dispatch<'a>(
    dispatch: &DispatchEvent<'_>,
    offers: impl ExactSizeIterator<Item = OfferEvent<'a>>,
    out: &mut Vec<u8>,
) {
    let DispatchEvent { ended: _, run, outcome, proof, took } = dispatch;
    out.put_u8(DISPATCH);
    put_run(run, out);
    put_outcome(*outcome, out);
    out.put_u8(proof.map_or(0, |proof| 1 + proof as u8));
    put_duration(*took, out);
    let earlier = offers.len().saturating_sub(MAX_OFFERS);
    put_number(earlier, out);
    put_number(offers.len() - earlier, out);
    for OfferEvent { controller, broker, verdict, since, took } in offers.skip(earlier) {
        put_text(controller, out);
        out.put_u8(verdict as u8 | if broker.is_some() { OF_OTHER_BROKER } else { 0 });
        if let Some(broker) = broker {
            put_text(broker, out);
        }
        put_duration(since, out);
        put_duration(took, out);
    }
}

pub(super) fn put_reply(reply: &ReplyEvent<'_>, out: &mut Vec<u8>) {
    let &ReplyEvent { ended: _, ref run, outcome, status, first_byte, took, bytes } = reply;
    out.put_u8(REPLY);
    put_run(run, out);
    out.put_u8(outcome as u8);
    out.put_u16_ne(status);
    put_flag(first_byte.is_some(), out);
    put_duration(first_byte.unwrap_or_default(), out);
    put_duration(took, out);
    out.put_u64_ne(bytes);
}

/// What stands first, up to the trace, is [`Undecoded::run`].
fn put_run(run: &EventRun<'_>, out: &mut Vec<u8>) {
    let EventRun { name, deployment, version, cpu, memory, trace } = run;
    put_texts([name, deployment, version], out);
    out.put_f64_ne(*cpu);
    out.put_f64_ne(*memory);
    put_flag(trace.is_some(), out);
    if let Some(trace) = trace {
        put_trace(trace, out);
    }
}

pub(super) fn put_event(event: Event, out: &mut Vec<u8>) {
    match event {
        Event::Poll(event) => put_poll(&event, out),
        Event::Drain(DrainEvent { at, waiters }) => {
            out.put_u8(DRAIN);
            out.put_u64_ne(at);
            put_number(waiters, out);
        }
        Event::Retire(RetireEvent { at, filter, retired }) => {
            out.put_u8(RETIRE);
            out.put_u64_ne(at);
            for text in [filter.deployment, filter.version] {
                put_flag(text.is_some(), out);
                put_text(&text.unwrap_or_default(), out);
            }
            for number in [filter.cpu, filter.memory] {
                put_flag(number.is_some(), out);
                out.put_f64_ne(number.map_or(0.0, Number::get));
            }
            put_number(retired, out);
        }
    }
}

fn put_poll(event: &PollEvent, out: &mut Vec<u8>) {
    let PollEvent { at, controller, names, cpu, memory, phase } = event;
    out.put_u8(if matches!(phase, PollPhase::Parked) { PARKED } else { ENDED });
    out.put_u64_ne(*at);
    put_text(controller, out);
    put_texts([0, 1].map(|index| names.get(index).as_bytes()), out);
    out.put_f64_ne(*cpu);
    out.put_f64_ne(*memory);
    if let PollPhase::Ended { end, held } = phase {
        out.put_u8(*end as u8);
        put_duration(*held, out);
    }
}

/// What was queued, with the time of a dispatch or a reply in milliseconds since 1970. None if the bytes are no event; those of a dispatch
/// or a reply are not decoded yet.
pub(super) fn decode(at: u64, mut bytes: &[u8]) -> Option<Recorded> {
    let tag = bytes.try_get_u8().ok()?;
    if tag == DISPATCH {
        return Some(Recorded::Dispatch(Undecoded::new(at, bytes)));
    }
    if tag == REPLY {
        return Some(Recorded::Reply(Undecoded::new(at, bytes)));
    }
    let at = bytes.try_get_u64_ne().ok()?;
    let event = match tag {
        PARKED => Event::Poll(get_poll(at, |_| Some(PollPhase::Parked), &mut bytes)?),
        ENDED => Event::Poll(get_poll(at, get_ended, &mut bytes)?),
        DRAIN => Event::Drain(DrainEvent { at, waiters: get_number(&mut bytes)? }),
        RETIRE => Event::Retire(get_retire(at, &mut bytes)?),
        _ => return None,
    };
    Some(Recorded::Event(event))
}

/// The names, cpu, memory and the trace of a run.
fn get_run(bytes: &mut &[u8]) -> Option<(PackedStrs<3>, f64, f64, Option<TraceParent>)> {
    let names = get_texts(bytes)?;
    let (cpu, memory) = (bytes.try_get_f64_ne().ok()?, bytes.try_get_f64_ne().ok()?);
    let trace = if get_flag(bytes)? { Some(get_trace(bytes)?) } else { None };
    Some((names, cpu, memory, trace))
}

fn get_dispatch(at: u64, bytes: &mut &[u8]) -> Option<DispatchRecord> {
    let (names, cpu, memory, trace) = get_run(bytes)?;
    let outcome = get_outcome(bytes)?;
    let proof = match bytes.try_get_u8().ok()? {
        0 => None,
        proof => Some(*Proof::ALL.get(usize::from(proof - 1))?),
    };
    let took = get_duration(bytes)?;
    let earlier_offers = get_number(bytes)?;
    let count = get_number(bytes)?;
    let mut offers = Vec::with_capacity(count.min(MAX_OFFERS));
    for _ in 0..count {
        offers.push(get_offer(bytes)?);
    }
    Some(DispatchRecord { at, names, cpu, memory, outcome, proof, earlier_offers, offers, took, trace })
}

fn get_offer(bytes: &mut &[u8]) -> Option<OfferRecord> {
    let controller = get_text(bytes)?.into();
    let verdict = bytes.try_get_u8().ok()?;
    let broker = if verdict & OF_OTHER_BROKER == 0 { None } else { Some(get_text(bytes)?.into()) };
    let verdict = *Verdict::ALL.get(usize::from(verdict & !OF_OTHER_BROKER))?;
    Some(OfferRecord { controller, broker, verdict, since: get_duration(bytes)?, took: get_duration(bytes)? })
}

fn get_reply(at: u64, bytes: &mut &[u8]) -> Option<ReplyRecord> {
    let (names, cpu, memory, trace) = get_run(bytes)?;
    let outcome = *ReplyOutcome::ALL.get(usize::from(bytes.try_get_u8().ok()?))?;
    let status = Some(bytes.try_get_u16_ne().ok()?).filter(|status| *status != 0);
    let has_first_byte = get_flag(bytes)?;
    let first_byte = Some(get_duration(bytes)?).filter(|_| has_first_byte);
    let (took, size) = (get_duration(bytes)?, bytes.try_get_u64_ne().ok()?);
    Some(ReplyRecord { at, names, cpu, memory, outcome, status, first_byte, took, bytes: size, trace })
}

fn get_poll(
    at: u64,
    phase: impl FnOnce(&mut &[u8]) -> Option<PollPhase>,
    bytes: &mut &[u8],
) -> Option<PollEvent> {
    let (controller, names) = (get_text(bytes)?.into(), get_texts(bytes)?);
    let (cpu, memory) = (bytes.try_get_f64_ne().ok()?, bytes.try_get_f64_ne().ok()?);
    Some(PollEvent { at, controller, names, cpu, memory, phase: phase(bytes)? })
}

fn get_ended(bytes: &mut &[u8]) -> Option<PollPhase> {
    let end = *PollEnd::ALL.get(usize::from(bytes.try_get_u8().ok()?))?;
    Some(PollPhase::Ended { end, held: get_duration(bytes)? })
}

fn get_retire(at: u64, bytes: &mut &[u8]) -> Option<RetireEvent> {
    let mut texts = [None, None];
    for text in &mut texts {
        let is_some = get_flag(bytes)?;
        let read = get_text(bytes)?;
        *text = is_some.then(|| read.to_owned());
    }
    let mut numbers = [None, None];
    for number in &mut numbers {
        let is_some = get_flag(bytes)?;
        let read = bytes.try_get_f64_ne().ok()?;
        *number = if is_some { Some(Number::new(read).ok()?) } else { None };
    }
    let ([deployment, version], [cpu, memory]) = (texts, numbers);
    Some(RetireEvent { at, filter: Filter { deployment, version, cpu, memory }, retired: get_number(bytes)? })
}
