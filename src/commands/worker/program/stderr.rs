//! Owns what a program writes to its standard error: it goes to the log, and the last lines are kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout, timeout_at};

use super::lines::{Line, LineSplitter};
use super::log_rate::LogRate;

/// Longer lines are cut, in bytes: the log buffers some thousand of them.
const MAX_LINE: usize = 1024;
/// How many bytes of the last lines are kept.
const MAX_TAIL: usize = 4096;
/// After the program's end, the time for what it wrote before to be read.
const REST_TIMEOUT: Duration = Duration::from_millis(200);

/// Reads standard error until its end, or until this is dropped.
#[derive(Debug)]
pub(super) struct StderrLog {
    tail: Arc<Mutex<Tail>>,
    reader: JoinSet<()>,
}

impl StderrLog {
    pub(super) fn start(stderr: ChildStderr, slot: usize) -> Self {
        let tail = Arc::<Mutex<Tail>>::default();
        let mut reader = JoinSet::new();
        reader.spawn(read(stderr, slot, tail.clone()));
        Self { tail, reader }
    }

    /// The last lines, once the program has ended.
    pub(super) async fn last_lines(&mut self) -> String {
        // A process that left the program's group may keep standard error open.
        let _ = timeout(REST_TIMEOUT, self.reader.join_next()).await;
        self.tail.lock().text()
    }
}

async fn read(mut stderr: ChildStderr, slot: usize, tail: Arc<Mutex<Tail>>) {
    let mut splitter = LineSplitter::new(MAX_LINE);
    let mut buffer = [0; 2048];
    let mut rate = LogRate::new(Instant::now());
    let keep = |line: &Line<'_>, rate: &mut LogRate| {
        let text = printable(line);
        if rate.is_logged() {
            tracing::info!(slot, "{text}");
        }
        tail.lock().push(text);
    };
    loop {
        let read = match rate.report_at() {
            Some(at) => timeout_at(at, stderr.read(&mut buffer)).await,
            None => Ok(stderr.read(&mut buffer).await),
        };
        tell_dropped(slot, rate.renew(Instant::now()));
        let mut bytes = match &read {
            Ok(Ok(count @ 1..)) => &buffer[..*count],
            Ok(_) => break,
            Err(_) => continue,
        };
        while !bytes.is_empty() {
            let (taken, is_whole) = splitter.push(bytes);
            bytes = &bytes[taken..];
            if is_whole {
                splitter.take(|line| keep(line, &mut rate));
            }
        }
        // A program that writes without a pause must not keep the other slots waiting.
        yield_now().await;
    }
    if splitter.has_rest() {
        splitter.take(|line| keep(line, &mut rate));
    }
    tell_dropped(slot, rate.dropped());
}

fn tell_dropped(slot: usize, count: u64) {
    if count > 0 {
        tracing::warn!(slot, "{count} lines were dropped: the program writes too many to standard error");
    }
}

/// Control characters could change the terminal on which the log is read.
fn printable(line: &Line<'_>) -> String {
    let text = String::from_utf8_lossy(line.bytes);
    let mut text: String = text
        .chars()
        .map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if line.is_cut {
        text.push('…');
    }
    text
}

/// The last lines, as far as they fit.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, line: String) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.bytes > MAX_TAIL {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.len() + 1;
        }
    }

    fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line, "\n"]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept_and_none_changes_a_terminal() {
        let mut tail = Tail::default();
        for number in 0..100_000 {
            tail.push(format!("line {number}"));
        }
        let text = tail.text();
        assert!(text.ends_with("line 99998\nline 99999\n") && text.len() <= MAX_TAIL, "{text}");
        let line = |bytes, is_cut| printable(&Line { bytes, is_cut });
        assert_eq!(line(b"\x1b[31mred\ttext\x07 \xff", false), "\u{fffd}[31mred\ttext\u{fffd} \u{fffd}");
        assert_eq!(line(b"long", true), "long…");
    }
}
