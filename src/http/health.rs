//! Owns the answers to health checks: `HEAD` where `GET` would be held or answered, `OPTIONS /`, and `/livez` if it is public.
//!
//! A load balancer that takes the broker down answers 503 itself, which ends stock controllers. So a check is answered at
//! once, without a key, a token or the right to poll: whoever may connect may ask whether somebody is there.

use hyper::{Method, StatusCode};

use super::head::Head;
use super::problem::Problem;
use super::reply::Reply;
use super::{Answer, Front, native, trigger};
use crate::metrics::Route;

/// What a check is answered with; none if the request is something else. `methods` are those of a poll's path here.
pub(super) fn check(
    front: &Front,
    polls: bool,
    methods: &'static str,
    head: &Head<'_>,
) -> Option<(Route, Answer)> {
    let is_head = head.method == Method::HEAD;
    let other = |reply: Reply| Some((Route::Other, Answer::Reply(reply)));
    match head.path {
        "/" if head.method == Method::OPTIONS => {
            other(Reply { extra: Some(("allow", methods)), ..Reply::empty() })
        }
        "/livez" if front.terms().public_livez => {
            let is_read = is_head || head.method == Method::GET;
            let alive = || Reply::new(StatusCode::OK, "text/plain; charset=utf-8", "ok\n");
            other(if is_read { alive() } else { Problem::method_not_allowed("GET, HEAD").into() })
        }
        "/connect" if is_head && polls => Some((Route::Connect, Answer::Reply(trigger::times(front)))),
        "/warm-start" if is_head && polls => other(Reply::empty()),
        path if is_head && polls && path.starts_with(native::PREFIX) => {
            other(native::key(path).map_or_else(Reply::from, |_| Reply::empty()))
        }
        _ => None,
    }
}
