//! Owns what the threads of the broker share of the cluster.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Notify, watch};

use super::codec::{BrokerId, Direct, encode};
use super::inbox::{Answers, Inbox};
use super::link::{Link, NotSent, answers_id};
use super::member::Member;
use super::subjects::Subjects;
use super::watchers::Watchers;
use crate::broker::MonotonicTime;
use crate::metrics::Metrics;
use crate::reply::Replies;
use crate::transport::{Exchange, Sessions};

thread_local! {
    /// Which connection to NATS this thread uses.
    static THREAD: Cell<usize> = const { Cell::new(0) };
}

/// From now on, this thread uses the connection with this number.
pub(super) fn set_thread(number: usize) {
    THREAD.set(number);
}

/// What the threads of the broker share of the cluster.
pub(super) struct Shared {
    pub(super) subjects: Subjects,
    pub(super) member: Mutex<Member>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) replies: Arc<Replies>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) watchers: Arc<Watchers>,
    /// The connections to NATS, by serving thread, once each thread has opened its own.
    pub(super) links: Box<[OnceLock<Link>]>,
    /// This broker's id, for the threads to follow if it changes.
    pub(super) id: watch::Sender<BrokerId>,
    /// When the other brokers were first asked what they have.
    pub(super) met_since: OnceLock<Instant>,
    /// Wakes the thread that announces: there is something to announce.
    pub(super) has_news: Notify,
}

impl Shared {
    /// The time of the core's clock.
    pub(super) fn now(&self) -> MonotonicTime {
        self.exchange.at(Instant::now())
    }

    /// The number of this thread's connection to NATS, and the connection while it is up. Threads that do not serve use the
    /// first one.
    pub(super) fn link(&self) -> Option<(usize, &Link)> {
        let thread = THREAD.get();
        let link = self.links.get(thread)?.get().filter(|link| link.is_connected())?;
        Some((thread, link))
    }

    /// Whether all connections to NATS are up.
    pub(super) fn is_connected(&self) -> bool {
        self.links.iter().all(|link| link.get().is_some_and(Link::is_connected))
    }

    /// Publishes a message that needs no answer.
    pub(super) fn publish(&self, subject: String, message: Vec<u8>) -> Result<(), NotSent> {
        let (_, link) = self.link().ok_or(NotSent::NotConnected)?;
        link.publish(subject, None, message.into())
    }

    /// Sends a message to another broker. The answers to it arrive at `answers`.
    pub(super) fn send(
        &self,
        to: BrokerId,
        answers: &Answers,
        message: &Direct<'_>,
        payload: &[u8],
    ) -> Result<(), NotSent> {
        let (thread, link) = self.link().ok_or(NotSent::NotConnected)?;
        let id = answers_id(self.member.lock().id(), thread);
        let reply = self.subjects.answer(id, answers.token);
        link.publish(self.subjects.direct(to), Some(reply), Bytes::from(encode(message, payload)))
    }
}

/// An id that no other broker has: from the system, because a cloned process would draw the same one from its own generator.
pub fn random_id() -> BrokerId {
    let mut bytes = [0; 16];
    // It does not fail on the systems that pilotlight runs on.
    let _ = SystemRandom::new().fill(&mut bytes);
    BrokerId::from_ne_bytes(bytes)
}
