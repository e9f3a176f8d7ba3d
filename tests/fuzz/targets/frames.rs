//! Owns the fuzzing of WebSocket frames: they are read alike wherever the bytes are cut, and as tungstenite's server reads them.

#![no_main]

use std::io::{self, Cursor, ErrorKind, Read, Write};

use libfuzzer_sys::fuzz_target;
use pilotlight::transport::fuzz::{Frame, read_frames};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

const MAX_MESSAGE: usize = 4096;
/// The number of cuts tried in a long input; in a short one, all are tried.
const CUTS: usize = 48;

fuzz_target!(|input: &[u8]| {
    let (whole, is_empty) = read_frames([input]);
    assert_eq!((&whole, is_empty), (&bytewise(input).0, bytewise(input).1), "byte by byte");
    let step = (input.len() / CUTS).max(1);
    for cut in (0..input.len()).step_by(step) {
        let (first, second) = input.split_at(cut);
        assert_eq!((&whole, is_empty), (&read_frames([first, second]).0, read_frames([first, second]).1));
        // What is read after an idle moment does not depend on what came before it.
        if let (mut early, true) = read_frames([first]) {
            early.extend(read_frames([second]).0);
            assert_eq!(early, whole, "idle after {cut} bytes");
        }
    }
    compare(input, &whole);
});

fn bytewise(input: &[u8]) -> (Vec<Frame>, bool) {
    read_frames(input.chunks(1))
}

/// Bytes that have come, after which none come for now.
struct Received<'a>(Cursor<&'a [u8]>);

impl Read for Received<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Received<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// tungstenite reads the same messages, and refuses what is refused, as far as it is as strict.
fn compare(input: &[u8], ours: &[Frame]) {
    let config = WebSocketConfig::default()
        .read_buffer_size(256)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let mut socket = WebSocket::from_raw_socket(Received(Cursor::new(input)), Role::Server, Some(config));
    for frame in ours {
        let theirs = socket.read();
        match (frame, &theirs) {
            (Frame::Text(ours), Ok(Message::Text(theirs))) => assert_eq!(ours.as_str(), theirs.as_str()),
            (Frame::Ping(ours), Ok(Message::Ping(theirs))) => assert_eq!(ours, theirs),
            (Frame::Pong, Ok(Message::Pong(_))) => {}
            (Frame::Close(ours), Ok(Message::Close(theirs))) => {
                let code = theirs.as_ref().map(|frame| u16::from(frame.code));
                // A code that was registered later: it is refused there.
                assert!(*ours == code || *ours == Some(1014), "{ours:?}, {theirs:?}");
                return;
            }
            (Frame::Violation(code, reason), theirs) => {
                check_violation(*code, reason, theirs);
                return;
            }
            _ => panic!("{frame:?}, but {theirs:?}"),
        }
    }
    let theirs = socket.read();
    assert!(is_incomplete(&theirs), "nothing more, but {theirs:?}");
}

fn is_incomplete(read: &Result<Message, Error>) -> bool {
    matches!(read, Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock)
}

/// It refuses the same, or still waits for the rest of a frame whose head we refuse.
fn check_violation(code: u16, reason: &str, theirs: &Result<Message, Error>) {
    let is_stricter = match code {
        1002 => reason.contains("fewest bytes"),
        1003 => true,
        _ => false,
    };
    let is_alike = match theirs {
        Err(Error::Protocol(_)) => code == 1002,
        // The limit of one is checked before the order of fragments, that of the other after it.
        Err(Error::Capacity(_)) => matches!(code, 1002 | 1009),
        // The reason of a close is checked there before the code.
        Err(Error::Utf8(_)) => code == 1007 || reason.contains("close frame"),
        Ok(Message::Close(Some(frame))) => code == 1002 && u16::from(frame.code) == 1002,
        theirs => is_incomplete(theirs),
    };
    assert!(is_stricter || is_alike, "{code} {reason}, but {theirs:?}");
}
