//! Owns counters and histograms for the way of a request: each thread counts in cells of its own, and a scrape adds them up.
//!
//! Threads that count at once share no cache line, and none waits for another. What was counted before a scrape is in it; the
//! `prometheus` crate's local metrics would need to be flushed first. A thread's cells outlive it, and a later thread
//! continues them, so there are as many as there were threads at once.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::{Collector, Desc, Describer};
use prometheus::proto::{Bucket, Counter, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Opts, Registry};
use thread_local::ThreadLocal;

use super::labels::Label;

const CELLS_PER_LINE: usize = 16;

/// Two cache lines, because processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Line([AtomicU64; CELLS_PER_LINE]);

/// What one thread has counted.
pub(super) struct Cells(Box<[Line]>);

impl Cells {
    fn new(len: usize) -> Self {
        Self((0..len.div_ceil(CELLS_PER_LINE)).map(|_| Line::default()).collect())
    }

    fn at(&self, index: usize) -> &AtomicU64 {
        &self.0[index / CELLS_PER_LINE].0[index % CELLS_PER_LINE]
    }

    /// Only the thread of these cells calls this, so nothing is written between the load and the store.
    fn update(&self, index: usize, change: impl FnOnce(u64) -> u64) {
        let cell = self.at(index);
        cell.store(change(cell.load(Ordering::Relaxed)), Ordering::Relaxed);
    }
}

/// The cells of every thread that has counted something.
pub(super) struct PerThread {
    len: usize,
    threads: ThreadLocal<Cells>,
}

impl PerThread {
    /// The calling thread's cells.
    pub(super) fn cells(&self) -> &Cells {
        self.threads.get().unwrap_or_else(|| self.first_cells())
    }

    /// Apart, so that the usual way is short.
    #[cold]
    fn first_cells(&self) -> &Cells {
        self.threads.get_or(|| Cells::new(self.len))
    }

    fn values(&self, index: usize) -> impl Iterator<Item = u64> {
        self.threads.iter().map(move |cells| cells.at(index).load(Ordering::Relaxed))
    }

    fn sum(&self, index: usize) -> u64 {
        self.values(index).fold(0, u64::wrapping_add)
    }

    fn sum_f64(&self, index: usize) -> f64 {
        // An empty sum of floating-point numbers is -0.
        self.values(index).fold(0.0, |sum, bits| sum + f64::from_bits(bits))
    }
}

/// Counters, one for each value of a label set.
pub(super) struct Counters<L> {
    first: usize,
    label: PhantomData<fn(L)>,
}

impl<L: Label> Counters<L> {
    pub(super) fn add(&self, cells: &Cells, label: L, count: u64) {
        cells.update(self.first + label.index(), |before| before.wrapping_add(count));
    }
}

/// Histograms, one for each value of a label set. Each has a cell per bucket, one for larger values, and one for the sum.
pub(super) struct Histograms<L> {
    first: usize,
    bounds: &'static [f64],
    label: PhantomData<fn(L)>,
}

impl<L: Label> Histograms<L> {
    pub(super) fn observe(&self, cells: &Cells, label: L, value: f64) {
        let buckets = self.bounds.len() + 1;
        let first = self.first + label.index() * (buckets + 1);
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(buckets - 1);
        cells.update(first + bucket, |before| before.wrapping_add(1));
        cells.update(first + buckets, |sum| (f64::from_bits(sum) + value).to_bits());
    }

    pub(super) fn observe_time(&self, cells: &Cells, label: L, time: Duration) {
        self.observe(cells, label, time.as_secs_f64());
    }
}

/// One name, as it is exported.
struct Family {
    desc: Desc,
    /// The labels of each metric.
    labels: Vec<Vec<LabelPair>>,
    first: usize,
    /// None for counters.
    bounds: Option<&'static [f64]>,
}

/// Makes the metrics, and gives each its cells.
#[derive(Default)]
pub(super) struct Families {
    len: usize,
    families: Vec<Family>,
}

impl Families {
    pub(super) fn counters<L: Label>(&mut self, opts: &Opts) -> Result<Counters<L>, prometheus::Error> {
        Ok(Counters { first: self.add::<L>(opts, None)?, label: PhantomData })
    }

    pub(super) fn histograms<L: Label>(
        &mut self,
        opts: &Opts,
        bounds: &'static [f64],
    ) -> Result<Histograms<L>, prometheus::Error> {
        Ok(Histograms { first: self.add::<L>(opts, Some(bounds))?, bounds, label: PhantomData })
    }

    /// Registers all of them. From then on they may be counted.
    pub(super) fn register(self, registry: &Registry) -> Result<Arc<PerThread>, prometheus::Error> {
        let threads = Arc::new(PerThread { len: self.len, threads: ThreadLocal::new() });
        registry.register(Box::new(SumCollector { families: self.families, threads: threads.clone() }))?;
        Ok(threads)
    }

    fn add<L: Label>(
        &mut self,
        opts: &Opts,
        bounds: Option<&'static [f64]>,
    ) -> Result<usize, prometheus::Error> {
        let desc = opts.describe()?;
        let pair = |(name, value): (&String, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.clone());
            pair.set_value(value.to_owned());
            pair
        };
        let pairs = |label: L| {
            let mut pairs: Vec<_> = desc.variable_labels.iter().zip(label.values()).map(pair).collect();
            pairs.sort_by(|a, b| a.name().cmp(b.name()));
            pairs
        };
        let labels: Vec<_> = L::all().into_iter().map(pairs).collect();
        let first = self.len;
        self.len += labels.len() * bounds.map_or(1, |bounds| bounds.len() + 2);
        self.families.push(Family { desc, labels, first, bounds });
        Ok(first)
    }
}

/// Adds up what all threads have counted, for each scrape.
struct SumCollector {
    families: Vec<Family>,
    threads: Arc<PerThread>,
}

impl Collector for SumCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.families.iter().map(|family| &family.desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families.iter().map(|family| family.collect(&self.threads)).collect()
    }
}

impl Family {
    fn collect(&self, threads: &PerThread) -> MetricFamily {
        let metric = |(index, labels): (usize, &Vec<LabelPair>)| {
            let mut metric = Metric::from_label(labels.clone());
            match self.bounds {
                None => metric.set_counter(sum_counter(threads, self.first + index)),
                Some(bounds) => {
                    let first = self.first + index * (bounds.len() + 2);
                    metric.set_histogram(sum_histogram(threads, first, bounds));
                }
            }
            metric
        };
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(match self.bounds {
            None => MetricType::COUNTER,
            Some(_) => MetricType::HISTOGRAM,
        });
        family.set_metric(self.labels.iter().enumerate().map(metric).collect());
        family
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
fn sum_counter(threads: &PerThread, cell: usize) -> Counter {
    let mut counter = Counter::default();
    counter.set_value(threads.sum(cell) as f64);
    counter
}

fn sum_histogram(threads: &PerThread, first: usize, bounds: &[f64]) -> Histogram {
    let mut count = 0;
    let bucket = |(index, bound): (usize, &f64)| {
        count += threads.sum(first + index);
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(bounds.iter().enumerate().map(bucket).collect());
    histogram.set_sample_count(count + threads.sum(first + bounds.len()));
    histogram.set_sample_sum(threads.sum_f64(first + bounds.len() + 1));
    histogram
}

#[cfg(test)]
mod tests {
    use std::thread;

    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, TextEncoder};

    use super::super::labels::{CodeClass, Route, Tls};
    use super::*;

    const BOUNDS: [f64; 3] = [0.25, 1.0, 2.0];

    fn opts(name: &str) -> Opts {
        Opts::new(name, "A \"help\" text.").namespace("test")
    }

    fn with_labels(opts: Opts, labels: &[&str]) -> Opts {
        opts.variable_labels(labels.iter().map(|&label| label.to_owned()).collect())
    }

    fn text(registry: &Registry) -> String {
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn the_exposition_is_that_of_the_librarys_own_metrics() {
        let (ours, theirs) = (Registry::new(), Registry::new());
        let mut families = Families::default();
        let times = families.histograms::<Tls>(&with_labels(opts("b_seconds"), &["tls"]), &BOUNDS).unwrap();
        let requests = with_labels(opts("a_total"), &["route", "code_class"]);
        let requests = families.counters::<(Route, CodeClass)>(&requests).unwrap();
        let unlabelled = families.counters::<()>(&opts("c_total")).unwrap();
        let threads = families.register(&ours).unwrap();

        let their_requests = IntCounterVec::new(opts("a_total"), &["route", "code_class"]).unwrap();
        let their_times = HistogramOpts::from(opts("b_seconds")).buckets(BOUNDS.to_vec());
        let their_times = HistogramVec::new(their_times, &["tls"]).unwrap();
        let their_unlabelled = prometheus::IntCounter::with_opts(opts("c_total")).unwrap();
        theirs.register(Box::new(their_requests.clone())).unwrap();
        theirs.register(Box::new(their_times.clone())).unwrap();
        theirs.register(Box::new(their_unlabelled.clone())).unwrap();
        for label in <(Route, CodeClass)>::all() {
            their_requests.with_label_values(&label.values());
        }
        for label in Tls::all() {
            their_times.with_label_values(&label.values());
        }
        assert_eq!(text(&ours), text(&theirs), "before anything is counted");

        for (index, label) in <(Route, CodeClass)>::all().into_iter().enumerate() {
            requests.add(threads.cells(), label, index as u64);
            their_requests.with_label_values(&label.values()).inc_by(index as u64);
        }
        for value in [0.0, 0.1, 0.25, 0.250_001, 1.0, 1.7, 2.0, 2.000_001, 1e9] {
            times.observe(threads.cells(), Tls::True, value);
            their_times.with_label_values(&["true"]).observe(value);
        }
        unlabelled.add(threads.cells(), (), 7);
        their_unlabelled.inc_by(7);
        assert_eq!(text(&ours), text(&theirs));
    }

    /// Each thread's cells are continued by a later thread or stay as they are, and a scrape sees every count made before it.
    #[test]
    fn a_scrape_sums_what_many_threads_have_counted() {
        const THREADS: u64 = 8;
        const COUNTS: u64 = 2000;
        let registry = Registry::new();
        let mut families = Families::default();
        let counter = families.counters::<()>(&opts("counted_total")).unwrap();
        let threads = families.register(&registry).unwrap();
        thread::scope(|scope| {
            let scrapes = scope.spawn(|| {
                let mut last = 0;
                for _ in 0..10_000 {
                    let sum = threads.sum(counter.first);
                    assert!(sum >= last, "it never falls: {sum} after {last}");
                    last = sum;
                }
            });
            for round in 1..=10 {
                let counts = || (0..COUNTS).for_each(|_| counter.add(threads.cells(), (), 1));
                let counting: Vec<_> = (0..THREADS).map(|_| scope.spawn(counts)).collect();
                for thread in counting {
                    thread.join().unwrap();
                }
                assert_eq!(threads.sum(counter.first), round * THREADS * COUNTS);
            }
            scrapes.join().unwrap();
        });
        assert!(text(&registry).contains("test_counted_total 160000\n"));
    }
}
