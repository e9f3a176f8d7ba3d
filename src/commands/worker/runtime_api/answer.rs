//! Owns the answer of a program to an event: the first response or error that is whole, or a stream as it comes.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::future::pending;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::function_error::{ERROR_TRAILERS, FunctionError};
use super::next_calls::NextCalls;
use super::posted::{ERROR_TYPE, Posted, PostedKind};
use super::process::RuntimeProcess;
use crate::commands::worker::wire::{Reply, ReplyHead};

/// The longest response that is not streamed, in bytes, and the longest error: as in AWS.
const MAX_RESPONSE: usize = (6 << 20) + 100;
/// What a program whose response breaks off may need for its end to be seen, which says more.
const END_TIMEOUT: Duration = Duration::from_millis(300);

/// A program that asks for its next event may still have an answer to this one on its way, on another connection.
const GIVEN_UP_TIMEOUT: Duration = Duration::from_millis(500);

/// The trailer, beside the type of the error, with which a runtime ends a stream that has failed.
const ERROR_BODY: &str = "lambda-runtime-function-error-body";

/// How an event ended.
pub(super) enum Outcome {
    /// A whole response, of which nothing is written.
    Response {
        content_type: HeaderValue,
        body: Bytes,
    },
    /// A response that is written.
    Streamed,
    Failed(FunctionError),
}

/// Waits for the answer to one event.
pub(super) struct Answering<'a> {
    pub(super) request: &'a str,
    pub(super) reply: &'a mut Reply,
    pub(super) posted: &'a mut mpsc::Receiver<Posted>,
    /// The program, and where it asks for its next event, if it has one event at a time.
    pub(super) alone: Option<(&'a NextCalls, &'a Arc<RuntimeProcess>)>,
}

/// A body that was read.
enum Read {
    Whole(Bytes, Option<HeaderMap>),
    TooLarge,
    /// Its connection ended before.
    Broken,
}

impl Answering<'_> {
    /// Returns when the program has answered. A caller that leaves changes nothing for it.
    pub(super) async fn outcome(&mut self) -> Outcome {
        loop {
            let posted = tokio::select! {
                biased;
                posted = self.posted.recv() => posted,
                _ = self.reply.gone() => continue,
                () = given_up(self.alone) => {
                    return Outcome::Failed(FunctionError::unanswered(self.request));
                }
            };
            let Some(posted) = posted else { return pending().await };
            let outcome = match &posted.kind {
                PostedKind::Error { .. } => error(posted).await,
                PostedKind::Response { is_streamed: false, .. } => response(posted).await,
                PostedKind::Response { is_streamed: true, .. } => self.stream(posted).await,
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    /// Passes a response on as it comes. None if it broke off before its first byte, so that another one may come.
    async fn stream(&mut self, mut posted: Posted) -> Option<Outcome> {
        let head = ReplyHead { trailers: Some(ERROR_TRAILERS), ..ReplyHead::new(content_type(&posted)) };
        // Without a caller, the function goes on.
        let _ = self.reply.reopen(head).await;
        loop {
            let frame = tokio::select! {
                biased;
                frame = posted.body.frame() => frame,
                _ = self.reply.gone() => continue,
                Some(other) = self.posted.recv() => {
                    if let Some(outcome) = self.replace(other).await {
                        posted.refuse();
                        return Some(outcome);
                    }
                    continue;
                }
            };
            match frame {
                None => return Some(Outcome::Streamed),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        let _ = self.reply.write(data).await;
                    }
                    Err(frame) => {
                        let error = frame.into_trailers().ok().and_then(|trailers| error_of(&trailers));
                        if let Some(error) = error {
                            return Some(Outcome::Failed(error));
                        }
                    }
                },
                Some(Err(_)) if !self.reply.has_begun() => return None,
                Some(Err(_)) => {
                    sleep(END_TIMEOUT).await;
                    return Some(Outcome::Failed(FunctionError::truncated(self.request)));
                }
            }
        }
    }

    /// What comes while a response is streamed: an error ends it, another response changes nothing.
    async fn replace(&mut self, other: Posted) -> Option<Outcome> {
        match other.kind {
            PostedKind::Error { .. } => error(other).await,
            PostedKind::Response { .. } => {
                other.refuse();
                None
            }
        }
    }
}

/// Returns when the program has asked for its next event, and does not answer this one any more.
async fn given_up(alone: Option<(&NextCalls, &Arc<RuntimeProcess>)>) {
    let Some((calls, process)) = alone else { return pending().await };
    calls.asked_by(process).await;
    sleep(GIVEN_UP_TIMEOUT).await;
}

/// A response that is passed on when it is whole.
async fn response(mut posted: Posted) -> Option<Outcome> {
    let content_type = content_type(&posted);
    match read(&mut posted.body).await {
        Read::Whole(body, trailers) => Some(match trailers.as_ref().and_then(error_of) {
            Some(error) => Outcome::Failed(error),
            None => Outcome::Response { content_type, body },
        }),
        Read::TooLarge => {
            posted.refuse();
            Some(Outcome::Failed(FunctionError::too_large(MAX_RESPONSE)))
        }
        Read::Broken => None,
    }
}

async fn error(mut posted: Posted) -> Option<Outcome> {
    let read = read(&mut posted.body).await;
    let PostedKind::Error { kind } = &posted.kind else { return None };
    match read {
        Read::Whole(body, _) => Some(Outcome::Failed(FunctionError::reported(kind.as_deref(), body))),
        Read::TooLarge => {
            let error = FunctionError::reported(kind.as_deref(), Bytes::new());
            posted.refuse();
            Some(Outcome::Failed(error))
        }
        Read::Broken => None,
    }
}

fn content_type(posted: &Posted) -> HeaderValue {
    match &posted.kind {
        PostedKind::Response { content_type: Some(content_type), .. } => content_type.clone(),
        PostedKind::Response { content_type: None, .. } | PostedKind::Error { .. } => {
            HeaderValue::from_static("application/json")
        }
    }
}

async fn read(body: &mut Incoming) -> Read {
    let announced = body.size_hint().exact().unwrap_or_default();
    if announced > MAX_RESPONSE as u64 {
        return Read::TooLarge;
    }
    let mut whole = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Read::Broken };
        match frame.into_data() {
            Ok(data) if whole.len() + data.len() > MAX_RESPONSE => return Read::TooLarge,
            Ok(data) => whole.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Read::Whole(whole.freeze(), trailers)
}

/// The error that trailers report, if they do.
fn error_of(trailers: &HeaderMap) -> Option<FunctionError> {
    let kind = trailers.get(ERROR_TYPE)?.to_str().ok()?;
    let body = trailers.get(ERROR_BODY).map(HeaderValue::as_bytes).unwrap_or_default();
    let body = BASE64_STANDARD.decode(body).unwrap_or_default();
    Some(FunctionError::reported(Some(kind), body.into()))
}
