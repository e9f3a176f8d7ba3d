//! Owns the notifications to a service manager (`sd_notify`). Without one they do nothing.

use std::convert::Infallible;
use std::time::Duration;

use sd_notify::NotifyState;

use super::health::Health;

/// Reports that all addresses accept connections.
pub(super) fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Reports that the settings are being reloaded. [`notify_ready`] follows.
pub(super) fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// Reports that the drain begins.
pub(super) fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The timeout of the service manager's watchdog, if it watches this process.
pub(super) fn watchdog_timeout() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|time| !time.is_zero())
}

/// Notifies the watchdog, but only if every thread has sent a heartbeat since the last notification. A thread that hangs is
/// logged, and the service manager ends the process.
pub(super) async fn feed_watchdog(health: &Health) -> Infallible {
    let Some(timeout) = watchdog_timeout() else { return std::future::pending().await };
    let mut notified = health.now();
    let mut is_logged = false;
    loop {
        tokio::time::sleep(timeout / 4).await;
        let now = health.now();
        if let Some(thread) = health.silent_since(notified) {
            if now >= notified + timeout / 2 && !std::mem::replace(&mut is_logged, true) {
                tracing::error!(thread, "a thread hangs; the watchdog is not notified");
            }
            continue;
        }
        notify(&[NotifyState::Watchdog]);
        (notified, is_logged) = (now, false);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be notified");
    }
}
