//! Owns what is asked of the allocator: freed memory goes back to the system soon, so that RSS tells the truth.
#![allow(unsafe_code, reason = "mimalloc's functions have no safe interface")]

use std::ptr::null_mut;

use libmimalloc_sys::{mi_collect, mi_option_set, mi_option_t, mi_process_info};

/// `mi_option_purge_delay` of mimalloc.h; the binding does not name it.
const PURGE_DELAY: mi_option_t = 15;
/// `mi_option_arena_purge_mult` of mimalloc.h, by which the delay is multiplied.
const ARENA_PURGE_FACTOR: mi_option_t = 24;
const PURGE_DELAY_MILLIS: std::ffi::c_long = 10;

/// Sets mimalloc up, before there are other threads. Transparent huge pages are off by its `no_thp` feature.
pub fn set_up() {
    // SAFETY: both options exist in this mimalloc, take any value, and are set before other threads run.
    unsafe {
        mi_option_set(PURGE_DELAY, PURGE_DELAY_MILLIS);
        mi_option_set(ARENA_PURGE_FACTOR, 1);
    }
}

/// Gives back what this thread has free: mimalloc itself looks only while memory is asked for, which an idle broker does not do.
pub fn give_back() {
    // SAFETY: it may be called by any thread at any time.
    unsafe { mi_collect(true) };
}

/// Bytes that mimalloc has committed, in use or not: so that growth can be told from fragmentation.
pub fn committed() -> usize {
    let mut committed = 0;
    let null = null_mut;
    // SAFETY: each pointer is null, which is allowed, or valid for one write.
    unsafe {
        mi_process_info(null(), null(), null(), null(), null(), &raw mut committed, null(), null());
    }
    committed
}
