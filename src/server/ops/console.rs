//! Owns the console: its files, embedded, and the policy that keeps anything else out of the page.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::json;
use crate::config::Endpoint;
use crate::http::HttpResponse;

const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("console/index.html")),
    ("/console.css", "text/css; charset=utf-8", include_str!("console/console.css")),
    ("/console.js", "text/javascript; charset=utf-8", include_str!("console/console.js")),
    ("/figures.js", "text/javascript; charset=utf-8", include_str!("console/figures.js")),
];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether this is one of the console's files.
pub(super) fn has(path: &str) -> bool {
    FILES.iter().any(|file| file.0 == path)
}

/// One of the console's files.
pub(super) fn page(path: &str) -> Response<Full<Bytes>> {
    let (_, kind, text) = FILES.into_iter().find(|file| file.0 == path).unwrap_or(FILES[0]);
    let mut response = Response::from(HttpResponse::new(StatusCode::OK, kind, text));
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The page belongs to this broker's version, which the next one may not share.
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What the page cannot know by itself.
pub(super) fn facts(public: &[Endpoint]) -> HttpResponse {
    let all: Vec<_> = public.iter().map(Endpoint::to_string).collect();
    json(
        &serde_json::json!({ "listen": all.first(), "listeners": all, "version": env!("CARGO_PKG_VERSION") }),
    )
}
