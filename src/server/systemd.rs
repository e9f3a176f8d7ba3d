//! Owns what a service manager is told of this process's life; without one nobody is told.

use std::convert::Infallible;
use std::time::Duration;

use sd_notify::NotifyState;

use super::health::Health;

/// Every address accepts.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The settings are being read again; [`ready`] follows.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// The goodbyes begin.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Within which time the service manager wants to hear of this process, if it does.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|time| !time.is_zero())
}

/// Tells the service manager's watchdog, for ever, that the broker lives: only when every thread has turned since it was told
/// last. One that hangs is named, and the service manager ends the process.
pub(super) async fn feed_watchdog(health: &Health) -> Infallible {
    let Some(time) = watchdog() else { return std::future::pending().await };
    let mut told = health.now();
    let mut is_said = false;
    loop {
        tokio::time::sleep(time / 4).await;
        let now = health.now();
        if let Some(thread) = health.resting_since(told) {
            if now >= told + time / 2 && !std::mem::replace(&mut is_said, true) {
                tracing::error!(thread, "a thread hangs; the watchdog is not told that the broker lives");
            }
            continue;
        }
        notify(&[NotifyState::Watchdog]);
        (told, is_said) = (now, false);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
