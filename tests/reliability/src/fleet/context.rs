//! Owns what all controllers of one fleet share: its options, its random numbers, and its reports to the parent.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use pilotlight_bench::stdout::print;

use super::options::FleetOptions;
use super::protocol::{Event, IDS_PER_FLEET, Report, unix_micros};

/// Options, random numbers and reports of a process.
pub(super) struct FleetContext {
    pub(super) options: FleetOptions,
    pub(super) rng: RefCell<fastrand::Rng>,
}

impl FleetContext {
    /// A source address of this process. It has several, because each has a limited number of ports; the broker sees one
    /// machine, because all controllers send the same worker name.
    pub(super) fn source(&self) -> Ipv4Addr {
        let [.., high, low] = self.options.serial.to_be_bytes();
        Ipv4Addr::new(127, 64 | (high & 15), low, self.rng.borrow_mut().u8(1..=8))
    }

    /// The broker that a new connection goes to.
    pub(super) fn broker(&self) -> SocketAddr {
        self.options.brokers[self.rng.borrow_mut().usize(..self.options.brokers.len())]
    }

    /// Whether the controllers in this slot wait in the native dialect.
    pub(super) fn is_native(&self, place: usize) -> bool {
        fastrand::Rng::with_seed(self.options.seed ^ place as u64).f64() < self.options.native
    }

    pub(super) fn report(controller: u64, what: Event) {
        print(&Report { controller, at: unix_micros(), what }.line());
    }

    pub(super) fn first_controller(&self) -> u64 {
        self.options.serial * IDS_PER_FLEET
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.options.timeout)
    }
}
