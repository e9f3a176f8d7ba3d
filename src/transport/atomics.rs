//! Owns the choice of atomics for the handover: std's. `tests/races` compiles the handover with loom's, under the same names.

pub(super) use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

pub(super) use atomic_waker::AtomicWaker;
