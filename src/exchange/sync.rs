//! Owns what the exchange synchronizes with: the usual lock, flag and wake, or those that shuttle drives (`tests/races`).

#[cfg(not(races))]
pub(super) use guarded::Mutex;
#[cfg(not(races))]
pub(super) use std::sync::atomic::AtomicBool;
#[cfg(not(races))]
pub(super) use tokio::sync::Notify;

#[cfg(races)]
pub(super) use {modelled::Mutex, modelled::Notify, shuttle::sync::atomic::AtomicBool};

#[cfg(not(races))]
mod guarded {
    use std::io::Write;
    use std::ops::{Deref, DerefMut};
    use std::thread;

    use parking_lot::MutexGuard;

    /// A lock that no panic is survived under: what it guards may be torn, and every later request would be served from
    /// it. So the process ends there; panics elsewhere end what they happen to, and nothing more.
    pub(in crate::exchange) struct Mutex<T>(parking_lot::Mutex<T>);

    pub(in crate::exchange) struct Guard<'a, T> {
        guard: MutexGuard<'a, T>,
        /// The panic, if there is one, began before the lock was taken: somebody unwinds and leaves in good order.
        unwinds: bool,
    }

    impl<T> Mutex<T> {
        pub(in crate::exchange) fn new(value: T) -> Self {
            Self(parking_lot::Mutex::new(value))
        }

        pub(in crate::exchange) fn lock(&self) -> Guard<'_, T> {
            Guard { guard: self.0.lock(), unwinds: thread::panicking() }
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.guard
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.guard
        }
    }

    impl<T> Drop for Guard<'_, T> {
        fn drop(&mut self) {
            if thread::panicking() && !self.unwinds {
                // Not through the log, whose thread would not come to it any more.
                let why =
                    "pilotlight panicked under the lock that everybody shares: it ends, to be started anew\n";
                let _ = std::io::stderr().write_all(why.as_bytes());
                std::process::abort();
            }
        }
    }
}

#[cfg(races)]
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
