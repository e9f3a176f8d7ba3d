//! Owns what a stream of server-sent events writes: runs, comments, and goodbyes (docs/sse.md).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::goodbye::{Goodbye, retry_in_ms};
use super::offer_token::OfferToken;
use crate::json;
use crate::transport::delivery::Run;
use crate::transport::run_path::run_path;

/// A controller that finds no place comes back after about this time.
const LIMIT_RETRY_MS: u64 = 5000;
/// The head of an HTTP chunk, whose length is filled in later.
const CHUNK_HEAD: &[u8; 10] = b"00000000\r\n";

/// Appends what a client is sent at once, which shows it that the stream is open.
pub fn write_beginning(is_chunked: bool, out: &mut Vec<u8>) {
    write_chunk(is_chunked, out, |out| out.extend_from_slice(b"retry: 1000\n\n"));
}

/// Appends a run, with its payload.
pub(super) fn write_run(offer: u32, token: OfferToken, run: &Run, is_chunked: bool, out: &mut Vec<u8>) {
    write_chunk(is_chunked, out, |out| {
        out.extend_from_slice(b"event: run\nid: ");
        out.extend_from_slice(&run.id);
        out.extend_from_slice(b"\ndata: {\"run\":");
        json::append_text(out, &String::from_utf8_lossy(&run.id));
        out.extend_from_slice(b",\"offer\":");
        json::append_number(out, offer);
        for receipt in ["ack", "ready"] {
            let member = format!(",\"{receipt}\":\"{}\"", run_path(&run.id, receipt, token));
            out.extend_from_slice(member.as_bytes());
        }
        if let Some(reply) = &run.reply {
            out.extend_from_slice(b",\"reply\":");
            json::append_text(out, reply.path());
        }
        out.extend_from_slice(b",\"contentType\":");
        json::append_text(out, &String::from_utf8_lossy(&run.content_type));
        write_payload(&run.payload, out);
        out.extend_from_slice(b"}\n\n");
    });
}

/// Appends a comment, which keeps proxies and the client from taking the stream for dead.
pub(super) fn write_heartbeat(is_chunked: bool, out: &mut Vec<u8>) {
    write_chunk(is_chunked, out, |out| out.extend_from_slice(b":\n\n"));
}

/// Appends the end of the stream.
pub(super) fn write_goodbye(goodbye: Goodbye, is_chunked: bool, out: &mut Vec<u8>) {
    let retry = |ms: u64| format!("retry: {ms}\n\n");
    let last = match goodbye {
        Goodbye::Drained => retry(retry_in_ms()),
        Goodbye::Retired => "event: retired\ndata: {}\n\n".to_owned(),
        Goodbye::Replaced => "event: replaced\ndata: {}\n\n".to_owned(),
        Goodbye::Limit(limit) => {
            let ms = LIMIT_RETRY_MS / 2 + fastrand::u64(..LIMIT_RETRY_MS);
            format!(": {}\n{}", limit.limit(), retry(ms))
        }
        Goodbye::Violation(_)
        | Goodbye::Rejected(_)
        | Goodbye::TooManySlots
        | Goodbye::UnknownOffer
        | Goodbye::Closed(_) => String::new(),
    };
    if !last.is_empty() {
        write_chunk(is_chunked, out, |out| out.extend_from_slice(last.as_bytes()));
    }
    if is_chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

/// The payload as a JSON string; in base64 if it is not UTF-8, or if escaping would make it longer by more than a third.
fn write_payload(payload: &[u8], out: &mut Vec<u8>) {
    let before = out.len();
    if let Ok(text) = std::str::from_utf8(payload) {
        out.extend_from_slice(b",\"payload\":");
        let begin = out.len();
        json::append_text(out, text);
        if out.len() - begin <= 2 + payload.len() + payload.len() / 3 {
            return;
        }
        out.truncate(before);
    }
    out.extend_from_slice(b",\"encoding\":\"base64\",\"payload\":\"");
    let begin = out.len();
    out.resize(begin + payload.len().div_ceil(3) * 4, 0);
    let encoded = STANDARD.encode_slice(payload, &mut out[begin..]);
    debug_assert_eq!(encoded, Ok(out.len() - begin));
    out.push(b'"');
}

/// Appends what `write` appends, as one HTTP chunk if the response is chunked.
fn write_chunk(is_chunked: bool, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    if !is_chunked {
        return write(out);
    }
    let begin = out.len();
    out.extend_from_slice(CHUNK_HEAD);
    write(out);
    let length = format!("{:08x}", out.len() - begin - CHUNK_HEAD.len());
    out[begin..begin + length.len()].copy_from_slice(length.as_bytes());
    out.extend_from_slice(b"\r\n");
}
