//! Owns the tests of frames, most of them by the numbers of the server cases in the Autobahn test suite.
//!
//! Its cases of one number differ in how the bytes are cut: here, each is cut in several ways. Instead of an echo, the messages
//! that are read are compared. Cases with longer messages than a control message may be end with 1009, binary ones with 1003.

use super::*;

pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;
pub(super) const LAST: u8 = 0x80;
pub(super) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The head of a masked frame, with its length in the fewest bytes.
pub(super) fn masked_head(first: u8, length: usize) -> Vec<u8> {
    let mut head = Vec::new();
    write_head(OpCode::Data(Data::Text), length, &mut head);
    head[0] = first;
    head[1] |= 0x80;
    head.extend(MASK);
    head
}

/// A masked frame.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = masked_head(first, payload.len());
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// Whole messages and control frames.
pub(super) fn whole(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(LAST | opcode, payload)
}

/// A fragment that is not the last.
pub(super) fn part(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(opcode, payload)
}

/// What is read of the bytes, which come in pieces of so many, up to the first close: text, `ping`, `pong`, `close`, or
/// the code that a violation is closed with.
pub(super) fn read_in_pieces(bytes: &[u8], size: usize) -> String {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    for piece in bytes.chunks(size) {
        let mut piece = piece.to_vec();
        let mut input = Input::from(&mut piece[..]);
        loop {
            seen.push(match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Incoming::Text(text))) => format!("text {text}"),
                Ok(Some(Incoming::Ping(payload))) => format!("ping {}", String::from_utf8_lossy(&payload)),
                Ok(Some(Incoming::Pong)) => "pong".to_owned(),
                Ok(Some(Incoming::Close(code))) => {
                    seen.push(code.map_or("close".to_owned(), |code| format!("close {code}")));
                    return seen.join(", ");
                }
                Err(violation) => {
                    seen.push(violation.close_code().to_string());
                    return seen.join(", ");
                }
            });
        }
        assert!(input.is_empty(), "the whole input is consumed");
    }
    seen.join(", ")
}

/// The same, of frames whose bytes are cut in several ways, which must make no difference.
pub(super) fn read(frames: &[Vec<u8>]) -> String {
    let bytes = frames.concat();
    let seen = read_in_pieces(&bytes, bytes.len().max(1));
    for size in [1, 2, 3, 5, 8, 13, 14, 97] {
        assert_eq!(read_in_pieces(&bytes, size), seen, "in pieces of {size}");
    }
    seen
}

/// Frames and what is read of them, by case.
pub(super) type Cases<'a> = &'a [(&'a str, &'a [Vec<u8>], &'a str)];

pub(super) fn check(cases: Cases<'_>) {
    for (case, frames, expected) in cases {
        assert_eq!(read(frames), *expected, "case {case}");
    }
}

#[test]
fn cases_1_messages_of_every_length_that_fits() {
    for (case, length) in
        [("1.1.1", 0), ("1.1.2", 125), ("1.1.3", 126), ("1.1.4", 127), ("1.1.5", 128), ("-", 4096)]
    {
        let text = "*".repeat(length);
        check(&[(case, &[whole(TEXT, text.as_bytes())], &format!("text {text}"))]);
    }
    for (case, length) in [("1.1.6", 65535), ("1.1.7", 65536), ("-", 4097)] {
        check(&[(case, &[whole(TEXT, &vec![b'*'; length])], "1009")]);
    }
    for (case, length) in [("1.2.1", 0), ("1.2.2", 125), ("1.2.3", 126), ("1.2.6", 65535), ("1.2.7", 65536)] {
        check(&[(case, &[whole(BINARY, &vec![0xfe; length])], "1003")]);
    }
}

#[test]
fn cases_2_pings_and_pongs() {
    let (ping, longest) = (whole(PING, b"a"), "*".repeat(125));
    check(&[
        ("2.1", &[whole(PING, b"")], "ping "),
        ("2.2", &[whole(PING, b"Hello, world!")], "ping Hello, world!"),
        (
            "2.3",
            &[whole(PING, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")],
            "ping \0\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\0\u{fffd}",
        ),
        ("2.4, 2.6", &[whole(PING, longest.as_bytes())], &format!("ping {longest}")),
        ("2.5", &[whole(PING, &[0xfe; 126])], "1002"),
        ("2.7", &[whole(PONG, b"")], "pong"),
        ("2.8", &[whole(PONG, b"unsolicited pong payload")], "pong"),
        (
            "2.9",
            &[whole(PONG, b"unsolicited pong payload"), whole(PING, b"ping payload")],
            "pong, ping ping payload",
        ),
        ("2.10, 2.11", &vec![ping; 10], &["ping a"; 10].join(", ")),
        ("-", &[whole(PONG, &[0; 126])], "1002"),
    ]);
}

#[test]
fn cases_3_reserved_bits() {
    let hello = || whole(TEXT, b"Hello, world!");
    let reserved = |bits: u8, opcode| frame(LAST | bits << 4 | opcode, b"Hello, world!");
    check(&[
        ("3.1", &[reserved(1, TEXT)], "1002"),
        ("3.2", &[hello(), reserved(2, TEXT), whole(PING, b"")], "text Hello, world!, 1002"),
        ("3.3", &[hello(), reserved(3, TEXT), whole(PING, b"")], "text Hello, world!, 1002"),
        ("3.4", &[hello(), reserved(4, TEXT), whole(PING, b"")], "text Hello, world!, 1002"),
        ("3.5", &[reserved(5, BINARY)], "1002"),
        ("3.6", &[reserved(6, PING)], "1002"),
        ("3.7", &[reserved(7, CLOSE)], "1002"),
    ]);
}

#[test]
fn cases_4_reserved_opcodes() {
    let hello = || whole(TEXT, b"Hello, world!");
    for (number, opcode) in (3..8).enumerate() {
        let (case, empty) = (format!("4.1.{}", number + 1), number % 2 == 0);
        let payload: &[u8] = if empty { b"" } else { b"reserved opcode payload" };
        check(&[
            (&case, &[whole(opcode, payload)], "1002"),
            (&case, &[hello(), whole(opcode, payload), whole(PING, b"")], "text Hello, world!, 1002"),
            (&case, &[part(opcode, payload)], "1002"),
        ]);
    }
    for (number, opcode) in (11..16).enumerate() {
        let case = format!("4.2.{}", number + 1);
        check(&[
            (&case, &[whole(opcode, b"")], "1002"),
            (
                &case,
                &[hello(), whole(opcode, b"reserved opcode payload"), whole(PING, b"")],
                "text Hello, world!, 1002",
            ),
        ]);
    }
}

#[test]
fn cases_5_fragments() {
    let first = || part(TEXT, b"fragment1");
    let more = |text: &[u8]| part(CONTINUATION, text);
    let last = || whole(CONTINUATION, b"fragment2");
    let nothing_to_continue = || whole(CONTINUATION, b"non-continuation payload");
    let both = "text fragment1fragment2";
    check(&[
        ("5.1", &[part(PING, b"fragment1"), last()], "1002"),
        ("5.2", &[part(PONG, b"fragment1"), last()], "1002"),
        ("5.3, 5.4, 5.5", &[first(), last()], both),
        (
            "5.6, 5.7, 5.8",
            &[first(), whole(PING, b"ping payload"), last()],
            &format!("ping ping payload, {both}"),
        ),
        ("5.9, 5.10, 5.11", &[nothing_to_continue(), whole(TEXT, b"Hello, world!")], "1002"),
        ("5.12, 5.13, 5.14", &[more(b"non-continuation payload"), whole(TEXT, b"Hello, world!")], "1002"),
        ("5.15", &[first(), last(), more(b"fragment3"), whole(TEXT, b"fragment4")], &format!("{both}, 1002")),
        ("5.16", &[more(b"fragment1"), part(TEXT, b"fragment2"), whole(CONTINUATION, b"fragment3")], "1002"),
        ("5.17", &[nothing_to_continue(), first(), last()], "1002"),
        ("5.18", &[first(), whole(TEXT, b"fragment2")], "1002"),
        ("-", &[first(), part(TEXT, b"fragment2")], "1002"),
        ("-", &[first(), whole(BINARY, b"fragment2")], "1002"),
        ("-", &[part(BINARY, b"fragment1"), last()], "1003"),
        ("-", &[part(CLOSE, b"")], "1002"),
        (
            "5.19, 5.20",
            &[
                first(),
                more(b"fragment2"),
                whole(PING, b"pongme 1!"),
                more(b"fragment3"),
                more(b"fragment4"),
                whole(PING, b"pongme 2!"),
                whole(CONTINUATION, b"fragment5"),
            ],
            "ping pongme 1!, ping pongme 2!, text fragment1fragment2fragment3fragment4fragment5",
        ),
    ]);
}

/// Fragments of one byte.
fn bytewise(text: &[u8]) -> Vec<Vec<u8>> {
    let mut frames: Vec<_> = text.iter().map(|byte| part(CONTINUATION, &[*byte])).collect();
    frames[0][0] = TEXT;
    frames.push(whole(CONTINUATION, b""));
    frames
}

#[test]
fn cases_6_1_to_6_4_text_in_fragments() {
    let (sentence, kosme) = ("Hello-µ@ßöäüàá-UTF-8!!", "κόσμε");
    let invalid = [kosme.as_bytes(), b"\xed\xa0\x80edited"].concat();
    let too_high = |opcode: u8, more: &[u8]| part(opcode, &[kosme.as_bytes(), more].concat());
    check(&[
        ("6.1.1", &[whole(TEXT, b"")], "text "),
        ("6.1.2", &[part(TEXT, b""), part(CONTINUATION, b""), whole(CONTINUATION, b"")], "text "),
        (
            "6.1.3",
            &[part(TEXT, b""), part(CONTINUATION, b"middle frame payload"), whole(CONTINUATION, b"")],
            "text middle frame payload",
        ),
        ("6.2.1", &[whole(TEXT, sentence.as_bytes())], &format!("text {sentence}")),
        (
            "6.2.2",
            &[part(TEXT, &sentence.as_bytes()[..12]), whole(CONTINUATION, &sentence.as_bytes()[12..])],
            &format!("text {sentence}"),
        ),
        ("6.2.3", &bytewise(sentence.as_bytes()), &format!("text {sentence}")),
        ("6.2.4", &bytewise(kosme.as_bytes()), &format!("text {kosme}")),
        ("6.3.1", &[whole(TEXT, &invalid)], "1007"),
        // The rest does not come.
        ("6.3.2", &bytewise(&invalid)[..13], "1007"),
        ("6.4.1", &[too_high(TEXT, b""), part(CONTINUATION, b"\xf4\x90\x80\x80")], "1007"),
        ("6.4.2", &[too_high(TEXT, b"\xf4"), part(CONTINUATION, b"\x90")], "1007"),
        ("6.4.3, 6.4.4", &[whole(TEXT, &[kosme.as_bytes(), b"\xf4\x90\x80\x80edited"].concat())], "1007"),
    ]);
}

#[test]
fn cases_6_5_to_6_23_utf8() {
    let valid: &[(&str, &[&str])] = &[
        ("6.5", &["hello$world", "hello¢world", "hello€world", "hello\u{24b62}world", "κόσμε"]),
        ("6.7", &["\0", "\u{80}", "\u{800}", "\u{10000}"]),
        ("6.9", &["\u{7f}", "\u{7ff}", "\u{ffff}", "\u{10ffff}"]),
        ("6.11", &["\u{d7ff}", "\u{e000}", "\u{fffd}", "\u{10ffff}"]),
        ("6.22", &["\u{fffe}", "\u{ffff}", "\u{1fffe}", "\u{1ffff}", "\u{7ffff}", "\u{bfffe}", "\u{10fffe}"]),
        ("6.23", &["\u{fff9}", "\u{fffa}", "\u{fffb}", "\u{fffc}", "\u{fffd}"]),
    ];
    for (case, texts) in valid {
        for text in *texts {
            let expected = format!("text {text}");
            check(&[
                (case, &[whole(TEXT, text.as_bytes())], &expected),
                (case, &bytewise(text.as_bytes()), &expected),
            ]);
        }
    }
    let kosme = "κόσμε".as_bytes();
    for end in 1..kosme.len() {
        let expected = str::from_utf8(&kosme[..end]).map_or("1007".to_owned(), |text| format!("text {text}"));
        check(&[
            ("6.6", &[whole(TEXT, &kosme[..end])], &expected),
            ("6.6", &bytewise(&kosme[..end]), &expected),
        ]);
    }
    let invalid: &[(&str, &[&[u8]])] = &[
        ("6.8", &[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]),
        ("6.10", &[b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]),
        ("6.11", &[b"\xf4\x90\x80\x80"]),
        ("6.12", &[b"\x80", b"\xbf", b"\x80\xbf", b"\x80\xbf\x80", b"\x80\xbf\x80\xbf\x80\xbf"]),
        ("6.13", &[b"\xc0 \xc1 \xdf ", b"\xe0 \xef ", b"\xf0 \xf7 ", b"\xf8 \xfb ", b"\xfc \xfd "]),
        ("6.14", &[b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xfc\x80\x80\x80\x80"]),
        ("6.14", &[b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfb\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf"]),
        ("6.15", &[b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf"]),
        ("6.16", &[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]),
        ("6.17", &[b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf"]),
        ("6.18", &[b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf"]),
        ("6.19", &[b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x80\x80\x80\x80"]),
        ("6.20", &[b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xbf\xbf"]),
        ("6.21", &[b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xad\xbf\xed\xbf\xbf", b"\xed\xaf\xbf\xed\xb0\x80"]),
    ];
    for (case, texts) in invalid {
        for text in *texts {
            check(&[(case, &[whole(TEXT, text)], "1007"), (case, &bytewise(text), "1007")]);
        }
    }
}

#[test]
fn cases_7_closing() {
    let close = |code: u16, reason: &[u8]| whole(CLOSE, &[&code.to_be_bytes(), reason].concat());
    let hello = || whole(TEXT, b"Hello World!");
    check(&[
        ("7.1.1", &[hello(), close(1000, b"")], "text Hello World!, close 1000"),
        (
            "7.1.5",
            &[part(TEXT, b"fragment1"), close(1000, b""), whole(CONTINUATION, b"fragment2")],
            "close 1000",
        ),
        ("7.3.1", &[whole(CLOSE, b"")], "close"),
        ("7.3.2", &[whole(CLOSE, b"a")], "1002"),
        ("7.3.3", &[close(1000, b"")], "close 1000"),
        ("7.3.4", &[close(1000, b"Hello World!")], "close 1000"),
        ("7.3.5", &[close(1000, &[b'*'; 123])], "close 1000"),
        ("7.3.6", &[close(1000, &[b'*'; 124])], "1002"),
        ("7.5.1", &[close(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited")], "1007"),
    ]);
    for code in
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    {
        check(&[("7.7", &[close(code, b"")], &format!("close {code}"))]);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999] {
        check(&[("7.9", &[close(code, b"")], "1002")]);
    }
    check(&[("7.13.1", &[close(5000, b"")], "1002"), ("7.13.2", &[close(65535, b"")], "1002")]);
}
