//! Owns the errors of receipts and replies, to the worker and to the caller.

use std::time::Duration;

use hyper::StatusCode;

use super::problem::Problem;
use crate::reply::EarlierReply;

impl Problem {
    fn bad_offer_token(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "bad-offer-token", "The receipt is not let in", detail)
    }

    pub(super) fn no_offer_token() -> Self {
        Self::bad_offer_token(
            "The query has no `token`. POST to the path in `ack` or `ready` of the run's event, as it is.",
        )
    }

    pub(super) fn forged_offer_token() -> Self {
        Self::bad_offer_token(
            "No broker has made this `token`. POST to the path in `ack` or `ready` of the run's event, as it is.",
        )
    }

    pub(super) fn other_run() -> Self {
        Self::bad_offer_token(
            "The `token` is that of another run's offer. POST to the path in `ack` or `ready` of the run's event, as it is.",
        )
    }

    pub(super) fn offer_ended() -> Self {
        let detail = "The stream has ended, and with it every offer that was not acknowledged: the run may go to another controller, so \
                      do not start it. If this receipt was sent before and its response was lost, it may have counted.";
        Self::new(StatusCode::GONE, "offer-ended", "The offer has ended", detail)
    }

    /// A receipt that another broker has passed on came to a broker that it is not for.
    pub(super) fn misdirected_receipt() -> Self {
        let detail = "This broker has not made the offer, and does not pass on what another broker has passed on. The --advertise of the \
                      broker that made the offer leads here: it must lead to that broker alone.";
        let status = StatusCode::MISDIRECTED_REQUEST;
        Self::new(status, "misdirected-receipt", "The receipt is for another broker", detail)
    }

    pub(super) fn unknown_peer() -> Self {
        let detail = "Another broker made the offer, and this one does not know it at the moment. Nothing was counted: send the receipt \
                      again in a second.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "unknown-broker", "The offer's broker is unknown", detail)
            .with_field("retry-after", "1")
    }

    pub(super) fn peer_not_advertised() -> Self {
        let detail = "Another broker made the offer, and does not say where it is reached, so nothing was counted. Let its operator set \
                      --advertise, or send receipts to the broker that sent the event.";
        let status = StatusCode::BAD_GATEWAY;
        Self::new(status, "no-way-to-broker", "The receipt cannot be passed on", detail)
    }

    pub(super) fn peer_busy() -> Self {
        let detail = "Too many receipts are on their way to the broker that made the offer. Nothing was counted: send the receipt again \
                      at once.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "broker-busy", "Too many receipts at once", detail).with_field("retry-after", "0")
    }

    pub(super) fn peer_unreachable() -> Self {
        let detail = "The broker that made the offer cannot be reached, so nothing was counted; the log of this broker says why.";
        let status = StatusCode::BAD_GATEWAY;
        Self::new(status, "broker-unreachable", "The receipt was not passed on", detail)
    }

    pub(super) fn peer_broken() -> Self {
        let detail = "The broker that made the offer gave no valid response, so the receipt may have counted or not: send it again. \
                      The log of this broker says why.";
        let status = StatusCode::BAD_GATEWAY;
        Self::new(status, "broker-failed", "The receipt may not have counted", detail)
    }

    pub(super) fn peer_too_slow() -> Self {
        let detail = "The broker that made the offer did not answer within 2 s, so the receipt may have counted or not: send it \
                      again.";
        let status = StatusCode::GATEWAY_TIMEOUT;
        Self::new(status, "broker-too-slow", "The receipt may not have counted", detail)
    }

    fn bad_reply_token(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "bad-reply-token", "The reply is not let in", detail)
    }

    pub(super) fn no_reply_token() -> Self {
        Self::bad_reply_token(
            "The query has no well-formed `token`. POST to the path in the run's pilotlight-reply, as it is.",
        )
    }

    pub(super) fn reply_of_other_run() -> Self {
        Self::bad_reply_token(
            "The `token` is that of another run's offer. POST to the path in the run's pilotlight-reply, as it is.",
        )
    }

    pub(super) fn reply_gone() -> Self {
        let detail = "Nobody waits for this reply: its caller has left, its time is over, it was answered before, or the offer was given \
                      up. Stop the work, and wait for the next run.";
        Self::new(StatusCode::GONE, "reply-gone", "Nobody waits for this reply", detail)
    }

    pub(super) fn bad_reply_status() -> Self {
        let detail = "pilotlight-status is the status for the caller: a number from 200 to 599, and none of 204, 205, 304, which have \
                      no body.";
        Self::new(StatusCode::BAD_REQUEST, "bad-reply-status", "The status of the reply is wrong", detail)
    }

    pub(super) fn reply_timeout(wait: Duration) -> Self {
        let detail = format!(
            "A worker has the run, and its reply did not begin within {}. It may still be at work: do not post the run again blindly.",
            humantime::format_duration(wait)
        );
        Self::new(StatusCode::GATEWAY_TIMEOUT, "reply-timeout", "The reply did not come in time", detail)
    }

    pub(super) fn reply_broken() -> Self {
        let detail = "A worker had the run, and its reply broke off before its first byte: the worker died, the reply was malformed, or \
                      the broker is ending. The run may have been worked on in part.";
        Self::new(StatusCode::BAD_GATEWAY, "reply-broken", "The reply broke off", detail)
    }

    pub(super) fn too_many_replies() -> Self {
        let detail = "As many replies as --max-replies allows are awaited. Post the run again later, or without `reply`.";
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, "too-many-replies", "Too many replies are awaited", detail)
            .with_field("retry-after", "1")
    }

    /// The same run was posted before, and its reply is for its first caller alone.
    pub(super) fn run_posted_before(earlier: Option<EarlierReply>) -> Self {
        let detail = "A run of this name was posted before. Its reply went, or goes, to that POST alone: bodies are not kept. Give each run \
                      a pilotlight-run of its own.";
        let problem =
            Self::new(StatusCode::CONFLICT, "run-posted-before", "The run was posted before", detail);
        match earlier {
            Some(EarlierReply::Open) => problem.with_member("state", "open"),
            Some(EarlierReply::Ended(outcome)) => problem.with_member("outcome", outcome.text()),
            None => problem.with_member("state", "delivered"),
        }
    }
}
