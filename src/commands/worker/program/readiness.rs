//! Owns the wait for a program that is ready for a run.

use std::future::pending;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep};

use super::stdin_readers::{PipeName, is_any_reading};

/// The time between two looks at a program that starts: a part of the time that it has taken so far, within these bounds.
const MIN_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(50);
const PAUSE_PART: u32 = 16;
/// A program that takes longer may never be seen to be ready, which is logged once.
const LONG: Duration = Duration::from_secs(30);

/// The signs by which a program is ready. The first one counts.
pub(super) struct Signs<'a> {
    /// Ready is who writes to it.
    pub(super) ready: &'a mut pipe::Receiver,
    /// The program's process id.
    pub(super) process: i32,
    /// Its standard input.
    pub(super) stdin: &'a PipeName,
    /// After this time it counts as ready, and is not looked at.
    pub(super) after: Option<Duration>,
    pub(super) slot: usize,
}

impl Signs<'_> {
    /// Returns when the program is ready. That may be never.
    pub(super) async fn wait(self) {
        let Self { ready, process, stdin, after, slot } = self;
        let said = async {
            // Without a byte it was closed, which says nothing.
            if !matches!(ready.read(&mut [0]).await, Ok(1..)) {
                pending::<()>().await;
            }
        };
        let seen = async {
            match after {
                Some(after) => sleep(after).await,
                None => wait_for_reader(process, stdin, slot).await,
            }
        };
        tokio::select! {
            () = said => {}
            () = seen => {}
        }
    }
}

async fn wait_for_reader(process: i32, stdin: &PipeName, slot: usize) {
    let begun = Instant::now();
    let mut is_told = false;
    loop {
        let seen = is_any_reading(process, stdin);
        if matches!(seen, Ok(true)) {
            return;
        }
        let age = begun.elapsed();
        if age > LONG && !is_told {
            is_told = true;
            let why = seen.err().map(|error| format!(" (/proc cannot be read: {error})")).unwrap_or_default();
            tracing::warn!(
                slot,
                "the program is not seen to read its standard input after {}{why}, so it gets no run; it can write a \
                 byte to the descriptor PILOTLIGHT_READY_FD, or use --ready-after",
                humantime::format_duration(LONG)
            );
        }
        sleep((age / PAUSE_PART).clamp(MIN_PAUSE, MAX_PAUSE)).await;
    }
}
