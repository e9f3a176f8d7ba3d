//! Owns this broker's part in the cluster: what it hears of the others and announces to them. It is pure: time, chance and
//! messages come in, messages go out.

use std::collections::VecDeque;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;

use super::claims::Claims;
use super::codec::{Announcement, BrokerId, News, Row, Unreadable, decode, encode};
use super::digest::Digest;
use super::directory::Directory;
use super::own_pools::{OwnPools, ROWS_PER_MESSAGE};
use crate::broker::MonotonicTime;

/// How often a broker says that it is there.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A new broker says it more often, because the others take no forward of it before they know its clock,
const FIRST_INTERVAL: Duration = Duration::from_millis(150);
/// for this long.
const NEW_FOR: Duration = Duration::from_millis(500);
/// A broker sends its snapshot at most once in this time, whoever asks, and is asked again after a random part of this more.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);
/// The first request waits for a random part of this time: another broker's request may come first.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_millis(100);
/// A tick that is later than this follows a pause of the process. Silence is not judged for as long after it, so that what has
/// arrived meanwhile is read first.
const PAUSE: Duration = Duration::from_secs(1);
/// Own heartbeats that are remembered to know them from those of a cloned machine.
const SENT_REMEMBERED: usize = 16;
/// A request for a snapshot that concerns every broker.
const EVERYONE: BrokerId = 0;
/// The most runs in one announcement of claims.
const RUNS_PER_MESSAGE: usize = 4096;

/// This broker in its cluster.
pub struct Member {
    id: BrokerId,
    name: Box<str>,
    /// The origin at which others reach it over HTTP; empty if it has none.
    advertised: Box<str>,
    /// What the others have.
    pub directory: Directory,
    /// What this broker has.
    pub own: OwnPools,
    /// Which broker claimed a waiter for which named run.
    pub claims: Claims,
    /// Named runs for which a waiter was claimed here, to be announced.
    claimed: VecDeque<Digest>,
    remember_for: Duration,
    /// When it last greeted others, was greeted, or took its id.
    began: MonotonicTime,
    ticked: MonotonicTime,
    judges_from: MonotonicTime,
    heartbeat_due: MonotonicTime,
    /// When the latest heartbeats were sent.
    sent: VecDeque<u64>,
    /// When each broker of which a snapshot is missing is asked next.
    requests: HashMap<BrokerId, MonotonicTime, RandomState>,
    /// The last message under an id that a clone has, too.
    last_words: Option<Vec<u8>>,
    is_snapshot_wanted: bool,
    snapshot_from: MonotonicTime,
    has_left: bool,
}

/// What a message to all brokers has brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Pools in which another broker has waiters now.
    pub filled: Vec<Row>,
    /// Runs are forwarded to this broker from now on, which was new or hidden.
    pub is_in_reach_again: bool,
    /// Something is due: a tick should follow soon.
    pub is_answer_due: bool,
    /// Another process has this broker's id: its machine was cloned. This broker needs a new one.
    pub is_cloned: bool,
}

impl Member {
    /// A broker that has said nothing yet. Others reach it over HTTP at the origin that is `advertised`, unless that is empty. Named
    /// runs are remembered for this long.
    pub fn new(
        id: BrokerId,
        name: &str,
        advertised: &str,
        remember_for: Duration,
        now: MonotonicTime,
    ) -> Self {
        Self {
            id,
            name: name.into(),
            advertised: advertised.into(),
            directory: Directory::default(),
            own: OwnPools::default(),
            claims: Claims::default(),
            claimed: VecDeque::new(),
            remember_for,
            began: now,
            ticked: now,
            judges_from: now,
            heartbeat_due: now,
            sent: VecDeque::new(),
            requests: HashMap::default(),
            last_words: None,
            is_snapshot_wanted: false,
            snapshot_from: now,
            has_left: false,
        }
    }

    /// Its id.
    pub fn id(&self) -> BrokerId {
        self.id
    }

    /// Its name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The origin at which other brokers reach it over HTTP, if it has one.
    pub fn advertised(&self) -> Option<&str> {
        Some(&*self.advertised).filter(|origin| !origin.is_empty())
    }

    /// Goes on under another id: the others hear of a new broker. The clone, if it has not heard of this broker yet, changes its
    /// id, too: what the others know under the old one is a mixture of both.
    pub fn change_id(&mut self, id: BrokerId, now: MonotonicTime) {
        self.last_words = Some(self.heartbeat(now));
        (self.id, self.began) = (id, now);
        self.sent.clear();
        self.heartbeat_due = now;
    }

    /// What this broker says when its connection is up: the others answer at once with what they have.
    pub fn greet(&mut self, now: MonotonicTime) -> Vec<u8> {
        (self.began, self.heartbeat_due) = (now, now);
        self.message(News::SnapshotWanted { of: EVERYONE })
    }

    /// A waiter was claimed here for this named run.
    pub fn claimed(&mut self, run: Digest) {
        self.claimed.push_back(run);
    }

    /// What is due: to be called at least ten times a second, and soon after a change. `random` returns a part of a duration.
    pub fn tick(&mut self, now: MonotonicTime, mut random: impl FnMut(Duration) -> Duration) -> Vec<Vec<u8>> {
        if now.since(self.ticked) > PAUSE {
            self.judges_from = now.plus(PAUSE);
        }
        self.ticked = now;
        if now >= self.judges_from {
            self.directory.judge_silence(now);
        }
        let mut out = Vec::from_iter(self.last_words.take());
        // First, because changes of a broker that was not heard yet are ignored.
        if now >= self.heartbeat_due {
            let is_new = now.since(self.began) < NEW_FOR;
            self.heartbeat_due = now.plus(if is_new { FIRST_INTERVAL } else { HEARTBEAT_INTERVAL });
            if self.sent.len() == SENT_REMEMBERED {
                self.sent.pop_front();
            }
            self.sent.push_back(now.micros());
            out.push(self.heartbeat(now));
        }
        while !self.has_left
            && let Some((number, rows)) = self.own.announcement(now)
        {
            out.push(self.message(News::Changes { number, rows }));
        }
        while !self.claimed.is_empty() {
            let runs = self.claimed.drain(..self.claimed.len().min(RUNS_PER_MESSAGE)).collect();
            out.push(self.message(News::Claimed { runs }));
        }
        if self.is_snapshot_wanted && now >= self.snapshot_from {
            self.is_snapshot_wanted = false;
            self.snapshot_from = now.plus(SNAPSHOT_INTERVAL);
            self.snapshot(&mut out);
        }
        self.request_snapshots(now, &mut random, &mut out);
        out
    }

    /// Tells the others that this broker has no pools any more, and will have none.
    pub fn leave(&mut self) -> Vec<u8> {
        self.has_left = true;
        let number = self.own.clear();
        self.message(News::Snapshot { number, page: 0, is_last: true, rows: Vec::new() })
    }

    /// Tells the others to forget this broker, because its process ends.
    pub fn end(&self) -> Vec<u8> {
        self.message(News::Ended)
    }

    /// A message to all brokers has arrived.
    pub fn hear(&mut self, bytes: &[u8], now: MonotonicTime) -> Result<Heard, Unreadable> {
        let (Announcement { from, news }, _) = decode(bytes)?;
        let mut heard = Heard::default();
        if from == self.id {
            heard.is_cloned = matches!(news, News::Heartbeat { sent, .. } if !self.sent.contains(&sent));
            return Ok(heard);
        }
        match news {
            News::Heartbeat { name, advertised, number, sent } => {
                let was_in_reach = self.directory.takes_forwards(from);
                self.directory.heartbeat(from, (name, advertised), number, sent, now);
                heard.is_in_reach_again = !was_in_reach && self.directory.takes_forwards(from);
            }
            News::Changes { number, rows } => {
                self.directory.changes(from, number, &rows, &mut heard.filled);
            }
            News::Snapshot { number, page, is_last, rows } => {
                self.directory.snapshot(from, number, (page, is_last), &rows, &mut heard.filled);
            }
            News::SnapshotWanted { of: EVERYONE } => {
                // It has not heard a heartbeat of this broker, ignores a snapshot until then, and does not know its clock.
                (self.began, self.heartbeat_due) = (now, now);
                self.is_snapshot_wanted = true;
                heard.is_answer_due = true;
            }
            News::SnapshotWanted { of } if of == self.id => {
                self.is_snapshot_wanted = true;
                heard.is_answer_due = true;
            }
            // One request is enough: its answer goes to all.
            News::SnapshotWanted { of } => {
                if let Some(next) = self.requests.get_mut(&of) {
                    *next = now.plus(SNAPSHOT_INTERVAL);
                }
            }
            News::Ended => self.directory.forget(from),
            News::Claimed { runs } => {
                for run in runs {
                    self.claims.add(run, from, self.remember_for, now);
                }
            }
        }
        Ok(heard)
    }

    fn heartbeat(&self, now: MonotonicTime) -> Vec<u8> {
        let (name, advertised) = (&*self.name, &*self.advertised);
        self.message(News::Heartbeat { name, advertised, number: self.own.number(), sent: now.micros() })
    }

    fn snapshot(&mut self, out: &mut Vec<Vec<u8>>) {
        let rows = if self.has_left { Vec::new() } else { self.own.rows() };
        let number = self.own.number();
        let pages = rows.len().div_ceil(ROWS_PER_MESSAGE).max(1);
        for page in 0..pages {
            let rows = rows.iter().skip(page * ROWS_PER_MESSAGE).take(ROWS_PER_MESSAGE).copied().collect();
            let is_last = page + 1 == pages;
            let page = u32::try_from(page).unwrap_or(u32::MAX);
            out.push(self.message(News::Snapshot { number, page, is_last, rows }));
        }
    }

    fn request_snapshots(
        &mut self,
        now: MonotonicTime,
        random: &mut impl FnMut(Duration) -> Duration,
        out: &mut Vec<Vec<u8>>,
    ) {
        let mut missing: Vec<_> = self.directory.without_snapshot().collect();
        missing.sort_unstable();
        self.requests.retain(|id, _| missing.binary_search(id).is_ok());
        for of in missing {
            let next = self.requests.entry(of).or_insert_with(|| now.plus(random(FIRST_REQUEST_WITHIN)));
            if now >= *next {
                *next = now.plus(SNAPSHOT_INTERVAL + random(SNAPSHOT_INTERVAL));
                out.push(self.message(News::SnapshotWanted { of }));
            }
        }
    }

    fn message(&self, news: News<'_>) -> Vec<u8> {
        encode(&Announcement { from: self.id, news }, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_of_two_clones_take_a_new_id() {
        let at = |millis: u64| MonotonicTime::from_micros(millis * 1000);
        let member = || Member::new(1, "broker", "", Duration::from_secs(60), at(0));
        let (mut one, mut other) = (member(), member());
        let first = one.tick(at(0), |most| most);
        assert!(other.hear(&first[0], at(1)).unwrap().is_cloned);
        other.change_id(2, at(1));
        // The first one was not heard under the old id until now.
        let last_words = &other.tick(at(2), |most| most)[0];
        assert!(one.hear(last_words, at(3)).unwrap().is_cloned);
        one.change_id(3, at(3));
        let last_words = &one.tick(at(4), |most| most)[0];
        assert!(!other.hear(last_words, at(5)).unwrap().is_cloned);
    }
}
