//! Owns the access checks of the ops listener: the bearer token, and in browsers the host name and the origin.

use std::net::IpAddr;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request};

use super::state::OpsState;
use crate::http::Problem;

/// Health probes usually cannot send a bearer token, and these routes return nothing else.
const OPEN_TO_ALL: [&str; 2] = ["/livez", "/readyz"];

/// Refuses a request without a valid bearer token, or one that a browser sends for another site.
pub(super) fn authorize(ops_state: &OpsState, request: &Request<Incoming>) -> Result<(), Problem> {
    if OPEN_TO_ALL.contains(&request.uri().path()) {
        return Ok(());
    }
    let state = &ops_state.http_state;
    let limits = state.limits();
    let authorization = header(request, header::AUTHORIZATION);
    if let Err(reason) = limits.access.authorize_ops(authorization) {
        state.metrics.denied(reason);
        return Err(Problem::not_an_operator(reason));
    }
    if ops_state.is_local && !limits.access.requires_ops_token() && !is_local_host(request) {
        return Err(Problem::other_host());
    }
    if request.method() == Method::POST && is_cross_origin(request) {
        return Err(Problem::other_origin());
    }
    Ok(())
}

/// Whether the Host header is an IP address or `localhost`. Any site can let another name resolve to this machine.
fn is_local_host(request: &Request<Incoming>) -> bool {
    let Some(host) = header(request, header::HOST).and_then(|host| std::str::from_utf8(host).ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// Whether a browser sends this for a page of another origin. `Sec-Fetch-Site` is also right behind a proxy that changes
/// Host. Browsers without it send Origin only, which is compared with Host.
fn is_cross_origin(request: &Request<Incoming>) -> bool {
    if let Some(site) = header(request, HeaderName::from_static("sec-fetch-site")) {
        return site != b"same-origin" && site != b"none";
    }
    let Some(origin) = header(request, header::ORIGIN) else { return false };
    let host = header(request, header::HOST).unwrap_or_default();
    origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://")) != Some(host)
}

fn header(request: &Request<Incoming>, name: HeaderName) -> Option<&[u8]> {
    request.headers().get(name).map(HeaderValue::as_bytes)
}
