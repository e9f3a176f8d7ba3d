//! Owns what a program writes for people, such as its standard error: it goes to the log, and the last lines are kept.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout, timeout_at};

use super::lines::{Line, LineSplitter};
use super::log_rate::LogRate;
use super::run_log::RunLog;
use super::tail::Tail;

/// Longer lines are cut, in bytes: the log buffers some thousand of them.
const MAX_LINE: usize = 1024;
/// After the program's end, the time for what it wrote before to be read.
const REST_TIMEOUT: Duration = Duration::from_millis(200);

/// Where a stream of lines comes from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) slot: usize,
    /// What it is called in the log.
    pub(super) name: &'static str,
    /// Which run its lines are about, if the program serves many.
    pub(super) runs: Option<RunLog>,
}

/// Reads a stream of lines until its end, or until this is dropped.
#[derive(Debug)]
pub(super) struct OutputLog {
    tail: Arc<Mutex<Tail>>,
    reader: JoinSet<()>,
}

impl OutputLog {
    pub(super) fn start(stream: impl AsyncRead + Send + Unpin + 'static, source: Source) -> Self {
        let tail = Arc::<Mutex<Tail>>::default();
        let mut reader = JoinSet::new();
        reader.spawn(read(stream, source, tail.clone()));
        Self { tail, reader }
    }

    /// The last lines, once the program has ended.
    pub(super) async fn last_lines(&mut self) -> String {
        // A process that left the program's group may keep the stream open.
        let _ = timeout(REST_TIMEOUT, self.reader.join_next()).await;
        self.tail.lock().text()
    }
}

async fn read(mut stream: impl AsyncRead + Unpin, source: Source, tail: Arc<Mutex<Tail>>) {
    let mut questions = source.runs.as_ref().map_or_else(|| mpsc::channel(1).1, RunLog::reader);
    let mut splitter = LineSplitter::new(MAX_LINE);
    let mut buffer = [0; 2048];
    let mut rate = LogRate::new(Instant::now());
    let keep = |line: &Line<'_>, rate: &mut LogRate| {
        let text = printable(line);
        source.log(&text, rate.is_logged());
        tail.lock().push(text);
    };
    loop {
        let report_at = rate.report_at();
        let read = async {
            match report_at {
                Some(at) => timeout_at(at, stream.read(&mut buffer)).await,
                None => Ok(stream.read(&mut buffer).await),
            }
        };
        let read = tokio::select! {
            biased;
            read = read => read,
            Some(question) = questions.recv() => {
                // A line that its run has not ended must not be begun by one run and ended by another.
                if splitter.has_rest() {
                    splitter.take(|line| keep(line, &mut rate));
                }
                let _ = question.send(());
                continue;
            }
        };
        source.tell_dropped(rate.renew(Instant::now()));
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
    source.tell_dropped(rate.dropped());
}

impl Source {
    fn log(&self, line: &str, is_logged: bool) {
        let run = self.runs.as_ref().and_then(|runs| runs.note(line));
        match run.as_deref() {
            _ if !is_logged => {}
            Some(run) => tracing::info!(slot = self.slot, run, "{line}"),
            None => tracing::info!(slot = self.slot, "{line}"),
        }
    }

    fn tell_dropped(&self, count: u64) {
        if count > 0 {
            let Self { slot, name, .. } = self;
            tracing::warn!(slot, "{count} lines were dropped: the program writes too many to {name}");
        }
    }
}

/// Control characters could change the terminal on which the log is read.
fn printable(line: &Line<'_>) -> String {
    let text = String::from_utf8_lossy(line.bytes);
    let mut text: String = text
        .chars()
        .map(|c| match c {
            // What Node's runtime for Lambda writes between the lines of one message.
            '\r' => ' ',
            '\t' => c,
            _ if c.is_control() => char::REPLACEMENT_CHARACTER,
            _ => c,
        })
        .collect();
    if line.is_cut {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_changes_a_terminal() {
        let line = |bytes, is_cut| printable(&Line { bytes, is_cut });
        assert_eq!(line(b"\x1b[31mred\ttext\x07 \xff", false), "\u{fffd}[31mred\ttext\u{fffd} \u{fffd}");
        assert_eq!(line(b"one\rtwo", false), "one two");
        assert_eq!(line(b"long", true), "long…");
    }
}
