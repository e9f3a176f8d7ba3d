//! Owns the log: lines to stderr that never hold anybody up. When nobody takes them, the surplus is counted.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// So many lines wait for a reader of stderr that has stopped reading.
const LINES: usize = 4096;

static SURPLUS: OnceLock<ErrorCounter> = OnceLock::new();

/// Begins to log: as text or JSON, `default` and above unless `RUST_LOG` says otherwise. What is still to be written is
/// written when the guard is dropped, as far as somebody takes it.
pub fn set_up(as_json: Option<bool>, default: &str) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES)
        .thread_name("logs")
        .finish(std::io::stderr());
    // The first counter stays, as the first log does.
    let _ = SURPLUS.set(writer.error_counter());
    let filter =
        EnvFilter::builder().with_default_directive(default.parse().unwrap_or_default()).from_env_lossy();
    let on_terminal = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(on_terminal);
    if as_json.unwrap_or(!on_terminal) {
        logs.json().init();
    } else {
        logs.init();
    }
    guard
}

/// Lines that nobody took.
pub fn surplus() -> u64 {
    SURPLUS.get().map_or(0, |counter| counter.dropped_lines() as u64)
}
