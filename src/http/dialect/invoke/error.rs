//! Owns the errors of Invoke in the form that AWS's SDKs read: a type in a header field, and a JSON document. None has a status from
//! 500 on, because the SDKs would call the function again.

use hyper::StatusCode;
use serde_json::{Map, Value};

use crate::http::problem::Problem;
use crate::http::response::{HttpResponse, append_field};
use crate::model::MissReason;

/// The kind of a problem with what is sent to the function, as opposed to the parameters of the call.
const BAD_CONTENT: &str = "bad-content";
/// The reason for which AWS refuses a call while all instances of a function are busy.
const ALL_BUSY: &str = "ConcurrentInvocationLimitExceeded";

/// A kind of error, as the model of the service describes it.
struct ErrorType {
    name: &'static str,
    status: StatusCode,
    /// The member of the document that has the text.
    message: &'static str,
    /// Whose fault it is, if the document says so.
    fault: Option<&'static str>,
    reason: Option<&'static str>,
}

impl ErrorType {
    const fn new(name: &'static str, status: StatusCode) -> Self {
        Self { name, status, message: "message", fault: Some("User"), reason: None }
    }

    const CONFLICT: Self = Self::new("ResourceConflictException", StatusCode::CONFLICT);
    const BUSY: Self = Self {
        reason: Some(ALL_BUSY),
        ..Self::new("TooManyRequestsException", StatusCode::TOO_MANY_REQUESTS)
    };

    fn of(problem: &Problem) -> Self {
        match problem.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self {
                message: "Message",
                fault: None,
                ..Self::new("AccessDeniedException", StatusCode::FORBIDDEN)
            },
            status @ StatusCode::NOT_FOUND => {
                Self { message: "Message", ..Self::new("ResourceNotFoundException", status) }
            }
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Self::CONFLICT,
            status @ StatusCode::PAYLOAD_TOO_LARGE => Self::new("RequestTooLargeException", status),
            status @ StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::new("UnsupportedMediaTypeException", status),
            StatusCode::TOO_MANY_REQUESTS => Self::BUSY,
            status @ StatusCode::REQUEST_TIMEOUT => Self::new("RequestTimeoutException", status),
            _ if matches!(problem.kind(), "bad-body" | BAD_CONTENT) => {
                Self::new("InvalidRequestContentException", StatusCode::BAD_REQUEST)
            }
            _ => Self::new("InvalidParameterValueException", StatusCode::BAD_REQUEST),
        }
    }

    fn respond(&self, run: &str, text: &str) -> HttpResponse {
        let members = [("Type", self.fault), ("Reason", self.reason), (self.message, Some(text))];
        let members = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
        let document = Value::Object(members.collect::<Map<_, _>>()).to_string();
        let mut fields = Vec::new();
        append_field(&mut fields, "x-amzn-requestid", run.as_bytes());
        append_field(&mut fields, "x-amzn-errortype", self.name.as_bytes());
        HttpResponse { fields, ..HttpResponse::json(self.status, document.into_bytes()) }
    }
}

/// What is sent to the function is wrong.
pub(super) fn bad_content(what: impl std::fmt::Display) -> Problem {
    let detail = format!("{what}. The function was not called.");
    Problem::new(StatusCode::BAD_REQUEST, BAD_CONTENT, "The content is wrong", detail)
}

/// The table of functions lacks this one.
pub(super) fn unknown_function(name: &str, qualifier: &str) -> Problem {
    let detail =
        format!("Function not found: {name}:{qualifier}. The broker's --function lists the functions.");
    Problem::new(StatusCode::NOT_FOUND, "unknown-function", "The function is unknown", detail)
}

/// The response to a call that is refused.
pub(super) fn refuse(run: &str, problem: &Problem) -> HttpResponse {
    let kind = ErrorType::of(problem);
    let is_posted_before = kind.status == StatusCode::CONFLICT;
    let text = match problem.member() {
        Some((name, value)) if is_posted_before => format!(
            "A call with this amz-sdk-invocation-id was made before ({name}: {value}). Its result went, or goes, to that one alone, \
             and the function is not called again."
        ),
        _ if is_posted_before => {
            "Another call has this amz-sdk-invocation-id. The function was not called.".to_owned()
        }
        _ if problem.kind() == "too-many-replies" => {
            "As many calls as the broker's --max-replies allows are under way. Call again later.".to_owned()
        }
        _ if kind.status == StatusCode::PAYLOAD_TOO_LARGE => {
            format!(
                "{} An event never has more than 6 MiB, or 1 MiB if its result is not awaited.",
                problem.detail()
            )
        }
        _ => problem.detail().to_owned(),
    };
    // The SDKs take a connection that ends while they send for a fault of the network, and try again.
    HttpResponse {
        extra: problem.field(),
        close: problem.closes(),
        // Those that are not let in are not read on.
        reads_body: kind.status != StatusCode::FORBIDDEN,
        ..kind.respond(run, &text)
    }
}

/// The response to a call for which no worker was found.
pub(super) fn miss(run: &str, reason: MissReason) -> HttpResponse {
    let mut response = if reason == MissReason::Unknown {
        let text = "A worker may have this call (unknown), so the function is not called again.";
        ErrorType::CONFLICT.respond(run, text)
    } else {
        let text = format!("No worker has taken the call: {}.", reason.text());
        HttpResponse { extra: Some(("retry-after", "1")), ..ErrorType::BUSY.respond(run, &text) }
    };
    append_field(&mut response.fields, "pilotlight-reason", reason.text().as_bytes());
    response
}
