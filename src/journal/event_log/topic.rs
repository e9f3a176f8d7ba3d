//! Owns the topic: which events a subscriber asks for, and what an event is about.

use std::hash::{BuildHasher, Hash};

use ahash::RandomState;

use crate::broker::Filter;
use crate::journal::record::EventKinds;

/// Which events a subscriber asks for: of some kinds, and of the names that are set.
///
/// A drain concerns every subscriber of its kind. A retirement concerns the deployments and versions that its filter may select.
/// A poll has no run, and a retirement concerns none: a topic with a run has neither.
#[derive(Debug, Clone)]
pub struct Topic {
    /// The kinds.
    pub kinds: EventKinds,
    /// Only this deployment.
    pub deployment: Option<Box<str>>,
    /// Only this version, of any deployment unless one is set.
    pub version: Option<Box<str>>,
    /// Only this run.
    pub run: Option<Box<str>>,
}

impl From<EventKinds> for Topic {
    /// All events of these kinds.
    fn from(kinds: EventKinds) -> Self {
        Self { kinds, deployment: None, version: None, run: None }
    }
}

impl Topic {
    /// The kinds of which there can be an event in this topic.
    pub fn possible_kinds(&self) -> EventKinds {
        let without_run = EventKinds::POLL | EventKinds::RETIRE;
        if self.run.is_some() { self.kinds.difference(without_run) } else { self.kinds }
    }

    pub(super) fn into_names(self) -> TopicNames {
        TopicNames([self.deployment, self.version, self.run])
    }
}

/// What an event is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    /// A deployment, a version, and a run.
    Names([Option<&'a str>; TopicNames::LEN]),
    /// The pools that this filter selects.
    Pools(&'a Filter),
    /// The whole broker.
    Broker,
}

/// The names of a topic: deployment, version, run. One that is not set is any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicNames([Option<Box<str>>; Self::LEN]);

impl TopicNames {
    pub(super) const LEN: usize = 3;

    /// Which of the names are set.
    pub(super) fn shape(&self) -> TopicShape {
        let bit = |(index, name): (usize, &Option<Box<str>>)| u8::from(name.is_some()) << index;
        TopicShape(self.0.iter().enumerate().map(bit).sum())
    }

    pub(super) fn hash(&self, hasher: &RandomState) -> u64 {
        hash_names(self.as_strs(), hasher)
    }

    pub(super) fn are(&self, names: [Option<&str>; Self::LEN]) -> bool {
        self.as_strs() == names
    }

    /// Whether an event is in the topic.
    pub(super) fn matches(&self, subject: Subject<'_>) -> bool {
        match subject {
            Subject::Names(names) => self.shape().select(names).is_some_and(|names| self.are(names)),
            Subject::Pools(Filter { deployment, version, .. }) => {
                let [own_deployment, own_version, _] = self.as_strs();
                let may_be = |own: Option<&str>, other: &Option<String>| match (own, other) {
                    (Some(own), Some(other)) => own == other,
                    _ => true,
                };
                may_be(own_deployment, deployment) && may_be(own_version, version)
            }
            Subject::Broker => true,
        }
    }

    fn as_strs(&self) -> [Option<&str>; Self::LEN] {
        self.0.each_ref().map(Option::as_deref)
    }
}

/// Which names a topic sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TopicShape(u8);

impl TopicShape {
    pub(super) const COUNT: usize = 1 << TopicNames::LEN;

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..).take(Self::COUNT).map(Self)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Of an event's names, those that a topic of this shape sets. None if the event lacks one of them.
    pub(super) fn select(
        self,
        names: [Option<&str>; TopicNames::LEN],
    ) -> Option<[Option<&str>; TopicNames::LEN]> {
        let mut selected = [None; TopicNames::LEN];
        for (index, name) in names.into_iter().enumerate() {
            if self.0 & 1 << index != 0 {
                selected[index] = Some(name?);
            }
        }
        Some(selected)
    }
}

pub(super) fn hash_names(names: [Option<&str>; TopicNames::LEN], hasher: &RandomState) -> u64 {
    let mut state = hasher.build_hasher();
    names.hash(&mut state);
    std::hash::Hasher::finish(&state)
}
