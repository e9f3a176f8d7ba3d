//! Owns the calls of `next` that are open: each is a place for one event.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::event::Event;
use super::process::RuntimeProcess;

/// The calls of one slot's programs, the oldest first.
#[derive(Default)]
pub(super) struct NextCalls {
    open: Mutex<VecDeque<NextCall>>,
    came: Notify,
    /// Tells all who wait for a call of one program.
    opened: Notify,
}

/// One call. It is withdrawn when its connection ends.
pub(super) struct NextCall {
    process: Arc<RuntimeProcess>,
    sender: oneshot::Sender<Handover>,
}

/// An event on its way to a connection. If it is dropped before it was taken, it returns.
pub(super) struct Handover {
    event: Option<Event>,
    returned: Option<oneshot::Sender<Event>>,
}

impl NextCalls {
    /// A program asks for an event. Without one, nothing is ever received.
    pub(super) fn open(&self, process: Arc<RuntimeProcess>) -> oneshot::Receiver<Handover> {
        let (sender, receiver) = oneshot::channel();
        let mut open = self.open.lock();
        // Those that were withdrawn meanwhile must not collect here while no lane looks.
        open.retain(NextCall::is_open);
        open.push_back(NextCall { process, sender });
        drop(open);
        self.came.notify_one();
        self.opened.notify_waiters();
        receiver
    }

    /// Returns when this program has a call that no lane has taken.
    pub(super) async fn asked_by(&self, process: &Arc<RuntimeProcess>) {
        loop {
            let opened = self.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            let is_own = |call: &NextCall| call.is_open() && Arc::ptr_eq(&call.process, process);
            if self.open.lock().iter().any(is_own) {
                return;
            }
            opened.await;
        }
    }

    /// Takes the first one of a program that can be given an event.
    pub(super) async fn first(&self) -> NextCall {
        loop {
            if let Some(call) = self.try_first() {
                return call;
            }
            self.came.notified().await;
        }
    }

    fn try_first(&self) -> Option<NextCall> {
        let mut open = self.open.lock();
        while let Some(call) = open.pop_front() {
            if call.is_usable() {
                return Some(call);
            }
        }
        None
    }
}

impl NextCall {
    pub(super) fn process(&self) -> &Arc<RuntimeProcess> {
        &self.process
    }

    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Whether it can be given an event, as far as is known without waiting.
    pub(super) fn is_usable(&self) -> bool {
        self.is_open() && self.process.is_usable()
    }

    /// Returns when it cannot be given an event any more: it was withdrawn, or its program has to go.
    pub(super) async fn closed(&mut self) {
        let Self { process, sender } = self;
        tokio::select! {
            () = sender.closed() => {}
            () = process.unusable() => {}
        }
    }

    /// Answers the call. The error is the event, if the connection has ended before.
    pub(super) async fn hand_over(self, event: Event) -> Result<(), Event> {
        let (returned, undelivered) = oneshot::channel();
        let handover = Handover { event: Some(event), returned: Some(returned) };
        // If nobody receives it, it is dropped and returns likewise.
        let _ = self.sender.send(handover);
        match undelivered.await {
            Ok(event) => Err(event),
            Err(_) => Ok(()),
        }
    }
}

impl Handover {
    /// The event, which is not returned any more.
    pub(super) fn take(mut self) -> Option<Event> {
        self.event.take()
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if let (Some(event), Some(returned)) = (self.event.take(), self.returned.take()) {
            let _ = returned.send(event);
        }
    }
}
