//! Owns the metrics of the process, under Prometheus' standard names.
//!
//! The library's own collector counts CPU in whole seconds, which is too coarse for a broker that uses a tenth of a core.

use prometheus::{Counter, IntCounter, IntGauge, Opts, Registry};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::allocator;
use crate::logging;

/// The process's metrics, read at each scrape.
pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    virtual_bytes: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    committed: IntGauge,
    log_lines_dropped: IntCounter,
}

impl Process {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::with_opts(Opts::new(name, help))?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let cpu =
            Counter::with_opts(Opts::new("process_cpu_seconds_total", "CPU time used, user and system."))?;
        registry.register(Box::new(cpu.clone()))?;
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970.")?
            .set(start_time());
        let help = "Memory that the allocator has committed, in use or not.";
        let committed =
            IntGauge::with_opts(Opts::new("allocator_committed_bytes", help).namespace("pilotlight"))?;
        registry.register(Box::new(committed.clone()))?;
        let help = "Log lines that stderr did not take.";
        let log_surplus =
            IntCounter::with_opts(Opts::new("log_lines_dropped_total", help).namespace("pilotlight"))?;
        registry.register(Box::new(log_surplus.clone()))?;
        Ok(Self {
            cpu,
            resident: gauge("process_resident_memory_bytes", "Resident memory.")?,
            virtual_bytes: gauge("process_virtual_memory_bytes", "Virtual memory.")?,
            open_fds: gauge("process_open_fds", "Open file descriptors.")?,
            max_fds: gauge("process_max_fds", "The most file descriptors that may be open.")?,
            committed,
            log_lines_dropped: log_surplus,
        })
    }

    /// Updates every metric.
    #[expect(clippy::cast_precision_loss, reason = "seconds with nanoseconds need no full precision")]
    pub(super) fn read(&self) {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
        self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        let page = i64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: Vec<i64> = statm.split(' ').filter_map(|pages| pages.parse().ok()).collect();
        if let [virtual_pages, resident, ..] = pages[..] {
            self.virtual_bytes.set(virtual_pages * page);
            self.resident.set(resident * page);
        }
        if let Some(open) = stat_open_fds().or_else(count_open_fds) {
            self.open_fds.set(open);
        }
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        self.max_fds.set(i64::try_from(limit).unwrap_or(i64::MAX));
        self.log_lines_dropped.inc_by(logging::dropped_lines().saturating_sub(self.log_lines_dropped.get()));
        self.committed.set(i64::try_from(allocator::committed()).unwrap_or(i64::MAX));
    }
}

/// The number of open descriptors, which Linux reports since 6.2; to list 100,000 takes tens of milliseconds.
fn stat_open_fds() -> Option<i64> {
    rustix::fs::stat("/proc/self/fd").ok().map(|stat| stat.st_size).filter(|open| *open > 0)
}

fn count_open_fds() -> Option<i64> {
    std::fs::read_dir("/proc/self/fd").ok().and_then(|entries| i64::try_from(entries.count()).ok())
}

fn start_time() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reported_number_of_open_descriptors_is_the_counted_one() {
        let Some(before) = stat_open_fds() else { return };
        let many: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let (reported, counted) = (stat_open_fds().unwrap(), count_open_fds().unwrap());
        // Other tests open and close descriptors at the same time.
        assert!(
            reported.abs_diff(counted) < 100 && reported.abs_diff(before + 200) < 100,
            "{before} {reported} {counted}"
        );
        drop(many);
    }
}
