//! Owns the log: lines to stderr, written without blocking. Lines that stderr does not take are dropped and counted.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The most lines that are buffered while the reader of stderr does not read.
const MAX_BUFFERED_LINES: usize = 4096;

static DROPPED_LINES: OnceLock<ErrorCounter> = OnceLock::new();

/// Whether lines are JSON by default: on a terminal they are text.
pub fn is_json_by_default() -> bool {
    !std::io::stderr().is_terminal()
}

/// Starts the log, as text or JSON, at level `default` unless `RUST_LOG` changes it. Dropping the guard writes the buffered
/// lines, as far as stderr takes them.
pub fn init(as_json: bool, default: &str) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MAX_BUFFERED_LINES)
        .thread_name("logs")
        .finish(std::io::stderr());
    // A second call would panic at `init` below, so that the first counter is always the right one.
    let _ = DROPPED_LINES.set(writer.error_counter());
    // RUST_LOG is added to the default, so that a typing error in it does not silence the broker.
    #[expect(clippy::disallowed_methods, reason = "every program with this log reads this variable")]
    let from_environment = std::env::var("RUST_LOG").unwrap_or_default();
    // The broker reports itself what its NATS client would log; RUST_LOG can add the client's own lines.
    let levels = parse_levels(&format!("{default},async_nats=off,{from_environment}"));
    let on_terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(on_terminal);
    if as_json {
        tracing_subscriber::registry().with(lines.json()).with(levels).init();
    } else {
        tracing_subscriber::registry().with(lines).with(levels).init();
    }
    guard
}

/// Reads directives such as `info,hyper=debug`; one that is malformed is reported on stderr and left out.
fn parse_levels(text: &str) -> Targets {
    let mut wellformed = Vec::new();
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        // The library takes `=debug` for every target, and `pilotlight=` for no level at all.
        let is_incomplete = directive.starts_with('=') || directive.ends_with('=');
        let error = match directive.parse::<Targets>() {
            Ok(_) if is_incomplete => "a target and a level are needed on both sides of `=`".to_owned(),
            Ok(_) => {
                wellformed.push(directive);
                continue;
            }
            Err(error) => error.to_string(),
        };
        #[expect(clippy::print_stderr, reason = "the log has not started yet")]
        {
            eprintln!("ignoring `{directive}`: {error}");
        }
    }
    wellformed.join(",").parse().unwrap_or_default()
}

/// How many lines were dropped because stderr did not take them.
pub fn dropped_lines() -> u64 {
    DROPPED_LINES.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Is open once per second, to limit a repeated log line.
pub struct Throttle(AtomicU64);

impl Throttle {
    /// A throttle that is open.
    #[expect(clippy::new_without_default, reason = "it is used in statics, where `default` cannot be called")]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether it was open. The call closes it until the next second.
    pub fn is_open(&self) -> bool {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.0.swap(second, Ordering::Relaxed) != second
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_malformed_directive_leaves_the_others_in_force() {
        let levels = parse_levels("info,hyper=loud,pilotlight::journal=debug,,hyper=warn");
        assert!(levels.would_enable("pilotlight", &Level::INFO));
        assert!(levels.would_enable("pilotlight::journal", &Level::DEBUG));
        assert!(!levels.would_enable("pilotlight::http", &Level::DEBUG));
        assert!(!levels.would_enable("hyper::proto", &Level::INFO));
        assert!(!parse_levels("info,error").would_enable("pilotlight", &Level::WARN));
        let levels = parse_levels("info, pilotlight=debug,hyper=,=trace");
        assert!(
            levels.would_enable("pilotlight", &Level::DEBUG) && levels.would_enable("hyper", &Level::INFO)
        );
        assert!(!levels.would_enable("rustls", &Level::DEBUG));
    }

    #[test]
    fn a_throttle_opens_once_a_second() {
        let throttle = Throttle::new();
        let opened = (0..1000).filter(|_| throttle.is_open()).count();
        assert!((1..=2).contains(&opened), "{opened}");
    }
}
