//! Owns how each kind of field is written and read: texts, numbers, durations, outcomes, traces.

use std::time::Duration;

use bytes::{Buf, BufMut};

use crate::journal::record::PackedStrs;
use crate::journal::trace_parent::TraceParent;
use crate::model::{DispatchOutcome, MissReason};

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_number(text.len(), out);
    out.put_slice(text.as_bytes());
}

pub(super) fn get_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = get_number(bytes)?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

/// The texts are together, so that they are checked and copied as one.
pub(super) fn put_texts<const N: usize>(texts: [&[u8]; N], out: &mut Vec<u8>) {
    for text in texts {
        put_number(text.len(), out);
    }
    for text in texts {
        out.put_slice(text);
    }
}

pub(super) fn get_texts<const N: usize>(bytes: &mut &[u8]) -> Option<PackedStrs<N>> {
    let (texts, lengths) = split_texts(bytes)?;
    Some(PackedStrs::of(std::str::from_utf8(texts).ok()?, lengths))
}

/// The texts as they are, unchecked, and the length of each.
pub(super) fn split_texts<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<(&'a [u8], [usize; N])> {
    let mut lengths = [0; N];
    for length in &mut lengths {
        *length = get_number(bytes)?;
    }
    let (texts, rest) = bytes.split_at_checked(lengths.iter().sum())?;
    *bytes = rest;
    Some((texts, lengths))
}

/// Seven bits in each byte, from the lowest; all bytes but the last have the highest bit.
pub(super) fn put_number(mut number: usize, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 && low < 0x80 {
            return out.put_u8(low);
        }
        out.put_u8(low | 0x80);
    }
}

pub(super) fn get_number(bytes: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    for shift in (0..usize::BITS).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        number |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

pub(super) fn put_duration(duration: Duration, out: &mut Vec<u8>) {
    out.put_u64_ne(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
}

pub(super) fn get_duration(bytes: &mut &[u8]) -> Option<Duration> {
    bytes.try_get_u64_ne().ok().map(Duration::from_nanos)
}

pub(super) fn put_outcome(outcome: DispatchOutcome, out: &mut Vec<u8>) {
    out.put_u8(match outcome {
        DispatchOutcome::Hit => 0,
        DispatchOutcome::Refused => 1,
        DispatchOutcome::Aborted => 2,
        DispatchOutcome::Miss(reason) => 3 + reason as u8,
    });
}

pub(super) fn get_outcome(bytes: &mut &[u8]) -> Option<DispatchOutcome> {
    Some(match bytes.try_get_u8().ok()? {
        0 => DispatchOutcome::Hit,
        1 => DispatchOutcome::Refused,
        2 => DispatchOutcome::Aborted,
        miss => DispatchOutcome::Miss(*MissReason::ALL.get(usize::from(miss - 3))?),
    })
}

pub(super) fn put_trace(trace: &TraceParent, out: &mut Vec<u8>) {
    out.put_slice(&trace.trace_id);
    out.put_slice(&trace.span_id);
    out.put_u8(trace.flags);
}

pub(super) fn get_trace(bytes: &mut &[u8]) -> Option<TraceParent> {
    let mut trace = TraceParent { trace_id: [0; 16], span_id: [0; 8], flags: 0 };
    bytes.try_copy_to_slice(&mut trace.trace_id).ok()?;
    bytes.try_copy_to_slice(&mut trace.span_id).ok()?;
    trace.flags = bytes.try_get_u8().ok()?;
    Some(trace)
}

pub(super) fn put_flag(flag: bool, out: &mut Vec<u8>) {
    out.put_u8(u8::from(flag));
}

pub(super) fn get_flag(bytes: &mut &[u8]) -> Option<bool> {
    bytes.try_get_u8().ok().map(|flag| flag == 1)
}
