//! Owns the lines between a fleet's process and its parent: reports of controllers, and instructions to them.

use std::time::{SystemTime, UNIX_EPOCH};

/// How many controller ids a process may use: its ids begin at its serial times this number.
pub(crate) const IDS_PER_FLEET: u64 = 10_000_000;

/// Where the ids of controllers with slots begin among those of their process: each has eight, one for each slot.
const FIRST_WITH_SLOTS: u64 = 9_000_000;
const IDS_PER_CONTROLLER: u64 = 8;

/// The id of the first slot of the controller in this place.
pub(crate) fn first_slot(serial: u64, place: usize) -> u64 {
    serial * IDS_PER_FLEET + FIRST_WITH_SLOTS + place as u64 * IDS_PER_CONTROLLER
}

/// The controller by whose name a broker knows the one with this id: all slots of a controller have the id of the first.
pub(crate) fn named_controller(id: u64) -> u64 {
    if id % IDS_PER_FLEET < FIRST_WITH_SLOTS { id } else { id - id % IDS_PER_CONTROLLER }
}

/// The place of a controller with slots; none if it has none.
pub(super) fn place_of(id: u64) -> Option<usize> {
    let number = (id % IDS_PER_FLEET).checked_sub(FIRST_WITH_SLOTS)?;
    usize::try_from(number / IDS_PER_CONTROLLER).ok()
}

/// Microseconds since 1970, on the clock that all processes share.
pub(crate) fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// One event of one controller, and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) controller: u64,
    pub(crate) at: u64,
    pub(crate) what: Event,
}

/// What a controller does, or what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its poll for this pool has been sent.
    PollSent(usize),
    /// It has read this run completely; its connection is still open.
    Received(u64),
    /// It is about to end its own poll.
    Leaving,
    /// The broker closed its connection without a response.
    ConnectionEnded,
    /// The broker answered, in the native dialect, that no run came.
    NoRun,
    /// The broker answered with a redirect.
    Redirected,
    /// The broker answered with a status after which a stock controller exits.
    Status(u16),
    /// It has read a run of another pool.
    WrongPool(u64),
    /// From now on it misbehaves: it does not read, or does not close its connection properly.
    Unhealthy,
    /// Its process was not scheduled for this many microseconds.
    ProcessLate(u64),
}

impl Report {
    /// The process that it belongs to.
    pub(crate) fn fleet(&self) -> u64 {
        self.controller / IDS_PER_FLEET
    }

    pub(super) fn line(&self) -> String {
        let Self { controller, at, what } = self;
        let (word, number) = match *what {
            Event::PollSent(pool) => ("polls", pool as u64),
            Event::Received(run) => ("received", run),
            Event::Leaving => ("leaves", 0),
            Event::ConnectionEnded => ("cut", 0),
            Event::NoRun => ("nothing", 0),
            Event::Redirected => ("elsewhere", 0),
            Event::Status(status) => ("status", status.into()),
            Event::WrongPool(run) => ("wrong", run),
            Event::Unhealthy => ("fails", 0),
            Event::ProcessLate(micros) => ("late", micros),
        };
        format!("{word} {controller} {at} {number}\n")
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let word = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let (controller, at, number) = (number()?, number()?, number()?);
        let what = match word {
            "polls" => Event::PollSent(usize::try_from(number).ok()?),
            "received" => Event::Received(number),
            "leaves" => Event::Leaving,
            "cut" => Event::ConnectionEnded,
            "nothing" => Event::NoRun,
            "elsewhere" => Event::Redirected,
            "status" => Event::Status(u16::try_from(number).ok()?),
            "wrong" => Event::WrongPool(number),
            "fails" => Event::Unhealthy,
            "late" => Event::ProcessLate(number),
            _ => return None,
        };
        Some(Self { controller, at, what })
    }
}

/// An action for `count` random controllers of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) action: Action,
    pub(crate) count: usize,
    /// In milliseconds: an abort happens at a random time within it; a controller that paused reads again after it.
    pub(crate) millis: u64,
}

/// What a controller can be instructed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Closes its connection with FIN.
    Close,
    /// Closes it with RST.
    Reset,
    /// Closes it as soon as the first byte of a run arrives, without reading.
    CloseOnRun,
    /// Reads the run, then resets the connection.
    ResetAfterRun,
    /// Keeps the connection open without reading; then reads what has arrived.
    PauseReading,
    /// Keeps it open and never reads.
    StopReading,
    /// All controllers close their connections, and the process exits.
    Exit,
}

const ACTIONS: [(Action, &str); 7] = [
    (Action::Close, "close"),
    (Action::Reset, "reset"),
    (Action::CloseOnRun, "flinch"),
    (Action::ResetAfterRun, "slam"),
    (Action::PauseReading, "freeze"),
    (Action::StopReading, "ghost"),
    (Action::Exit, "end"),
];

impl Action {
    pub(crate) fn text(self) -> &'static str {
        ACTIONS.iter().find(|(action, _)| *action == self).map_or("", |(_, text)| text)
    }
}

impl Instruction {
    pub(super) fn line(&self) -> String {
        format!("{} {} {}\n", self.action.text(), self.count, self.millis)
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let word = words.next()?;
        let what = ACTIONS.iter().find(|(_, text)| *text == word)?.0;
        Some(Self { action: what, count: words.next()?.parse().ok()?, millis: words.next()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_have_ids_of_their_own_and_the_name_of_their_controller() {
        for (serial, place) in [(0, 0), (1, 0), (3, 17), (2, 124_999)] {
            let first = first_slot(serial, place);
            for id in first..first + IDS_PER_CONTROLLER {
                assert_eq!((named_controller(id), place_of(id)), (first, Some(place)));
                assert_eq!(id / IDS_PER_FLEET, serial);
            }
        }
        let polling = 3 * IDS_PER_FLEET + 17;
        assert_eq!((named_controller(polling), place_of(polling)), (polling, None));
    }

    #[test]
    fn a_line_is_parsed_back_to_what_was_written() {
        let whats = [
            Event::PollSent(3),
            Event::Received(u64::MAX),
            Event::Leaving,
            Event::ConnectionEnded,
            Event::NoRun,
            Event::Redirected,
            Event::Status(429),
            Event::WrongPool(7),
            Event::Unhealthy,
            Event::ProcessLate(250_000),
        ];
        for what in whats {
            let heard = Report { controller: 12, at: unix_micros(), what };
            assert_eq!(Report::parse(heard.line().trim_end()), Some(heard));
        }
        for (what, _) in ACTIONS {
            let order = Instruction { action: what, count: 4, millis: 9 };
            assert_eq!(Instruction::parse(order.line().trim_end()), Some(order));
        }
        assert_eq!(Report::parse("received 1 2"), None, "a line that was cut short by a kill is ignored");
    }
}
