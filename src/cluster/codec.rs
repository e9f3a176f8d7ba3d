//! Owns the messages between brokers, and their bytes: a version, then the message in postcard's format, then the payload if it
//! has one.
//!
//! A broker of another version has other subjects (`v1`), and the first byte says so once more. A message that cannot be read is
//! counted and ignored. What a later version adds to a forward is announced in [`Forward::features`], so that an owner that does
//! not know it can say so.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::digest::{Digest, PoolDigest};
use crate::broker::Claimable;

/// The version of the format.
const VERSION: u8 = 1;
/// The run's worker is to reply: the path of the reply comes before the payload.
pub const REPLY_FEATURE: u32 = 1;
/// The run has header fields of its own: they come before the payload, after the path of a reply.
pub const FIELDS_FEATURE: u32 = 2;
/// The features of forwards that this version knows.
pub const KNOWN_FEATURES: u32 = REPLY_FEATURE | FIELDS_FEATURE;

/// A broker's id, for the life of its process.
pub type BrokerId = u128;

/// Why bytes are no message of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// Another version of pilotlight wrote it.
    #[error("it has another version")]
    ForeignVersion,
    /// It is damaged, or no broker wrote it.
    #[error("it is malformed")]
    Malformed,
}

/// A message that all brokers get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement<'a> {
    /// The broker that sends it.
    pub from: BrokerId,
    /// What it says.
    #[serde(borrow)]
    pub news: News<'a>,
}

/// What a broker announces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum News<'a> {
    /// It is there. Sent once a second.
    Heartbeat {
        /// Its name for people.
        name: &'a str,
        /// The origin at which other brokers reach it over HTTP; empty if it has none.
        advertised: &'a str,
        /// The number of its last change.
        number: u64,
        /// When it was sent, in microseconds of the sender's own clock.
        sent: u64,
    },
    /// Some of its pools have changed.
    Changes {
        /// One more than that of the change before.
        number: u64,
        /// The changed pools.
        rows: Vec<Row>,
    },
    /// A page of all of its pools. A broker that leaves sends an empty one.
    Snapshot {
        /// The number of the last change that it contains.
        number: u64,
        /// Counted from zero.
        page: u32,
        /// Whether it is the last page.
        is_last: bool,
        /// The pools of this page.
        rows: Vec<Row>,
    },
    /// A snapshot of this broker is wanted.
    SnapshotWanted {
        /// The broker that is asked for it; zero for every broker.
        of: BrokerId,
    },
    /// Its process ends.
    Ended,
    /// It has claimed a waiter for each of these named runs.
    Claimed {
        /// The runs.
        runs: Vec<Digest>,
    },
}

/// A pool of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Which pool.
    pub pool: PoolDigest,
    /// How many waiters accept each kind of payload, roughly. All zero: the pool is gone.
    pub waiters: Waiters,
}

/// How many waiters of a pool accept each kind of payload.
pub type Waiters = Claimable;

/// A message to one broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Direct<'a> {
    /// A run for one of its waiters. The payload follows, unless it is too long to be sent before a waiter is claimed.
    Forward(#[serde(borrow)] Forward<'a>),
    /// The payload of a forward for which a waiter was claimed. It follows.
    Payload {
        /// The forward's token.
        token: u128,
    },
    /// How an earlier POST of a named run ended.
    Earlier {
        /// The run.
        run: Digest,
        /// A hash of the payload that is posted now.
        content: Option<u64>,
        /// How long the answer is waited for, in microseconds.
        within: u64,
        /// How long runs are remembered, in microseconds.
        remember_for: u64,
    },
    /// A question of an operator.
    Operator(OperatorRequest),
}

/// A run on its way to another broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forward<'a> {
    /// The broker that sends it.
    pub from: BrokerId,
    /// When it was sent, in microseconds of the sender's own clock.
    pub sent: u64,
    /// What the owner has to know to handle it, as bits.
    pub features: u32,
    /// The run's name.
    pub run: &'a str,
    /// The digest of the pool's key.
    pub pool: Digest,
    /// The pool's key.
    pub deployment: &'a str,
    /// See `deployment`.
    pub version: &'a str,
    /// See `deployment`.
    pub cpu: f64,
    /// See `deployment`.
    pub memory: f64,
    /// The kind of the payload, as its place in [`crate::broker::PayloadKind::ALL`].
    pub payload_kind: u8,
    /// The payload's media type.
    pub content_type: &'a [u8],
    /// The payload's length in bytes.
    pub payload_bytes: u32,
    /// Whether the payload follows in a message of its own, once a waiter is claimed.
    pub is_payload_later: bool,
    /// The demanded proof, as its place in [`crate::model::Proof::ALL`].
    pub proof: u8,
    /// Whether another waiter may get the run although one may have it already.
    pub redeliver: bool,
    /// Offers of this POST that were sent and not proved.
    pub unproven: u32,
    /// The first answer is waited for this long, in microseconds.
    pub answer_within: u64,
    /// The verdict is waited for this long, in microseconds.
    pub budget: u64,
    /// How long an acknowledged run may stay unread, in microseconds.
    pub read_timeout: u64,
    /// How long the run is remembered, in microseconds.
    pub remember_for: u64,
    /// The digest by which the run is remembered, if it is.
    pub idempotency_key: Option<Digest>,
    /// A hash of the payload, if it is compared.
    pub content: Option<u64>,
    /// Whether the answer of the POST names the controller.
    pub names_controller: bool,
}

/// What an operator asks all brokers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorRequest {
    /// The broker that asks.
    pub from: BrokerId,
    /// When it was sent, in microseconds of the sender's own clock.
    pub sent: u64,
    /// What is asked.
    pub what: OperatorQuestion,
    /// Where the page of a list begins: zero, or what the page before said.
    pub slot: u32,
    /// Only of pools with this deployment.
    pub deployment: Option<String>,
    /// Only of pools with this version.
    pub version: Option<String>,
    /// Only of pools with this cpu figure.
    pub cpu: Option<f64>,
    /// Only of pools with this memory figure.
    pub memory: Option<f64>,
}

/// What is asked of the selected pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperatorQuestion {
    /// The pools.
    Pools,
    /// At most this many waiters.
    Waiters {
        /// The most rows.
        limit: u32,
    },
    /// To retire the waiters.
    Retire,
}

/// An answer to a [`Direct`] message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer<'a> {
    /// A waiter is claimed; the verdict follows.
    Claimed,
    /// The forward has ended.
    Forwarded(#[serde(borrow)] Forwarded<'a>),
    /// The forward was not taken in. Nothing was claimed.
    NotTaken(NotTaken),
    /// How an earlier POST of a named run ended. None: it is not known here.
    Earlier(#[serde(borrow)] Option<EarlierEnd<'a>>),
    /// One page of an answer to an operator.
    Page {
        /// The rows.
        rows: OperatorRows,
        /// Where the next page begins; none after the last one.
        next: Option<u32>,
    },
}

/// Why a forward was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotTaken {
    /// It is too old, or its sender is not known.
    Stale,
    /// It needs a feature that the owner does not know.
    Unsupported,
    /// Too many forwards are in progress.
    Overloaded,
    /// It is damaged.
    Malformed,
}

/// How a forward ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forwarded<'a> {
    /// The offers to waiters, in order.
    #[serde(borrow)]
    pub offers: Vec<RemoteOffer<'a>>,
    /// Offers of the whole POST that were sent and not proved.
    pub unproven: u32,
    /// The proof, as its place in [`crate::model::Proof::ALL`]; or the reason of the miss, as its place in
    /// [`crate::model::MissReason::ALL`].
    pub result: Result<u8, u8>,
    /// The controller that has the run, if the answer of the POST names it.
    pub controller: Option<&'a str>,
    /// How long the owner had the forward, in microseconds.
    pub handled: u64,
    /// The claimable waiters that the pool has now.
    pub waiters: Waiters,
    /// The number of the last change that `waiters` contains.
    pub number: u64,
}

/// One offer to a waiter of another broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteOffer<'a> {
    /// The controller's name for itself.
    pub controller: &'a str,
    /// The verdict, as its place in [`crate::model::Verdict::ALL`].
    pub verdict: u8,
    /// From the forward's arrival to the match, in microseconds.
    pub since: u64,
    /// From the match to the verdict, in microseconds.
    pub took: u64,
}

/// How an earlier POST of a named run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EarlierEnd<'a> {
    /// A controller has the run.
    Delivered {
        /// The proof, as its place in [`crate::model::Proof::ALL`].
        proof: u8,
        /// How many waiters were offered the run.
        offers: u32,
        /// The controller's name for itself.
        controller: &'a str,
    },
    /// A controller may have it.
    Unknown {
        /// How many waiters were offered the run.
        offers: u32,
    },
    /// The name belongs to a run with another payload.
    Conflict,
}

/// Rows for an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum OperatorRows {
    /// Pools.
    Pools(Vec<PoolRow>),
    /// Waiters.
    Waiters(Vec<WaiterRow>),
    /// So many waiters were retired.
    Retired(u64),
}

/// A pool's key, as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowKey {
    /// The deployment.
    pub deployment: String,
    /// The version.
    pub version: String,
    /// vCPUs.
    pub cpu: f64,
    /// GB of memory.
    pub memory: f64,
}

/// A pool, as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolRow {
    /// Its key.
    pub key: RowKey,
    /// How many waiters it has.
    pub waiters: u64,
    /// How long the first one has waited.
    pub oldest: Duration,
    /// How long the last one has waited.
    pub newest: Duration,
}

/// A waiter, as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaiterRow {
    /// Its pool's key.
    pub key: RowKey,
    /// The controller's name for itself.
    pub controller: String,
    /// The address that it came from.
    pub origin: IpAddr,
    /// How long it has waited.
    pub held: Duration,
    /// Whether it is too near its deadline to be offered a run.
    pub late: bool,
    /// Whether its host did not prove its last run.
    pub suspect: bool,
}

/// A duration as messages have it: in microseconds.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The bytes of a message.
pub fn encode(message: &impl Serialize, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256 + payload.len());
    bytes.push(VERSION);
    // Writing into memory cannot fail, and every length is known.
    let mut bytes = postcard::to_extend(message, bytes).unwrap_or_default();
    bytes.extend_from_slice(payload);
    bytes
}

/// The message, and the payload that follows it.
pub fn decode<'a, M: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(M, &'a [u8]), Unreadable> {
    let (version, bytes) = bytes.split_first().ok_or(Unreadable::Malformed)?;
    if *version != VERSION {
        return Err(Unreadable::ForeignVersion);
    }
    postcard::take_from_bytes(bytes).map_err(|_| Unreadable::Malformed)
}
