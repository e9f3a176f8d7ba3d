//! Owns whose request it is: the peer's own, or a client's whose address a known proxy tells.

use std::net::IpAddr;

use ipnet::IpNet;

use super::head::HeaderFields;
use crate::address;

/// Any of these headers was put there by a proxy.
const MARKS: [&str; 12] = [
    "via",
    "forwarded",
    "x-forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-ray",
    "fastly-client-ip",
    "cdn-loop",
    "l5d-client-id",
];
const MARK_PREFIXES: [&str; 3] = ["x-forwarded-", "x-envoy-", "x-original-forwarded-"];
/// AWS's load balancers add `Self=` to this one, which clients send as well.
const TRACE: &str = "x-amzn-trace-id";

/// The origin of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientAddr {
    /// The client's address as far as it is believed. None if a known proxy sent the request on for somebody, and did
    /// not say for whom in a way that can be read: such a client is on no list.
    pub(super) client: Option<IpAddr>,
    /// Who is at the other end of the connection.
    peer: IpAddr,
    /// A proxy stands in between: what it reads is not yet read by the client.
    pub(super) through_proxy: bool,
}

impl ClientAddr {
    /// Any proxy's mark is taken as a sign of one; only a known proxy is believed about the client's address.
    ///
    /// A known proxy that sends no mark at all speaks for itself, as it does in a health check. The addresses are
    /// canonical.
    pub(super) fn read(proxies: &[IpNet], peer: IpAddr, fields: HeaderFields<'_>) -> Self {
        let is_marked = fields.any(is_mark);
        if peer.is_unspecified() {
            // A PROXY protocol header has passed somebody on without a name.
            return Self { client: None, peer, through_proxy: true };
        }
        if !address::is_in_any(proxies, peer) {
            return Self { client: Some(peer), peer, through_proxy: is_marked };
        }
        let told = |name, read: fn(&str) -> Option<IpAddr>| {
            let last = fields.values(name).last()?;
            Some(std::str::from_utf8(last).ok().and_then(read))
        };
        let client = match (told("x-forwarded-for", in_list), told("forwarded", in_forwarded)) {
            (None, None) => (!is_marked).then_some(peer),
            (Some(client), None) | (None, Some(client)) => client,
            (Some(one), Some(other)) => one.filter(|_| one == other),
        };
        Self { client, peer, through_proxy: true }
    }

    /// The nearest address that is known: the client's, else the proxy's. It tells machines apart, and lets nobody in.
    pub(super) fn origin(self) -> IpAddr {
        self.client.unwrap_or(self.peer)
    }
}

fn is_mark(name: &str, value: &[u8]) -> bool {
    if !may_be_mark(name) {
        return false;
    }
    let begins =
        |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let is_a_balancers =
        || value.split(|&b| b == b';').any(|part| part.trim_ascii_start().starts_with(b"Self="));
    MARKS.iter().any(|mark| name.eq_ignore_ascii_case(mark))
        || MARK_PREFIXES.iter().any(begins)
        || name.eq_ignore_ascii_case(TRACE) && is_a_balancers()
}

/// Looks at two letters only: every field of every poll is asked, and hardly any is a mark.
fn may_be_mark(name: &str) -> bool {
    let letter = |at: usize| name.as_bytes().get(at).map(u8::to_ascii_lowercase);
    match letter(0) {
        Some(b'x') => matches!(letter(2), Some(b'a' | b'c' | b'e' | b'f' | b'o' | b'r')),
        Some(b'c' | b'f' | b'l' | b't' | b'v') => true,
        _ => false,
    }
}

/// The client in `X-Forwarded-For`: the last entry is the one that the proxy itself has added.
fn in_list(list: &str) -> Option<IpAddr> {
    address::parse_node(list.rsplit(',').next()?)
}

/// The client in `Forwarded` (RFC 7239): the `for` of the last element.
fn in_forwarded(list: &str) -> Option<IpAddr> {
    let last = parts(list, b',')?.pop()?;
    let mut client = None;
    for pair in parts(last, b';')? {
        let Some((name, value)) = pair.split_once('=') else {
            // Nothing stands between two semicolons, or behind the last one; anything else has no meaning.
            if !pair.trim().is_empty() {
                return None;
            }
            continue;
        };
        if name.trim().eq_ignore_ascii_case("for") && client.replace(address::parse_node(value)).is_some() {
            return None;
        }
    }
    client.flatten()
}

/// The parts between separators that stand outside of quotes. None if a quote does not end.
fn parts(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut parts, mut from) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ if byte == separator && !is_quoted => {
                parts.push(text.get(from..at)?);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(from..)?);
    (!is_quoted).then_some(parts)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderMap;

    use super::*;

    const PEER: &str = "10.0.0.1";

    fn read(proxies: &[&str], headers: &[(&'static str, &str)]) -> ClientAddr {
        let proxies: Vec<IpNet> = proxies.iter().map(|net| address::parse_net(net).unwrap()).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let list: Vec<_> =
            headers.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        let peer = PEER.parse().unwrap();
        let from = ClientAddr::read(&proxies, peer, HeaderFields::Map(&map));
        assert_eq!(
            from,
            ClientAddr::read(&proxies, peer, HeaderFields::List(&list)),
            "both readers: {headers:?}"
        );
        from
    }

    /// Whom a known proxy names with these headers.
    fn named(headers: &[(&'static str, &str)]) -> Option<String> {
        let from = read(&["10.0.0.0/8"], headers);
        assert!(from.through_proxy);
        from.client.map(|client| client.to_string())
    }

    #[test]
    fn no_mark_is_passed_over() {
        for mark in MARKS.iter().chain(&MARK_PREFIXES).chain([&TRACE]) {
            assert!(may_be_mark(mark) && may_be_mark(&mark.to_uppercase()), "{mark}");
        }
        assert!(!may_be_mark("x-trigger-deployment-id") && !may_be_mark("host") && !may_be_mark(""));
    }

    #[test]
    fn a_strangers_mark_is_a_sign_but_no_evidence() {
        for (name, value, is_mark) in [
            ("x-forwarded-for", "1.2.3.4", true),
            ("x-forwarded-for", "", true),
            ("via", "1.1 proxy", true),
            ("x-envoy-attempt-count", "1", true),
            ("x-forwarded-proto", "https", true),
            ("x-real-ip", "1.2.3.4", true),
            ("cf-connecting-ip", "1.2.3.4", true),
            ("true-client-ip", "1.2.3.4", true),
            ("l5d-client-id", "default.ns.serviceaccount.identity.linkerd.cluster.local", true),
            ("x-amzn-trace-id", "Self=1-67891234-12456789abcdef012345678;Root=1-67891233-abc", true),
            ("x-amzn-trace-id", "Root=1-67891233-abc; Self=1-67891234-124", true),
            ("x-amzn-trace-id", "Root=1-67891233-abc;Parent=53995c3f42cd8ad8;Sampled=1", false),
            ("x-amzn-trace-id", "Root=1-67891233-abc;Name=NotSelf=1", false),
            ("x-trigger-workload-controller-id", "via", false),
        ] {
            let from = read(&[], &[("host", "b"), (name, value)]);
            assert_eq!(
                (from.client, from.through_proxy),
                (Some(PEER.parse().unwrap()), is_mark),
                "{name}: {value}"
            );
        }
        assert!(!read(&[], &[]).through_proxy);
    }

    #[test]
    fn a_known_proxy_is_believed_about_its_last_hop() {
        for list in [
            "6.6.6.6, 1.2.3.4",
            "6.6.6.6,1.2.3.4:51008",
            "unknown, , _x,\t1.2.3.4 ",
            "::ffff:1.2.3.4",
            "6.6.6.6, \"[::ffff:102:304]:443\"",
        ] {
            assert_eq!(named(&[("x-forwarded-for", list)]).as_deref(), Some("1.2.3.4"), "{list}");
        }
        for list in [
            "for=6.6.6.6, for=1.2.3.4",
            "For=\"1.2.3.4:51008\";proto=https;by=203.0.113.43;",
            "proto=http; for = 1.2.3.4 ; host=\"a,b;for=6.6.6.6\"",
            "for=\"[2001:db8::1]:443\", for=\"[::ffff:1.2.3.4]:443\"",
            "for=\"a\\\",for=6.6.6.6\", for=1.2.3.4",
        ] {
            assert_eq!(named(&[("forwarded", list)]).as_deref(), Some("1.2.3.4"), "{list}");
        }
        assert_eq!(named(&[("forwarded", "for=\"[2001:db8::1]:443\"")]).as_deref(), Some("2001:db8::1"));
        let twice = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4")];
        assert_eq!(named(&twice).as_deref(), Some("1.2.3.4"));
        let both = [("forwarded", "for=\"[::ffff:1.2.3.4]\""), ("x-forwarded-for", "1.2.3.4:5")];
        assert_eq!(named(&both).as_deref(), Some("1.2.3.4"));
    }

    #[test]
    fn who_is_not_named_is_nobody() {
        for list in [
            "",
            "nobody",
            "unknown",
            "_hidden",
            "1.2.3.4,",
            "1.2.3.4, ",
            "10.0.0.5, unknown",
            "1.2.3.4 10.0.0.5",
        ] {
            assert_eq!(named(&[("x-forwarded-for", list)]), None, "{list}");
        }
        for list in [
            "",
            "for=1.2.3.4,",
            "for=unknown",
            "for=_hidden",
            "proto=https",
            "for=1.2.3.4, proto=https",
            "1.2.3.4",
            "for",
            "for=1.2.3.4;for=1.2.3.4",
            "for=\"",
            "for=\", for=1.2.3.4",
            "for=",
            "fore=1.2.3.4",
        ] {
            assert_eq!(named(&[("forwarded", list)]), None, "{list}");
        }
        let disagree = [("forwarded", "for=10.0.0.5"), ("x-forwarded-for", "1.2.3.4")];
        assert_eq!(named(&disagree), None);
        assert_eq!(named(&[("forwarded", "for=unknown"), ("x-forwarded-for", "1.2.3.4")]), None);
        assert_eq!(named(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "")]), None);
        // It forwards for somebody, whom it does not name where a client could not.
        assert_eq!(named(&[("x-real-ip", "10.0.0.5")]), None);
        assert_eq!(named(&[("via", "1.1 proxy")]), None);
    }

    #[test]
    fn a_known_proxy_without_a_mark_speaks_for_itself() {
        assert_eq!(named(&[]).as_deref(), Some(PEER));
        let mapped = read(&["::ffff:10.0.0.0/104"], &[("x-forwarded-for", "1.2.3.4")]);
        assert_eq!(mapped.client, Some("1.2.3.4".parse().unwrap()));
    }
}
