//! Owns the allocator's configuration: freed memory is returned to the system soon, so that RSS shows what is in use.
#![allow(unsafe_code, reason = "mimalloc's functions have no safe interface")]

use std::ptr::null_mut;

use libmimalloc_sys::{mi_collect, mi_option_set, mi_option_t, mi_process_info};

/// `mi_option_purge_delay` in mimalloc.h, which the binding lacks.
const PURGE_DELAY: mi_option_t = 15;
/// `mi_option_arena_purge_mult` in mimalloc.h: the factor of the delay.
const ARENA_PURGE_FACTOR: mi_option_t = 24;
const PURGE_DELAY_MILLIS: std::ffi::c_long = 10;

/// Configures mimalloc; must be called before other threads start. Its `no_thp` feature turns transparent huge pages off.
pub fn configure() {
    // SAFETY: both options exist in this version of mimalloc, accept any value, and are set before other threads start.
    unsafe {
        mi_option_set(PURGE_DELAY, PURGE_DELAY_MILLIS);
        mi_option_set(ARENA_PURGE_FACTOR, 1);
    }
}

/// Returns this thread's free memory to the system. Mimalloc itself does so only during an allocation, and an idle broker
/// makes none.
pub fn purge() {
    // SAFETY: any thread may call it at any time.
    unsafe { mi_collect(true) };
}

/// Bytes that mimalloc has committed, in use or not; compared with RSS, they distinguish growth from fragmentation.
pub fn committed() -> usize {
    let mut committed = 0;
    let null = null_mut;
    // SAFETY: each pointer is either null, which is allowed, or valid for one write.
    unsafe {
        mi_process_info(null(), null(), null(), null(), null(), &raw mut committed, null(), null());
    }
    committed
}
