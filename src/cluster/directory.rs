//! Owns what is known of the other brokers: who they are, which pools they have, and which of them a run is forwarded to. It is
//! pure, without clock or connection.
//!
//! A row belongs to the broker that holds the waiters, and vanishes with it. A row's count is spent by each forward on its way,
//! so that one waiter is not stormed by a hundred runs.

mod peer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;

use super::codec::{BrokerId, Row, Waiters};
use super::digest::{Digest, PoolDigest};
use crate::broker::{MonotonicTime, PayloadKind};
use crate::model::MissReason;
use peer::Peer;
pub use peer::{CandidateEnd, HIDDEN_AFTER};

/// A broker that is silent for this long is forgotten.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// A pool that a run emptied less than this time ago is reported as "all taken" instead of "no pool".
const RECENTLY_EMPTIED: Duration = Duration::from_secs(60);
/// How many emptied pools are remembered.
const EMPTIED_POOLS: usize = 256;

/// The other brokers.
#[derive(Default)]
pub struct Directory {
    peers: HashMap<BrokerId, Peer, RandomState>,
    /// How many rows have each fingerprint of a deployment or a version.
    prints: HashMap<u32, u32, RandomState>,
    /// Silence is judged as of this time.
    judged_at: MonotonicTime,
    /// Pools of which a forwarded run took the last waiter, the latest last.
    emptied: VecDeque<(Digest, MonotonicTime)>,
}

/// A broker that a run is forwarded to. The caller must end it with [`Directory::end`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The broker.
    pub id: BrokerId,
    /// Its name for people.
    pub name: Arc<str>,
    /// The round trip of its first answers, smoothed.
    pub round_trip: Duration,
}

/// How another broker is reached over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Its name for people.
    pub name: Arc<str>,
    /// The origin that it announces, if it has one.
    pub advertised: Option<Arc<str>>,
}

/// Another broker, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSummary {
    /// Its id.
    pub id: BrokerId,
    /// Its name for people.
    pub name: Arc<str>,
    /// The origin at which it is reached over HTTP, if it announces one.
    pub advertised: Option<Arc<str>>,
    /// How long ago its last heartbeat arrived.
    pub silent_for: Duration,
    /// Whether runs are forwarded to it.
    pub is_visible: bool,
    /// How many pools it has announced.
    pub pools: usize,
}

impl Directory {
    /// A heartbeat with the broker's name and the origin that it announces, which may be empty. Returns whether a snapshot of this broker is missing.
    pub fn heartbeat(
        &mut self,
        from: BrokerId,
        (name, advertised): (&str, &str),
        number: u64,
        sent: u64,
        now: MonotonicTime,
    ) -> bool {
        let peer = self.peers.entry(from).or_insert_with(|| Peer::new(name, sent, now));
        peer.advertise(advertised);
        peer.heartbeat(name, number, sent, now, &mut self.prints)
    }

    /// A change of some rows. Returns whether a snapshot of this broker is missing; nothing is known of a broker before its
    /// first heartbeat. The rows that have waiters now are added to `filled`.
    pub fn changes(&mut self, from: BrokerId, number: u64, rows: &[Row], filled: &mut Vec<Row>) -> bool {
        let Some(peer) = self.peers.get_mut(&from) else { return false };
        if peer.contains_change(number) {
            return peer.needs_snapshot();
        }
        peer.apply(rows, number, &mut self.prints, filled);
        peer.changed(number)
    }

    /// A page of a snapshot. The rows that have waiters are added to `filled`.
    pub fn snapshot(
        &mut self,
        from: BrokerId,
        number: u64,
        (page, is_last): (u32, bool),
        rows: &[Row],
        filled: &mut Vec<Row>,
    ) {
        // A broker that misses nothing knows more than an older snapshot.
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| peer.wants_snapshot(number)) else { return };
        peer.apply(rows, number, &mut self.prints, filled);
        peer.snapshot_page(number, page, is_last, &mut self.prints);
    }

    /// This broker has ended.
    pub fn forget(&mut self, id: BrokerId) {
        if let Some(mut peer) = self.peers.remove(&id) {
            peer.clear(&mut self.prints);
        }
    }

    /// From now on silence is judged as of this time, and brokers that are silent for long are forgotten. Not to be called while
    /// messages are still unread after a pause of this process: it would take its own silence for theirs.
    pub fn judge_silence(&mut self, now: MonotonicTime) {
        let Self { peers, prints, judged_at, .. } = self;
        *judged_at = now;
        peers.retain(|_, peer| {
            let is_kept = now.since(peer.heard) < FORGOTTEN_AFTER;
            if !is_kept {
                peer.clear(prints);
            }
            is_kept
        });
    }

    /// The broker to forward a run to, other than those `tried`: the one with more waiters of two that are picked at random, or
    /// one that has left a forward unanswered only if there is no other. One of its waiters is spent until the forward ends.
    pub fn choose(
        &mut self,
        pool: Digest,
        kind: PayloadKind,
        tried: &[BrokerId],
        mut random: impl FnMut(usize) -> usize,
    ) -> Option<Candidate> {
        let mut found: Vec<(BrokerId, bool, u32)> = Vec::new();
        for (&id, peer) in &self.peers {
            if peer.takes_forwards(self.judged_at) && !tried.contains(&id) {
                let waiters = peer.available(pool, kind);
                if waiters > 0 {
                    found.push((id, peer.is_doubtful(), waiters));
                }
            }
        }
        if found.iter().any(|&(_, is_doubtful, _)| !is_doubtful) {
            found.retain(|&(_, is_doubtful, _)| !is_doubtful);
        }
        if found.is_empty() {
            return None;
        }
        // The map's own order must not decide, so that a seed repeats a simulation.
        found.sort_unstable();
        let first = found.swap_remove(random(found.len()));
        let second = if found.is_empty() { first } else { found[random(found.len())] };
        let (id, ..) = if second.2 > first.2 { second } else { first };
        let peer = self.peers.get_mut(&id)?;
        peer.spend(pool);
        Some(Candidate { id, name: peer.name.clone(), round_trip: peer.round_trip })
    }

    /// A forward to this candidate has ended: its waiter is no longer spent, and what its owner said is noted.
    pub fn end(&mut self, id: BrokerId, pool: Digest, end: CandidateEnd) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.end(pool, end, &mut self.prints);
        }
    }

    /// A forwarded run took a pool's last waiter.
    pub fn emptied(&mut self, pool: Digest, now: MonotonicTime) {
        if self.emptied.len() == EMPTIED_POOLS {
            self.emptied.pop_front();
        }
        self.emptied.push_back((pool, now));
    }

    /// The first answer of this broker came after this time.
    pub fn answered_after(&mut self, id: BrokerId, took: Duration) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.measure(took);
        }
    }

    /// How old a message of this broker is; none if too little of it was heard to know.
    pub fn age(&self, from: BrokerId, sent: u64, now: MonotonicTime) -> Option<Duration> {
        self.peers.get(&from).and_then(|peer| peer.clock.age(sent, now))
    }

    /// Why no broker has a waiter for this pool: the local reason, or a nearer one of another broker.
    pub fn miss(&self, pool: &PoolDigest, kind: PayloadKind, local: MissReason) -> MissReason {
        let [deployment, version] = pool.prints;
        let has = |print| self.prints.contains_key(&print);
        let is_other_version = matches!(local, MissReason::NoPool | MissReason::WrongVersion);
        let is_other_key = is_other_version || local == MissReason::WrongMachine;
        let is_recent = |(emptied, at): &(Digest, MonotonicTime)| {
            *emptied == pool.key && self.judged_at.since(*at) < RECENTLY_EMPTIED
        };
        let was_there =
            || self.peers.values().any(|peer| peer.has_row(pool.key)) || self.emptied.iter().any(is_recent);
        let accepts_other_kind = || {
            let visible = self.peers.values().filter(|peer| peer.is_visible(self.judged_at));
            visible.map(|peer| peer.waiters(pool.key)).any(|all| all[kind as usize] == 0 && all != [0; 2])
        };
        if (is_other_key || local == MissReason::AllTaken) && accepts_other_kind() {
            MissReason::NotAMessage
        } else if is_other_key && was_there() {
            MissReason::AllTaken
        } else if is_other_version && has(version) {
            MissReason::WrongMachine
        } else if local == MissReason::NoPool && has(deployment) {
            MissReason::WrongVersion
        } else {
            local
        }
    }

    /// The brokers of which a snapshot is missing, without those that would not answer.
    pub fn without_snapshot(&self) -> impl Iterator<Item = BrokerId> {
        let is_asked = |peer: &Peer| peer.needs_snapshot() && peer.is_visible(self.judged_at);
        self.peers.iter().filter(move |(_, peer)| is_asked(peer)).map(|(&id, _)| id)
    }

    /// Whether runs are forwarded to this broker.
    pub fn takes_forwards(&self, id: BrokerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.takes_forwards(self.judged_at))
    }

    /// Whether this broker is known and not silent.
    pub fn is_visible(&self, id: BrokerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.is_visible(self.judged_at))
    }

    /// How this broker is reached over HTTP; none if it is not known. Who is silent may be reachable all the same.
    pub fn contact(&self, id: BrokerId) -> Option<Contact> {
        let contact = |peer: &Peer| Contact { name: peer.name.clone(), advertised: peer.advertised.clone() };
        self.peers.get(&id).map(contact)
    }

    /// How long ago the last heartbeat came of the broker that has been silent longest, of those that have pools, hidden or not. A
    /// broker that has left has none.
    pub fn oldest_news(&self, now: MonotonicTime) -> Duration {
        let with_pools = self.peers.values().filter(|peer| peer.rows_len() > 0);
        with_pools.map(|peer| now.since(peer.heard)).max().unwrap_or_default()
    }

    /// The other brokers, in the order of their names.
    pub fn peers(&self, now: MonotonicTime) -> Vec<PeerSummary> {
        let summary = |(&id, peer): (&BrokerId, &Peer)| {
            let (name, pools) = (peer.name.clone(), peer.rows_len());
            let advertised = peer.advertised.clone();
            let is_visible = peer.takes_forwards(self.judged_at);
            PeerSummary { id, name, advertised, silent_for: now.since(peer.heard), is_visible, pools }
        };
        let mut all: Vec<_> = self.peers.iter().map(summary).collect();
        all.sort_by(|one, other| (&one.name, one.id).cmp(&(&other.name, other.id)));
        all
    }

    /// The waiters of this pool at this broker, as it announced them.
    pub fn waiters(&self, id: BrokerId, pool: Digest) -> Waiters {
        self.peers.get(&id).map_or([0; 2], |peer| peer.waiters(pool))
    }

    /// How many rows there are.
    pub fn rows_len(&self) -> usize {
        self.peers.values().map(Peer::rows_len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_as_old_as_its_oldest_rows_until_their_broker_leaves_or_is_forgotten() {
        let mut directory = Directory::default();
        let at = |seconds: u64| MonotonicTime::from_micros(seconds * 1_000_000);
        let row = Row { pool: PoolDigest { key: Digest::new([1; 16]), prints: [1, 2] }, waiters: [1, 1] };
        for id in [1, 2, 3] {
            directory.heartbeat(id, ("broker", ""), 0, 0, at(0));
        }
        assert_eq!(directory.oldest_news(at(2)), Duration::ZERO, "nobody has pools");
        for id in [1, 2] {
            directory.changes(id, 1, &[row], &mut Vec::new());
        }
        directory.heartbeat(1, ("broker", ""), 1, 4_000_000, at(4));
        directory.judge_silence(at(5));
        assert!(!directory.is_visible(2));
        assert_eq!(directory.oldest_news(at(6)), Duration::from_secs(6), "hidden rows are old rows");
        directory.heartbeat(1, ("broker", ""), 1, 59_000_000, at(59));
        directory.judge_silence(at(61));
        assert_eq!(directory.oldest_news(at(61)), Duration::from_secs(2), "the second is forgotten");
        directory.snapshot(1, 2, (0, true), &[], &mut Vec::new());
        assert_eq!(directory.oldest_news(at(70)), Duration::ZERO, "the first has left");
    }

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_micros(millis * 1000)
    }

    fn row(pool: u8, waiters: u32) -> Row {
        Row { pool: PoolDigest { key: Digest::new([pool; 16]), prints: [1, 2] }, waiters: [waiters; 2] }
    }

    #[test]
    fn a_clone_that_kept_the_id_is_known_by_its_numbers_and_begins_anew() {
        let mut directory = Directory::default();
        let mut filled = Vec::new();
        directory.heartbeat(1, ("first", ""), 0, 0, at(0));
        for number in 1..=5 {
            directory.changes(1, number, &[row(1, 1)], &mut filled);
        }
        assert!(
            !directory.heartbeat(1, ("first", ""), 4, 1_000_000, at(1000)),
            "changes overtook one heartbeat"
        );
        assert!(!directory.heartbeat(1, ("first", ""), 5, 2_000_000, at(2000)));
        assert_eq!(directory.waiters(1, row(1, 1).pool.key), [1; 2]);

        directory.heartbeat(1, ("clone", ""), 2, 70_000_000, at(3000));
        assert!(directory.heartbeat(1, ("clone", ""), 2, 71_000_000, at(4000)), "its snapshot is missing");
        assert_eq!(directory.rows_len(), 0);
        directory.snapshot(1, 2, (0, true), &[row(2, 3)], &mut filled);
        assert!(!directory.changes(1, 3, &[row(2, 4)], &mut filled));
        assert_eq!(directory.waiters(1, row(2, 0).pool.key), [4; 2]);
        assert_eq!(
            directory.miss(&row(3, 0).pool, PayloadKind::Opaque, MissReason::NoPool),
            MissReason::WrongMachine
        );
    }

    #[test]
    fn an_answer_that_was_read_after_a_pause_does_not_move_its_broker_out_of_reach() {
        let mut directory = Directory::default();
        directory.heartbeat(1, ("broker", ""), 0, 0, at(0));
        directory.heartbeat(1, ("broker", ""), 0, 1_000_000, at(1000));
        directory.changes(1, 1, &[row(1, 1)], &mut Vec::new());
        directory.answered_after(1, Duration::from_secs(85));
        let candidate = directory.choose(row(1, 1).pool.key, PayloadKind::Opaque, &[], |_| 0).unwrap();
        assert!(candidate.round_trip < Duration::from_millis(30), "{candidate:?}");
    }

    #[test]
    fn a_broker_that_would_not_answer_is_not_asked_for_its_snapshot() {
        let mut directory = Directory::default();
        assert!(directory.heartbeat(1, ("silent", ""), 7, 0, at(0)));
        directory.judge_silence(at(2000));
        assert_eq!(directory.without_snapshot().count(), 1);
        directory.judge_silence(at(4000));
        assert_eq!(directory.without_snapshot().count(), 0);
    }
}
