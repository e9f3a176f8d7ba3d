//! Owns the answers to health checks: `HEAD` where `GET` would be held or answered, `OPTIONS /`, and `/livez` if it is public.
//!
//! A load balancer that takes the broker down answers 503 itself, which ends stock controllers. So a check is answered at
//! once, without a key, a token or the right to poll: whoever may connect may ask whether somebody is there.

use hyper::{Method, StatusCode};

use super::head::RequestHead;
use super::problem::Problem;
use super::response::HttpResponse;
use super::{Action, HttpState, native, trigger};
use crate::metrics::Route;

/// What a check is answered with; none if the request is something else. `methods` are those of a poll's path here.
pub(super) fn check(
    front: &HttpState,
    polls: bool,
    methods: &'static str,
    head: &RequestHead<'_>,
) -> Option<(Route, Action)> {
    let is_head = head.method == Method::HEAD;
    let other = |reply: HttpResponse| Some((Route::Other, Action::Respond(reply)));
    match head.path {
        "/" if head.method == Method::OPTIONS => {
            other(HttpResponse { extra: Some(("allow", methods)), ..HttpResponse::empty() })
        }
        "/livez" if front.limits().public_livez => {
            let is_read = is_head || head.method == Method::GET;
            let alive = || HttpResponse::new(StatusCode::OK, "text/plain; charset=utf-8", "ok\n");
            other(if is_read { alive() } else { Problem::method_not_allowed("GET, HEAD").into() })
        }
        "/connect" if is_head && polls => Some((Route::Connect, Action::Respond(trigger::times(front)))),
        "/warm-start" if is_head && polls => other(HttpResponse::empty()),
        path if is_head && polls && path.starts_with(native::PREFIX) => {
            other(native::key(path).map_or_else(HttpResponse::from, |_| HttpResponse::empty()))
        }
        _ => None,
    }
}
