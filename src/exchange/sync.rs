//! Owns what the exchange synchronizes with: the usual lock, flag and wake, or those that shuttle drives (`tests/races`).

#[cfg(not(feature = "races"))]
pub(super) use parking_lot::Mutex;
#[cfg(not(feature = "races"))]
pub(super) use std::sync::atomic::AtomicBool;
#[cfg(not(feature = "races"))]
pub(super) use tokio::sync::Notify;

#[cfg(feature = "races")]
pub(super) use {modelled::Mutex, modelled::Notify, shuttle::sync::atomic::AtomicBool};

#[cfg(feature = "races")]
mod modelled {
    use std::sync::PoisonError;

    use shuttle::sync::MutexGuard;
    use shuttle::sync::atomic::{AtomicBool, Ordering};

    /// Shuttle's lock, called as the usual one is.
    pub(in crate::exchange) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(in crate::exchange) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(in crate::exchange) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Tokio's own wake: each of its calls is one step here, and any other thread may have its turn before it.
    #[derive(Default)]
    pub(in crate::exchange) struct Notify {
        wake: tokio::sync::Notify,
        turn: AtomicBool,
    }

    impl Notify {
        pub(in crate::exchange) fn new() -> Self {
            Self::default()
        }

        pub(in crate::exchange) fn notify_one(&self) {
            self.turn.load(Ordering::Relaxed);
            self.wake.notify_one();
        }

        pub(in crate::exchange) async fn notified(&self) {
            self.turn.load(Ordering::Relaxed);
            self.wake.notified().await;
        }
    }
}
