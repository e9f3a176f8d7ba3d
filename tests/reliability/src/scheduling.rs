//! Owns the watch over this program's own scheduling: the lateness of others is not judged while it was not scheduled.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::fleet::unix_micros;

const PACE: Duration = Duration::from_millis(20);
/// This program counts as disturbed if a sleep ends this late.
const LATE: Duration = Duration::from_millis(150);

/// Calls `note` with the time in microseconds since 1970 since which this program was not scheduled, whenever that happens.
pub(crate) async fn watch_scheduling(note: impl Fn(u64)) {
    loop {
        let (begun, from) = (Instant::now(), unix_micros());
        sleep(PACE).await;
        if begun.elapsed() > PACE + LATE {
            note(from);
        }
    }
}
