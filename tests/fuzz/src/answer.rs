//! Owns responses as a client reads them from a connection.

use httparse::{EMPTY_HEADER, Response, Status};

/// One response without what differs each time: the date, and the random names of runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// In their order, without those that say whether the connection stays open.
    pub fields: Vec<(String, String)>,
    pub body: String,
}

/// Takes the first response, and returns whether it is the last of its connection. None if it is incomplete.
pub fn take(bytes: &mut &[u8], is_bare: bool) -> Option<(Answer, bool)> {
    loop {
        let mut fields = [EMPTY_HEADER; 32];
        let mut response = Response::new(&mut fields);
        let Status::Complete(head) = response.parse(bytes).expect("the broker writes responses") else {
            return None;
        };
        let status = response.code.unwrap_or_default();
        if status == 100 {
            *bytes = &bytes[head..];
            continue;
        }
        let text = |value: &[u8]| masked(&String::from_utf8_lossy(value));
        let (mut kept, mut closes, mut length) = (Vec::new(), false, 0);
        for field in response.headers {
            match field.name {
                "date" | "keep-alive" => continue,
                "connection" => {
                    closes = field.value == b"close";
                    continue;
                }
                "content-length" if !is_bare => {
                    length = text(field.value).parse().expect("a length is a number")
                }
                _ => {}
            }
            kept.push((field.name.to_owned(), text(field.value)));
        }
        let body = text(bytes.get(head..head + length)?);
        *bytes = &bytes[head + length..];
        return Some((Answer { status, fields: kept, body }, closes));
    }
}

/// The number of responses that begin here.
pub fn count(bytes: &[u8]) -> usize {
    let begins = |line: &[u8]| {
        line.starts_with(b"HTTP/1.1 ") && line[9].is_ascii_digit() && !line.starts_with(b"HTTP/1.1 100")
    };
    bytes.windows(12).filter(|line| begins(line)).count()
}

/// A run without a name is given a random one.
fn masked(text: &str) -> String {
    const NAME: &str = "run_";
    let mut parts = text.split(NAME);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += NAME;
        out += part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
    out
}
