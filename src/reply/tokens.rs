//! Owns the tokens that are good: which reply each is of, for as long as its offer is.

use std::sync::{Arc, Weak};

use ahash::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::token::ReplyToken;
use crate::transport::ReplyTarget;

/// The offers whose token is good.
pub(super) struct Tokens<T> {
    by_secret: Mutex<HashMap<u128, Weak<T>, RandomState>>,
    /// This broker's id in its cluster, which its tokens then carry.
    broker: Mutex<Option<u128>>,
}

/// An offer whose token is good until this is dropped.
pub(super) struct RegisteredOffer<T> {
    tokens: Arc<Tokens<T>>,
    pub(super) token: ReplyToken,
    pub(super) run: Box<[u8]>,
    pub(super) target: Arc<ReplyTarget>,
}

/// Where the worker of a forwarded run replies, while the run is offered.
pub struct ForwardedReply {
    tokens: Arc<Tokens<ReplyTarget>>,
    secret: u128,
    /// For the run.
    pub target: Arc<ReplyTarget>,
}

impl<T> Tokens<T> {
    /// None yet. `broker` is this broker's id in its cluster.
    pub(super) fn new(broker: Option<u128>) -> Self {
        Self { by_secret: Mutex::default(), broker: Mutex::new(broker) }
    }

    /// From now on, tokens name this broker by another id.
    pub(super) fn set_broker(&self, id: u128) {
        *self.broker.lock() = Some(id);
    }

    /// What a token's offer is of, while that exists.
    pub(super) fn find(&self, token: &ReplyToken) -> Option<Arc<T>> {
        self.by_secret.lock().get(&token.secret).and_then(Weak::upgrade)
    }

    fn remove(&self, secret: u128) {
        let mut tokens = self.by_secret.lock();
        tokens.remove(&secret);
        if tokens.capacity() > 1024 && tokens.len() < tokens.capacity() / 8 {
            tokens.shrink_to_fit();
        }
    }

    /// What any good token is of.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.by_secret.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Makes a token for an offer of this run.
    pub(super) fn register(self: &Arc<Self>, of: &Arc<T>, run: &[u8]) -> RegisteredOffer<T> {
        let token = ReplyToken::new(*self.broker.lock());
        self.by_secret.lock().insert(token.secret, Arc::downgrade(of));
        let target = Arc::new(ReplyTarget::new(run, token));
        RegisteredOffer { tokens: self.clone(), token, run: run.into(), target }
    }
}

impl Tokens<ReplyTarget> {
    /// This token, which another broker has made, is good for an offer with this target.
    pub(super) fn insert(self: &Arc<Self>, token: &ReplyToken, target: Arc<ReplyTarget>) -> ForwardedReply {
        self.by_secret.lock().insert(token.secret, Arc::downgrade(&target));
        ForwardedReply { tokens: self.clone(), secret: token.secret, target }
    }
}

impl Drop for ForwardedReply {
    fn drop(&mut self) {
        self.tokens.remove(self.secret);
    }
}

impl<T> Drop for RegisteredOffer<T> {
    fn drop(&mut self) {
        self.tokens.remove(self.token.secret);
    }
}
