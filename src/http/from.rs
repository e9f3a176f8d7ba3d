//! Owns where a request comes from: directly, or through a proxy that says so or is known.

use std::net::IpAddr;

use ipnet::IpNet;

use super::head::Fields;

/// Any of these headers was put there by a proxy.
const MARKS: [&str; 3] = ["via", "forwarded", "x-forwarded-for"];
const MARK_PREFIXES: [&str; 2] = ["x-forwarded-", "x-envoy-"];

/// The origin of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct From {
    /// The client's address as far as it is believed.
    pub(super) origin: IpAddr,
    /// A proxy stands in between: what it reads is not yet read by the client.
    pub(super) through_proxy: bool,
}

impl From {
    /// Any proxy's mark is taken as a sign of one; only a known proxy is believed about the client's address.
    pub(super) fn read(proxies: &[IpNet], peer: IpAddr, fields: Fields<'_>) -> Self {
        if !proxies.iter().any(|net| net.contains(&peer)) {
            return Self { origin: peer, through_proxy: fields.any_name(is_mark) };
        }
        // The last entry is the one that the proxy itself has added.
        let last = fields.values("x-forwarded-for").last();
        let last =
            last.and_then(|value| std::str::from_utf8(value).ok()).and_then(|list| list.rsplit(',').next());
        let origin = last.and_then(|address| address.trim().parse().ok()).unwrap_or(peer);
        Self { origin, through_proxy: true }
    }
}

fn is_mark(name: &str) -> bool {
    let begins =
        |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    MARKS.iter().any(|mark| name.eq_ignore_ascii_case(mark)) || MARK_PREFIXES.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderMap;

    use super::*;

    fn check(proxies: &[&str], headers: &[(&'static str, &str)], origin: &str, through_proxy: bool) {
        let proxies: Vec<IpNet> = proxies.iter().map(|net| net.parse().unwrap()).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let from = From::read(&proxies, [10, 0, 0, 1].into(), Fields::Map(&map));
        assert_eq!(from, From { origin: origin.parse().unwrap(), through_proxy }, "{headers:?}");
    }

    #[test]
    fn a_strangers_mark_is_a_sign_but_no_evidence() {
        check(&[], &[], "10.0.0.1", false);
        check(&[], &[("x-forwarded-for", "1.2.3.4")], "10.0.0.1", true);
        check(&[], &[("via", "1.1 proxy")], "10.0.0.1", true);
        check(&[], &[("x-envoy-attempt-count", "1")], "10.0.0.1", true);
        check(&[], &[("x-forwarded-proto", "https")], "10.0.0.1", true);
    }

    #[test]
    fn a_known_proxy_is_believed_about_its_last_hop() {
        let known = ["10.0.0.0/8"];
        check(&known, &[("x-forwarded-for", "6.6.6.6, 1.2.3.4")], "1.2.3.4", true);
        check(&known, &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4")], "1.2.3.4", true);
        check(&known, &[("x-forwarded-for", "nobody")], "10.0.0.1", true);
        check(&known, &[], "10.0.0.1", true);
    }
}
