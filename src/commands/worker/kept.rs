//! Owns runs by a program that serves many of them, as lines of JSON (docs/worker.md).

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;

use super::limit::within;
use super::program::{Line, LineSplitter, Piece, Program, Unasked};
use super::run_end::{RunEnd, describe_closed};
use super::wire::{Gone, Reply};

/// The longest line that a program may write, in bytes.
const MAX_LINE: usize = 4 << 20;

/// The largest reply that is held back until its end, in bytes.
const MAX_BUFFERED: usize = 64 << 20;

/// One run, as a line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunLine<'a> {
    run: &'a str,
    content_type: &'a str,
    /// Whether somebody waits for the reply.
    reply: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    payload: &'a str,
}

/// What a program answers, as a line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyLine {
    /// The next piece of the reply.
    #[serde(default)]
    data: String,
    /// How `data` is written; text if there is none.
    encoding: Option<Encoding>,
    /// The run is done.
    #[serde(default)]
    end: bool,
    /// The run has failed, for this reason.
    error: Option<String>,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Base64,
}

/// The lines to and from a program.
pub(super) struct Conversation {
    /// None once it is closed.
    stdin: Option<ChildStdin>,
    splitter: LineSplitter,
    /// Read from the program, but not yet split into lines.
    unread: BytesMut,
}

/// How a run ended, and whether the program can serve the next one.
pub(super) struct Served {
    pub(super) end: RunEnd,
    pub(super) is_alive: bool,
}

impl Served {
    /// The program cannot go on.
    fn broken(reason: impl Into<String>) -> Self {
        Self { end: RunEnd::Failed(reason.into()), is_alive: false }
    }
}

impl Conversation {
    pub(super) fn new(program: &mut Program) -> Self {
        Self { stdin: program.take_stdin(), splitter: LineSplitter::new(MAX_LINE), unread: BytesMut::new() }
    }

    /// Waits until the program breaks the silence between two runs: a line that comes then would be taken for the reply to
    /// the next run, which is another caller's.
    pub(super) async fn silence_broken(&mut self, program: &mut Program) {
        if self.silence_broken_so_far(program).is_none() {
            program.piece(&mut self.unread).await;
        }
    }

    /// How it has broken the silence, as far as is known without waiting.
    pub(super) fn silence_broken_so_far(&self, program: &Program) -> Option<Unasked> {
        if self.unread.is_empty() && !self.splitter.has_rest() {
            program.unasked()
        } else {
            Some(Unasked::Wrote)
        }
    }

    /// Hands a run to the program, and sends its reply on. A program that cannot go on is killed.
    pub(super) async fn execute(
        &mut self,
        program: &mut Program,
        line: Vec<u8>,
        reply: &mut Reply,
        is_buffered: bool,
        limit: Option<Duration>,
    ) -> Served {
        let served = within(limit, self.converse(program, line, reply, is_buffered)).await;
        let served = served.unwrap_or_else(|limit| Served { end: RunEnd::timed_out(limit), is_alive: false });
        if !served.is_alive {
            program.kill().await;
        }
        served
    }

    async fn converse(
        &mut self,
        program: &mut Program,
        line: Vec<u8>,
        reply: &mut Reply,
        is_buffered: bool,
    ) -> Served {
        let Some(mut stdin) = self.stdin.take() else {
            return Served::broken("the program's input is closed");
        };
        let written = async {
            // A program that does not read the line ends, or is stopped by the limit.
            let _ = stdin.write_all(&line).await;
        };
        let (served, ()) = tokio::join!(self.relay(program, reply, is_buffered), written);
        self.stdin = Some(stdin);
        served
    }

    /// Sends the reply on until the program ends it.
    async fn relay(&mut self, program: &mut Program, reply: &mut Reply, is_buffered: bool) -> Served {
        let (mut held, mut is_cancelled) = (BytesMut::new(), false);
        loop {
            let line = tokio::select! {
                biased;
                // The program goes on, because it may have taken long to start; what it says is dropped.
                gone = reply.gone() => {
                    is_cancelled |= gone == Gone::Caller;
                    continue;
                }
                line = self.next_line(program) => line,
            };
            let ReplyLine { data, encoding, end, error } = match line {
                Ok(line) => line,
                Err(reason) => return Served::broken(reason),
            };
            if let Some(error) = error {
                return Served { end: RunEnd::Failed(error), is_alive: true };
            }
            match decode(data, encoding.as_ref()) {
                Some(piece) => held.extend_from_slice(&piece),
                None => return Served::broken("the program wrote data that is not base64"),
            }
            if held.len() > MAX_BUFFERED {
                return Served::broken("the reply is too large to be held back (--buffer)");
            }
            if (end || !is_buffered) && !held.is_empty() {
                is_cancelled |= reply.write(held.split().freeze()).await == Err(Gone::Caller);
            }
            if end {
                let end = if is_cancelled { RunEnd::Cancelled } else { RunEnd::Done };
                return Served { end, is_alive: true };
            }
        }
    }

    async fn next_line(&mut self, program: &mut Program) -> Result<ReplyLine, String> {
        loop {
            while !self.unread.is_empty() {
                let (taken, is_whole) = self.splitter.push(&self.unread);
                let _ = self.unread.split_to(taken);
                if is_whole {
                    return self.splitter.take(parse);
                }
            }
            if program.piece(&mut self.unread).await == Piece::Closed {
                return Err(describe_closed(program).await);
            }
        }
    }
}

/// A run as the line that the program gets.
pub(super) fn run_line(run: &str, content_type: &str, reply: bool, payload: &Bytes) -> Vec<u8> {
    let encoded;
    let (encoding, payload) = if let Ok(text) = std::str::from_utf8(payload) {
        (None, text)
    } else {
        encoded = BASE64_STANDARD.encode(payload);
        (Some("base64"), encoded.as_str())
    };
    let line = RunLine { run, content_type, reply, encoding, payload };
    // Text and numbers are always JSON.
    let mut line = serde_json::to_vec(&line).unwrap_or_default();
    line.push(b'\n');
    line
}

/// The error does not quote the line, which may be a payload.
fn parse(line: &Line<'_>) -> Result<ReplyLine, String> {
    if line.is_cut {
        return Err(format!("the program wrote a line of more than {} MiB", MAX_LINE >> 20));
    }
    serde_json::from_slice(line.bytes).map_err(|_| {
        "the program wrote a line that is not a JSON object of `data`, `end` or `error`".to_owned()
    })
}

fn decode(data: String, encoding: Option<&Encoding>) -> Option<Vec<u8>> {
    match encoding {
        None => Some(data.into_bytes()),
        Some(Encoding::Base64) => BASE64_STANDARD.decode(data).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<ReplyLine, String> {
        parse(&Line { bytes: line.as_bytes(), is_cut: false })
    }

    #[test]
    fn a_run_is_one_line_of_json_whatever_its_bytes_are() {
        let line = run_line("job-7", "text/plain", true, &Bytes::from_static(b"one\n\"two\""));
        let expected = r#"{"run":"job-7","contentType":"text/plain","reply":true,"payload":"one\n\"two\""}"#;
        assert_eq!(line, format!("{expected}\n").into_bytes());
        let line = String::from_utf8(run_line("r", "t", false, &Bytes::from_static(&[0xff, b'\n']))).unwrap();
        assert!(
            line.contains(r#""encoding":"base64","payload":"/wo=""#) && line.matches('\n').count() == 1,
            "{line}"
        );
    }

    #[test]
    fn a_line_that_is_no_reply_is_refused_without_quoting_it() {
        let ReplyLine { data, end, .. } = parsed(r#"{"data":"x","end":true}"#).unwrap();
        assert_eq!((data.as_str(), end), ("x", true));
        assert!(parsed(r#"{"error":"no such model"}"#).unwrap().error.is_some());
        for line in [
            "",
            "s3cret",
            "[]",
            r#"{"dta":"s3cret"}"#,
            r#"{"data":1}"#,
            r#"{"encoding":"hex","data":"s3cret"}"#,
        ] {
            let error = parsed(line).err().unwrap();
            assert!(!error.contains("s3cret"), "{error}");
        }
        assert_eq!(decode("/wo=".to_owned(), Some(&Encoding::Base64)), Some(vec![0xff, b'\n']));
        assert_eq!(decode("/wo".to_owned(), Some(&Encoding::Base64)), None);
    }
}
