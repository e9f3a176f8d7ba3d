//! Owns what is read of JSON text byte by byte: where a text or a number ends, and how deep it nests.

/// Whether objects and arrays nest deeper than `max_depth`. The parser itself skips unknown values of any depth.
pub(super) fn depth_exceeds(text: &str, max_depth: usize) -> bool {
    let bytes = text.as_bytes();
    // Each level needs an opening bracket, so this count alone is enough for nearly every body.
    if openings(bytes) <= max_depth {
        return false;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at += text_and_quote_bytes(&bytes[at..]),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > max_depth {
            return true;
        }
    }
    false
}

/// How long the rest of a text is, from behind its opening quote to behind its closing one.
fn text_and_quote_bytes(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += plain_text_bytes(bytes.get(at..).unwrap_or_default());
        match bytes.get(at) {
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            // A control character, which only the parser refuses.
            Some(_) => at += 1,
            None => return bytes.len(),
        }
    }
}

/// Counts opening brackets. Each chunk is short enough for a sum in one byte, so that the count is vectorized.
fn openings(bytes: &[u8]) -> usize {
    // In ASCII the two brackets differ only in this bit.
    let in_chunk = |chunk: &[u8]| chunk.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum::<u8>();
    bytes.chunks(255).map(|chunk| usize::from(in_chunk(chunk))).sum()
}

/// How many bytes at the beginning can be part of a number.
pub(super) fn number_bytes(bytes: &[u8]) -> usize {
    let is_of_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    bytes.iter().take_while(|byte| is_of_number(byte)).count()
}

/// How many bytes cannot be in a text without escapes: quotes, backslashes and control characters.
pub(super) fn special_bytes(bytes: &[u8]) -> usize {
    // Each chunk is short enough for a sum in one byte, and some vectors long.
    let in_chunk =
        |chunk: &[u8]| usize::from(chunk.iter().map(|byte| u8::from(is_special(*byte))).sum::<u8>());
    let (chunks, rest) = bytes.as_chunks::<128>();
    chunks.iter().map(|chunk| in_chunk(chunk)).sum::<usize>() + in_chunk(rest)
}

/// How many bytes at the beginning are neither a quote, nor a backslash, nor a control character.
pub(super) fn plain_text_bytes(bytes: &[u8]) -> usize {
    const EACH: u64 = u64::MAX / 255;
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*chunk);
        // A subtraction sets the high bit of each byte that is too small, from the lowest such byte upwards.
        let (quote, backslash) = (word ^ (EACH * u64::from(b'"')), word ^ (EACH * u64::from(b'\\')));
        let control = word.wrapping_sub(EACH * 0x20) & !word;
        let quote = quote.wrapping_sub(EACH) & !quote;
        let backslash = backslash.wrapping_sub(EACH) & !backslash;
        let special = (control | quote | backslash) & (EACH * 0x80);
        if special != 0 {
            return at + (special.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + bytes[at..].iter().take_while(|byte| !is_special(**byte)).count()
}

fn is_special(byte: u8) -> bool {
    matches!(byte, 0..0x20 | b'"' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_no_text_has_are_found_wherever_they_are() {
        for byte in 0..=255_u8 {
            let is_special = byte < 0x20 || byte == b'"' || byte == b'\\';
            for length in [1, 7, 8, 9, 31, 128, 129, 300] {
                for at in [0, length / 2, length - 1] {
                    // The neighbours differ by one bit from what is searched for.
                    let mut text = vec![b"\x20\x23\x5d\xa2\x80\xff"[at % 6]; length];
                    text[at] = byte;
                    assert_eq!(special_bytes(&text), usize::from(is_special), "{byte} at {at} of {length}");
                    assert_eq!(
                        plain_text_bytes(&text),
                        if is_special { at } else { length },
                        "{byte} at {at} of {length}"
                    );
                }
            }
        }
        assert_eq!(special_bytes(&[b'"'; 4000]), 4000);
    }
}
