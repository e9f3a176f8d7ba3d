//! Owns the count of allocations per dispatch: the broker runs in this process, whose allocator counts.
#![allow(unsafe_code, reason = "an allocator that counts has no safe form")]

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use mimalloc::MiMalloc;
use pilotlight_bench::stdout::print;

use crate::load;

/// The server's own allocator, counted.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static CALLS: [AtomicU64; SIZES.len()] = [const { AtomicU64::new(0) }; SIZES.len()];
/// The largest size of each class.
const SIZES: [usize; 6] = [32, 128, 512, 2048, 8192, usize::MAX];

// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTS.load(Ordering::Relaxed) {
            let class = SIZES.iter().position(|&size| layout.size() <= size).unwrap_or(0);
            CALLS[class].fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations per dispatch, by size.
pub(crate) struct Allocations(Vec<(usize, f64)>);

impl Allocations {
    pub(crate) fn text(&self) -> String {
        let all: f64 = self.0.iter().map(|(_, each)| each).sum();
        let classes = self.0.iter().filter(|(_, each)| *each > 0.05).map(|(size, each)| match *size {
            usize::MAX => format!("{each:.1} larger"),
            size => format!("{each:.1} to {size} B"),
        });
        format!("{all:.1} allocations per dispatch: {}\n", classes.collect::<Vec<_>>().join(", "))
    }
}

/// Counts while another process puts a load on a broker in this one.
pub(crate) fn count() -> anyhow::Result<Allocations> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let arguments =
        ["pilotlight", "serve", "--ops-listen", "127.0.0.1:0", "--proof", "written", "--threads", "1"];
    let mut arguments: Vec<OsString> = arguments.map(OsString::from).to_vec();
    arguments.extend([
        "--listen".into(),
        address.to_string().into(),
        "--connection-timeout".into(),
        "299s".into(),
    ]);
    std::thread::spawn(move || pilotlight::commands::run(arguments));
    std::thread::sleep(Duration::from_millis(300));
    let mut load = Command::new(std::env::current_exe()?)
        .args(["load", &address.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = &mut BufReader::new(load.stdout.take().context("no output from the load")?).lines();
    let mut dispatches =
        || -> anyhow::Result<u64> { Ok(lines.next().context("no output from the load")??.parse()?) };
    let before = dispatches()?;
    COUNTS.store(true, Ordering::Relaxed);
    let after = dispatches()?;
    COUNTS.store(false, Ordering::Relaxed);
    let _ = load.kill();
    load.wait()?;
    ensure!(after > before, "nothing was dispatched");
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let each = |calls: &AtomicU64| calls.load(Ordering::Relaxed) as f64 / (after - before) as f64;
    Ok(Allocations(SIZES.into_iter().zip(CALLS.iter().map(each)).collect()))
}

/// The load's process: prints the number of dispatches every two seconds.
pub(crate) fn load(address: SocketAddr) -> anyhow::Result<()> {
    load::load_forever(address, Duration::from_secs(2), |dispatches| print(&format!("{dispatches}\n")))
}
