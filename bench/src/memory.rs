//! Owns what the memory of held connections consists of: live blocks by size and who allocated them, and what the process has beyond them.
//!
//! The broker runs in this process, whose allocator counts; other processes hold the waiters' ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::server::own_resident;
use pilotlight_bench::stdout::print;

use crate::allocator::{self, Blocks};
use crate::load::{Holder, WaitKind, settling_time, waiters};
use crate::own_broker;

#[derive(Args)]
pub(crate) struct MemoryOptions {
    /// Waiters on each broker
    #[arg(long, default_value_t = 19_000)]
    each: usize,
    /// How they wait
    #[arg(long, value_enum, default_value_t = WaitKind::Poll)]
    kind: WaitKind,
    /// Processes with a broker each, because a process's descriptors are limited
    #[arg(long, default_value_t = 1)]
    brokers: usize,
    /// Prints the figures for the program that adds them up, and ends when its input is closed
    #[arg(long, hide = true)]
    one_of_several: bool,
}

/// A size and whether its blocks need a large alignment.
type Class = (usize, bool);

/// What held connections have added to a process.
#[derive(Default)]
struct Added {
    held: i64,
    resident: i64,
    blocks: BTreeMap<Class, BlocksOfClass>,
}

#[derive(Default, Clone)]
struct BlocksOfClass {
    live: i64,
    kept: i64,
    callers: String,
}

pub(crate) fn measure(options: &MemoryOptions) -> anyhow::Result<()> {
    if options.one_of_several {
        let (added, holder) = hold(options.kind, options.each)?;
        print(&added.lines());
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        return holder.end();
    }
    if options.brokers == 1 {
        let (added, holder) = hold(options.kind, options.each)?;
        print(&added.table());
        return holder.end();
    }
    let mut children: Vec<Child> = Vec::new();
    let mut all = Added::default();
    for _ in 0..options.brokers {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["memory", "--one-of-several", "--each", &options.each.to_string()]);
        command.args(["--kind", options.kind.name()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        for line in lines {
            let line = line?;
            if line == END {
                break;
            }
            all.add(&line).with_context(|| format!("not a figure: {line}"))?;
        }
        children.push(child);
    }
    print(&all.table());
    for mut child in children {
        drop(child.stdin.take());
        child.wait()?;
    }
    Ok(())
}

/// Holds so many waiters on a broker in this process, and returns what they have added to it.
fn hold(kind: WaitKind, count: usize) -> anyhow::Result<(Added, Holder)> {
    pilotlight::allocator::configure();
    allocator::count_blocks();
    let broker = own_broker::start()?;
    // A few first, so that one-time allocations are not counted.
    Holder::start(broker.address, kind, 10, true)?.end()?;
    std::thread::sleep(Duration::from_secs(1));
    let (idle, before) = (own_resident()?, allocator::live_blocks());
    let holder = Holder::start(broker.address, kind, count, true)?;
    std::thread::sleep(settling_time(count));
    let held = block_on_local(waiters(broker.ops))?;
    ensure!(held > 0, "none is held");
    let (resident, after) = (own_resident()?, allocator::live_blocks());
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut added =
        Added { held: signed(held), resident: signed(resident) - signed(idle), ..Added::default() };
    for (after, before) in after.into_iter().zip(before) {
        let Blocks { size, is_aligned, .. } = after;
        let callers: BTreeSet<String> = allocator::callers(size, is_aligned)
            .iter()
            .map(|backtrace| caller_of(backtrace).to_owned())
            .collect();
        let callers = callers.into_iter().collect::<Vec<_>>().join(", ");
        let (live, kept) = (after.live - before.live, after.kept - before.kept);
        added.blocks.insert((size, is_aligned), BlocksOfClass { live, kept, callers });
    }
    Ok((added, holder))
}

const END: &str = "end";

impl Added {
    /// All figures, one per line, for another process.
    fn lines(&self) -> String {
        let mut text = format!("{} {}\n", self.held, self.resident);
        for ((size, is_aligned), BlocksOfClass { live, kept, callers }) in &self.blocks {
            let _ = writeln!(text, "{size} {is_aligned} {live} {kept} {callers}");
        }
        text.push_str(END);
        text.push('\n');
        text
    }

    /// Adds the figures of a line.
    fn add(&mut self, line: &str) -> anyhow::Result<()> {
        if let [held, resident] = line.split(' ').collect::<Vec<_>>()[..] {
            self.held += held.parse::<i64>()?;
            self.resident += resident.parse::<i64>()?;
            return Ok(());
        }
        let mut fields = line.splitn(5, ' ');
        let mut next = || fields.next().context("a field is missing");
        let class = (next()?.parse()?, next()?.parse()?);
        let blocks = self.blocks.entry(class).or_default();
        blocks.live += next()?.parse::<i64>()?;
        blocks.kept += next()?.parse::<i64>()?;
        next()?.clone_into(&mut blocks.callers);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
    fn table(&self) -> String {
        let each = |all: i64| all as f64 / self.held as f64;
        let mut text = format!(
            "{} held\n\n| bytes asked for | blocks per connection | bytes kept per connection | allocated by |\n|---|---|---|---|\n",
            self.held
        );
        let mut blocks: Vec<_> = self.blocks.iter().collect();
        blocks.sort_by_key(|(_, blocks)| -blocks.kept);
        for ((size, is_aligned), BlocksOfClass { live, kept, callers }) in blocks {
            if each(*kept).abs() < 0.5 {
                continue;
            }
            let aligned = if *is_aligned { ", aligned" } else { "" };
            let (size, per) = match live {
                0 => (format!("up to {size}"), String::new()),
                _ => (size.to_string(), format!("{:.2}", each(*live))),
            };
            let _ = writeln!(text, "| {size}{aligned} | {per} | {:.1} | {callers} |", each(*kept));
        }
        let live: i64 = self.blocks.values().map(|blocks| blocks.kept).sum();
        let _ = writeln!(
            text,
            "\nPer connection: {:.0} B live, {:.0} B resident; the difference of {:.0} B is fragmentation: pages that are partly \
             filled, and what the allocator keeps about them.",
            each(live),
            each(self.resident),
            each(self.resident - live),
        );
        text
    }
}

/// The function of the broker or of its runtime that asked for a block, by a backtrace.
fn caller_of(backtrace: &str) -> &str {
    let functions = backtrace.lines().filter_map(|line| line.trim().split_once(": ").map(|(_, name)| name));
    let mut named = functions.filter(|name| {
        let name = name.trim_start_matches(['<', '&']);
        name.starts_with("pilotlight::") || name.starts_with("tokio::")
    });
    named.next().unwrap_or_default()
}
