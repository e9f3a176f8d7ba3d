//! Owns the schedule: which fault hits which part of the cluster when, determined by a seed.

use std::time::Duration;

use crate::fleet::Action;
use crate::supervisors::Dialect;

/// One fault. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL, and a new process after this time.
    KillBroker { broker: usize, millis: u64 },
    /// SIGTERM, and a new process after it has exited.
    DrainBroker { broker: usize },
    /// SIGSTOP, and SIGCONT after this time.
    PauseBroker { broker: usize, millis: u64 },
    /// No packet between a broker and nats-server arrives for this time.
    CutOff { broker: usize, millis: u64 },
    /// SIGKILL, and a new process, which has another id, after this time.
    KillNats { millis: u64 },
    /// SIGSTOP, and SIGCONT after this time.
    PauseNats { millis: u64 },
    /// SIGSTOP, and SIGCONT after this time.
    StopFleet { fleet: usize, millis: u64 },
    /// SIGKILL, then a new process.
    KillFleet { fleet: usize },
    /// Some controllers of a fleet misbehave in this way.
    Misbehave { fleet: usize, what: Action, count: usize, millis: u64 },
    /// Runs that are posted to two brokers, this much one after the other at most.
    PostTwice { dialect: Dialect, count: usize, millis: u64 },
}

impl Fault {
    /// Its name in the summary.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::KillBroker { .. } => "broker killed",
            Self::DrainBroker { .. } => "broker drained",
            Self::PauseBroker { .. } => "broker paused",
            Self::CutOff { .. } => "broker cut off",
            Self::KillNats { .. } => "NATS killed",
            Self::PauseNats { .. } => "NATS paused",
            Self::StopFleet { .. } => "fleet stopped",
            Self::KillFleet { .. } => "fleet killed",
            Self::Misbehave { .. } => "controllers misbehave",
            Self::PostTwice { .. } => "runs posted twice",
        }
    }

    /// How long it lasts at least.
    pub(super) fn millis(self) -> u64 {
        match self {
            Self::KillBroker { millis, .. }
            | Self::PauseBroker { millis, .. }
            | Self::CutOff { millis, .. }
            | Self::KillNats { millis }
            | Self::PauseNats { millis }
            | Self::StopFleet { millis, .. }
            | Self::Misbehave { millis, .. }
            | Self::PostTwice { millis, .. } => millis,
            Self::DrainBroker { .. } | Self::KillFleet { .. } => 0,
        }
    }
}

/// What there is to hit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Targets {
    pub(super) brokers: usize,
    pub(super) fleets: usize,
    /// Whether packets can be dropped.
    pub(super) can_cut_off: bool,
}

/// The time between two faults, in milliseconds.
const PAUSE: std::ops::Range<u64> = 100..1500;
/// The longest pause of a process, and the longest absence of one.
const LONGEST: u64 = 10_000;

/// Faults, each with its time from the start; all that have a length end within it.
pub(super) fn schedule(seed: u64, length: Duration, targets: Targets) -> Vec<(Duration, Fault)> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let mut faults = Vec::new();
    let mut at = rng.u64(PAUSE);
    while at < length {
        let fault = fault(&mut rng, targets);
        if at + fault.millis() < length {
            faults.push((Duration::from_millis(at), fault));
        }
        at += rng.u64(PAUSE);
    }
    faults
}

fn fault(rng: &mut fastrand::Rng, targets: Targets) -> Fault {
    let (broker, fleet) = (rng.usize(..targets.brokers), rng.usize(..targets.fleets));
    // Mostly short: a long pause is another fault than many short ones.
    let longest = if rng.u8(..4) == 0 { LONGEST } else { 2000 };
    let millis = rng.u64(50..longest);
    let count = rng.usize(1..20);
    let dialect = if rng.u8(..3) > 0 { Dialect::Native } else { Dialect::Trigger };
    let actions =
        [Action::Close, Action::Reset, Action::CloseOnRun, Action::ResetAfterRun, Action::PauseReading];
    match rng.u32(..100) {
        0..16 => Fault::KillBroker { broker, millis },
        16..22 => Fault::DrainBroker { broker },
        22..38 => Fault::PauseBroker { broker, millis },
        38..52 if targets.can_cut_off => Fault::CutOff { broker, millis },
        38..45 | 52..58 => Fault::KillNats { millis: millis / 2 },
        45..52 | 58..64 => Fault::PauseNats { millis: millis / 2 },
        64..70 => Fault::StopFleet { fleet, millis: millis.min(4000) },
        70..75 => Fault::KillFleet { fleet },
        75..88 => Fault::Misbehave { fleet, what: actions[rng.usize(..actions.len())], count, millis },
        _ => Fault::PostTwice { dialect, count, millis: rng.u64(1..400) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_every_kind_and_a_seed_gives_the_same_faults_again() {
        let targets = Targets { brokers: 3, fleets: 6, can_cut_off: true };
        let minutes = Duration::from_secs(180);
        let faults = schedule(1, minutes, targets);
        assert_eq!(faults, schedule(1, minutes, targets));
        assert_ne!(faults, schedule(2, minutes, targets));
        let mut kinds: Vec<&str> = faults.iter().map(|(_, fault)| fault.kind()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 10, "{kinds:?}");
        let without = schedule(1, minutes, Targets { can_cut_off: false, ..targets });
        assert!(without.iter().all(|(_, fault)| fault.kind() != "broker cut off"));
    }
}
