//! Owns the lines between a fleet's process and its parent: what controllers do and meet, and what they are told.

use std::time::{SystemTime, UNIX_EPOCH};

/// Controllers of one process are numbered from its serial times this on.
pub(crate) const CONTROLLERS: u64 = 10_000_000;

/// Microseconds since 1970: a clock that processes share.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// What one controller says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) controller: u64,
    pub(crate) at: u64,
    pub(crate) what: What,
}

/// What a controller does or meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Its poll for this pool has been sent.
    Polls(usize),
    /// It has read this run wholly; its connection is open still.
    Received(u64),
    /// It is about to end its poll by itself.
    Leaves,
    /// The broker ended its poll without an answer.
    Cut,
    /// The broker sent it elsewhere.
    Elsewhere,
    /// The broker answered with a status that ends a stock controller.
    Status(u16),
    /// It has read a run of another pool.
    Wrong(u64),
    /// From here on it is no healthy waiter: it will not read, or not end politely.
    Fails,
    /// Its whole process was not running for so many microseconds.
    Late(u64),
}

impl Heard {
    /// The process that it belongs to.
    pub(crate) fn fleet(&self) -> u64 {
        self.controller / CONTROLLERS
    }

    pub(super) fn line(&self) -> String {
        let Self { controller, at, what } = self;
        let (word, number) = match *what {
            What::Polls(pool) => ("polls", pool as u64),
            What::Received(run) => ("received", run),
            What::Leaves => ("leaves", 0),
            What::Cut => ("cut", 0),
            What::Elsewhere => ("elsewhere", 0),
            What::Status(status) => ("status", status.into()),
            What::Wrong(run) => ("wrong", run),
            What::Fails => ("fails", 0),
            What::Late(micros) => ("late", micros),
        };
        format!("{word} {controller} {at} {number}\n")
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let word = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let (controller, at, number) = (number()?, number()?, number()?);
        let what = match word {
            "polls" => What::Polls(usize::try_from(number).ok()?),
            "received" => What::Received(number),
            "leaves" => What::Leaves,
            "cut" => What::Cut,
            "elsewhere" => What::Elsewhere,
            "status" => What::Status(u16::try_from(number).ok()?),
            "wrong" => What::Wrong(number),
            "fails" => What::Fails,
            "late" => What::Late(number),
            _ => return None,
        };
        Some(Self { controller, at, what })
    }
}

/// What some controllers of a process are told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) what: Deed,
    pub(crate) count: usize,
    /// Milliseconds: an abort comes within them, a deaf controller hears again after them.
    pub(crate) millis: u64,
}

/// What a controller can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Ends its connection politely.
    Close,
    /// Resets it.
    Reset,
    /// Ends it when the first byte of a run is there, without reading.
    Flinch,
    /// Reads the run, and resets the connection then.
    Slam,
    /// Keeps the connection and reads nothing; what is there afterwards it reads.
    Freeze,
    /// The same, and reads nothing ever.
    Ghost,
    /// Everybody leaves, and the process ends.
    End,
}

const DEEDS: [(Deed, &str); 7] = [
    (Deed::Close, "close"),
    (Deed::Reset, "reset"),
    (Deed::Flinch, "flinch"),
    (Deed::Slam, "slam"),
    (Deed::Freeze, "freeze"),
    (Deed::Ghost, "ghost"),
    (Deed::End, "end"),
];

impl Deed {
    pub(crate) fn text(self) -> &'static str {
        DEEDS.iter().find(|(deed, _)| *deed == self).map_or("", |(_, text)| text)
    }
}

impl Order {
    pub(super) fn line(&self) -> String {
        format!("{} {} {}\n", self.what.text(), self.count, self.millis)
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let word = words.next()?;
        let what = DEEDS.iter().find(|(_, text)| *text == word)?.0;
        Some(Self { what, count: words.next()?.parse().ok()?, millis: words.next()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_meant() {
        let whats = [
            What::Polls(3),
            What::Received(u64::MAX),
            What::Leaves,
            What::Cut,
            What::Elsewhere,
            What::Status(429),
            What::Wrong(7),
            What::Fails,
            What::Late(250_000),
        ];
        for what in whats {
            let heard = Heard { controller: 12, at: now(), what };
            assert_eq!(Heard::parse(heard.line().trim_end()), Some(heard));
        }
        for (what, _) in DEEDS {
            let order = Order { what, count: 4, millis: 9 };
            assert_eq!(Order::parse(order.line().trim_end()), Some(order));
        }
        assert_eq!(Heard::parse("received 1 2"), None, "a line cut short by a kill says nothing");
    }
}
