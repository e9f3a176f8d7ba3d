//! Owns the requests that a target makes of three bytes each: every kind, with lengths around the limits of the readers.

/// The limit for bodies here, in bytes.
pub const BODY_LIMIT: usize = 24 * 1024;
/// The pool whose polls are held.
pub const HELD: &str = "/v1/pools/held/b/1/1";
/// The payload for a poll.
pub const RUN: &[u8] = b"a run";

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Connect,
    HeadConnect,
    HeadPool,
    Options,
    Livez,
    NoRoute,
    WrongMethod,
    /// A GET with a body, which is not needed.
    ConnectWithBody,
    Post,
    PostToNoKey,
    PostOfNoMessage,
    /// It is answered, and closes the connection.
    PostEncoded,
    PostThatExpects,
    PostInWrongChunks,
    NoHost,
    /// A poll that gets a run before anything else is sent.
    ServedPoll,
    /// A poll that gets no run: bytes after it close the connection.
    Poll,
}

/// Chosen by the first byte. Requests that keep the connection open are more frequent.
const KINDS: [Kind; 32] = {
    use Kind::*;
    [
        Connect,
        Post,
        Post,
        HeadConnect,
        Post,
        Options,
        Livez,
        NoRoute,
        Connect,
        Post,
        PostToNoKey,
        PostOfNoMessage,
        Post,
        ServedPoll,
        HeadPool,
        WrongMethod,
        Connect,
        Post,
        ConnectWithBody,
        ServedPoll,
        PostOfNoMessage,
        Post,
        Connect,
        Post,
        HeadConnect,
        Post,
        NoRoute,
        Poll,
        PostEncoded,
        PostThatExpects,
        PostInWrongChunks,
        NoHost,
    ]
};

/// Chosen by the second byte's upper half; its lower half adds from -8 to 7.
const LENGTHS: [usize; 16] = [
    8, 60, 250, 1024, 2048, 4000, 4096, 8000, 8192, 12_288, 16_384, 16_400, 20_480, BODY_LIMIT, 30_000,
    40_000,
];

/// Chosen by the third byte: the length of a chunk.
const CHUNKS: [usize; 4] = [3000, 100, 16_384, 7];

/// One request.
#[derive(Debug)]
pub struct Request {
    pub kind: Kind,
    pub bytes: Vec<u8>,
}

impl Request {
    /// The third byte selects how it is written: in chunks (1), padded to its length by a field instead of a body (2), after
    /// an empty line (4), with which length of chunks (8, 16), as the last request (240 and more).
    pub fn new([kind, length, form]: [u8; 3]) -> Self {
        let kind = KINDS[usize::from(kind) % KINDS.len()];
        let length = (LENGTHS[usize::from(length >> 4)] + usize::from(length & 15)).saturating_sub(8);
        let is = |bit: u8| form & bit != 0;
        let (line, has_body) = kind.line();
        let mut head = format!("{}{line} HTTP/1.1\r\n", if is(4) { "\r\n" } else { "" });
        if kind != Kind::NoHost {
            head += "host: b\r\n";
        }
        head += match kind {
            Kind::PostEncoded => "content-encoding: gzip\r\n",
            Kind::PostThatExpects => "expect: 100-continue\r\n",
            _ => "",
        };
        if form >= 240 {
            head += "connection: close\r\n";
        }
        let pads = is(2) || !has_body;
        let mut body = vec![b'x'; if pads { usize::from(has_body) } else { length }];
        if has_body {
            // A body that looks like a request is not one.
            let decoy = b"GET /nowhere HTTP/1.1\r\nhost: b\r\n\r\n";
            let end = decoy.len().min(body.len());
            body[..end].copy_from_slice(&decoy[..end]);
            let is_chunked = is(1) || kind == Kind::PostInWrongChunks;
            if is_chunked {
                head += "transfer-encoding: chunked\r\n";
                body = chunked(&body, CHUNKS[usize::from(form >> 3) % CHUNKS.len()], kind);
            } else {
                head += &format!("content-length: {}\r\n", body.len());
            }
        }
        let padding = length.saturating_sub(head.len() + "x-padding: \r\n\r\n".len() + body.len());
        // A head has a limit, too.
        if pads && (1..12_000).contains(&padding) {
            head += &format!("x-padding: {}\r\n", "y".repeat(padding));
        }
        head += "\r\n";
        Self { kind, bytes: [head.as_bytes(), &body].concat() }
    }

    /// Requests of three bytes each, at most as many as the first byte says; and the rest of the input.
    pub fn read_all(input: &[u8], most: usize) -> (Vec<[u8; 3]>, &[u8]) {
        let Some((&count, rest)) = input.split_first() else { return (Vec::new(), input) };
        let (triples, _) = rest.as_chunks::<3>();
        let triples = &triples[..triples.len().min(1 + usize::from(count) % most)];
        (triples.to_vec(), &rest[3 * triples.len()..])
    }
}

impl Kind {
    /// The method and target, and whether a body follows.
    fn line(self) -> (&'static str, bool) {
        match self {
            Self::Connect | Self::NoHost => ("GET /connect", false),
            Self::HeadConnect => ("HEAD /connect", false),
            Self::HeadPool => ("HEAD /v1/pools/a/b/1/1", false),
            Self::Options => ("OPTIONS /", false),
            Self::Livez => ("GET /livez", false),
            Self::NoRoute => ("GET /nowhere", false),
            Self::WrongMethod => ("DELETE /connect", false),
            Self::ConnectWithBody => ("GET /connect", true),
            Self::Post | Self::PostEncoded | Self::PostThatExpects | Self::PostInWrongChunks => {
                ("POST /v1/pools/a/b/1/1", true)
            }
            Self::PostToNoKey => ("POST /v1/pools/a/b/x/1", true),
            Self::PostOfNoMessage => ("POST /warm-start", true),
            Self::ServedPoll | Self::Poll => ("GET /v1/pools/held/b/1/1", false),
        }
    }

    pub fn is_head(self) -> bool {
        matches!(self, Self::HeadConnect | Self::HeadPool)
    }

    /// Whether the response may close the connection although it does not if the request comes alone: a body that is not
    /// needed is discarded if it came with its head, and is not waited for otherwise.
    pub fn may_close(self) -> bool {
        self == Self::PostToNoKey
    }
}

fn chunked(body: &[u8], length: usize, kind: Kind) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() * 2 + 16);
    for chunk in body.chunks(length) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(if kind == Kind::PostInWrongChunks { b"z\r\n\r\n" } else { b"0\r\n\r\n" });
    out
}
