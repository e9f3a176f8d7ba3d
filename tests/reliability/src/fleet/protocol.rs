//! Owns the lines between a fleet's process and its parent: what controllers do and meet, and what they are told.

use std::time::{SystemTime, UNIX_EPOCH};

/// Controllers of one process are numbered from its serial times this on.
pub(crate) const IDS_PER_FLEET: u64 = 10_000_000;

/// Microseconds since 1970: a clock that processes share.
pub(crate) fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// What one controller says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) controller: u64,
    pub(crate) at: u64,
    pub(crate) what: Event,
}

/// What a controller does or meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its poll for this pool has been sent.
    PollSent(usize),
    /// It has read this run wholly; its connection is open still.
    Received(u64),
    /// It is about to end its poll by itself.
    Leaving,
    /// The broker ended its poll without an answer.
    ConnectionEnded,
    /// The broker sent it elsewhere.
    Redirected,
    /// The broker answered with a status that ends a stock controller.
    Status(u16),
    /// It has read a run of another pool.
    WrongPool(u64),
    /// From here on it is no healthy waiter: it will not read, or not end politely.
    Unhealthy,
    /// Its whole process was not running for so many microseconds.
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

/// What some controllers of a process are told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) action: Action,
    pub(crate) count: usize,
    /// Milliseconds: an abort comes within them, a deaf controller hears again after them.
    pub(crate) millis: u64,
}

/// What a controller can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ends its connection politely.
    Close,
    /// Resets it.
    Reset,
    /// Ends it when the first byte of a run is there, without reading.
    CloseOnRun,
    /// Reads the run, and resets the connection then.
    ResetAfterRun,
    /// Keeps the connection and reads nothing; what is there afterwards it reads.
    PauseReading,
    /// The same, and reads nothing ever.
    StopReading,
    /// Everybody leaves, and the process ends.
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
        ACTIONS.iter().find(|(deed, _)| *deed == self).map_or("", |(_, text)| text)
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
    fn a_line_says_what_was_meant() {
        let whats = [
            Event::PollSent(3),
            Event::Received(u64::MAX),
            Event::Leaving,
            Event::ConnectionEnded,
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
        assert_eq!(Report::parse("received 1 2"), None, "a line cut short by a kill says nothing");
    }
}
