//! Owns the console: its embedded files, and the content security policy that allows the page no others.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::response::json;
use super::state::OpsState;
use crate::config::Endpoint;
use crate::http::HttpResponse;

const FILES: [(&str, &str, &str); 8] = [
    ("/", "text/html; charset=utf-8", include_str!("console/index.html")),
    ("/console.css", "text/css; charset=utf-8", include_str!("console/console.css")),
    ("/console.js", "text/javascript; charset=utf-8", include_str!("console/console.js")),
    ("/brokers.js", "text/javascript; charset=utf-8", include_str!("console/brokers.js")),
    ("/figures.js", "text/javascript; charset=utf-8", include_str!("console/figures.js")),
    ("/marks.js", "text/javascript; charset=utf-8", include_str!("console/marks.js")),
    ("/replies.js", "text/javascript; charset=utf-8", include_str!("console/replies.js")),
    ("/topic.js", "text/javascript; charset=utf-8", include_str!("console/topic.js")),
];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether the console has a file with this path.
pub(super) fn contains(path: &str) -> bool {
    FILES.iter().any(|file| file.0 == path)
}

/// The response with a file of the console.
pub(super) fn file(path: &str) -> Response<Full<Bytes>> {
    let (_, media_type, text) = FILES.into_iter().find(|file| file.0 == path).unwrap_or(FILES[0]);
    let mut response = Response::from(HttpResponse::new(StatusCode::OK, media_type, text.as_bytes()));
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version of the broker may have another page.
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What the page shows about this broker: the public addresses, the version, and its cluster if it is in one.
pub(super) fn info(ops_state: &OpsState) -> HttpResponse {
    let listeners: Vec<_> = ops_state.public.iter().map(Endpoint::to_string).collect();
    let cluster = ops_state.http_state.cluster.as_ref().map(|cluster| cluster.cluster_name().to_owned());
    json(&serde_json::json!({
        "listen": listeners.first(), "listeners": listeners, "version": env!("CARGO_PKG_VERSION"),
        "cluster": cluster,
    }))
}
