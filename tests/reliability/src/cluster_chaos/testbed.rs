//! Owns the testbed: the cluster, the fleets, the supervisors, and what is known of each part's faults.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use pilotlight_bench::scrape::Scrape;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::fleet::{FleetGroup, FleetOptions, unix_micros};
use crate::oracle::{Affected, Disturbance, Oracle};
use crate::supervisors::{Outcome, SendMode, Supervisors};

/// The participants of the test.
pub(super) struct Testbed {
    pub(super) cluster: Cluster,
    pub(super) supervisors: Rc<Supervisors>,
    pub(super) fleets: FleetGroup,
    pub(super) oracle: RefCell<Oracle>,
    pub(super) injected: RefCell<BTreeMap<&'static str, u64>>,
    /// Each is held by the one fault that acts on a broker's process, its connection to NATS, or nats-server.
    pub(super) broker_locks: Vec<tokio::sync::Mutex<()>>,
    pub(super) cut_locks: Vec<tokio::sync::Mutex<()>>,
    pub(super) nats_lock: tokio::sync::Mutex<()>,
}

/// The brokers know each other's waiters again within this time after the last fault.
const RECOVERY_TIME: Duration = Duration::from_secs(40);
/// How many runs are posted to each broker when all faults are over.
const LAST_RUNS: usize = 100;

impl Testbed {
    pub(super) fn new(
        cluster: Cluster,
        supervisors: Rc<Supervisors>,
        oracle: Oracle,
        model: FleetOptions,
    ) -> Rc<Self> {
        let locks = || cluster.brokers.iter().map(|_| tokio::sync::Mutex::default()).collect();
        Rc::new(Self {
            broker_locks: locks(),
            cut_locks: locks(),
            nats_lock: tokio::sync::Mutex::default(),
            cluster,
            supervisors,
            fleets: FleetGroup::new(model),
            oracle: oracle.into(),
            injected: RefCell::default(),
        })
    }

    pub(super) fn disturbed(&self, affected: Affected, from: u64) {
        self.oracle.borrow_mut().disturbed(Disturbance { affected, from, to: unix_micros() });
    }

    /// Passes new POSTs and reports to the oracle.
    pub(super) fn collect(&self) {
        let mut oracle = self.oracle.borrow_mut();
        self.supervisors.posts.take().into_iter().for_each(|post| oracle.record_post(post));
        self.fleets.take_reports().into_iter().for_each(|report| oracle.record_report(report));
    }

    /// After the last fault: the brokers find each other, count the waiters that there are, and each of them finds a waiter
    /// of every pool, wherever it is.
    pub(super) async fn check_recovery(self: &Rc<Self>) -> anyhow::Result<()> {
        self.fleets.resume_all();
        self.cluster.wait_until_joined().await?;
        self.check_counts().await;
        // The last change of a row may still be on its way.
        sleep(Duration::from_secs(1)).await;
        let first = self.supervisors.posts.borrow().len();
        for broker in 0..self.cluster.brokers.len() {
            let mut kept = None;
            for _ in 0..LAST_RUNS {
                let run = self.supervisors.next_run();
                self.supervisors.post(&mut kept, broker, run, SendMode::Whole).await;
            }
        }
        let posts = self.supervisors.posts.borrow();
        let last = &posts[first..];
        for post in last.iter().filter(|post| !has_found_waiter(&post.outcome)) {
            let (run, broker, outcome) = (post.run, post.broker, &post.outcome);
            let story = format!("run {run} at broker {broker} after all faults: {outcome:?}");
            self.oracle.borrow_mut().fail("recovery", &story);
        }
        let hits = last.iter().filter(|post| post.is_hit()).count();
        if hits * 10 < last.len() * 9 {
            let story = format!("{hits} of {} runs were delivered after all faults", last.len());
            self.oracle.borrow_mut().fail("recovery", &story);
        }
        Ok(())
    }

    /// I6: the brokers together count the waiters that the controllers report.
    async fn check_counts(&self) {
        let deadline = Instant::now() + RECOVERY_TIME;
        let mut last = String::from("the metrics could not be read");
        while Instant::now() < deadline {
            sleep(Duration::from_millis(300)).await;
            self.collect();
            let before = self.oracle.borrow().held();
            let mut counted = 0;
            for ops in self.cluster.ops() {
                let Ok(scrape) = Scrape::fetch(ops).await else { continue };
                counted += scrape.count("pilotlight_waiters");
            }
            self.collect();
            let after = self.oracle.borrow().held();
            last = format!("the brokers count {counted} waiters, the controllers {}", after.0);
            if before == after && counted == after.0 {
                return;
            }
        }
        self.oracle.borrow_mut().fail("I6", &last);
    }
}

/// Whether a waiter was offered the run. It may not have proved it: a controller that was told to misbehave may still be about
/// to, and on a busy machine an answer of another broker may come too late.
fn has_found_waiter(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Hit(..) => true,
        Outcome::Miss(reason) => matches!(&**reason, "undelivered" | "unknown"),
        Outcome::Status(_) | Outcome::NoResponse | Outcome::TimedOut | Outcome::Abandoned => false,
    }
}
