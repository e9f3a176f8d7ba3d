//! Owns the tests of the frames' own rules: limits, memory, and what a server writes.

use std::fmt::Write;

use super::autobahn_tests::*;
use super::*;

#[test]
fn unmasked_frames_are_refused() {
    for frame in [&[0x81, 0][..], &[0x81, 1, b'a'], &[0x89, 0], &[0x88, 2, 3, 232]] {
        assert_eq!(read(&[frame.to_vec()]), "1002", "{frame:?}");
    }
}

#[test]
fn lengths_are_encoded_in_the_fewest_bytes() {
    let longer = |length: &[u8]| [&[0x81], length, &MASK, &[b'*' ^ MASK[0]]].concat();
    assert_eq!(read(&[longer(&[0x81])]), "text *");
    for length in [
        &[0xfe, 0, 1][..],
        &[0xff, 0, 0, 0, 0, 0, 0, 0, 1],
        &[0xfe, 0, 125],
        &[0xff, 0, 0, 0, 0, 0, 0, 255, 255],
    ] {
        assert_eq!(read(&[longer(length)]), "1002", "{length:?}");
    }
}

#[test]
fn a_long_message_is_refused_at_the_head_that_announces_it() {
    let part_of = |length| part(TEXT, &vec![b'*'; length]);
    let head = |opcode, length| masked_head(LAST | opcode, length);
    let endless = [&[0x81, 0xff][..], &[0xff; 8], &MASK].concat();
    check(&[
        ("one frame", &[head(TEXT, 4097)], "1009"),
        ("the longest length", &[endless], "1009"),
        ("two fragments", &[part_of(4096), head(CONTINUATION, 1)], "1009"),
        ("many", &[part_of(4000), part(CONTINUATION, &[b'*'; 96]), head(CONTINUATION, 1)], "1009"),
        ("none too many", &[part_of(4096), head(CONTINUATION, 0)], &format!("text {}", "*".repeat(4096))),
        (
            "a ping in between does not count",
            &[part_of(4096), whole(PING, b"abc"), head(CONTINUATION, 0)],
            &format!("ping abc, text {}", "*".repeat(4096)),
        ),
        (
            "nor does the message before",
            &[whole(TEXT, &[b'*'; 4096]), head(TEXT, 0)],
            &format!("text {}, text ", "*".repeat(4096)),
        ),
    ]);
}

#[test]
fn only_an_incomplete_frame_or_message_takes_memory() {
    let mut decoder = Decoder::default();
    let mut feed = |mut bytes: Vec<u8>| {
        let mut input = Input::from(&mut bytes[..]);
        let mut seen = 0;
        while decoder.next(&mut input).unwrap().is_some() {
            seen += 1;
        }
        (seen, decoder.is_empty())
    };
    assert!(size_of::<Decoder>() <= 8);
    let (message, ping) = (whole(TEXT, b"message"), whole(PING, b"ping"));
    assert_eq!(feed(Vec::new()), (0, true));
    assert_eq!(feed([message.clone(), ping.clone()].concat()), (2, true));
    for cut in 1..message.len() {
        assert_eq!(feed(message[..cut].to_vec()), (0, false));
        assert_eq!(feed(message[cut..].to_vec()), (1, true), "cut after {cut}");
    }
    assert_eq!(feed(part(TEXT, b"")), (0, false), "an empty fragment begins a message");
    assert_eq!(feed(ping[..3].to_vec()), (0, false));
    assert_eq!(feed(ping[3..].to_vec()), (1, false), "the message goes on");
    assert_eq!(feed(whole(CONTINUATION, b"")), (1, true));
}

#[test]
fn what_has_come_whole_is_not_copied() {
    let mut bytes = [whole(TEXT, b"message"), whole(PING, b"ping")].concat();
    let mut input = Input::from(&mut bytes[..]);
    let mut decoder = Decoder::default();
    let message = decoder.next(&mut input);
    assert!(matches!(message, Ok(Some(Incoming::Text(Cow::Borrowed("message"))))), "{message:?}");
    let ping = decoder.next(&mut input);
    assert!(matches!(ping, Ok(Some(Incoming::Ping(Cow::Borrowed(b"ping"))))), "{ping:?}");
}

#[test]
fn a_server_writes_unmasked_frames() {
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = b"before".to_vec();
        write(&mut out);
        out.split_off(6)
    };
    assert_eq!(written(&|out| write_text_head(5, out)), [0x81, 5]);
    assert_eq!(written(&|out| write_text_head(125, out)), [0x81, 125]);
    assert_eq!(written(&|out| write_binary_head(126, out)), [0x82, 126, 0, 126]);
    assert_eq!(written(&|out| write_binary_head(65535, out)), [0x82, 126, 255, 255]);
    assert_eq!(written(&|out| write_binary_head(65536, out)), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(written(&write_ping), [0x89, 0]);
    assert_eq!(written(&|out| write_pong(b"abc", out)), *b"\x8a\x03abc");
    assert_eq!(written(&|out| write_close(1000, "", out)), *b"\x88\x02\x03\xe8");
    assert_eq!(written(&|out| write_close(4410, "retired", out)), *b"\x88\x09\x11\x3aretired");
}

#[test]
fn the_reason_of_a_close_is_cut_between_characters() {
    let close = |reason: &str| {
        let mut out = Vec::new();
        write_close(1008, reason, &mut out);
        assert_eq!(usize::from(out[1]), out.len() - 2);
        String::from_utf8(out.split_off(4)).unwrap()
    };
    let full = "*".repeat(123);
    assert_eq!(close(&full), full);
    assert_eq!(close(&"*".repeat(124)), full);
    assert_eq!(close(&"€".repeat(41)), "€".repeat(41));
    assert_eq!(close(&format!("*{}", "€".repeat(41))), format!("*{}", "€".repeat(40)));
}

#[test]
fn each_violation_has_a_short_reason() {
    let mut seen = String::new();
    for violation in [
        Violation::Unmasked,
        Violation::Reserved,
        Violation::Length,
        Violation::Control,
        Violation::Sequence,
        Violation::Close,
        Violation::Binary,
        Violation::Utf8,
        Violation::TooLong,
    ] {
        let reason = violation.to_string();
        assert!(reason.len() <= MAX_CONTROL - CLOSE_CODE_LENGTH && !seen.contains(&reason), "{reason}");
        write!(seen, "{reason};").unwrap();
    }
}
