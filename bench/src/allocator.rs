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
/// Live blocks by size in steps of eight bytes, and the bytes of larger ones by powers of two. Those with a large alignment are in
/// the second row.
static BLOCKS: [[AtomicI64; CLASSES]; 2] = [const { [const { AtomicI64::new(0) }; CLASSES] }; 2];
const STEP: usize = 8;
const STEPS: usize = 512;
/// The first power of two of larger ones.
const FIRST_LARGE: u32 = (STEPS * STEP).ilog2();
const CLASSES: usize = STEPS + 32;
/// Alignments above this one have a row of their own: mimalloc needs room for them.
const USUAL_ALIGNMENT: usize = 16;

/// Of the live blocks of a size, the callers of these are kept: two, because two may be allocated in turn, and not the first,
/// because others allocate the same sizes at the start.
const SAMPLED_BLOCKS: [i64; 2] = [2000, 2001];
/// Of large ones, the caller of the one that makes so many bytes.
const SAMPLED_BYTES: i64 = 1_000_000;
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
    let (size, is_aligned) = (layout.size(), layout.align() > USUAL_ALIGNMENT);
    let step = size.div_ceil(STEP);
    let is_large = step >= STEPS;
    let (class, by) = if is_large {
        let class = STEPS + (size.ilog2() - FIRST_LARGE) as usize;
        (class.min(CLASSES - 1), by * i64::try_from(size).unwrap_or(0))
    } else {
        (step, by)
    };
    let before = BLOCKS[usize::from(is_aligned)][class].fetch_add(by, Ordering::Relaxed);
    let is_sampled = if is_large {
        before < SAMPLED_BYTES && before + by >= SAMPLED_BYTES
    } else {
        by > 0 && SAMPLED_BLOCKS.contains(&(before + by))
    };
    if is_sampled && !SAMPLES_NOW.replace(true) {
        let caller = Backtrace::force_capture();
        SAMPLES.lock().unwrap_or_else(PoisonError::into_inner).push((class, is_aligned, caller));
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
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    /// The size that was asked for, rounded up to eight bytes; of large ones a power of two that is as large or larger.
    pub(crate) size: usize,
    /// Whether they need a larger alignment than usual.
    pub(crate) is_aligned: bool,
    /// How many there are; not counted for large ones.
    pub(crate) live: i64,
    /// The bytes that mimalloc keeps for them, by its classes of sizes.
    pub(crate) kept: i64,
}

/// All live blocks, by size.
pub(crate) fn live_blocks() -> Vec<Blocks> {
    let mut all = Vec::with_capacity(2 * CLASSES);
    for (row, is_aligned) in BLOCKS.iter().zip([false, true]) {
        for (class, count) in row.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            let (size, live, kept) = if class < STEPS {
                // SAFETY: a pure function.
                let kept = unsafe { mi_good_size(class * STEP) };
                (class * STEP, count, count * i64::try_from(kept).unwrap_or(0))
            } else {
                (1 << (class - STEPS + FIRST_LARGE as usize) << 1, 0, count)
            };
            all.push(Blocks { size, is_aligned, live, kept });
        }
    }
    all
}

/// The backtraces of some blocks of this size, if there were enough of them.
pub(crate) fn callers(size: usize, is_aligned: bool) -> Vec<String> {
    let class =
        if size < STEPS * STEP { size / STEP } else { STEPS + (size.ilog2() - FIRST_LARGE) as usize - 1 };
    // To print a backtrace allocates much, and a sample of that would wait for the lock that is held here.
    SAMPLES_NOW.set(true);
    let samples = SAMPLES.lock().unwrap_or_else(PoisonError::into_inner);
    let of_class = samples.iter().filter(|sample| (sample.0, sample.1) == (class, is_aligned));
    let texts = of_class.map(|(_, _, backtrace)| backtrace.to_string()).collect();
    SAMPLES_NOW.set(false);
    texts
}
