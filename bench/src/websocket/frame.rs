//! Owns the frames of a WebSocket as a client reads and writes them.

use std::ops::Range;

use anyhow::ensure;

pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Lengths that stand for a length of two bytes and of eight.
const TWO_BYTES: u8 = 126;
const EIGHT_BYTES: u8 = 127;

/// A whole frame at the beginning of some bytes.
pub(super) struct Frame {
    pub(super) opcode: u8,
    pub(super) payload: Range<usize>,
}

/// Finds the frame that the bytes begin with; `None` if it is not complete. A server neither masks nor fragments here, and has
/// agreed to no extension.
pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Option<Frame>> {
    let &[first, length, ..] = bytes else { return Ok(None) };
    ensure!(first & 0xf0 == FINAL && length & MASKED == 0, "an unusual frame: {first:02x} {length:02x}");
    let (start, length) = match length {
        TWO_BYTES => match bytes.get(2..4).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => (4, usize::from(u16::from_be_bytes(bytes))),
            None => return Ok(None),
        },
        EIGHT_BYTES => match bytes.get(2..10).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => (10, usize::try_from(u64::from_be_bytes(bytes))?),
            None => return Ok(None),
        },
        length => (2, usize::from(length)),
    };
    let payload = start..start + length;
    Ok((payload.end <= bytes.len()).then_some(Frame { opcode: first & 0x0f, payload }))
}

/// Appends a short masked frame.
pub(super) fn write(opcode: u8, payload: &[u8], to: &mut Vec<u8>) -> anyhow::Result<()> {
    let length = u8::try_from(payload.len())?;
    ensure!(length < EIGHT_BYTES, "a longer frame than a client sends here");
    match length {
        TWO_BYTES => to.extend([FINAL | opcode, MASKED | TWO_BYTES, 0, length]),
        length => to.extend([FINAL | opcode, MASKED | length]),
    }
    let mask = fastrand::u32(..).to_be_bytes();
    to.extend(mask);
    to.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_when_it_is_complete() {
        for (length, head) in [
            (5, vec![0x82, 5]),
            (300, vec![0x82, 126, 1, 44]),
            (70_000, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 17, 112]),
        ] {
            let bytes = [head.clone(), vec![7; length]].concat();
            for part in [0, 1, head.len() - 1, bytes.len() - 1] {
                assert!(parse(&bytes[..part]).unwrap().is_none(), "{part} of {}", bytes.len());
            }
            let frame = parse(&[&bytes[..], b"next"].concat()).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.payload), (BINARY, head.len()..bytes.len()));
        }
    }

    #[test]
    fn masked_fragmented_and_compressed_frames_are_errors() {
        for head in [[0x82, 0x85], [0x02, 5], [0xc2, 5]] {
            assert!(parse(&head).is_err(), "{head:02x?}");
        }
    }

    #[test]
    fn a_written_frame_is_masked() {
        let mut bytes = Vec::new();
        write(TEXT, b"hello", &mut bytes).unwrap();
        assert_eq!((bytes[0], bytes[1], bytes.len()), (0x81, 0x85, 11));
        let mask = &bytes[2..6];
        let payload: Vec<u8> =
            bytes[6..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(payload, b"hello");
        assert!(write(TEXT, &[0; 127], &mut bytes).is_err());
    }
}
