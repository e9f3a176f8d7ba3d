//! Owns the allocator of this program: the broker's own, which counts while a measurement needs it.
#![allow(unsafe_code, reason = "an allocator that counts has no safe form")]

use std::alloc::{GlobalAlloc, Layout};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use libmimalloc_sys::mi_good_size;
use mimalloc::MiMalloc;

/// The server's own allocator, counted.
struct Counting;

static COUNTS_CALLS: AtomicBool = AtomicBool::new(false);
static CALLS: [AtomicU64; CALL_SIZES.len()] = [const { AtomicU64::new(0) }; CALL_SIZES.len()];
/// The largest size of each class of calls.
pub(crate) const CALL_SIZES: [usize; 6] = [32, 128, 512, 2048, 8192, usize::MAX];

static COUNTS_BLOCKS: AtomicBool = AtomicBool::new(false);
/// Live blocks by size in steps of eight bytes, and beyond the largest step their bytes. Those with a large alignment are in the
/// second row.
static BLOCKS: [[AtomicI64; STEPS + 1]; 2] = [const { [const { AtomicI64::new(0) }; STEPS + 1] }; 2];
const STEP: usize = 8;
const STEPS: usize = 512;
/// Alignments above this one have a row of their own: mimalloc needs room for them.
const USUAL_ALIGNMENT: usize = 16;

/// The one of so many blocks of a size whose caller is kept. At the start of a crowd, others allocate the same sizes.
const SAMPLED: i64 = 3000;
static SAMPLES: Mutex<Vec<(usize, bool, Backtrace)>> = Mutex::new(Vec::new());

thread_local! {
    /// A sample allocates, and is not sampled itself.
    static SAMPLES_NOW: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_call(layout);
        // SAFETY: the caller's promise is passed on.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_call(layout);
        // SAFETY: the caller's promise is passed on.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if let Ok(new) = Layout::from_size_align(size, layout.align()) {
            count_call(new);
            count_block(layout, -1);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count_block(layout, -1);
        // SAFETY: the caller's promise is passed on.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count_call(layout: Layout) {
    if COUNTS_CALLS.load(Ordering::Relaxed) {
        let class = CALL_SIZES.iter().position(|&size| layout.size() <= size).unwrap_or(0);
        CALLS[class].fetch_add(1, Ordering::Relaxed);
    }
    count_block(layout, 1);
}

fn count_block(layout: Layout, by: i64) {
    if !COUNTS_BLOCKS.load(Ordering::Relaxed) {
        return;
    }
    let is_aligned = layout.align() > USUAL_ALIGNMENT;
    let row = &BLOCKS[usize::from(is_aligned)];
    let step = layout.size().div_ceil(STEP);
    let Some(blocks) = row[..STEPS].get(step) else {
        row[STEPS].fetch_add(by * i64::try_from(layout.size()).unwrap_or(0), Ordering::Relaxed);
        return;
    };
    if blocks.fetch_add(by, Ordering::Relaxed) + by == SAMPLED && by > 0 && !SAMPLES_NOW.replace(true) {
        let caller = Backtrace::force_capture();
        SAMPLES.lock().unwrap_or_else(PoisonError::into_inner).push((step * STEP, is_aligned, caller));
        SAMPLES_NOW.set(false);
    }
}

/// Counts the calls for memory while `work` runs, by the classes of [`CALL_SIZES`].
pub(crate) fn count_calls<T>(work: impl FnOnce() -> T) -> (T, [u64; CALL_SIZES.len()]) {
    let counts = || CALLS.each_ref().map(|calls| calls.load(Ordering::Relaxed));
    let before = counts();
    COUNTS_CALLS.store(true, Ordering::Relaxed);
    let done = work();
    COUNTS_CALLS.store(false, Ordering::Relaxed);
    let mut calls = counts();
    calls.iter_mut().zip(before).for_each(|(calls, before)| *calls -= before);
    (done, calls)
}

/// Counts live blocks from now on. Blocks that are allocated before and freed later are missing then.
pub(crate) fn count_blocks() {
    // The first backtrace reads tables, which would be taken for memory of what is measured.
    drop(Backtrace::force_capture());
    COUNTS_BLOCKS.store(true, Ordering::Relaxed);
}

/// The live blocks of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// The size that was asked for, rounded up to eight bytes; none for all large ones together.
    pub(crate) size: Option<usize>,
    /// Whether they need a larger alignment than usual.
    pub(crate) is_aligned: bool,
    /// How many there are; for large ones, their bytes.
    pub(crate) live: i64,
}

impl Blocks {
    /// The bytes that mimalloc keeps for each: its class of sizes.
    pub(crate) fn kept(self) -> usize {
        // SAFETY: a pure function.
        self.size.map_or(1, |size| unsafe { mi_good_size(size) })
    }
}

/// All live blocks, by size.
pub(crate) fn live_blocks() -> Vec<Blocks> {
    let mut all = Vec::with_capacity(2 * (STEPS + 1));
    for (row, is_aligned) in BLOCKS.iter().zip([false, true]) {
        for (step, live) in row.iter().enumerate() {
            let size = (step < STEPS).then_some(step * STEP);
            all.push(Blocks { size, is_aligned, live: live.load(Ordering::Relaxed) });
        }
    }
    all
}

/// The function that allocated one of the blocks of this size, if there were enough of them.
pub(crate) fn caller(size: usize, is_aligned: bool) -> Option<String> {
    // To print a backtrace allocates much, and a sample of that would wait for the lock that is held here.
    SAMPLES_NOW.set(true);
    let samples = SAMPLES.lock().unwrap_or_else(PoisonError::into_inner);
    let sample = samples.iter().find(|sample| (sample.0, sample.1) == (size, is_aligned));
    let text = sample.map(|(_, _, backtrace)| backtrace.to_string());
    SAMPLES_NOW.set(false);
    text
}
