//! Owns the key of the WebSocket handshake.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// What RFC 6455, section 1.3, appends to each key.
const SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_LENGTH: usize = 16;

/// The value of `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`. `None` unless the key is 16 bytes in base64.
pub fn accept_key(key: &[u8]) -> Option<[u8; 28]> {
    // The decoder asks for the space that it estimates, which is more than the key needs.
    let mut decoded = [0; KEY_LENGTH + 2];
    if STANDARD.decode_slice(key, &mut decoded) != Ok(KEY_LENGTH) {
        return None;
    }
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(SUFFIX);
    let mut accept = [0; 28];
    STANDARD
        .encode_slice(digest.finish(), &mut accept)
        .is_ok_and(|length| length == accept.len())
        .then_some(accept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_is_accepted_as_the_rfc_says() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), Some(*b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn only_16_bytes_in_base64_are_a_key() {
        for key in [
            "",
            "=",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZR==",
            "dGhlIHNhbXBsZSBub25jZQ== ",
            " dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25j",
            "dGhlIHNhbXBsZSBub25jZSE=",
            "dGhlIHNhbXBsZSBub25jZSEh",
            "dGhlIHNhbXBsZSBub25jZSEhdGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25_ZQ==",
        ] {
            assert_eq!(accept_key(key.as_bytes()), None, "{key}");
        }
    }
}
