//! Owns the replies of a broker: how many there may be, and which offer a token is of.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::awaited::AwaitedReply;
use super::caller::ReplyForm;
use super::names::{EarlierReply, NamedRun, NamedRuns};
use super::state::{OpenError, Reply};
use super::token::ReplyToken;
use super::tokens::{ForwardedReply, Tokens};
use super::worker::OpenReply;
use crate::metrics::Metrics;
use crate::model::ReplyOutcome;
use crate::transport::ReplyTarget;

/// All replies that are awaited.
pub struct Replies {
    tokens: Arc<Tokens<Reply>>,
    /// Offers of runs that other brokers have forwarded, whose replies go there.
    forwarded: Arc<Tokens<ReplyTarget>>,
    names: Arc<NamedRuns>,
    metrics: Arc<Metrics>,
    awaited: Arc<AtomicUsize>,
    /// How many there may be.
    most: AtomicUsize,
}

impl Replies {
    /// No replies. `broker` is this broker's id in its cluster.
    pub fn new(metrics: Arc<Metrics>, broker: Option<u128>) -> Self {
        let (awaited, most) = (Arc::default(), AtomicUsize::new(usize::MAX));
        let (tokens, forwarded) = (Arc::new(Tokens::new(broker)), Arc::new(Tokens::new(None)));
        Self { tokens, forwarded, names: Arc::default(), metrics, awaited, most }
    }

    /// From now on, more replies than this are refused.
    pub fn limit(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// From now on, tokens name this broker by another id.
    pub fn set_broker(&self, id: u128) {
        self.tokens.set_broker(id);
    }

    /// A POST awaits a reply from now on, which its caller gets in this form. None if there are as many as there may be.
    pub fn begin(&self, form: ReplyForm) -> Option<AwaitedReply> {
        let most = self.most.load(Ordering::Relaxed);
        let counted = self.awaited.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |awaited| {
            (awaited < most).then_some(awaited + 1)
        });
        counted.ok()?;
        let reply = Arc::new(Reply::new(self.tokens.clone(), form));
        Some(AwaitedReply::new(reply, self.awaited.clone(), self.metrics.clone()))
    }

    /// The same run is not posted twice at once. An error if its reply is awaited, or was less than `remember_for` ago.
    pub fn name(&self, name: [u8; 16], remember_for: Duration) -> Result<NamedRun, EarlierReply> {
        self.names.begin(name, remember_for)
    }

    /// How the reply to an earlier POST of this run stands, if it has one.
    pub fn earlier(&self, name: [u8; 16], remember_for: Duration) -> Option<EarlierReply> {
        self.names.find(name, remember_for)
    }

    /// Forgets named runs whose replies ended before. Calls `announce` for each run that other brokers must hear of again: they remember
    /// a run from its dispatch on, and its reply may take longer.
    pub fn forget_old(&self, remember_for: Duration, announce: impl FnMut([u8; 16])) {
        self.names.forget_old(remember_for, announce);
    }

    /// A worker opens the reply of this token's offer, or replaces it by an error.
    pub fn open(&self, token: &ReplyToken, run: &str, is_error: bool) -> Result<OpenReply, OpenError> {
        let reply = self.tokens.find(token).ok_or(OpenError::Gone)?;
        let opened = reply.open(token, run, is_error)?;
        Ok(OpenReply::new(reply, opened, is_error))
    }

    /// A run that another broker has forwarded is offered: its worker replies at this path. None for a path without a token.
    pub fn expect_forwarded(&self, path: &str) -> Option<ForwardedReply> {
        let (_, token) = path.rsplit_once("token=")?;
        let target = Arc::new(ReplyTarget::at(path.into()));
        Some(self.forwarded.insert(&ReplyToken::parse(token)?, target))
    }

    /// The worker of a forwarded run opens its reply, so it has the run.
    pub fn open_forwarded(&self, token: &ReplyToken) {
        if let Some(target) = self.forwarded.find(token) {
            target.open();
        }
    }

    /// How many replies are awaited.
    pub fn count(&self) -> usize {
        self.awaited.load(Ordering::Relaxed)
    }

    /// Breaks off every reply whose run is with a worker, and returns how many there were.
    pub fn break_off(&self) -> usize {
        let mut replies = self.tokens.all();
        replies.retain(|reply| reply.result().is_none());
        for reply in &replies {
            reply.break_off(ReplyOutcome::ReplyBroken);
        }
        replies.len()
    }
}
