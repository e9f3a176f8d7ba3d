//! Owns the health checks that no dialect owns: `OPTIONS /`, and `/livez` if it is public.
//!
//! If a check fails, a load balancer answers 503 in the broker's place, which ends stock controllers. So checks need no key,
//! token or right to poll: any client that can connect may check the broker. `HEAD` is a check, too, on the paths of the dialects.

use hyper::{Method, StatusCode};

use super::h1::RequestHead;
use super::problem::Problem;
use super::response::HttpResponse;

/// The response to a check; none if the request is not a check. `pool_methods` are those of a pool's path on this listener.
pub(super) fn check(
    public_livez: bool,
    pool_methods: &'static str,
    head: &RequestHead<'_>,
) -> Option<HttpResponse> {
    match head.path {
        "/" if head.method == Method::OPTIONS => {
            Some(HttpResponse { extra: Some(("allow", pool_methods)), ..HttpResponse::empty() })
        }
        "/livez" if public_livez => {
            let is_read = head.method == Method::HEAD || head.method == Method::GET;
            Some(if is_read {
                HttpResponse::new(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".as_bytes())
            } else {
                Problem::method_not_allowed("GET, HEAD").into()
            })
        }
        _ => None,
    }
}
