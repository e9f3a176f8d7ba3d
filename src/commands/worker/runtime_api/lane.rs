//! Owns a place for one event at a time: it polls while the program asks for an event, and replies with what the program posts.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::answer::{Answering, Outcome};
use super::event::{Event, wants_log_tail};
use super::function::Function;
use super::function_error::FunctionError;
use super::next_calls::{NextCall, NextCalls};
use super::process::OpenEvent;
use super::request_id::request_id;
use crate::commands::worker::program::RunLog;
use crate::commands::worker::stop::Stop;
use crate::commands::worker::wire::{Gone, Poller, Reply, ReplyHead, Run, WorkerConnection};
use crate::lambda::LOG_TAIL;

/// When a poll is withdrawn, the time for a run that is here already to be noticed.
const LAST_LOOK: Duration = Duration::from_millis(2);
/// A reply that takes longer to be sent does not keep the lane from its next run, unless there are so many of them.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(50);
const MAX_SETTLING: usize = 4;
/// How long a run waits for a program that asks for it, if the one for which it came does not any more.
const NEXT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the lanes of a slot have in common.
#[derive(Clone)]
pub(in crate::commands::worker) struct LaneOptions {
    pub(in crate::commands::worker) slot: usize,
    pub(in crate::commands::worker) function: Arc<Function>,
    /// How long an event may take.
    pub(in crate::commands::worker) timeout: Duration,
    pub(in crate::commands::worker) stop: Stop,
    /// Whether the program takes several events at a time.
    pub(in crate::commands::worker) has_many: bool,
}

/// One lane.
pub(super) struct Lane {
    pub(super) options: LaneOptions,
    pub(super) poller: Poller,
    pub(super) calls: Arc<NextCalls>,
    pub(super) log: RunLog,
    /// Replies that are on their way to callers who read slowly.
    pub(super) settling: JoinSet<Option<WorkerConnection>>,
}

/// Why a run has not reached a program.
enum NotHandedOver {
    CallerLeft,
    NobodyAsked,
}

impl Lane {
    /// Serves runs until the worker is asked to stop.
    pub(super) async fn serve(mut self) {
        let mut unused = None;
        while let Some((run, call)) = self.wait(unused.take()).await {
            unused = self.run(run, call).await;
            self.settle_some().await;
        }
        while self.settling.join_next().await.is_some() {}
    }

    /// Polls while a call of `next` is open. None if the worker is to stop.
    async fn wait(&mut self, mut unused: Option<NextCall>) -> Option<(Run, NextCall)> {
        let stop = &mut self.options.stop;
        loop {
            let mut call = if let Some(call) = unused.take().filter(NextCall::is_usable) {
                call
            } else {
                tokio::select! {
                    biased;
                    () = stop.requested() => return None,
                    call = self.calls.first() => call,
                }
            };
            let poll = self.poller.next_run();
            tokio::pin!(poll);
            let is_stopped = tokio::select! {
                biased;
                run = &mut poll => return Some((run, call)),
                () = call.closed() => false,
                () = stop.requested() => true,
            };
            // A run that was received, and is only not handed over yet, would be lost with the poll.
            if let Ok(run) = timeout(LAST_LOOK, poll).await {
                return Some((run, call));
            }
            if is_stopped {
                return None;
            }
        }
    }

    /// Runs a run. Returns the call of `next` if the run did not need it.
    async fn run(&mut self, run: Run, call: NextCall) -> Option<NextCall> {
        let Run { id, payload, reply: address, fields, .. } = run;
        let slot = self.options.slot;
        let mut reply = Reply::open(address, &HeaderValue::from_static("application/json"), slot).await;
        let wants_log_tail = wants_log_tail(&fields);
        let event = match Event::new(&self.options.function, &fields, payload) {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(slot, run = id, "the run is refused: its payload is no JSON");
                self.settling.spawn(settle(reply, Outcome::Failed(error), None));
                return Some(call);
            }
        };
        let mut open = match self.hand_over(&id, event, call, &mut reply).await {
            Ok(open) => open,
            Err(NotHandedOver::CallerLeft) => {
                tracing::info!(slot, run = id, "run cancelled: its caller has left");
                return None;
            }
            Err(NotHandedOver::NobodyAsked) => {
                tracing::warn!(slot, run = id, "run failed: no program has asked for it");
                let error = FunctionError::exited(&id, "before the event, and did not come back in time");
                self.settling.spawn(settle(reply, Outcome::Failed(error), None));
                return None;
            }
        };
        let outcome = self.outcome(&mut open, &mut reply).await;
        let request = open.request().clone();
        let tail = self.log.end(&request, wants_log_tail).await;
        // From here on the program may be killed, if it has to be.
        drop(open);
        match &outcome {
            Outcome::Failed(error) => {
                tracing::warn!(slot, run = &*request, "run failed: {}", error.kind_for_log());
            }
            Outcome::Response { .. } | Outcome::Streamed => {
                tracing::debug!(slot, run = &*request, "run ends");
            }
        }
        let tail = wants_log_tail.then(|| HeaderValue::try_from(BASE64_STANDARD.encode(tail)).ok()).flatten();
        self.settling.spawn(settle(reply, outcome, tail));
        None
    }

    /// Waits for replies that are about to end, and keeps a connection of theirs for the next poll.
    async fn settle_some(&mut self) {
        loop {
            let settled = if self.settling.len() < MAX_SETTLING {
                timeout(SETTLE_TIMEOUT, self.settling.join_next()).await
            } else {
                Ok(self.settling.join_next().await)
            };
            match settled {
                Ok(Some(Ok(Some(connection)))) => self.poller.keep(connection),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Hands the event to a program: the one that has asked, or, if it is gone, the one after it.
    async fn hand_over(
        &self,
        run: &str,
        mut event: Event,
        call: NextCall,
        reply: &mut Reply,
    ) -> Result<OpenEvent, NotHandedOver> {
        let deadline = Instant::now() + NEXT_TIMEOUT;
        let mut asked = Some(call);
        loop {
            let call = if let Some(call) = asked.take().filter(NextCall::is_usable) {
                call
            } else {
                tokio::select! {
                    biased;
                    gone = reply.gone() => match gone {
                        Gone::Caller => return Err(NotHandedOver::CallerLeft),
                        Gone::Broker => continue,
                    },
                    call = self.calls.first() => call,
                    () = sleep_until(deadline) => return Err(NotHandedOver::NobodyAsked),
                }
            };
            let open = call.process().begin(request_id(run));
            event.address(open.request(), self.options.timeout);
            self.log.begin(open.request()).await;
            let (slot, request) = (self.options.slot, &**open.request());
            if request == run {
                tracing::debug!(slot, run, "run begins");
            } else {
                tracing::info!(slot, run, request, "run begins under another name");
            }
            match call.hand_over(event).await {
                Ok(()) => return Ok(open),
                Err(undelivered) => event = undelivered,
            }
            self.log.end(open.request(), false).await;
        }
    }

    async fn outcome(&self, open: &mut OpenEvent, reply: &mut Reply) -> Outcome {
        let limit = self.options.timeout;
        let deadline = Instant::now() + limit;
        let (request, process) = (open.request().clone(), open.process().clone());
        let alone = (!self.options.has_many).then_some((&*self.calls, &process));
        let mut answering = Answering { request: &request, reply, posted: &mut open.posted, alone };
        tokio::select! {
            biased;
            outcome = answering.outcome() => outcome,
            how = process.ended() => Outcome::Failed(FunctionError::exited(&request, &how)),
            () = sleep_until(deadline) => {
                process.condemn();
                Outcome::Failed(FunctionError::timed_out(&request, limit))
            }
        }
    }
}

/// Ends a reply. Returns its connection, for the next poll.
async fn settle(
    mut reply: Reply,
    outcome: Outcome,
    log_tail: Option<HeaderValue>,
) -> Option<WorkerConnection> {
    match outcome {
        Outcome::Response { content_type, body } => {
            let head = ReplyHead { content_type, log_tail, trailers: None };
            reply.reopen(head).await.ok()?;
            if !body.is_empty() {
                reply.write(body).await.ok()?;
            }
            reply.finish().await
        }
        Outcome::Streamed => reply.finish_with(with_log_tail(HeaderMap::new(), log_tail)).await,
        Outcome::Failed(error) if reply.has_begun() => {
            reply.finish_with(with_log_tail(error.trailers(), log_tail)).await
        }
        Outcome::Failed(error) => {
            let json = HeaderValue::from_static("application/json");
            reply.fail_with(ReplyHead { log_tail, ..ReplyHead::new(json) }, error.document).await;
            None
        }
    }
}

/// Trailers, with the log's if it is wanted.
fn with_log_tail(mut trailers: HeaderMap, log_tail: Option<HeaderValue>) -> HeaderMap {
    trailers.extend(log_tail.map(|tail| (HeaderName::from_static(LOG_TAIL), tail)));
    trailers
}
