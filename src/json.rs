//! Owns JSON that is written piece by piece, where each run passes: a serializer that knows its writer only as a trait took a fifth of a
//! run's instructions.

/// Appends a number.
pub fn append_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a string, quoted and escaped.
pub fn append_text(out: &mut Vec<u8>, text: &str) {
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok(), "memory takes every write");
}
