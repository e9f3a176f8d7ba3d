//! Owns the receipts of controllers: `POST /v1/runs/{run}/ack` and `/ready`. They need the token of an offer and nothing else, and
//! another broker's are passed on to it.

use hyper::StatusCode;

use super::peer_route::{find_peer, of_another_broker, peer_problem};
use super::peers::{PeerError, PeerResponse};
use super::problem::Problem;
use super::response::{HttpResponse, ResponseBody};
use super::run_request::{PASSED_ON, RunPath, RunQuery, RunResource};
use super::state::HttpState;
use crate::metrics::Route;
use crate::transport::{OfferToken, Receipt, ReceiptError, run_path};

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
    path: RunPath<'_>,
    query: Option<&str>,
) -> Result<Option<PeerReceipt>, Problem> {
    let query = RunQuery::parse(path.resource, query)?;
    // Who is done with a run has read it.
    let is_ready = query.is_ready || path.resource == RunResource::Ready;
    let receipt = if is_ready { Receipt::Ready } else { Receipt::Ack };
    let text = query.token.ok_or_else(Problem::no_offer_token)?;
    // In a cluster, and only there, a token names its broker.
    let token = OfferToken::parse(&text).filter(|token| token.broker.is_some() == state.cluster.is_some());
    let token = token.ok_or_else(Problem::forged_offer_token)?;
    // A text that no run can have is that of another run.
    let run = path.decode_run().ok_or_else(Problem::other_run)?;
    match state.sessions.receive(&token, &run, receipt) {
        Ok(()) => Ok(None),
        Err(ReceiptError::Forged) => match of_another_broker(state, token.broker) {
            None => Err(Problem::forged_offer_token()),
            Some(_) if query.is_passed_on => Err(Problem::misdirected_receipt()),
            Some(broker) => {
                Ok(Some(PeerReceipt { broker, target: target(&token, &run, path.resource, query.is_ready) }))
            }
        },
        Err(ReceiptError::OtherRun) => Err(Problem::other_run()),
        Err(ReceiptError::Gone) => Err(Problem::offer_ended()),
    }
}

/// The path and the query with which a receipt is passed on.
fn target(token: &OfferToken, run: &str, resource: RunResource, is_ready: bool) -> String {
    let ready = if is_ready { "&ready=true" } else { "" };
    format!("{}{ready}&{PASSED_ON}=true", run_path(run.as_bytes(), resource.text(), token))
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
    let peer = find_peer(state, broker)?;
    let error = match state.peers.post(broker, &peer.origin, &target).await {
        Ok(PeerResponse { status: StatusCode::NO_CONTENT, .. }) => return Ok(HttpResponse::no_content()),
        Ok(PeerResponse { status, problem: Some(problem) })
            if matches!(status, StatusCode::FORBIDDEN | StatusCode::GONE) =>
        {
            return Ok(HttpResponse::new(status, Problem::CONTENT_TYPE, ResponseBody::from_slice(&problem)));
        }
        Ok(PeerResponse { status, .. }) => PeerError::Unexpected(status),
        Err(error) => error,
    };
    Err(peer_problem(&peer, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_is_parsed_to_the_same_and_is_not_passed_on_again() {
        let text = "0a".repeat(28);
        let token = OfferToken::parse(&text).unwrap();
        for (resource, is_ready) in
            [(RunResource::Ack, false), (RunResource::Ack, true), (RunResource::Ready, false)]
        {
            let run = "a run/1?x=%41&token=z#\"";
            let target = target(&token, run, resource, is_ready);
            let (path, query) = target.split_once('?').unwrap();
            let path = RunPath::find(path).unwrap();
            assert_eq!(path.resource, resource, "{target}");
            assert_eq!(path.decode_run().unwrap(), run, "{target}");
            let parsed = RunQuery::parse(resource, Some(query)).unwrap();
            assert_eq!(parsed, RunQuery { token: Some((&*text).into()), is_ready, is_passed_on: true });
        }
    }
}
