//! Owns the state of one reply, which its caller, its dispatch and its workers share.
//!
//! ```text
//! waiting ──opened──► (a worker has it) ──begun──► (bytes were written) ──► ended
//!    └───────────────────────┴─────────────────────────────┴── given up ─────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::caller::{Caller, ReplyForm, ResponseStyle};
use super::token::ReplyToken;
use super::tokens::{RegisteredOffer, Tokens};
use crate::model::ReplyOutcome;
use crate::transport::ReplyTarget;

/// One reply, from its POST to its end.
pub struct Reply {
    tokens: Arc<Tokens<Self>>,
    /// What its caller gets of it.
    form: ReplyForm,
    state: Mutex<State>,
    /// Wakes the caller's task when the reply has begun, and when it has ended.
    pub(super) changed: Notify,
    /// Wakes the worker's task when the caller is ready.
    pub(super) accepted: Notify,
    /// Bytes of the body that the caller's kernel has taken.
    pub(super) bytes: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Of the present offer. Its token is still a receipt when the caller has left before a worker has used it.
    offer: Option<RegisteredOffer<Reply>>,
    was_offered: bool,
    /// Whoever answers now.
    opener: Option<Opener>,
    openers: u32,
    caller: Option<Arc<Caller>>,
    first_byte: Option<Instant>,
    status: u16,
    /// The last bytes are being written: whoever has read them may leave before that is known.
    is_finishing: bool,
    end: Option<ReplyOutcome>,
    is_complete: bool,
}

struct Opener {
    number: u32,
    is_error: bool,
    /// Its drop tells the worker that nobody wants its answer any more.
    _cancel: oneshot::Sender<()>,
}

/// A reply that was opened.
pub(super) struct Opened {
    pub(super) number: u32,
    /// Returns once nobody wants the answer any more.
    pub(super) cancelled: oneshot::Receiver<()>,
    /// It is an error, and has broken off the caller's response, which had begun: its body is for nobody.
    pub(super) comes_late: bool,
}

/// Why a reply cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// The token is unknown, was used, or is of an offer that has ended.
    Gone,
    /// The token is of another run.
    OtherRun,
}

/// How a reply has ended.
#[derive(Debug, Clone, Copy)]
pub struct ReplyEnd {
    /// The outcome.
    pub outcome: ReplyOutcome,
    /// The status that the caller was sent; 0 if its response had not begun.
    pub status: u16,
    /// When the caller's response began; none if it had not.
    pub first_byte: Option<Instant>,
    /// The length of the body so far, in bytes.
    pub bytes: u64,
    /// Whether the caller's response is complete.
    pub is_complete: bool,
}

impl Reply {
    pub(super) fn new(tokens: Arc<Tokens<Self>>, form: ReplyForm) -> Self {
        Self {
            tokens,
            form,
            state: Mutex::default(),
            changed: Notify::new(),
            accepted: Notify::new(),
            bytes: AtomicU64::new(0),
        }
    }

    /// How it is written to its caller.
    pub fn style(&self) -> ResponseStyle {
        self.form.style
    }

    /// Whether its caller gets the end of the worker's log.
    pub(super) fn wants_log(&self) -> bool {
        self.form.wants_log
    }

    /// An offer of this run begins: from now on only its token is good. None if the reply has ended, because its caller has left.
    pub fn begin_offer(self: &Arc<Self>, run: &[u8]) -> Option<Arc<ReplyTarget>> {
        let mut state = self.state.lock();
        state.offer = None;
        if state.end.is_some() {
            return None;
        }
        state.was_offered = true;
        let offer = self.tokens.register(self, run);
        let target = offer.target.clone();
        state.offer = Some(offer);
        Some(target)
    }

    /// The present offer is given up, and its token is worth nothing any more. False if a worker has used it already: then the worker
    /// has the run.
    pub fn withdraw(&self) -> bool {
        let mut state = self.state.lock();
        if state.openers > 0 {
            return false;
        }
        state.offer = None;
        true
    }

    /// The run was delivered by an earlier POST, unless a worker has used the present token.
    pub fn set_unoffered(&self) {
        let mut state = self.state.lock();
        if state.openers == 0 {
            (state.offer, state.was_offered) = (None, false);
        }
    }

    /// Whether an offer of this run was made by this reply's POST, which is not so for one that is answered like an earlier POST.
    pub fn was_offered(&self) -> bool {
        self.state.lock().was_offered
    }

    /// A worker opens the reply. The first byte wins: until then a reply may be opened anew, and the first error replaces any reply.
    pub(super) fn open(&self, token: &ReplyToken, run: &str, is_error: bool) -> Result<Opened, OpenError> {
        let mut state = self.state.lock();
        let offer = state.offer.as_ref().filter(|offer| offer.token == *token).ok_or(OpenError::Gone)?;
        if *offer.run != *run.as_bytes() {
            return Err(OpenError::OtherRun);
        }
        if state.end.is_some() {
            // Nobody wants the reply any more, but it shows that its worker has the run.
            offer.target.open();
            return Err(OpenError::Gone);
        }
        match (&state.opener, is_error) {
            (None, _) if state.openers == 0 => {}
            (Some(Opener { is_error: false, .. }), true) => {}
            // A worker that opens its reply early cannot know its status yet: it may open it anew.
            (Some(Opener { is_error: false, .. }), false) if state.first_byte.is_none() => {}
            _ => return Err(OpenError::Gone),
        }
        offer.target.open();
        let (cancel, cancelled) = oneshot::channel();
        state.openers += 1;
        let number = state.openers;
        // The caller has read a part of what an error replaces.
        let comes_late = state.first_byte.is_some();
        if comes_late {
            self.end(&mut state, ReplyOutcome::WorkerError);
        } else {
            (state.opener, state.is_finishing) = (Some(Opener { number, is_error, _cancel: cancel }), false);
        }
        Ok(Opened { number, cancelled, comes_late })
    }

    /// The run was delivered, and what its worker answers is for this caller.
    pub(super) fn accept(&self, caller: Arc<Caller>) {
        self.state.lock().caller = Some(caller);
        self.accepted.notify_one();
    }

    /// The caller, once it is known.
    pub(super) fn caller(&self) -> Option<Arc<Caller>> {
        self.state.lock().caller.clone()
    }

    /// This worker begins the caller's response with this status: `write` does it, and says whether a byte was written. Nothing replaces
    /// the reply meanwhile, so that a response that has begun has its head. None if the reply is not its own any more.
    pub(super) fn begin<T>(
        &self,
        number: u32,
        status: u16,
        write: impl FnOnce() -> (T, bool),
    ) -> Option<(T, bool)> {
        let mut state = self.state.lock();
        let is_own = state.opener.as_ref().is_some_and(|opener| opener.number == number);
        if !is_own || state.end.is_some() {
            return None;
        }
        let (written, has_begun) = write();
        if has_begun {
            (state.first_byte, state.status) = (Some(Instant::now()), status);
            self.changed.notify_one();
        }
        Some((written, has_begun))
    }

    /// This worker writes the last bytes now.
    pub(super) fn begin_finish(&self, number: u32) {
        let mut state = self.state.lock();
        state.is_finishing |= state.opener.as_ref().is_some_and(|opener| opener.number == number);
    }

    /// Whether the last bytes are being written, or were.
    pub(super) fn is_finishing(&self) -> bool {
        self.state.lock().is_finishing
    }

    /// This worker's answer has ended so, and the caller's response with it if that `is_complete`. Nothing happens if the reply is
    /// not its own any more.
    pub(super) fn end_by(&self, number: u32, outcome: ReplyOutcome, is_complete: bool) {
        let mut state = self.state.lock();
        if state.opener.as_ref().is_some_and(|opener| opener.number == number) {
            state.is_complete = is_complete;
            self.end(&mut state, outcome);
        }
    }

    /// Ends the reply, whatever its state is. Whoever answers is told. Returns how it has ended, which may be sooner.
    pub(super) fn break_off(&self, outcome: ReplyOutcome) -> ReplyEnd {
        let mut state = self.state.lock();
        self.end(&mut state, outcome);
        self.describe(&state, state.end.unwrap_or(outcome))
    }

    /// Ends the reply unless the caller's response has begun.
    pub(super) fn give_up(&self, outcome: ReplyOutcome) {
        let mut state = self.state.lock();
        if state.first_byte.is_none() {
            self.end(&mut state, outcome);
        }
    }

    fn end(&self, state: &mut State, outcome: ReplyOutcome) {
        if state.end.is_some() {
            return;
        }
        state.end = Some(outcome);
        (state.opener, state.caller) = (None, None);
        if state.openers > 0 {
            state.offer = None;
        }
        self.changed.notify_one();
    }

    /// Whether the caller's response has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.state.lock().first_byte.is_some()
    }

    /// How it has ended; none before.
    pub(super) fn result(&self) -> Option<ReplyEnd> {
        let state = self.state.lock();
        state.end.map(|outcome| self.describe(&state, outcome))
    }

    fn describe(&self, state: &State, outcome: ReplyOutcome) -> ReplyEnd {
        let State { first_byte, status, is_complete, .. } = *state;
        let bytes = self.bytes.load(Ordering::Relaxed);
        ReplyEnd { outcome, status, first_byte, bytes, is_complete }
    }
}
