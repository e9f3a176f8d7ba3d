//! Owns the allocator's set-up: freed memory goes back to the system soon, so that RSS tells the truth.
#![allow(unsafe_code, reason = "mimalloc's options have no safe interface")]

use libmimalloc_sys::{mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h; the binding does not name it.
const PURGE_DELAY: mi_option_t = 15;
/// `mi_option_arena_purge_mult` of mimalloc.h, by which the delay is multiplied.
const ARENA_PURGE_FACTOR: mi_option_t = 24;
const PURGE_DELAY_MILLIS: std::ffi::c_long = 10;

/// Sets mimalloc up. Transparent huge pages are off by its `no_thp` feature.
pub(crate) fn set_up() {
    // SAFETY: both options exist in this mimalloc, take any value, and are set before other threads run.
    unsafe {
        mi_option_set(PURGE_DELAY, PURGE_DELAY_MILLIS);
        mi_option_set(ARENA_PURGE_FACTOR, 1);
    }
}
