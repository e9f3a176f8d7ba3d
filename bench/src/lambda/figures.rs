//! Owns the figures of a load: what callers saw, and what each part of the server used.

use super::parts::Parts;

/// The result of a load. Times are in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct LoadFigures {
    /// Answered invocations per second.
    pub(crate) rate: f64,
    /// From the Invoke to the end of its answer.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Answered invocations for each second of the CPU time of all parts.
    pub(crate) per_cpu_second: f64,
    /// CPU time for each answered invocation.
    pub(crate) cpu: Parts,
    /// This program's CPU time, as a share of one core.
    pub(crate) load: f64,
    /// Invokes that were answered 429, and were repeated.
    pub(crate) throttled: u32,
}

impl LoadFigures {
    /// The result as a line of text.
    pub(super) fn line(&self, name: &str) -> String {
        let Self { rate, p50, p99, per_cpu_second, cpu, load, throttled } = self;
        let Parts { broker, stand_in, functions } = cpu;
        format!(
            "{name:<24} {rate:>6.0}/s  p50 {p50:.0} µs  p99 {p99:.0} µs  {per_cpu_second:.0} per CPU second  CPU µs: broker {broker:.0}, \
             stand-in {stand_in:.0}, functions {functions:.0}  load {:.0} %  throttled {throttled}\n",
            load * 100.0
        )
    }
}
