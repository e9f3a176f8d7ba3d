//! Owns the receipts of controllers: `POST /v1/runs/{run}/ack` and `/ready`. They need the token of an offer and nothing else, and
//! another broker's are passed on to it.

use std::borrow::Cow;

use hyper::StatusCode;
use percent_encoding::percent_decode_str;

use super::peers::{PeerError, PeerResponse};
use super::problem::Problem;
use super::response::{HttpResponse, ResponseBody};
use super::state::HttpState;
use crate::broker::check_part;
use crate::logging::Throttle;
use crate::metrics::Route;
use crate::transport::{OfferToken, RUNS_PATH, Receipt, ReceiptError};

/// The parameter of a receipt that another broker has passed on, so that it is not passed on again.
const PASSED_ON: &str = "passed_on";

/// A path of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunPath<'a> {
    /// The run, percent-encoded.
    run: &'a str,
    resource: RunResource,
}

/// What a controller does to a run that it was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunResource {
    Ack,
    Ready,
}

/// What a receipt has come to.
pub(super) enum Received {
    /// It was handled.
    Answered(HttpResponse),
    /// It is another broker's, for [`pass_on`].
    ForPeer(PeerReceipt),
}

/// A receipt for an offer of another broker.
pub(super) struct PeerReceipt {
    broker: u128,
    /// The path and the query of the request to that broker.
    target: String,
}

/// The parameters of a receipt.
#[derive(Debug, Default, PartialEq, Eq)]
struct ReceiptQuery<'a> {
    token: Option<Cow<'a, str>>,
    is_ready: bool,
    is_passed_on: bool,
}

/// The path as one of a run; none if it is another one.
pub(super) fn find(path: &str) -> Option<RunPath<'_>> {
    let (run, resource) = path.strip_prefix(RUNS_PATH)?.split_once('/')?;
    let resource = match resource {
        "ack" => RunResource::Ack,
        "ready" => RunResource::Ready,
        _ => return None,
    };
    Some(RunPath { run, resource })
}

/// Handles a receipt, unless it is another broker's.
pub(super) fn receive(state: &HttpState, path: RunPath<'_>, query: Option<&str>) -> Received {
    match parse_and_count(state, path, query) {
        Ok(None) => Received::Answered(HttpResponse::no_content()),
        Ok(Some(receipt)) => Received::ForPeer(receipt),
        Err(problem) => Received::Answered(problem.into()),
    }
}

fn parse_and_count(
    state: &HttpState,
    RunPath { run, resource }: RunPath<'_>,
    query: Option<&str>,
) -> Result<Option<PeerReceipt>, Problem> {
    let query = ReceiptQuery::parse(resource, query)?;
    let receipt = match resource {
        RunResource::Ack if !query.is_ready => Receipt::Ack,
        // Who is done with a run has read it.
        RunResource::Ack | RunResource::Ready => Receipt::Ready,
    };
    let text = query.token.ok_or_else(Problem::no_offer_token)?;
    // In a cluster, and only there, a token names its broker.
    let token = OfferToken::parse(&text).filter(|token| token.broker.is_some() == state.cluster.is_some());
    let token = token.ok_or_else(Problem::forged_offer_token)?;
    // A text that no run can have is that of another run.
    let run = percent_decode_str(run).decode_utf8().map_err(|_| Problem::other_run())?;
    let run = check_part(&run).map_err(|_| Problem::other_run())?;
    match state.sessions.receive(&token, run, receipt) {
        Ok(()) => Ok(None),
        Err(ReceiptError::Forged) => match of_another_broker(state, &token) {
            None => Err(Problem::forged_offer_token()),
            Some(_) if query.is_passed_on => Err(Problem::misdirected_receipt()),
            Some(broker) => {
                Ok(Some(PeerReceipt { broker, target: target(&token, run, resource, query.is_ready) }))
            }
        },
        Err(ReceiptError::OtherRun) => Err(Problem::other_run()),
        Err(ReceiptError::Gone) => Err(Problem::offer_ended()),
    }
}

/// The broker that has made a token which this one has not made, as the token says; none if it says this one.
fn of_another_broker(state: &HttpState, token: &OfferToken) -> Option<u128> {
    let cluster = state.cluster.as_ref()?;
    token.broker.filter(|&broker| broker != cluster.id())
}

/// The path and the query with which a receipt is passed on.
fn target(token: &OfferToken, run: &str, resource: RunResource, is_ready: bool) -> String {
    let receipt = match resource {
        RunResource::Ack => "ack",
        RunResource::Ready => "ready",
    };
    let ready = if is_ready { "&ready=true" } else { "" };
    format!("{}{ready}&{PASSED_ON}=true", token.receipt_path(run.as_bytes(), receipt))
}

/// Passes a receipt on to the broker that made the offer, and counts the request. The response is that broker's, or says why there
/// is none.
pub(super) async fn pass_on(state: &HttpState, receipt: PeerReceipt) -> HttpResponse {
    let response = ask_peer(state, receipt).await.unwrap_or_else(HttpResponse::from);
    state.metrics.answered(Route::Receipt, response.status.as_u16());
    response
}

async fn ask_peer(
    state: &HttpState,
    PeerReceipt { broker, target }: PeerReceipt,
) -> Result<HttpResponse, Problem> {
    static LINES: Throttle = Throttle::new();
    let Some(cluster) = &state.cluster else { return Err(Problem::offer_ended()) };
    let Some(peer) = cluster.contact(broker) else {
        // Who is cut off from the others knows nothing of those that came since.
        let knows_all = cluster.is_connected() && cluster.is_ready();
        return Err(if knows_all { Problem::offer_ended() } else { Problem::unknown_peer() });
    };
    let Some(origin) = peer.advertised else { return Err(Problem::peer_not_advertised()) };
    let error = match state.peers.post(broker, &origin, &target).await {
        Ok(PeerResponse { status: StatusCode::NO_CONTENT, .. }) => return Ok(HttpResponse::no_content()),
        Ok(PeerResponse { status, problem: Some(problem) })
            if matches!(status, StatusCode::FORBIDDEN | StatusCode::GONE) =>
        {
            return Ok(HttpResponse::new(status, Problem::CONTENT_TYPE, ResponseBody::from_slice(&problem)));
        }
        Ok(PeerResponse { status, .. }) => PeerError::Unexpected(status),
        Err(error) => error,
    };
    if LINES.is_open() {
        tracing::warn!(broker = %peer.name, advertised = %origin, error = %error, "a receipt could not be passed on");
    }
    Err(match error {
        PeerError::Busy => Problem::peer_busy(),
        PeerError::NotSent(_) => Problem::peer_unreachable(),
        PeerError::Broken(_) | PeerError::Unexpected(_) => Problem::peer_broken(),
        PeerError::TimedOut => Problem::peer_too_slow(),
    })
}

impl<'a> ReceiptQuery<'a> {
    fn parse(resource: RunResource, query: Option<&'a str>) -> Result<Self, Problem> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let flag = || {
                let bad = || Problem::bad_parameter(&name, "is neither true nor false");
                value.parse().map_err(|_| bad())
            };
            match &*name {
                "token" if parsed.token.is_some() => {
                    return Err(Problem::bad_parameter("token", "occurs more than once"));
                }
                "token" => parsed.token = Some(value),
                "ready" if resource == RunResource::Ack => parsed.is_ready = flag()?,
                PASSED_ON => parsed.is_passed_on = flag()?,
                _ => {
                    let known = match resource {
                        RunResource::Ack => "has an unknown name; known: token, ready",
                        RunResource::Ready => "has an unknown name; known: token",
                    };
                    return Err(Problem::bad_parameter("The query", known));
                }
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_run_and_what_is_done_to_it() {
        let found = |path| find(path).map(|RunPath { run, resource }| (run, resource));
        assert_eq!(found("/v1/runs/a%2Fb/ack"), Some(("a%2Fb", RunResource::Ack)));
        assert_eq!(found("/v1/runs/a/ready"), Some(("a", RunResource::Ready)));
        for other in [
            "/v1/runs/",
            "/v1/runs/a",
            "/v1/runs/ack",
            "/v1/runs/a/acks",
            "/v1/runs/a/b/ack",
            "/v1/pools/a/ack",
        ] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_passed_on_is_parsed_to_the_same_and_is_not_passed_on_again() {
        let text = "0a".repeat(28);
        let token = OfferToken::parse(&text).unwrap();
        for (resource, is_ready) in
            [(RunResource::Ack, false), (RunResource::Ack, true), (RunResource::Ready, false)]
        {
            let run = "a run/1?x=%41&token=z#é";
            let target = target(&token, run, resource, is_ready);
            let (path, query) = target.split_once('?').unwrap();
            let path = find(path).unwrap();
            assert_eq!(path.resource, resource, "{target}");
            assert_eq!(percent_decode_str(path.run).decode_utf8().unwrap(), run, "{target}");
            let parsed = ReceiptQuery::parse(resource, Some(query)).unwrap();
            assert_eq!(parsed, ReceiptQuery { token: Some((&*text).into()), is_ready, is_passed_on: true });
        }
    }
}
