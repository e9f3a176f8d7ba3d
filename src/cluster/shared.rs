//! Owns what the threads of the broker share of the cluster.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Notify;

use super::codec::{BrokerId, Direct, encode};
use super::inbox::{Answers, Inbox};
use super::link::{Link, NotSent};
use super::member::Member;
use super::subjects::Subjects;
use super::watchers::Watchers;
use crate::broker::MonotonicTime;
use crate::metrics::Metrics;
use crate::transport::Exchange;

/// What the threads of the broker share of the cluster.
pub(super) struct Shared {
    pub(super) subjects: Subjects,
    pub(super) member: Mutex<Member>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) watchers: Arc<Watchers>,
    /// The connection to NATS, once the cluster's thread has opened it.
    pub(super) link: OnceLock<Link>,
    /// When the other brokers were first asked what they have.
    pub(super) met_since: OnceLock<Instant>,
    /// Wakes the cluster's thread: there is something to announce.
    pub(super) has_news: Notify,
}

impl Shared {
    /// The time of the core's clock.
    pub(super) fn now(&self) -> MonotonicTime {
        self.exchange.at(Instant::now())
    }

    /// The connection to NATS, while it is up.
    pub(super) fn link(&self) -> Option<&Link> {
        self.link.get().filter(|link| link.is_connected())
    }

    /// Sends a message to another broker. The answers to it arrive at `answers`.
    pub(super) fn send(
        &self,
        to: BrokerId,
        answers: &Answers,
        message: &Direct<'_>,
        payload: &[u8],
    ) -> Result<(), NotSent> {
        let link = self.link().ok_or(NotSent::NotConnected)?;
        let id = self.member.lock().id();
        let reply = self.subjects.answer(id, answers.token);
        link.publish(self.subjects.direct(to), Some(reply), Bytes::from(encode(message, payload)))
    }
}

/// An id that no other broker has: from the system, because a cloned process would draw the same one from its own generator.
pub(super) fn random_id() -> BrokerId {
    let mut bytes = [0; 16];
    // It does not fail on the systems that pilotlight runs on.
    let _ = SystemRandom::new().fill(&mut bytes);
    BrokerId::from_ne_bytes(bytes)
}
