//! Owns one other broker as the directory knows it: its rows, the numbers of its changes, its clock, and whether it answers.

use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;

use crate::broker::{MonotonicTime, PayloadKind};
use crate::cluster::clock::ClockOffset;
use crate::cluster::codec::{Row, Waiters};
use crate::cluster::digest::Digest;
use crate::config::parse_origin;

/// A broker that is silent for this long is hidden, with its rows.
pub const HIDDEN_AFTER: Duration = Duration::from_secs(3);
/// Before any answer: a message through NATS takes less within one region.
const ASSUMED_ROUND_TRIP: Duration = Duration::from_millis(2);
/// After a silence the round trip is assumed to be at least this, and twice as long as before: the broker may be farther away than
/// its answers were waited for, and a late answer tells nothing.
const SILENT_ROUND_TRIP: Duration = Duration::from_millis(50);
/// The longest assumption. An answer that took longer was read late, after a pause of this process for example; such a round trip
/// would leave no time for a verdict, and without forwards there is no other measurement.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(200);
/// Of a new measurement, this part is taken over.
const SMOOTHING: u32 = 8;
/// A broker that leaves this many forwards unanswered is hidden until its next heartbeat.
const SILENCES: u32 = 2;

/// How many rows have each fingerprint.
type Prints = HashMap<u32, u32, RandomState>;

pub(super) struct Peer {
    pub(super) name: Arc<str>,
    /// The origin at which it is reached over HTTP, if it announces one.
    pub(super) advertised: Option<Arc<str>>,
    pub(super) clock: ClockOffset,
    /// When its last heartbeat arrived.
    pub(super) heard: MonotonicTime,
    pub(super) round_trip: Duration,
    rows: HashMap<Digest, PeerRow, RandomState>,
    /// The number of its last change that has arrived.
    last: u64,
    /// Every change from this number to `last` has arrived.
    unbroken_from: u64,
    /// All changes up to this number are in the rows, by a snapshot or because it began with none.
    whole_to: u64,
    /// The snapshot whose pages are arriving: its number, and the page that comes next.
    arriving: Option<(u64, u32)>,
    /// Heartbeats in a row whose number was smaller than `last`.
    behind: u32,
    /// Forwards that it left unanswered since its last heartbeat or answer.
    silences: u32,
    /// When the last of them was noticed.
    silent_at: MonotonicTime,
    /// NATS knows no receiver of its subject. Until its next heartbeat.
    is_unreachable: bool,
}

#[derive(Clone, Copy)]
struct PeerRow {
    /// The number of its last change.
    number: u64,
    prints: [u32; 2],
    waiters: Waiters,
    /// Forwards on their way to it.
    spent: u32,
}

/// How a forward ended, as far as the directory is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CandidateEnd {
    /// It answered, and its pool has this many waiters as of this change.
    Answered {
        /// Claimable waiters.
        waiters: Waiters,
        /// The number of the last change that they contain.
        number: u64,
    },
    /// It answered that it does not take the forward in, or the forward was not sent.
    NotTaken,
    /// It did not answer in time.
    Silent {
        /// When the forward was sent.
        sent: MonotonicTime,
        /// Now.
        now: MonotonicTime,
    },
    /// NATS knows no receiver of its subject.
    NoReceiver,
}

impl Peer {
    pub(super) fn new(name: &str, sent: u64, now: MonotonicTime) -> Self {
        Self {
            name: name.into(),
            advertised: None,
            clock: ClockOffset::new(sent, now),
            heard: now,
            round_trip: ASSUMED_ROUND_TRIP,
            rows: HashMap::default(),
            last: 0,
            unbroken_from: 1,
            whole_to: 0,
            arriving: None,
            behind: 0,
            silences: 0,
            silent_at: now,
            is_unreachable: false,
        }
    }

    /// Notes the origin that it announces; none if the text is none.
    pub(super) fn advertise(&mut self, origin: &str) {
        if self.advertised.as_deref().unwrap_or_default() != origin {
            self.advertised = parse_origin(origin).ok().map(Into::into);
        }
    }

    /// Returns whether a snapshot is missing.
    pub(super) fn heartbeat(
        &mut self,
        name: &str,
        number: u64,
        sent: u64,
        now: MonotonicTime,
        prints: &mut Prints,
    ) -> bool {
        // One heartbeat may be overtaken by changes. A second one is of another process with this id, a clone that kept it when
        // the first took a new one: what is known is not of this one.
        self.behind = if number < self.last { self.behind + 1 } else { 0 };
        if self.behind > 1 {
            self.clear(prints);
            (self.last, self.unbroken_from, self.whole_to) = (0, 1, 0);
            (self.arriving, self.behind) = (None, 0);
        }
        self.clock.add(sent, now);
        self.heard = self.heard.max(now);
        (self.silences, self.is_unreachable) = (0, false);
        if *self.name != *name {
            self.name = name.into();
        }
        if number > self.last {
            // The changes up to this number were lost.
            (self.last, self.unbroken_from) = (number, number + 1);
        }
        self.needs_snapshot()
    }

    /// Whether the rows contain the change with this number.
    pub(super) fn contains_change(&self, number: u64) -> bool {
        number <= self.whole_to || (self.unbroken_from..=self.last).contains(&number)
    }

    /// A change with this number has arrived. Returns whether a snapshot is missing.
    pub(super) fn changed(&mut self, number: u64) -> bool {
        if number == self.last + 1 {
            self.last = number;
        } else if number > self.last {
            (self.last, self.unbroken_from) = (number, number);
        }
        self.needs_snapshot()
    }

    /// Whether changes are missing: those between the last snapshot and the first of an unbroken row of changes.
    pub(super) fn needs_snapshot(&self) -> bool {
        self.whole_to + 1 < self.unbroken_from
    }

    /// Whether a snapshot with this number has news. A broker that misses nothing may know more than an older snapshot.
    pub(super) fn wants_snapshot(&self, number: u64) -> bool {
        self.needs_snapshot() || number > self.last
    }

    /// Takes over the rows that are newer. Those that have waiters are added to `filled`.
    pub(super) fn apply(&mut self, rows: &[Row], number: u64, prints: &mut Prints, filled: &mut Vec<Row>) {
        for row in rows {
            let known = self.rows.entry(row.pool.key).or_insert_with(|| {
                count(prints, row.pool.prints);
                PeerRow { number: 0, prints: row.pool.prints, waiters: [0; 2], spent: 0 }
            });
            if number < known.number {
                continue;
            }
            (known.number, known.waiters) = (number, row.waiters);
            if known.waiters != [0; 2] {
                filled.push(*row);
            } else if known.spent == 0 {
                self.remove(row.pool.key, prints);
            }
        }
    }

    /// A page of a snapshot with this number has been applied. After the last one, rows that are older than it are removed.
    pub(super) fn snapshot_page(&mut self, number: u64, page: u32, is_last: bool, prints: &mut Prints) {
        let is_next = page == 0 || self.arriving == Some((number, page));
        self.arriving = is_next.then_some((number, page + 1));
        if !is_next || !is_last {
            return;
        }
        self.arriving = None;
        self.rows.retain(|_, row| {
            let is_kept = row.number >= number;
            if !is_kept {
                uncount(prints, row.prints);
            }
            is_kept
        });
        self.whole_to = number;
        if number > self.last {
            (self.last, self.unbroken_from) = (number, number + 1);
        }
    }

    pub(super) fn clear(&mut self, prints: &mut Prints) {
        for (_, row) in self.rows.drain() {
            uncount(prints, row.prints);
        }
    }

    pub(super) fn is_visible(&self, now: MonotonicTime) -> bool {
        now.since(self.heard) < HIDDEN_AFTER && !self.is_unreachable && self.silences < SILENCES
    }

    /// Whether runs are forwarded to it. It knows this broker's clock about when this one knows its clock; before, it would find every
    /// forward stale.
    pub(super) fn takes_forwards(&self, now: MonotonicTime) -> bool {
        self.is_visible(now) && self.clock.is_known()
    }

    /// Whether it left a forward unanswered.
    pub(super) fn is_doubtful(&self) -> bool {
        self.silences > 0
    }

    /// The waiters that no forward is on its way to.
    pub(super) fn available(&self, pool: Digest, kind: PayloadKind) -> u32 {
        let available = |row: &PeerRow| row.waiters[kind as usize].saturating_sub(row.spent);
        self.rows.get(&pool).map_or(0, available)
    }

    pub(super) fn spend(&mut self, pool: Digest) {
        if let Some(row) = self.rows.get_mut(&pool) {
            row.spent += 1;
        }
    }

    pub(super) fn end(&mut self, pool: Digest, end: CandidateEnd, prints: &mut Prints) {
        if let Some(row) = self.rows.get_mut(&pool) {
            row.spent = row.spent.saturating_sub(1);
            if let CandidateEnd::Answered { waiters, number } = end
                && number >= row.number
            {
                row.waiters = waiters;
            }
            if row.waiters == [0; 2] && row.spent == 0 {
                self.remove(pool, prints);
            }
        }
        match end {
            CandidateEnd::Answered { .. } => self.silences = 0,
            // One stall leaves all forwards unanswered that were on their way: they are one silence.
            CandidateEnd::Silent { sent, now } if self.silences == 0 || sent >= self.silent_at => {
                self.silences += 1;
                self.silent_at = now;
                let assumed = (self.round_trip * 2).clamp(SILENT_ROUND_TRIP, MAX_ROUND_TRIP);
                self.round_trip = self.round_trip.max(assumed);
            }
            CandidateEnd::Silent { .. } | CandidateEnd::NotTaken => {}
            CandidateEnd::NoReceiver => self.is_unreachable = true,
        }
    }

    pub(super) fn measure(&mut self, took: Duration) {
        self.round_trip = (self.round_trip * (SMOOTHING - 1) + took.min(MAX_ROUND_TRIP)) / SMOOTHING;
    }

    pub(super) fn has_row(&self, pool: Digest) -> bool {
        self.rows.contains_key(&pool)
    }

    pub(super) fn waiters(&self, pool: Digest) -> Waiters {
        self.rows.get(&pool).map_or([0; 2], |row| row.waiters)
    }

    pub(super) fn rows_len(&self) -> usize {
        self.rows.len()
    }

    fn remove(&mut self, pool: Digest, prints: &mut Prints) {
        if let Some(row) = self.rows.remove(&pool) {
            uncount(prints, row.prints);
        }
    }
}

fn count(prints: &mut Prints, of: [u32; 2]) {
    for print in of {
        *prints.entry(print).or_insert(0) += 1;
    }
}

fn uncount(prints: &mut Prints, of: [u32; 2]) {
    for print in of {
        if let Some(rows) = prints.get_mut(&print) {
            *rows -= 1;
            if *rows == 0 {
                prints.remove(&print);
            }
        }
    }
}
