//! Owns the row of a dispatch: what the history stores of it, and what `/runs`, `/events` and traces show of it.

use std::borrow::Cow;

use serde::Serialize;

use super::record::{DispatchRecord, ReplyRecord};
use crate::model::DispatchOutcome;

/// One dispatch of the past.
#[derive(Debug, Clone, Serialize)]
pub struct DispatchRow {
    /// When it ended, in milliseconds since 1970.
    pub at: u64,
    /// The run's name.
    pub run: String,
    /// Its deployment.
    pub deployment: String,
    /// Its version.
    pub version: String,
    /// vCPUs.
    pub cpu: f64,
    /// GB of memory.
    pub memory: f64,
    /// `hit`, `miss` or `aborted`.
    pub outcome: Cow<'static, str>,
    /// Why it was a miss.
    pub reason: Option<Cow<'static, str>>,
    /// The proof of delivery.
    pub proof: Option<Cow<'static, str>>,
    /// The number of waiters that were offered the run.
    pub offers: u32,
    /// The controller that got the run.
    pub controller: Option<String>,
    /// The other broker of the cluster at which that controller waited; none if it waited at this one.
    pub broker: Option<String>,
    /// From the last byte of the POST to its answer.
    pub seconds: f64,
    /// How the reply to the run ended; none if it asked for none, or while the reply is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplyRow>,
}

/// How the reply to a dispatch of the past ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplyRow {
    /// `replied`, `worker_error`, `reply_timeout`, `reply_broken` or `cancelled`.
    pub outcome: Cow<'static, str>,
    /// The status that the caller got; none if it left before.
    pub status: Option<u16>,
    /// From the last byte of the POST to the first of the reply; none if none came.
    pub first_byte_seconds: Option<f64>,
    /// From the last byte of the POST to the end of the reply.
    pub seconds: f64,
    /// How many bytes of the reply the caller was sent.
    pub bytes: u64,
}

impl From<&ReplyRecord> for ReplyRow {
    fn from(record: &ReplyRecord) -> Self {
        let &ReplyRecord { outcome, status, first_byte, took, bytes, .. } = record;
        Self {
            outcome: outcome.text().into(),
            status,
            first_byte_seconds: first_byte.map(|after| after.as_secs_f64()),
            seconds: took.as_secs_f64(),
            bytes,
        }
    }
}

impl From<&DispatchRecord> for DispatchRow {
    fn from(record: &DispatchRecord) -> Self {
        let reason = match record.outcome {
            DispatchOutcome::Miss(miss) => Some(miss.text().into()),
            DispatchOutcome::Hit | DispatchOutcome::Refused | DispatchOutcome::Aborted => None,
        };
        let delivered = record.offers.last().filter(|_| record.proof.is_some());
        Self {
            at: record.at,
            run: record.names.get(0).to_owned(),
            deployment: record.names.get(1).to_owned(),
            version: record.names.get(2).to_owned(),
            cpu: record.cpu,
            memory: record.memory,
            outcome: record.outcome.kind().text().into(),
            reason,
            proof: record.proof.map(|proof| proof.text().into()),
            offers: u32::try_from(record.earlier_offers + record.offers.len()).unwrap_or(u32::MAX),
            controller: delivered.map(|offer| offer.controller.to_string()),
            broker: delivered.and_then(|offer| offer.broker.as_deref()).map(str::to_owned),
            seconds: record.took.as_secs_f64(),
            reply: None,
        }
    }
}
