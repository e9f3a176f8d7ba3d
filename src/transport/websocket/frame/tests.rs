//! Owns the tests of frames, most of them by the numbers that the Autobahn test suite gives its cases for servers.

use std::mem::size_of;

use super::*;

const TEXT: u8 = 0x81;
const PING: u8 = 0x89;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked frame of a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut frame = vec![first];
    match length {
        0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
        126..=65535 => {
            frame.push(0xfe);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        _ => {
            frame.push(0xff);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// What the bytes are, read in pieces of so many.
fn read(bytes: &[u8], piece: usize) -> (Vec<Incoming<'static>>, Option<Violation>, Decoder) {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(incoming)) => seen.push(owned(incoming)),
                Ok(None) => break,
                Err(violation) => return (seen, Some(violation), decoder),
            }
        }
    }
    (seen, None, decoder)
}

fn owned(incoming: Incoming<'_>) -> Incoming<'static> {
    match incoming {
        Incoming::Text(text) => Incoming::Text(text.into_owned().into()),
        Incoming::Ping(payload) => Incoming::Ping(payload.into_owned().into()),
        Incoming::Pong => Incoming::Pong,
        Incoming::Close(code) => Incoming::Close(code),
    }
}

#[test]
fn an_idle_decoder_is_small_and_owns_nothing() {
    assert!(size_of::<Decoder>() <= 8);
    let (seen, violation, decoder) = read(&[frame(TEXT, b"a"), frame(PING, b"b")].concat(), 1);
    assert_eq!((seen.len(), violation), (2, None));
    assert!(decoder.is_empty());
}
