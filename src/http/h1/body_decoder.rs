//! Owns where a request's body ends: its bytes are taken out of their framing as they come, in parts of any size.
//!
//! It is as strict as hyper's reader, and stricter in one place: a line of a trailer ends with CR LF, never with LF alone.

use std::ops::Range;

use thiserror::Error;

use super::head::MAX_FIELDS;

/// The most bytes of chunk extensions in one body, and of its trailers.
const MAX_EXTENSION_BYTES: u16 = 16 * 1024;
const MAX_TRAILER_BYTES: usize = 16 * 1024;

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum BodyFraming {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
}

/// A body that ended before its end, or is framed wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the body ended before its end, or is framed wrongly")]
pub(in crate::http) struct BadBody;

/// The reader's place in a body.
#[derive(Debug)]
pub(in crate::http) struct BodyDecoder {
    state: State,
    /// Bytes of the body, or of the chunk, that have not come; while a chunk's size is read, as much of it as has come.
    left: u64,
    extension_bytes: u16,
    trailer_lines: u16,
    /// The lines behind the last chunk, with the empty one, if there are any.
    trailers: Vec<u8>,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes of a body that is framed by its length.
    Body,
    SizeStart,
    Size,
    /// Blanks after the size.
    SizeSpace,
    Extension,
    SizeLf,
    Chunk,
    ChunkCr,
    ChunkLf,
    /// A trailer, or the empty line behind all of them.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
    Broken,
}

/// What some bytes have come to.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) struct Decoded {
    /// Where the bytes of the body are now, together.
    pub(in crate::http) body: Range<usize>,
    /// How many bytes belong to the body and its framing. All of them unless the body has ended.
    pub(in crate::http) used: usize,
}

impl BodyDecoder {
    pub(in crate::http) fn new(framing: BodyFraming) -> Self {
        let (state, left) = match framing {
            BodyFraming::Length(0) => (State::End, 0),
            BodyFraming::Length(length) => (State::Body, length),
            BodyFraming::Chunked => (State::SizeStart, 0),
        };
        Self { state, left, extension_bytes: 0, trailer_lines: 0, trailers: Vec::new() }
    }

    /// Whether the body is complete.
    pub(in crate::http) fn has_ended(&self) -> bool {
        self.state == State::End
    }

    /// Whether nothing that comes can complete the body.
    pub(in crate::http) fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// The fields behind a chunked body that has ended.
    pub(in crate::http) fn trailers(&self) -> Trailers<'_> {
        Trailers(if self.has_ended() { &self.trailers } else { b"" })
    }

    /// Takes the next bytes of a body that has not ended. What is between two chunks is overwritten with the second one. Where they
    /// are framed wrongly, an error follows what came before.
    pub(in crate::http) fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, BadBody> {
        let (mut body, mut at) = (0..0, 0);
        while at < bytes.len() && self.state != State::End {
            if let State::Body | State::Chunk = self.state {
                let most = usize::try_from(self.left).unwrap_or(usize::MAX);
                let data = at..at + most.min(bytes.len() - at);
                at = data.end;
                self.count(data.len() as u64);
                if body.is_empty() {
                    body = data;
                } else {
                    bytes.copy_within(data.clone(), body.end);
                    body.end += data.len();
                }
                continue;
            }
            let Ok(state) = self.step(bytes[at]) else {
                self.state = State::Broken;
                return if body.is_empty() { Err(BadBody) } else { Ok(Decoded { body, used: bytes.len() }) };
            };
            self.state = state;
            at += 1;
        }
        Ok(Decoded { body, used: at })
    }

    /// So many bytes of the body, or of the chunk, have come.
    fn count(&mut self, bytes: u64) {
        self.left -= bytes;
        if self.left == 0 {
            self.state = if self.state == State::Body { State::End } else { State::ChunkCr };
        }
    }

    /// The state after a byte that is none of the body's own.
    fn step(&mut self, byte: u8) -> Result<State, BadBody> {
        match (self.state, byte) {
            (State::SizeStart | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(BadBody)?;
                let larger = self.left.checked_mul(16).ok_or(BadBody)?;
                self.left = larger + u64::from(digit);
                Ok(State::Size)
            }
            (State::Size | State::SizeSpace, b' ' | b'\t') => Ok(State::SizeSpace),
            (State::Size | State::SizeSpace, b';') => Ok(State::Extension),
            (State::Size | State::SizeSpace | State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, other) if other != b'\n' => {
                self.extension_bytes += 1;
                if self.extension_bytes < MAX_EXTENSION_BYTES { Ok(State::Extension) } else { Err(BadBody) }
            }
            (State::SizeLf, b'\n') => Ok(if self.left == 0 { State::TrailerStart } else { State::Chunk }),
            (State::ChunkCr, b'\r') => Ok(State::ChunkLf),
            (State::ChunkLf, b'\n') => Ok(State::SizeStart),
            (State::TrailerStart | State::Trailer | State::TrailerLf | State::EndLf, _) => {
                self.step_trailer(byte)
            }
            _ => Err(BadBody),
        }
    }

    /// The same behind the last chunk.
    fn step_trailer(&mut self, byte: u8) -> Result<State, BadBody> {
        let is_line = !(self.trailers.is_empty() && matches!(byte, b'\r' | b'\n'));
        if is_line {
            if self.trailers.len() + 1 >= MAX_TRAILER_BYTES {
                return Err(BadBody);
            }
            self.trailers.push(byte);
        }
        match (self.state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::TrailerStart | State::Trailer, other) if other != b'\n' => Ok(State::Trailer),
            (State::TrailerLf, b'\n') => {
                self.trailer_lines += 1;
                if usize::from(self.trailer_lines) <= MAX_FIELDS {
                    Ok(State::TrailerStart)
                } else {
                    Err(BadBody)
                }
            }
            (State::EndLf, b'\n') => Trailers(&self.trailers).check().map(|()| State::End),
            _ => Err(BadBody),
        }
    }
}

/// The fields behind a chunked body.
#[derive(Clone, Copy)]
pub(in crate::http) struct Trailers<'a>(&'a [u8]);

impl<'a> Trailers<'a> {
    /// The value of a field, the first one if it occurs more often. The name is compared in any case.
    pub(in crate::http) fn first(self, name: &str) -> Option<&'a [u8]> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let httparse::Status::Complete((_, fields)) = httparse::parse_headers(self.0, &mut fields).ok()?
        else {
            return None;
        };
        fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// All of them, as they came.
    #[cfg(fuzzing)]
    pub(in crate::http) fn bytes(self) -> &'a [u8] {
        self.0
    }

    fn check(self) -> Result<(), BadBody> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        match httparse::parse_headers(self.0, &mut fields) {
            Ok(httparse::Status::Complete((length, _))) if length == self.0.len() => Ok(()),
            Ok(_) | Err(_) => Err(BadBody),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body, the bytes behind it, and the decoder.
    type Whole = (Vec<u8>, Vec<u8>, BodyDecoder);

    /// The body and the bytes behind it, of bytes that come in parts of these sizes. None if it is refused; an error if it is cut off.
    fn decode(
        framing: BodyFraming,
        bytes: &[u8],
        mut part: impl FnMut() -> usize,
    ) -> Result<Option<Whole>, BadBody> {
        let mut decoder = BodyDecoder::new(framing);
        let (mut body, mut rest) = (Vec::new(), bytes);
        while !decoder.has_ended() {
            if decoder.is_broken() {
                return Ok(None);
            }
            if rest.is_empty() {
                return Err(BadBody);
            }
            let mut taken = rest[..part().clamp(1, rest.len())].to_vec();
            let Ok(decoded) = decoder.decode(&mut taken) else { return Ok(None) };
            assert!(decoded.used == taken.len() || decoder.has_ended() && decoded.used < taken.len());
            body.extend_from_slice(&taken[decoded.body]);
            rest = &rest[decoded.used..];
        }
        Ok(Some((body, rest.to_vec(), decoder)))
    }

    /// The same however the bytes are cut.
    fn chunked(bytes: impl AsRef<[u8]>) -> Option<(String, String)> {
        let bytes = bytes.as_ref();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let whole = decode(BodyFraming::Chunked, bytes, || usize::MAX);
        let whole = whole.expect("it is not cut off").map(|(body, rest, _)| (text(body), text(rest)));
        for size in [1, 2, 3, 7] {
            let parts = decode(BodyFraming::Chunked, bytes, || size).expect("it is not cut off");
            assert_eq!(parts.map(|(body, rest, _)| (text(body), text(rest))), whole, "{size}");
        }
        whole
    }

    #[test]
    fn a_body_with_a_length_ends_after_it() {
        for size in [1, 3, usize::MAX] {
            let (body, rest, _) =
                decode(BodyFraming::Length(5), b"hello, next", || size).unwrap().expect("a body");
            assert_eq!((&*body, &*rest), (&b"hello"[..], &b", next"[..]));
            assert_eq!(decode(BodyFraming::Length(12), b"hello, next", || size).err(), Some(BadBody));
        }
        assert!(BodyDecoder::new(BodyFraming::Length(0)).has_ended());
    }

    #[test]
    fn chunks_are_joined_whatever_their_size_lines_say_besides() {
        for (bytes, body, rest) in [
            ("0\r\n\r\n", "", ""),
            ("5\r\nhello\r\n0\r\n\r\nGET /", "hello", "GET /"),
            ("3\r\nhel\r\n2\r\nlo\r\n000\r\n\r\n\r\n", "hello", "\r\n"),
            ("00000000000000000000A\r\n0123456789\r\n0\r\n\r\n", "0123456789", ""),
            ("a \t\r\n0123456789\r\n0;x=\"\t\0\"\r\n\r\n", "0123456789", ""),
            ("1;a\r\n\r\r\n1 ; b\r\n\n\r\n0;\r\n\r\n", "\r\n", ""),
            ("1\r\nx\r\n0\r\na: b\r\nC:d \r\n\r\n0", "x", "0"),
        ] {
            assert_eq!(chunked(bytes), Some((body.to_owned(), rest.to_owned())), "{bytes:?}");
        }
    }

    #[test]
    fn chunks_that_are_framed_wrongly_are_refused() {
        for bytes in [
            "\r\n",
            ";\r\n",
            " 1\r\n",
            "x",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            "1 1\r\n",
            "1\tx",
            "1\n",
            "1\rx",
            "1;a\nb",
            "1\r\nxx",
            "1\r\nx\rx",
            "1\r\nx\n",
            "1\r\nx0",
            "0\r\n\n",
            "0\r\n\rx",
            "0\r\nx\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            "0\r\na: b\n\r\n",
            "0\r\na: b\nc: d\r\n\r\n",
            "0\r\na: b\rc",
            "0\r\na: b\r\n c\r\n\r\n",
            "0\r\na: \x01\r\n\r\n",
            "0\r\na b: c\r\n\r\n",
            "10000000000000000\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
        ] {
            assert_eq!(chunked(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_beside_the_body_has_bounds() {
        let extended = |bytes: usize| {
            let of = |bytes| format!("1;{}\r\nx\r\n", "e".repeat(bytes));
            chunked(of(bytes / 2) + &of(bytes - bytes / 2) + "0\r\n\r\n")
        };
        assert_eq!(extended(16 * 1024 - 1), Some(("xx".to_owned(), String::new())));
        assert_eq!(extended(16 * 1024), None, "in all of its chunks together");
        let trailed = |lines: usize, value: usize| {
            chunked("0\r\n".to_owned() + &format!("a: {}\r\n", "x".repeat(value)).repeat(lines) + "\r\n")
        };
        assert!(trailed(100, 1).is_some());
        assert_eq!(trailed(101, 1), None);
        assert!(trailed(1, 16 * 1024 - 8).is_some());
        assert_eq!(trailed(1, 16 * 1024 - 7), None);
    }

    #[test]
    fn what_comes_before_a_wrong_byte_is_still_read() {
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
        let mut bytes = *b"3\r\nabc\r\n1\r\ndxx";
        let decoded = decoder.decode(&mut bytes).unwrap();
        assert_eq!((&bytes[decoded.body], decoder.is_broken()), (&b"abcd"[..], true));
        assert_eq!(decoder.decode(&mut b"\r\n0\r\n\r\n".to_vec()), Err(BadBody), "from then on");
    }

    #[test]
    fn a_trailer_is_found_in_any_case_and_the_first_of_several() {
        let bytes = b"0\r\nError-Type: Unhandled \r\nb: 1\r\nB: 2\r\n\r\n";
        for size in [1, 5, usize::MAX] {
            let (_, _, decoder) = decode(BodyFraming::Chunked, bytes, || size).unwrap().expect("a body");
            let trailers = decoder.trailers();
            assert_eq!(trailers.first("error-type"), Some(&b"Unhandled"[..]));
            assert_eq!((trailers.first("b"), trailers.first("c")), (Some(&b"1"[..]), None));
        }
        let (_, _, decoder) = decode(BodyFraming::Chunked, b"0\r\n\r\n", || 9).unwrap().expect("a body");
        assert_eq!(decoder.trailers().first("b"), None);
    }

    #[test]
    fn any_cut_gives_the_same_body() {
        let mut random = fastrand::Rng::with_seed(18);
        for _ in 0..2_000 {
            let body: Vec<u8> = (0..random.usize(..200)).map(|_| random.u8(..)).collect();
            let (mut sent, mut rest) = (Vec::new(), &body[..]);
            while !rest.is_empty() {
                let (chunk, behind) = rest.split_at(random.usize(1..=rest.len()));
                sent.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                sent.extend_from_slice(chunk);
                sent.extend_from_slice(b"\r\n");
                rest = behind;
            }
            sent.extend_from_slice(b"0\r\n\r\nnext");
            let (found, behind, _) =
                decode(BodyFraming::Chunked, &sent, || random.usize(1..60)).unwrap().expect("a body");
            assert_eq!((found, &*behind), (body, &b"next"[..]));
            let cut = random.usize(..sent.len() - b"next".len());
            assert_eq!(
                decode(BodyFraming::Chunked, &sent[..cut], || random.usize(1..60)).err(),
                Some(BadBody)
            );
        }
    }
}
