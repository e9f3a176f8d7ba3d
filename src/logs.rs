//! Owns the log: lines to stderr that never hold anybody up. When nobody takes them, the surplus is counted.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// So many lines wait for a reader of stderr that has stopped reading.
const LINES: usize = 4096;

static SURPLUS: OnceLock<ErrorCounter> = OnceLock::new();

/// Whether lines are JSON: if that is asked for, or nothing is and nobody sits before them.
pub fn are_json(asked: Option<bool>) -> bool {
    asked.unwrap_or_else(|| !std::io::stderr().is_terminal())
}

/// Begins to log: as text or JSON, `default` and above unless `RUST_LOG` says otherwise. What is still to be written is
/// written when the guard is dropped, as far as somebody takes it.
pub fn set_up(as_json: bool, default: &str) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES)
        .thread_name("logs")
        .finish(std::io::stderr());
    // The first counter stays, as the first log does.
    let _ = SURPLUS.set(writer.error_counter());
    // On top of the default: a typing error in it must not silence the broker.
    #[expect(clippy::disallowed_methods, reason = "the variable that every program with this log has")]
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let filter = EnvFilter::builder().parse_lossy(format!("{default},{asked}"));
    let on_terminal = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(on_terminal);
    if as_json {
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

/// Opens once a second.
pub struct Throttle(AtomicU64);

impl Throttle {
    /// Open.
    #[expect(clippy::new_without_default, reason = "it stands in a static")]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether it was open; then it is closed until the second is over.
    pub fn is_open(&self) -> bool {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.0.swap(second, Ordering::Relaxed) != second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_opens_once_a_second() {
        let throttle = Throttle::new();
        let opened = (0..1000).filter(|_| throttle.is_open()).count();
        assert!((1..=2).contains(&opened), "{opened}");
    }
}
