//! Owns a serving thread's part in the cluster: it takes forwards in, and the first thread hears the other brokers and announces
//! what is due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::codec::{BrokerId, Unreadable};
use super::digest::PoolDigest;
use super::link::{Inbound, Received};
use super::owner::Owner;
use super::shared::{Shared, random_id};
use crate::metrics::DropReason;

/// What is due is looked for this often,
const TICK: Duration = Duration::from_millis(50);
/// and this soon after a change, so that changes at once make one announcement.
const BATCH: Duration = Duration::from_millis(5);
/// The most changed pools that are read from the core at a time.
const CHANGES_AT_ONCE: usize = 1024;

/// A serving thread's part in the cluster.
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) owner: Arc<Owner>,
    /// The thread's number. The first one hears and announces.
    pub(super) thread: usize,
}

impl Service {
    /// Serves until the future is dropped. `id` is that of the broker.
    pub(super) async fn run(self, mut inbound: Inbound, mut id: watch::Receiver<BrokerId>) {
        let mut tasks = JoinSet::new();
        let mut next_tick = Instant::now();
        loop {
            tokio::select! {
                received = inbound.next() => self.hear(received, &mut tasks),
                () = self.is_due(&mut next_tick) => tick(&self.shared),
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "handling a message of another broker panicked");
                    }
                }
                Ok(()) = id.changed() => {
                    let id = *id.borrow_and_update();
                    if let Err(error) = inbound.change_id(id).await {
                        tracing::error!(%error, "the new id could not be used");
                    }
                }
            }
        }
    }

    /// Returns when something is to be announced. Dropping the future loses nothing.
    async fn is_due(&self, next_tick: &mut Instant) {
        if self.thread > 0 {
            return std::future::pending().await;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep_until((*next_tick).into()) => {
                    *next_tick = Instant::now() + TICK;
                    return;
                }
                () = self.shared.exchange.pools_changed() => {}
                () = self.shared.has_news.notified() => {}
            }
            *next_tick = (*next_tick).min(Instant::now() + BATCH);
        }
    }

    fn hear(&self, received: Received, tasks: &mut JoinSet<()>) {
        let metrics = &self.shared.metrics.cluster;
        match received {
            Received::Direct { reply, payload } => {
                tasks.spawn(self.owner.clone().handle(reply, payload, Instant::now()));
            }
            Received::Answer { token, payload } => {
                if !self.shared.inbox.deliver(token, payload) {
                    metrics.late_answer();
                }
            }
            Received::Directory(payload) => self.hear_news(&payload),
            Received::Connected => {
                metrics.connected.set(self.shared.is_connected().into());
                if self.thread == 0 {
                    greet(&self.shared);
                }
            }
            Received::Disconnected => {
                metrics.connected.set(0);
                metrics.brokers.set(0);
            }
            Received::SlowConsumer(messages) => metrics.dropped_many(DropReason::SlowConsumer, messages),
            Received::MalformedAnswer => metrics.dropped(DropReason::Malformed),
            // It was logged.
            Received::ServerError(_) => {}
        }
    }

    fn hear_news(&self, payload: &[u8]) {
        let shared = &self.shared;
        let now = shared.now();
        let heard = shared.member.lock().hear(payload, now);
        match heard {
            Ok(heard) => {
                for row in &heard.filled {
                    shared.watchers.announced(row);
                }
                if heard.is_in_reach_again {
                    shared.watchers.wake_all();
                }
                if heard.is_answer_due {
                    shared.has_news.notify_one();
                }
                if heard.is_cloned {
                    take_new_id(shared);
                }
            }
            Err(Unreadable::ForeignVersion) => shared.metrics.cluster.dropped(DropReason::ForeignVersion),
            Err(Unreadable::Malformed) => shared.metrics.cluster.dropped(DropReason::Malformed),
        }
    }
}

/// The connection is up: the others say what they have.
fn greet(shared: &Shared) {
    let greeting = shared.member.lock().greet(shared.now());
    announce(shared, greeting);
    shared.has_news.notify_one();
    let _ = shared.met_since.set(Instant::now());
}

fn announce(shared: &Shared, message: Vec<u8>) {
    if shared.publish(shared.subjects.directory(), message).is_err() {
        shared.metrics.cluster.dropped(DropReason::NotConnected);
    }
}

/// Another process has this broker's id, because its machine was cloned while it ran.
fn take_new_id(shared: &Shared) {
    tracing::warn!("another broker has this one's id: its machine was cloned; going on under a new id");
    let id = random_id();
    shared.member.lock().change_id(id, shared.now());
    shared.id.send_replace(id);
    shared.sessions.set_broker(id);
    shared.replies.set_broker(id);
}

fn tick(shared: &Shared) {
    loop {
        let changes = shared.exchange.take_changed_pools(CHANGES_AT_ONCE);
        let is_last = changes.len() < CHANGES_AT_ONCE;
        let now = shared.now();
        let mut member = shared.member.lock();
        for pool in changes {
            member.own.set(PoolDigest::of(pool.key.as_ref()), pool.waiters, now);
        }
        if is_last {
            break;
        }
    }
    let now = shared.now();
    let metrics = &shared.metrics.cluster;
    let messages = {
        let mut member = shared.member.lock();
        metrics.directory_age.set(member.directory.oldest_news(now).as_secs_f64());
        // What is not sent now is announced when the connection is back: nothing must be delivered late.
        if shared.link().is_none() {
            metrics.brokers.set(0);
            return;
        }
        let messages = member.tick(now, |most| most.mul_f64(fastrand::f64()));
        let visible = member.directory.peers(now).iter().filter(|peer| peer.is_visible).count();
        metrics.brokers.set(i64::try_from(visible).unwrap_or(i64::MAX));
        messages
    };
    for message in messages {
        announce(shared, message);
    }
}
