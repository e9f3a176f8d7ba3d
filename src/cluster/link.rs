//! Owns the connection to NATS: subscriptions that become one stream, publishing that never waits, and the connection's events.
//!
//! - Nothing is published unless the connection is up. The library would hold it back and deliver it after a reconnect. What it
//!   had taken over at the moment in which the connection broke can still arrive late: at most [`CLIENT_CAPACITY`] messages that
//!   it holds itself, and those of the last three seconds in the buffers of a server that was paused meanwhile.
//! - The library sends no message back on the connection that it came from (`no_echo`): whatever arrives on the directory under
//!   this broker's own id was sent by another process, such as a clone of this machine.
//! - A message keeps the buffer alive in which it was read, up to 64 KiB. Who keeps a part of a payload copies it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::client::PublishErrorKind;
use async_nats::connection::State;
use async_nats::{Client, Event, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

use super::link_config::LinkConfig;
use super::subjects::{Subjects, answered_token};

/// The most publishes and subscriptions that wait for the connection's task. A task has to yield after 128 messages, so one that
/// answers each of them cannot fill it alone.
pub const CLIENT_CAPACITY: usize = 256;
/// The most messages of one subscription that wait to be read; more are dropped and counted.
pub const SUBSCRIPTION_CAPACITY: usize = 1024;
/// Errors of the server that wait to be read; more are dropped.
const MAX_ERRORS: usize = 32;
/// The least time between two lines about the same trouble.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Publishes. It can be cloned, and used from every thread.
#[derive(Debug, Clone)]
pub struct Link {
    client: Client,
}

/// Why a message was not published. It will not be delivered later either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotSent {
    /// There is no connection to NATS.
    #[error("there is no connection to NATS")]
    NotConnected,
    /// Messages are published faster than the connection takes them.
    #[error("NATS takes no more messages at the moment")]
    WouldWait,
    /// The server accepts no payload of this size.
    #[error("the message is larger than NATS accepts")]
    TooLarge,
}

impl Link {
    /// Publishes a message without waiting. `Ok` says that the connection's task has it, not that anybody receives it.
    pub fn publish(&self, subject: String, reply: Option<String>, payload: Bytes) -> Result<(), NotSent> {
        if !self.is_connected() {
            return Err(NotSent::NotConnected);
        }
        let publish = async {
            match reply {
                Some(reply) => self.client.publish_with_reply(subject, reply, payload).await,
                None => self.client.publish(subject, payload).await,
            }
        };
        // A future that is not ready at once is dropped, and its message with it. Without `unconstrained` it would also not be
        // ready when the calling task has used up its share of the thread.
        match tokio::task::unconstrained(publish).now_or_never() {
            None => Err(NotSent::WouldWait),
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => NotSent::TooLarge,
                PublishErrorKind::InvalidSubject | PublishErrorKind::Send => NotSent::NotConnected,
            }),
        }
    }

    /// Whether the connection is up, as far as known: a server that is silent is noticed after three seconds.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The largest payload that the server accepts, in bytes; 1 MiB before the first connection.
    pub fn max_payload(&self) -> usize {
        self.client.max_payload()
    }
}

/// What arrives from NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A message for this broker alone.
    Direct {
        /// Where its answer goes.
        reply: Option<String>,
        /// The message.
        payload: Bytes,
    },
    /// An announcement of another broker, in the order in which that one sent them. Never empty.
    Directory(Bytes),
    /// An answer to this broker's request.
    Answer {
        /// The last token of the request's reply subject.
        token: u128,
        /// None if nobody is subscribed to the request's subject (status 503).
        payload: Option<Bytes>,
    },
    /// A message to this broker's answers that names no request.
    MalformedAnswer,
    /// The connection is up, for the first time or again. What was published in between is lost.
    Connected,
    /// The connection is down.
    Disconnected,
    /// At least this many messages were dropped because they were not read fast enough.
    SlowConsumer(u64),
    /// The server's error, such as a violation of permissions.
    ServerError(String),
}

/// Reads what arrives. It must be read all the time, on a runtime with one thread.
#[derive(Debug)]
pub struct Inbound {
    client: Client,
    thread: usize,
    subjects: Subjects,
    servers: String,
    subscriptions: Subscriptions,
    events: Arc<Events>,
    /// Whether the last event of the connection was `Connected`.
    was_connected: bool,
    /// The connections so far, with which a short interruption is noticed even if its events were lost.
    connections: u64,
    trouble: LogLimit,
    refusals: LogLimit,
}

/// Starts to connect, and subscribes under this id. NATS may be absent: the connection comes when NATS does. Must be called
/// within a runtime, where the connection's tasks run from then on; it waits for nothing.
///
/// Each serving thread has a connection of its own: messages to the broker reach any of them, the answers to a thread's messages
/// reach that thread, and thread 0 hears the directory and writes to the log.
pub fn open(config: &LinkConfig, id: u128, thread: usize) -> anyhow::Result<(Link, Inbound)> {
    let events = Arc::new(Events::default());
    let heard = events.clone();
    let options = config
        .connect_options()?
        .retry_on_initial_connect()
        .no_echo()
        .client_capacity(CLIENT_CAPACITY)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .event_callback(move |event| {
            heard.record(event);
            std::future::ready(())
        });
    let connect = options.connect(config.addresses()?).now_or_never();
    let client = connect.context("NATS' client has waited")?.context("--nats cannot be used")?;
    let subjects = Subjects::new(&config.cluster);
    let subscribe = Subscriptions::open(&client, &subjects, id, thread).now_or_never();
    let subscriptions = subscribe.context("NATS' client has waited")??;
    let inbound = Inbound {
        client: client.clone(),
        thread,
        subjects,
        servers: config.shown_servers(),
        subscriptions,
        events,
        was_connected: false,
        connections: 0,
        trouble: LogLimit::default(),
        refusals: LogLimit::default(),
    };
    Ok((Link { client }, inbound))
}

impl Inbound {
    /// Waits for the next message or event. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Received {
        loop {
            if let Some(event) = self.next_event() {
                return event;
            }
            let (kind, message) = tokio::select! {
                message = self.subscriptions.next() => message,
                () = self.events.changed.notified() => continue,
            };
            let Message { subject, reply, payload, status, .. } = message;
            return match kind {
                Kind::Direct => Received::Direct { reply: reply.map(|reply| reply.to_string()), payload },
                // `pilotlight check` sends an empty one to see whether it may.
                Kind::Directory if payload.is_empty() => continue,
                Kind::Directory => Received::Directory(payload),
                Kind::Answer => {
                    let Some(token) = answered_token(&subject) else { return Received::MalformedAnswer };
                    let is_refusal = status == Some(StatusCode::NO_RESPONDERS);
                    Received::Answer { token, payload: (!is_refusal).then_some(payload) }
                }
            };
        }
    }

    /// Takes another id: from now on messages to the old one are lost. Waits for room in the connection's queue, at most until
    /// NATS is there.
    pub async fn change_id(&mut self, id: u128) -> anyhow::Result<()> {
        self.subscriptions = Subscriptions::open(&self.client, &self.subjects, id, self.thread).await?;
        Ok(())
    }

    fn next_event(&mut self) -> Option<Received> {
        self.connection_event().or_else(|| self.reported_event())
    }

    fn connection_event(&mut self) -> Option<Received> {
        let connections = self.client.statistics().connects.load(Ordering::Relaxed);
        let is_connected = self.client.connection_state() == State::Connected;
        if self.was_connected && (!is_connected || connections != self.connections) {
            self.was_connected = false;
            // This line is the first about this interruption.
            self.trouble = LogLimit(Some(Instant::now()));
            if self.thread == 0 {
                tracing::warn!(
                    servers = self.servers,
                    "the connection to NATS is lost; the broker dispatches alone"
                );
            }
            return Some(Received::Disconnected);
        }
        if is_connected && !self.was_connected {
            (self.was_connected, self.connections) = (true, connections);
            self.trouble = LogLimit::default();
            if self.thread == 0 {
                let info = self.client.server_info();
                tracing::info!(server = info.server_name, version = info.version, "connected to NATS");
            }
            return Some(Received::Connected);
        }
        None
    }

    fn reported_event(&mut self) -> Option<Received> {
        let mut pending = self.events.pending.lock();
        if let Some(reason) = pending.failure.take()
            && !self.was_connected
            && self.thread == 0
            && self.trouble.is_open()
        {
            tracing::warn!(
                servers = self.servers,
                reason,
                "NATS cannot be reached; the broker dispatches alone"
            );
        }
        let dropped = std::mem::take(&mut pending.dropped);
        if dropped > 0 {
            return Some(Received::SlowConsumer(dropped));
        }
        let error = pending.errors.pop_front()?;
        if self.thread == 0 && self.refusals.is_open() {
            tracing::warn!(error, "NATS reports an error");
        }
        Some(Received::ServerError(error))
    }
}

/// The id under which the answers to messages of one thread arrive.
pub(super) fn answers_id(id: u128, thread: usize) -> u128 {
    id.wrapping_add(thread as u128)
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Direct,
    Directory,
    Answer,
}

/// The subscriptions of one broker. There are no others, however many pools it has.
#[derive(Debug)]
struct Subscriptions {
    each: Vec<(Kind, Subscriber)>,
    /// Whose turn it is.
    turn: usize,
}

impl Subscriptions {
    async fn open(client: &Client, subjects: &Subjects, id: u128, thread: usize) -> anyhow::Result<Self> {
        // A queue group, because two plain subscribers with one id would each get a copy.
        let direct = client.queue_subscribe(subjects.direct(id), format!("{id:032x}")).await?;
        let answers = client.subscribe(subjects.answers(answers_id(id, thread))).await?;
        let mut each = vec![(Kind::Direct, direct), (Kind::Answer, answers)];
        if thread == 0 {
            each.push((Kind::Directory, client.subscribe(subjects.directory()).await?));
        }
        Ok(Self { each, turn: 0 })
    }

    /// The next message. The subscriptions take turns, so that none keeps the others waiting.
    async fn next(&mut self) -> (Kind, Message) {
        poll_fn(|context| {
            for _ in 0..self.each.len() {
                let place = self.turn % self.each.len();
                self.turn = place + 1;
                let (kind, subscriber) = &mut self.each[place];
                if let Poll::Ready(Some(message)) = subscriber.poll_next_unpin(context) {
                    return Poll::Ready((*kind, message));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// What the library reports beside messages, until it is read.
#[derive(Debug, Default)]
struct Events {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    /// Messages that were dropped because a subscription was full.
    dropped: u64,
    /// Why the last attempt to connect failed.
    failure: Option<String>,
    errors: VecDeque<String>,
}

impl Events {
    fn record(&self, event: Event) {
        {
            let mut pending = self.pending.lock();
            match event {
                Event::SlowConsumer(_) => pending.dropped += 1,
                Event::ServerError(error) if pending.errors.len() < MAX_ERRORS => {
                    pending.errors.push_back(error.to_string());
                }
                Event::ClientError(error) => pending.failure = Some(error.to_string()),
                // The client's state says what they say.
                Event::Connected
                | Event::Disconnected
                | Event::LameDuckMode
                | Event::Draining
                | Event::Closed
                | Event::ServerError(_) => {}
            }
        }
        self.changed.notify_one();
    }
}

/// Limits how often the same trouble is logged.
#[derive(Debug, Default)]
struct LogLimit(Option<Instant>);

impl LogLimit {
    /// Whether a line may be written now, which closes it for a while.
    fn is_open(&mut self) -> bool {
        let now = Instant::now();
        let is_open = self.0.is_none_or(|last| now - last >= LOG_INTERVAL);
        if is_open {
            self.0 = Some(now);
        }
        is_open
    }
}
