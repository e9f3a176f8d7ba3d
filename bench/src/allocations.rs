//! Owns the count of allocations per dispatch: the broker runs in this process, whose allocator counts.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use pilotlight_bench::stdout::print;

use crate::allocator::{self, CALL_SIZES};
use crate::load;
use crate::own_broker;

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
    let address = own_broker::start()?.address;
    let mut load = Command::new(std::env::current_exe()?)
        .args(["load", &address.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = &mut BufReader::new(load.stdout.take().context("no output from the load")?).lines();
    let mut dispatches =
        || -> anyhow::Result<u64> { Ok(lines.next().context("no output from the load")??.parse()?) };
    let before = dispatches()?;
    let (after, calls) = allocator::count_calls(&mut dispatches);
    let after = after?;
    let _ = load.kill();
    load.wait()?;
    ensure!(after > before, "nothing was dispatched");
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let each = |calls: u64| calls as f64 / (after - before) as f64;
    Ok(Allocations(CALL_SIZES.into_iter().zip(calls.map(each)).collect()))
}

/// The load's process: prints the number of dispatches every two seconds.
pub(crate) fn load(address: SocketAddr) -> anyhow::Result<()> {
    load::load_forever(address, Duration::from_secs(2), |dispatches| print(&format!("{dispatches}\n")))
}
