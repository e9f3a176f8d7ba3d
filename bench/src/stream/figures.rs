//! Owns the figures of a phase: what callers saw during it, and what the server used.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::Instant;

use crate::latencies::Latencies;
use crate::usage::{cpu, peak_resident, private_dirty};

/// What callers see.
pub(super) struct Tally {
    /// From a POST to the end of its answer.
    took: Latencies,
    /// From a token's write to its read.
    ages: Latencies,
}

impl Tally {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { took: Latencies::new()?, ages: Latencies::new()? })
    }

    /// A token has come, so many nanoseconds after it was written.
    pub(super) fn token(&mut self, age: u64) {
        self.ages.record(Duration::from_nanos(age));
    }

    /// An answer has come whole.
    pub(super) fn answer(&mut self, took: Duration) {
        self.took.record(took);
    }
}

/// A phase that is being measured.
pub(super) struct Window {
    begun: Instant,
    /// The server, the origin of the tokens, and this program.
    processes: [u32; 3],
    used: [Duration; 3],
}

/// The result of a phase. Times are in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct PhaseFigures {
    /// Whole answers per second.
    pub(crate) rate: f64,
    /// From a POST to the end of its answer.
    pub(crate) p95: f64,
    pub(crate) longest: f64,
    /// From a token's write to its read.
    pub(crate) token_p50: f64,
    pub(crate) token_p99: f64,
    pub(crate) token_longest: f64,
    /// The server's CPU seconds.
    pub(crate) cpu: f64,
    /// Whole answers for each second of the server's CPU time.
    pub(crate) per_cpu_second: f64,
    /// The server's largest resident memory since its start, in bytes.
    pub(crate) resident: f64,
    /// What of its memory the server has written and shares with no other process, at the end, in bytes. The rest is its program.
    pub(crate) private: f64,
    /// CPU time of callers and of the tokens' origin, as a share of one core.
    pub(crate) load: f64,
}

impl Window {
    pub(super) fn begin(tally: &RefCell<Tally>, processes: [u32; 3]) -> anyhow::Result<Self> {
        *tally.borrow_mut() = Tally::new()?;
        Ok(Self { begun: Instant::now(), processes, used: used(processes)? })
    }

    pub(super) fn end(self, tally: &RefCell<Tally>) -> anyhow::Result<PhaseFigures> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let now = used(self.processes)?;
        let spent = |place: usize| now[place].saturating_sub(self.used[place]).as_secs_f64();
        let Tally { took, ages } = &*tally.borrow();
        let answers = took.count();
        Ok(PhaseFigures {
            rate: answers / seconds,
            p95: took.percentile(95.0),
            longest: took.percentile(100.0),
            token_p50: ages.percentile(50.0),
            token_p99: ages.percentile(99.0),
            token_longest: ages.percentile(100.0),
            cpu: spent(0),
            per_cpu_second: answers / spent(0),
            resident: count(peak_resident(self.processes[0])?),
            private: count(private_dirty(self.processes[0])?),
            load: (spent(1) + spent(2)) / seconds,
        })
    }
}

fn used(processes: [u32; 3]) -> anyhow::Result<[Duration; 3]> {
    let [server, origin, own] = processes.map(cpu);
    Ok([server?, origin?, own?])
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn count(count: u64) -> f64 {
    count as f64
}

impl PhaseFigures {
    /// The result as a line of text.
    pub(super) fn line(&self, name: &str) -> String {
        let Self { rate, p95, longest, token_p50, token_p99, token_longest, .. } = self;
        format!(
            "{name:<12} {rate:>6.1}/s  p95 {:.1} ms  longest {:.1} ms  token p50 {token_p50:.0} µs  p99 {token_p99:.0} µs  longest \
             {token_longest:.0} µs  {:.2} s CPU  {:.0} per CPU second  {:.1} MiB  load {:.0} %\n",
            p95 / 1e3,
            longest / 1e3,
            self.cpu,
            self.per_cpu_second,
            self.resident / 1_048_576.0,
            self.load * 100.0
        )
    }
}
