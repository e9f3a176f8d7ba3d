//! Owns the index of topics: which subscribers an event concerns, found once for each event.
//!
//! Topics of one shape set the same names, so one look-up in a hash table finds the topic of that shape that an event is in. An
//! event thus costs a look-up for each shape in use, of which there are at most eight, however many subscribers there are.
//! Drains concern everybody and are kept once. Only a retirement is compared with every topic, because its filter may select
//! many of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use super::cursor::EventCursor;
use super::entry::LogEntry;
use super::numbers::NumberList;
use super::topic::{Subject, Topic, TopicNames, TopicShape, hash_names};
use crate::journal::record::EventKinds;

/// For this long after the last subscriber of a kind or of a topic has left, its events are still recorded, so that the subscriber
/// can resume.
pub(in crate::journal) const LINGER: Duration = Duration::from_secs(60);
/// More subscribers at once are refused.
pub(super) const MAX_SUBSCRIBERS: usize = 256;
/// Topics, with those that linger. As each subscriber has one, there is one that lingers if there is one too many.
const MAX_TOPICS: usize = MAX_SUBSCRIBERS;

const KINDS: usize = EventKinds::NAMED.len();

pub(super) struct TopicIndex {
    hasher: RandomState,
    topics: Slab<TopicEntry>,
    by_names: HashTable<usize>,
    /// How many topics there are of each shape.
    shapes: [usize; TopicShape::COUNT],
    /// How many subscribers there are, and how many to each kind.
    subscribers: usize,
    subscribers_of: [usize; KINDS],
    /// The events that concern everybody.
    drains: NumberList,
    has_new_drain: bool,
    /// The topics with new events.
    changed: Vec<usize>,
    /// No subscriber has an unread event before this number, unless it has lagged. It is at most the number of the event that
    /// was the next one at the last sweep, because later ones may be unread.
    unread_from: u64,
    #[cfg(test)]
    pub(super) lookups: usize,
}

struct TopicEntry {
    names: TopicNames,
    hash: u64,
    /// The topic's events of each kind; none of a kind that nobody has asked for.
    lists: [Option<NumberList>; KINDS],
    cursors: Vec<Arc<EventCursor>>,
    /// The kinds of the new events.
    changed: EventKinds,
    /// When its last subscriber has left.
    left: Option<Instant>,
}

impl TopicIndex {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            topics: Slab::new(),
            by_names: HashTable::new(),
            shapes: [0; TopicShape::COUNT],
            subscribers: 0,
            subscribers_of: [0; KINDS],
            drains: NumberList::new(1),
            has_new_drain: false,
            changed: Vec::new(),
            unread_from: 1,
            #[cfg(test)]
            lookups: 0,
        }
    }

    pub(super) fn subscribers(&self) -> usize {
        self.subscribers
    }

    /// The kinds that have a subscriber now.
    pub(super) fn subscribed_kinds(&self) -> EventKinds {
        EventKinds::all().iter().filter(|kind| self.subscribers_of[index_of(*kind)] > 0).collect()
    }

    /// Finds the topics of an event, which has this number. The log begins with `first`.
    pub(super) fn add(&mut self, number: u64, event: &LogEntry, first: u64) {
        let kind = event.kind();
        if self.topics.is_empty() && kind != EventKinds::DRAIN {
            return;
        }
        match event.subject() {
            Subject::Names(names) => {
                for shape in TopicShape::all() {
                    if self.shapes[shape.index()] > 0
                        && let Some(names) = shape.select(names)
                        && let Some(topic) = self.find(names)
                    {
                        self.push(topic, kind, number, first);
                    }
                }
            }
            subject @ Subject::Pools(_) => {
                for topic in 0..self.topics.capacity() {
                    if self.topics.get(topic).is_some_and(|topic| topic.names.matches(subject)) {
                        self.push(topic, kind, number, first);
                    }
                }
            }
            Subject::Broker => {
                self.drains.push(number, first);
                self.has_new_drain = true;
            }
        }
    }

    /// Wakes the subscribers that the added events concern, and notifies those that have lagged behind the log, which begins with
    /// `first`. The next event has the number `next`.
    pub(super) fn finish_batch(&mut self, first: u64, next: u64) {
        if std::mem::take(&mut self.has_new_drain) {
            let cursors = self.topics.iter().flat_map(|(_, topic)| &topic.cursors);
            cursors
                .filter(|cursor| cursor.kinds.contains(EventKinds::DRAIN))
                .for_each(|it| it.added.notify_one());
        }
        for topic in self.changed.drain(..) {
            let Some(topic) = self.topics.get_mut(topic) else { continue };
            let kinds = std::mem::take(&mut topic.changed);
            let concerned = topic.cursors.iter().filter(|cursor| cursor.kinds.intersects(kinds));
            concerned.for_each(|cursor| cursor.added.notify_one());
        }
        if first > self.unread_from {
            self.sweep(first, next);
        }
    }

    #[cfg(test)]
    pub(super) fn topics(&self) -> usize {
        self.topics.len()
    }

    /// How many numbers of events are listed.
    #[cfg(test)]
    pub(super) fn listed(&self) -> usize {
        self.topics.iter().flat_map(|(_, topic)| topic.lists.iter().flatten()).map(NumberList::len).sum()
    }

    /// Adds a subscriber to a topic. `events` are those in the log, which begins with `first`. The subscriber reads from `next`
    /// on; those from `wanted` on that have left the log are missed.
    pub(super) fn subscribe<'a>(
        &mut self,
        topic: Topic,
        events: impl Iterator<Item = (u64, &'a LogEntry)>,
        (wanted, first): (u64, u64),
    ) -> Arc<EventCursor> {
        let kinds = topic.possible_kinds();
        let slot = self.open(topic.into_names());
        self.topics[slot].list_kinds(kinds.difference(EventKinds::DRAIN), events, first);
        let (dropped, unread) = self.lists(slot, kinds).fold((0, None), |(dropped, unread), list| {
            list.drop_before(first);
            (dropped + list.missed_from(wanted), earliest(unread, list.from(wanted).next()))
        });
        self.unread_from = earliest(Some(self.unread_from), unread).unwrap_or(u64::MAX);
        let missed = dropped.min(first.saturating_sub(wanted));
        let cursor = Arc::new(EventCursor::new(slot, kinds, wanted.max(first), missed));
        self.topics[slot].cursors.push(cursor.clone());
        self.subscribers += 1;
        kinds.iter().for_each(|kind| self.subscribers_of[index_of(kind)] += 1);
        cursor
    }

    /// Removes a subscriber. Its topic lingers.
    pub(super) fn unsubscribe(&mut self, cursor: &Arc<EventCursor>, now: Instant) {
        self.subscribers -= 1;
        cursor.kinds.iter().for_each(|kind| self.subscribers_of[index_of(kind)] -= 1);
        let topic = &mut self.topics[cursor.topic];
        topic.cursors.retain(|other| !Arc::ptr_eq(other, cursor));
        topic.left = topic.cursors.is_empty().then_some(now);
    }

    /// Removes the topics that have lingered long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_over = |topic: &TopicEntry| topic.left.is_some_and(|left| now >= left + LINGER);
        let over = self.topics.iter().filter(|(_, topic)| is_over(topic)).map(|(slot, _)| slot);
        for slot in over.collect::<Vec<_>>() {
            self.close(slot);
        }
    }

    /// The numbers of the subscriber's next unread events, in order. None if it has lagged behind the log, which begins with
    /// `first`.
    pub(super) fn unread(&mut self, cursor: &EventCursor, first: u64, max: usize) -> Option<Vec<u64>> {
        let next = cursor.next();
        let mut numbers = Vec::new();
        for list in self.lists(cursor.topic, cursor.kinds) {
            if list.first_from(next).is_some_and(|unread| unread < first) {
                return None;
            }
            numbers.extend(list.from(next).take(max));
        }
        numbers.sort_unstable();
        numbers.truncate(max);
        Some(numbers)
    }

    /// All events up to `next` have left the log, and some that nobody wanted were not in it. Returns the cursors.
    pub(super) fn clear(&mut self, next: u64) -> impl Iterator<Item = &EventCursor> {
        self.drains.forget_before(next);
        self.unread_from = next;
        self.topics.iter_mut().flat_map(move |(_, topic)| {
            topic.lists.iter_mut().flatten().for_each(|list| list.forget_before(next));
            topic.cursors.iter().map(|cursor| &**cursor)
        })
    }

    /// The lists that a subscriber to these kinds of a topic reads.
    fn lists(&mut self, slot: usize, kinds: EventKinds) -> impl Iterator<Item = &mut NumberList> {
        let drains = kinds.contains(EventKinds::DRAIN).then_some(&mut self.drains);
        let lists = EventKinds::all().iter().zip(&mut self.topics[slot].lists);
        lists
            .filter(move |(kind, _)| kinds.contains(*kind))
            .filter_map(|(_, list)| list.as_mut())
            .chain(drains)
    }

    /// The topic of these names, which is new if nobody has asked for it lately.
    fn open(&mut self, names: TopicNames) -> usize {
        let hash = names.hash(&self.hasher);
        let found = self.by_names.find(hash, |&slot| self.topics[slot].names == names).copied();
        if let Some(slot) = found {
            self.topics[slot].left = None;
            return slot;
        }
        if self.topics.len() >= MAX_TOPICS {
            let lingering =
                self.topics.iter().filter_map(|(slot, topic)| topic.left.map(|left| (left, slot)));
            if let Some((_, oldest)) = lingering.min() {
                self.close(oldest);
            }
        }
        self.shapes[names.shape().index()] += 1;
        let lists = [const { None }; KINDS];
        let changed = EventKinds::empty();
        let slot =
            self.topics.insert(TopicEntry { names, hash, lists, cursors: Vec::new(), changed, left: None });
        let Self { topics, by_names, .. } = self;
        by_names.insert_unique(hash, slot, |&slot| topics[slot].hash);
        slot
    }

    fn close(&mut self, slot: usize) {
        let TopicEntry { names, hash, .. } = self.topics.remove(slot);
        self.shapes[names.shape().index()] -= 1;
        if let Ok(entry) = self.by_names.find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
    }

    fn find(&mut self, names: [Option<&str>; TopicNames::LEN]) -> Option<usize> {
        #[cfg(test)]
        {
            self.lookups += 1;
        }
        let hash = hash_names(names, &self.hasher);
        self.by_names.find(hash, |&slot| self.topics[slot].names.are(names)).copied()
    }

    fn push(&mut self, slot: usize, kind: EventKinds, number: u64, first: u64) {
        let topic = &mut self.topics[slot];
        let Some(list) = &mut topic.lists[index_of(kind)] else { return };
        list.push(number, first);
        if topic.cursors.is_empty() {
            return;
        }
        if topic.changed.is_empty() {
            self.changed.push(slot);
        }
        topic.changed |= kind;
    }

    /// Finds who has lagged, and removes what has left the log. It visits every topic, but that happens once while the whole log
    /// is replaced, or while somebody is nearly that far behind.
    fn sweep(&mut self, first: u64, next: u64) {
        self.unread_from = next;
        let Self { topics, drains, unread_from, .. } = self;
        drains.drop_before(first);
        drains.shrink();
        for (_, topic) in topics {
            for list in topic.lists.iter_mut().flatten() {
                list.drop_before(first);
                list.shrink();
            }
            for cursor in topic.cursors.iter().filter(|cursor| !cursor.has_lagged()) {
                let kinds = EventKinds::all().iter().zip(&topic.lists);
                let lists = kinds
                    .filter(|(kind, _)| cursor.kinds.contains(*kind))
                    .filter_map(|(_, list)| list.as_ref());
                let drains = cursor.kinds.contains(EventKinds::DRAIN).then_some(&*drains);
                let unread = lists.chain(drains).filter_map(|list| list.first_from(cursor.next())).min();
                match unread {
                    Some(unread) if unread < first => cursor.set_lagged(),
                    _ => *unread_from = earliest(Some(*unread_from), unread).unwrap_or(u64::MAX),
                }
            }
        }
    }
}

impl TopicEntry {
    /// From now on, the events of these kinds are listed, and those that are in the log already.
    fn list_kinds<'a>(
        &mut self,
        kinds: EventKinds,
        events: impl Iterator<Item = (u64, &'a LogEntry)>,
        first: u64,
    ) {
        let missing: EventKinds = kinds.iter().filter(|kind| self.lists[index_of(*kind)].is_none()).collect();
        if missing.is_empty() {
            return;
        }
        missing.iter().for_each(|kind| self.lists[index_of(kind)] = Some(NumberList::new(first)));
        for (number, event) in events.filter(|(_, event)| missing.contains(event.kind())) {
            if self.names.matches(event.subject())
                && let Some(list) = &mut self.lists[index_of(event.kind())]
            {
                list.push(number, first);
            }
        }
    }
}

fn earliest(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// The place of one kind among all.
fn index_of(kind: EventKinds) -> usize {
    kind.bits().trailing_zeros() as usize
}
