//! Owns the answers that are waited for: who waits for the answer with which token.

use ahash::RandomState;
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A forward has two answers; every other question has one.
const MAX_UNREAD: usize = 2;

/// Answers by token.
#[derive(Default)]
pub(super) struct Inbox(Mutex<HashMap<u128, mpsc::Sender<Option<Bytes>>, RandomState>>);

/// Waits for the answers with one token, until it is dropped.
pub(super) struct Answers {
    pub(super) token: u128,
    inbox: Arc<Inbox>,
    receiver: mpsc::Receiver<Option<Bytes>>,
}

impl Inbox {
    /// From now on, answers with a new token are kept for the caller.
    pub(super) fn expect(self: &Arc<Self>) -> Answers {
        let (sender, receiver) = mpsc::channel(MAX_UNREAD);
        let token = fastrand::u128(..);
        self.0.lock().insert(token, sender);
        Answers { token, inbox: self.clone(), receiver }
    }

    /// An answer has arrived; none says that NATS knows no receiver of the question. False if nobody waits for it, or too many are
    /// unread.
    pub(super) fn deliver(&self, token: u128, answer: Option<Bytes>) -> bool {
        let sender = self.0.lock().get(&token).cloned();
        sender.is_some_and(|sender| sender.try_send(answer).is_ok())
    }
}

impl Answers {
    /// The next answer; none says that NATS knows no receiver of the question.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        // The sender is in the inbox for as long as this waits.
        self.receiver.recv().await.flatten()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.inbox.0.lock().remove(&self.token);
    }
}
