//! Owns the two kinds of short responses of the ops routes: plain text and JSON.

use hyper::StatusCode;

use crate::http::HttpResponse;

pub(super) fn text(status: StatusCode, body: &'static str) -> HttpResponse {
    HttpResponse::new(status, "text/plain; charset=utf-8", body.as_bytes())
}

pub(super) fn json(body: &serde_json::Value) -> HttpResponse {
    HttpResponse::new(StatusCode::OK, "application/json", body.to_string().into_bytes())
}
