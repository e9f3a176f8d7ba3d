//! Owns the exchange's lock, flag and `Notify`: the usual ones, or those of shuttle for `tests/races`.

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

    /// A lock under which a panic ends the process: the protected value may be inconsistent, and every later request would
    /// use it. A panic elsewhere ends only its own task.
    pub(in crate::exchange) struct Mutex<T>(parking_lot::Mutex<T>);

    pub(in crate::exchange) struct Guard<'a, T> {
        guard: MutexGuard<'a, T>,
        /// The thread was panicking before it took the lock, for example in a `Drop` during unwinding.
        was_panicking: bool,
    }

    impl<T> Mutex<T> {
        pub(in crate::exchange) fn new(value: T) -> Self {
            Self(parking_lot::Mutex::new(value))
        }

        pub(in crate::exchange) fn lock(&self) -> Guard<'_, T> {
            Guard { guard: self.0.lock(), was_panicking: thread::panicking() }
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
            if thread::panicking() && !self.was_panicking {
                // Not through the log: its thread would not write it before the abort.
                let why = "pilotlight panicked under the lock that all requests share: it aborts, and must be restarted\n";
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

    /// Shuttle's lock, with the interface of the usual one.
    pub(in crate::exchange) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(in crate::exchange) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(in crate::exchange) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Tokio's `Notify`, with a point before each call where shuttle may switch to another thread.
    #[derive(Default)]
    pub(in crate::exchange) struct Notify {
        notify: tokio::sync::Notify,
        switch_point: AtomicBool,
    }

    impl Notify {
        pub(in crate::exchange) fn new() -> Self {
            Self::default()
        }

        pub(in crate::exchange) fn notify_one(&self) {
            self.switch_point.load(Ordering::Relaxed);
            self.notify.notify_one();
        }

        pub(in crate::exchange) async fn notified(&self) {
            self.switch_point.load(Ordering::Relaxed);
            self.notify.notified().await;
        }
    }
}
