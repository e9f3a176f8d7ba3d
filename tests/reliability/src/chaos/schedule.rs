//! Owns the schedule: which fault is injected when, determined by a seed.

use std::time::Duration;

use crate::fleet::Action;
use crate::supervisors::{Dialect, SendMode};

/// One fault. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGSTOP, and SIGCONT after this time.
    StopFleet { fleet: usize, millis: u64 },
    /// SIGKILL, then a new process.
    KillFleet { fleet: usize },
    /// Some controllers of a fleet misbehave in this way.
    Misbehave { fleet: usize, what: Action, count: usize, millis: u64 },
    /// POSTs that are cut off or sent slowly.
    Posts { way: SendMode, count: usize },
    /// Runs that are posted twice at about the same time.
    PostTwice { dialect: Dialect, count: usize },
    /// Bytes that are not a request.
    InvalidBytes { count: usize },
    /// Connections that send nothing.
    SilentConnections { count: usize, millis: u64 },
    /// Silent connections until the broker has no descriptors left.
    NoDescriptors { millis: u64 },
    /// SIGTERM, then a new broker after it has exited.
    Drain,
    /// SIGKILL, then a new broker.
    Kill,
    /// SIGSTOP, and SIGCONT after this time.
    StopBroker { millis: u64 },
}

impl Fault {
    /// Its name in the summary.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::StopFleet { .. } => "fleet stopped",
            Self::KillFleet { .. } => "fleet killed",
            Self::Misbehave { what, .. } => match what {
                Action::Close => "polls ended by FIN",
                Action::Reset => "polls ended by RST",
                Action::CloseOnRun => "gone at the match",
                Action::ResetAfterRun => "reset after the read",
                Action::PauseReading => "frozen, then read",
                Action::StopReading | Action::Exit => "open and deaf",
            },
            Self::Posts { way, .. } => match way {
                SendMode::CutInBody => "POST cut in its body",
                SendMode::CutBeforeResponse => "POST left before its answer",
                SendMode::Slow(_) | SendMode::Whole => "POST dripping",
            },
            Self::PostTwice { .. } => "run posted twice",
            Self::InvalidBytes { .. } => "garbage",
            Self::SilentConnections { .. } => "silent connections",
            Self::NoDescriptors { .. } => "out of descriptors",
            Self::Drain => "broker drained",
            Self::Kill => "broker killed",
            Self::StopBroker { .. } => "broker stopped",
        }
    }
}

/// Faults, each with its time from the start, followed by a time without faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) length: Duration,
    pub(super) faults: Vec<(Duration, Fault)>,
}

/// How long faults are injected in a phase, in milliseconds.
const FAULTS_MS: u64 = 9000;
/// How long a phase takes with the quiet time after its faults.
const PHASE_SECONDS: u64 = 13;

/// The phases of a test of this length. In the last third the broker is not restarted, so that its memory can be compared.
pub(super) fn schedule(seed: u64, length: Duration, fleets: usize) -> Vec<Phase> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let count = (length.as_secs() / PHASE_SECONDS).max(2);
    (0..count).map(|number| phase(&mut rng, fleets, number < restarts_until(count))).collect()
}

/// The number of phases in which the broker may be restarted.
pub(super) fn restarts_until(phases: u64) -> u64 {
    phases * 2 / 3
}

fn phase(rng: &mut fastrand::Rng, fleets: usize, may_restart: bool) -> Phase {
    let mut faults = Vec::new();
    let mut at = rng.u64(..500);
    while at < FAULTS_MS {
        faults.push((Duration::from_millis(at), fault(rng, fleets, FAULTS_MS - at)));
        at += rng.u64(50..700);
    }
    if may_restart && rng.u8(..3) > 0 {
        let fault = if rng.bool() { Fault::Drain } else { Fault::Kill };
        faults.push((Duration::from_millis(rng.u64(1000..FAULTS_MS - 3000)), fault));
    }
    faults.sort_by_key(|(at, _)| *at);
    Phase { length: Duration::from_millis(FAULTS_MS), faults }
}

fn fault(rng: &mut fastrand::Rng, fleets: usize, left: u64) -> Fault {
    let fleet = rng.usize(..fleets);
    let millis = rng.u64(100..4000).min(left.max(100));
    let count = rng.usize(1..30);
    let misbehave = |what| Fault::Misbehave { fleet, what, count, millis };
    match rng.u32(..100) {
        0..9 => Fault::StopFleet { fleet, millis },
        9..15 => Fault::KillFleet { fleet },
        15..23 => misbehave(Action::Close),
        23..31 => misbehave(Action::Reset),
        31..41 => misbehave(Action::CloseOnRun),
        41..47 => misbehave(Action::ResetAfterRun),
        47..54 => misbehave(Action::PauseReading),
        54..59 => misbehave(Action::StopReading),
        59..65 => Fault::Posts { way: SendMode::CutInBody, count },
        65..72 => Fault::Posts { way: SendMode::CutBeforeResponse, count },
        72..75 => Fault::Posts { way: SendMode::Slow(millis), count },
        75 => Fault::Posts { way: SendMode::Slow(11_000), count: count / 4 + 1 },
        76..81 => Fault::PostTwice { dialect: Dialect::Native, count },
        81..85 => Fault::PostTwice { dialect: Dialect::Trigger, count: count / 4 + 1 },
        85..91 => Fault::InvalidBytes { count },
        91..94 => Fault::SilentConnections { count: count * 15, millis },
        94..96 => Fault::NoDescriptors { millis: millis.min(3000) },
        _ => Fault::StopBroker { millis: millis.min(3000) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_again() {
        let length = Duration::from_secs(600);
        assert_eq!(schedule(7, length, 8), schedule(7, length, 8));
        assert_ne!(schedule(7, length, 8), schedule(8, length, 8));
    }

    #[test]
    fn ten_minutes_have_every_kind_and_end_without_restarts() {
        let phases = schedule(1, Duration::from_secs(600), 8);
        let mut kinds: Vec<&str> =
            phases.iter().flat_map(|phase| &phase.faults).map(|(_, fault)| fault.kind()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 18, "{kinds:?}");
        let until = usize::try_from(restarts_until(phases.len() as u64)).unwrap_or(0);
        let restarts = |fault: &Fault| matches!(fault, Fault::Drain | Fault::Kill);
        assert!(phases[until..].iter().flat_map(|phase| &phase.faults).all(|(_, fault)| !restarts(fault)));
    }
}
