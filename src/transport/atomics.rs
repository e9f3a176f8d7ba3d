//! Owns which atomics a handover is made of: the usual ones. `tests/races` has loom's under the same names.

pub(super) use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

pub(super) use atomic_waker::AtomicWaker;
