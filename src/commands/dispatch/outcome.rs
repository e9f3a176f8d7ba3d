//! Owns how a run that was posted by hand ended: read from the broker's answer, and told as words and an exit code.

use std::process::ExitCode;

use hyper::header::HeaderMap;
use hyper::http::response::Parts;
use serde::Deserialize;

use crate::commands::ops_client::detail;
use crate::commands::text::printable;
use crate::model::{MissReason, ReplyOutcome};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A controller has it, and no reply was asked for.
    Delivered,
    /// Any other end, as a run with a reply has it.
    Other(ReplyOutcome),
}

impl Outcome {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Other(outcome) => outcome.text(),
        }
    }

    /// 0: it was delivered, and answered if that was asked for. 1: no controller has it, so that it can be posted again.
    /// 3: a controller has it or may have it.
    pub(super) fn exit_code(self) -> ExitCode {
        match self {
            Self::Delivered | Self::Other(ReplyOutcome::Replied) => ExitCode::SUCCESS,
            Self::Other(ReplyOutcome::Miss | ReplyOutcome::Limited | ReplyOutcome::Refused) => {
                ExitCode::from(1)
            }
            Self::Other(
                ReplyOutcome::Unknown
                | ReplyOutcome::WorkerError
                | ReplyOutcome::ReplyTimeout
                | ReplyOutcome::ReplyBroken
                | ReplyOutcome::Cancelled
                | ReplyOutcome::Duplicate,
            ) => ExitCode::from(3),
        }
    }
}

/// What the head of the answer says; none if no reply was asked for.
pub(super) fn stated(head: &Parts) -> Option<ReplyOutcome> {
    let stated = text(&head.headers, "pilotlight-outcome")?;
    ReplyOutcome::ALL.iter().copied().find(|outcome| outcome.text() == stated)
}

/// What is known of the run besides its outcome.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RunReport {
    run: Option<String>,
    controller: Option<String>,
    proof: Option<String>,
    offers: Option<u64>,
    reason: Option<String>,
    /// What the controller says to whoever claims it.
    metadata: Option<String>,
    status: Option<String>,
    error: Option<String>,
}

impl RunReport {
    /// What the head of a reply says.
    pub(super) fn of_head(head: &Parts) -> Self {
        let field = |name| text(&head.headers, name).map(str::to_owned);
        Self {
            run: field("pilotlight-run"),
            controller: field("pilotlight-controller"),
            proof: field("pilotlight-proof"),
            status: (head.status != 200).then(|| head.status.to_string()),
            ..Self::default()
        }
    }

    /// The fields that are known, with their names.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, String)> {
        let Self { run, controller, proof, offers, reason, metadata, status, error } = self;
        let controller = controller.clone().filter(|controller| !controller.is_empty());
        [
            ("run", run.clone()),
            ("controller", controller),
            ("proof", proof.clone()),
            ("offers", offers.map(|offers| offers.to_string())),
            ("reason", reason.clone()),
            ("metadata", metadata.clone()),
            ("status", status.clone()),
            ("error", error.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// The document that answers a dispatch.
#[derive(Deserialize)]
struct Answer {
    delivered: bool,
    run: Option<String>,
    controller: Option<String>,
    proof: Option<String>,
    offers: Option<u64>,
    reason: Option<String>,
    metadata: Option<String>,
}

/// Reads an answer that is no reply. `stated` is the outcome that its head names.
pub(super) fn read(stated: Option<ReplyOutcome>, head: &Parts, body: &[u8]) -> (Outcome, RunReport) {
    let of_head = RunReport::of_head(head);
    if stated != Some(ReplyOutcome::WorkerError)
        && let Ok(Answer { delivered, run, controller, proof, offers, reason, metadata }) =
            serde_json::from_slice(body)
    {
        let is_unknown = reason.as_deref() == Some(MissReason::Unknown.text());
        let outcome = match stated {
            Some(stated) => Outcome::Other(stated),
            None if delivered => Outcome::Delivered,
            None if is_unknown => Outcome::Other(ReplyOutcome::Unknown),
            None => Outcome::Other(ReplyOutcome::Miss),
        };
        let run = run.or(of_head.run);
        let report = RunReport { run, controller, proof, offers, reason, metadata, ..RunReport::default() };
        return (outcome, report);
    }
    let outcome = Outcome::Other(stated.unwrap_or(ReplyOutcome::Refused));
    let problem = detail(body);
    let error = match problem.strip_prefix(": ") {
        Some(problem) => problem.to_owned(),
        None => printable(&String::from_utf8_lossy(body)),
    };
    let error = Some(error).filter(|error| !error.is_empty());
    (outcome, RunReport { status: Some(head.status.to_string()), error, ..of_head })
}

/// A header of one line of text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use hyper::Response;

    use super::*;

    fn read_as(status: u16, outcome: &str, body: &str) -> (Outcome, Vec<(&'static str, String)>) {
        let mut response = Response::builder().status(status).header("pilotlight-run", "r");
        if !outcome.is_empty() {
            response = response.header("pilotlight-outcome", outcome);
        }
        let (head, ()) = response.body(()).unwrap().into_parts();
        let (outcome, report) = read(stated(&head), &head, body.as_bytes());
        (outcome, report.fields().collect())
    }

    #[test]
    fn a_worker_that_fails_with_json_is_not_taken_for_the_brokers_own_answer() {
        let (outcome, fields) = read_as(502, "worker_error", r#"{"delivered":true}"#);
        assert_eq!(outcome, Outcome::Other(ReplyOutcome::WorkerError));
        assert!(fields.contains(&("error", r#"{"delivered":true}"#.to_owned())), "{fields:?}");
    }

    #[test]
    fn every_answer_has_one_outcome() {
        let miss = r#"{"delivered":false,"offers":0,"reason":"no_pool","run":"r"}"#;
        let unknown = r#"{"delivered":false,"offers":1,"reason":"unknown","run":"r"}"#;
        for (status, stated, body, outcome) in [
            (200, "", r#"{"delivered":true,"offers":1,"proof":"received","run":"r"}"#, Outcome::Delivered),
            (200, "", miss, Outcome::Other(ReplyOutcome::Miss)),
            (200, "", unknown, Outcome::Other(ReplyOutcome::Unknown)),
            (503, "miss", miss, Outcome::Other(ReplyOutcome::Miss)),
            (504, "unknown", unknown, Outcome::Other(ReplyOutcome::Unknown)),
            (504, "reply_timeout", r#"{"detail":"late"}"#, Outcome::Other(ReplyOutcome::ReplyTimeout)),
            (
                409,
                "duplicate",
                r#"{"detail":"open","state":"open"}"#,
                Outcome::Other(ReplyOutcome::Duplicate),
            ),
            (429, "limited", "", Outcome::Other(ReplyOutcome::Limited)),
            (400, "", r#"{"detail":"wrong"}"#, Outcome::Other(ReplyOutcome::Refused)),
        ] {
            assert_eq!(read_as(status, stated, body).0, outcome, "{status} {stated} {body}");
        }
    }
}
