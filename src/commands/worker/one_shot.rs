//! Owns a run by a program of its own: its bytes are the program's input, the program's output is the reply.

use std::convert::Infallible;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::pending;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;

use super::limit::within;
use super::program::{Output, Program};
use super::run_end::RunEnd;
use super::wire::{Gone, Reply};

/// The largest output that is held back until the program ends, in bytes.
const MAX_BUFFERED: usize = 64 << 20;

/// Runs a run. The program has ended afterwards.
pub(super) async fn execute(
    program: &mut Program,
    payload: Bytes,
    reply: &mut Reply,
    is_buffered: bool,
    limit: Option<Duration>,
) -> RunEnd {
    let stdin = program.take_stdin();
    let end = tokio::select! {
        biased;
        end = within(limit, relay(program, reply, is_buffered)) => end,
        never = feed(stdin, payload) => match never {},
    };
    let end = end.unwrap_or_else(RunEnd::timed_out);
    if !matches!(end, RunEnd::Done) {
        program.kill().await;
    }
    end
}

/// Writes the run to the program, and closes its input. Whether the program reads it all is its own affair.
async fn feed(stdin: Option<ChildStdin>, payload: Bytes) -> Infallible {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(&payload).await;
    }
    drop(payload);
    pending().await
}

/// Sends the program's output on until the program ends.
async fn relay(program: &mut Program, reply: &mut Reply, is_buffered: bool) -> RunEnd {
    let mut buffer = BytesMut::new();
    loop {
        let output = tokio::select! {
            biased;
            gone = reply.gone() => match gone {
                Gone::Caller => return RunEnd::Cancelled,
                Gone::Broker => continue,
            },
            output = program.output(&mut buffer) => output,
        };
        let end = match output {
            Output::Bytes if is_buffered && buffer.len() > MAX_BUFFERED => {
                return RunEnd::Failed("the output is too large to be held back (--buffer)".to_owned());
            }
            Output::Bytes if is_buffered => continue,
            Output::Bytes => None,
            Output::Ended(status) => Some(RunEnd::of(status)),
        };
        let is_failure = matches!(end, Some(RunEnd::Failed(_)));
        if !buffer.is_empty()
            && !is_failure
            && reply.write(buffer.split().freeze()).await == Err(Gone::Caller)
        {
            return RunEnd::Cancelled;
        }
        if let Some(end) = end {
            return end;
        }
    }
}
