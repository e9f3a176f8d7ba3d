//! Owns a group of fleets on one testbed: their processes, their reports, and what stops, kills and replaces one of them.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use rustix::process::Signal;

use super::handle::{FleetProcess, ReportQueue};
use super::options::FleetOptions;
use super::protocol::{Action, Instruction, Report, unix_micros};

/// Fleets that differ in nothing but their serial numbers and seeds.
pub(crate) struct FleetGroup {
    model: FleetOptions,
    processes: RefCell<Vec<FleetProcess>>,
    reports: ReportQueue,
    last_serial: Cell<u64>,
}

/// What was done to a fleet, and when it began, in microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hit {
    pub(crate) serial: u64,
    pub(crate) from: u64,
}

/// In production, too, a machine is replaced after a delay.
pub(crate) const REPLACEMENT_DELAY: Duration = Duration::from_millis(300);
/// An idle fleet has sent its last reports by then.
const LAST_REPORTS: Duration = Duration::from_millis(100);

impl FleetGroup {
    /// Without fleets at first; each has this many controllers that behave so.
    pub(crate) fn new(model: FleetOptions) -> Self {
        Self {
            model,
            processes: RefCell::default(),
            reports: ReportQueue::default(),
            last_serial: Cell::new(0),
        }
    }

    /// The options that all of them share.
    pub(crate) fn model(&self) -> &FleetOptions {
        &self.model
    }

    /// Starts one more fleet.
    pub(crate) fn start(&self) -> anyhow::Result<()> {
        let fleet = self.start_process()?;
        self.processes.borrow_mut().push(fleet);
        Ok(())
    }

    fn start_process(&self) -> anyhow::Result<FleetProcess> {
        let serial = self.last_serial.get() + 1;
        self.last_serial.set(serial);
        let options = FleetOptions { serial, seed: self.model.seed + serial, ..self.model.clone() };
        FleetProcess::start(&options, &self.reports)
    }

    /// Takes all reports since the last call.
    pub(crate) fn take_reports(&self) -> Vec<Report> {
        self.reports.take()
    }

    pub(crate) fn instruct(&self, fleet: usize, instruction: Instruction) {
        self.processes.borrow_mut()[fleet].instruct(instruction);
    }

    /// Stops a fleet's process for some time.
    pub(crate) async fn pause(&self, fleet: usize, time: Duration) -> Hit {
        let (from, serial) = {
            let fleets = self.processes.borrow();
            fleets[fleet].signal(Signal::STOP);
            (unix_micros(), fleets[fleet].serial)
        };
        tokio::time::sleep(time).await;
        if let Some(fleet) = self.processes.borrow().iter().find(|fleet| fleet.serial == serial) {
            fleet.signal(Signal::CONT);
        }
        Hit { serial, from }
    }

    /// Continues all, also one that was started in place of a stopped one.
    pub(crate) fn resume_all(&self) {
        self.processes.borrow().iter().for_each(|fleet| fleet.signal(Signal::CONT));
    }

    /// Kills a fleet, whose place stays empty until [`FleetGroup::replace`]. `None` if it is empty already.
    pub(crate) fn kill(&self, fleet: usize) -> Option<Hit> {
        let mut fleets = self.processes.borrow_mut();
        let fleet = &mut fleets[fleet];
        if fleet.is_killed() {
            return None;
        }
        let from = unix_micros();
        fleet.kill();
        Some(Hit { serial: fleet.serial, from })
    }

    /// Starts a new fleet in place of a killed one.
    pub(crate) fn replace(&self, fleet: usize) -> anyhow::Result<()> {
        let started = self.start_process()?;
        self.processes.borrow_mut()[fleet] = started;
        Ok(())
    }

    /// Ends all, which are idle, so that no report is lost. Returns their serial numbers.
    pub(crate) async fn end_all(&self) -> Vec<u64> {
        let mut fleets = self.processes.take();
        for fleet in &mut fleets {
            fleet.signal(Signal::CONT);
            fleet.instruct(Instruction { action: Action::Exit, count: 1, millis: 0 });
            tokio::time::sleep(LAST_REPORTS).await;
            fleet.kill();
        }
        fleets.iter().map(|fleet| fleet.serial).collect()
    }
}
