//! Owns the address of a request's client: the peer itself, or a client whose address a trusted proxy forwards.

use std::net::IpAddr;

use ipnet::IpNet;

use super::h1::{FieldName, HeaderFields, Signs};
use crate::address;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientAddr {
    /// The client's address, as far as it is trusted. None if a trusted proxy forwarded the request without a readable client
    /// address: such a client is on no list.
    pub(super) client: Option<IpAddr>,
    /// The other end of the connection.
    peer: IpAddr,
    /// Whether a proxy is in between: what the proxy has read, the client may not have read.
    pub(super) through_proxy: bool,
}

impl ClientAddr {
    /// Any proxy header shows that there is a proxy; only a trusted proxy's header shows the client's address.
    ///
    /// A trusted proxy that sends no proxy header is the client itself, as in a health check. The addresses are canonical.
    pub(super) fn read(proxies: &[IpNet], peer: IpAddr, fields: &HeaderFields<'_>) -> Self {
        let is_proxied = fields.show(Signs::PROXY);
        if peer.is_unspecified() {
            // A PROXY protocol header has forwarded a client without an address.
            return Self { client: None, peer, through_proxy: true };
        }
        if !address::is_in_any(proxies, peer) {
            return Self { client: Some(peer), peer, through_proxy: is_proxied };
        }
        let forwarded = |field, parse: fn(&str) -> Option<IpAddr>| {
            let last = fields.value(field)?;
            Some(std::str::from_utf8(last).ok().and_then(parse))
        };
        let list = forwarded(FieldName::XForwardedFor, last_in_list);
        let standard = forwarded(FieldName::Forwarded, last_for);
        let client = match (list, standard) {
            (None, None) => (!is_proxied).then_some(peer),
            (Some(client), None) | (None, Some(client)) => client,
            (Some(one), Some(other)) => one.filter(|_| one == other),
        };
        Self { client, peer, through_proxy: true }
    }

    /// The nearest known address: the client's, else the proxy's. It distinguishes machines, and authorizes nothing.
    pub(super) fn origin(self) -> IpAddr {
        self.client.unwrap_or(self.peer)
    }
}

/// The client in `X-Forwarded-For`: its last entry was added by the proxy itself.
fn last_in_list(list: &str) -> Option<IpAddr> {
    address::parse_node(list.rsplit(',').next()?)
}

/// The client in `Forwarded` (RFC 7239): the `for` of the last element.
fn last_for(list: &str) -> Option<IpAddr> {
    let last = parts(list, b',')?.pop()?;
    let mut client = None;
    for pair in parts(last, b';')? {
        let Some((name, value)) = pair.split_once('=') else {
            // A pair may be empty, between two semicolons or after the last one; any other text is an error.
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

/// The parts between separators outside of quotes. None if a quote is not closed.
fn parts(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ if byte == separator && !is_quoted => {
                parts.push(text.get(start..at)?);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..)?);
    (!is_quoted).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.1";

    fn read(proxies: &[&str], headers: &[(&'static str, &str)]) -> ClientAddr {
        let proxies: Vec<IpNet> = proxies.iter().map(|net| address::parse_net(net).unwrap()).collect();
        let mut fields = HeaderFields::default();
        fields.extend(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        ClientAddr::read(&proxies, PEER.parse().unwrap(), &fields)
    }

    /// The client that a trusted proxy forwards with these headers.
    fn forwarded(headers: &[(&'static str, &str)]) -> Option<String> {
        let client = read(&["10.0.0.0/8"], headers);
        assert!(client.through_proxy);
        client.client.map(|client| client.to_string())
    }

    #[test]
    fn a_proxy_header_from_a_stranger_is_a_sign_but_no_evidence() {
        for (name, value, is_proxied) in [
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
            let client = read(&[], &[("host", "b"), (name, value)]);
            assert_eq!(
                (client.client, client.through_proxy),
                (Some(PEER.parse().unwrap()), is_proxied),
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
            assert_eq!(forwarded(&[("x-forwarded-for", list)]).as_deref(), Some("1.2.3.4"), "{list}");
        }
        for list in [
            "for=6.6.6.6, for=1.2.3.4",
            "For=\"1.2.3.4:51008\";proto=https;by=203.0.113.43;",
            "proto=http; for = 1.2.3.4 ; host=\"a,b;for=6.6.6.6\"",
            "for=\"[2001:db8::1]:443\", for=\"[::ffff:1.2.3.4]:443\"",
            "for=\"a\\\",for=6.6.6.6\", for=1.2.3.4",
        ] {
            assert_eq!(forwarded(&[("forwarded", list)]).as_deref(), Some("1.2.3.4"), "{list}");
        }
        assert_eq!(forwarded(&[("forwarded", "for=\"[2001:db8::1]:443\"")]).as_deref(), Some("2001:db8::1"));
        let twice = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4")];
        assert_eq!(forwarded(&twice).as_deref(), Some("1.2.3.4"));
        let both = [("forwarded", "for=\"[::ffff:1.2.3.4]\""), ("x-forwarded-for", "1.2.3.4:5")];
        assert_eq!(forwarded(&both).as_deref(), Some("1.2.3.4"));
    }

    #[test]
    fn an_unreadable_client_address_is_none() {
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
            assert_eq!(forwarded(&[("x-forwarded-for", list)]), None, "{list}");
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
            assert_eq!(forwarded(&[("forwarded", list)]), None, "{list}");
        }
        let disagree = [("forwarded", "for=10.0.0.5"), ("x-forwarded-for", "1.2.3.4")];
        assert_eq!(forwarded(&disagree), None);
        assert_eq!(forwarded(&[("forwarded", "for=unknown"), ("x-forwarded-for", "1.2.3.4")]), None);
        assert_eq!(forwarded(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "")]), None);
        // It forwards for a client, and gives the address only in headers that a client could set, too.
        assert_eq!(forwarded(&[("x-real-ip", "10.0.0.5")]), None);
        assert_eq!(forwarded(&[("via", "1.1 proxy")]), None);
    }

    #[test]
    fn a_known_proxy_without_proxy_headers_is_the_client_itself() {
        assert_eq!(forwarded(&[]).as_deref(), Some(PEER));
        let mapped = read(&["::ffff:10.0.0.0/104"], &[("x-forwarded-for", "1.2.3.4")]);
        assert_eq!(mapped.client, Some("1.2.3.4".parse().unwrap()));
    }
}
