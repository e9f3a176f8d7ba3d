//! Owns who may look and act: operators by their bearer, and in a browser only the pages of this listener.

use std::net::IpAddr;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request};

use super::OpsState;
use crate::http::Problem;

/// Health is asked for by what cannot show a bearer, and tells nothing else.
const OPEN_TO_ALL: [&str; 2] = ["/livez", "/readyz"];

/// Refuses whoever is no operator.
pub(super) fn admit(desk: &OpsState, request: &Request<Incoming>) -> Result<(), Problem> {
    if OPEN_TO_ALL.contains(&request.uri().path()) {
        return Ok(());
    }
    let terms = desk.front.limits();
    let shown = header(request, header::AUTHORIZATION);
    if let Err(why) = terms.access.authorize_ops(shown) {
        desk.front.metrics.denied(why);
        return Err(Problem::not_an_operator(why));
    }
    if desk.is_local && !terms.access.requires_ops_token() && !is_local_host_name(request) {
        return Err(Problem::other_host());
    }
    if request.method() == Method::POST && is_cross_origin(request) {
        return Err(Problem::other_origin());
    }
    Ok(())
}

/// Whether the request was sent to an address, and not to a name that anybody's page could have had resolved to it.
fn is_local_host_name(request: &Request<Incoming>) -> bool {
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

/// Whether a browser sends this for a page of another origin: any page may post here, but only ours is meant to. What the
/// browser itself says of it holds behind a proxy that changes Host, too; an older one leaves it to us to compare.
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
