//! Owns the parsing of addresses and networks. All of them become canonical, so that one client has one address.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// The prefix of IPv4 addresses mapped into IPv6 (`::ffff:0:0/96`), in bits.
const MAPPED_PREFIX_BITS: u8 = 96;

/// The form in which addresses are compared, stored and shown: an IPv4-mapped IPv6 address becomes the IPv4 address.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether one of these networks contains this canonical address.
pub fn is_in_any(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// Parses a network or a single address, to be compared with canonical addresses. The error says what would be right.
pub fn parse_net(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let one = |address: IpAddr| IpNet::from(canonical(address));
    let net = text
        .parse()
        .or_else(|_| text.parse().map(one))
        .map_err(|_| "must be a network such as 10.0.0.0/8, or an address".to_owned())?;
    let IpNet::V6(mapped) = net else { return Ok(net) };
    let Some(address) = mapped.addr().to_ipv4_mapped() else { return Ok(net) };
    let prefix = mapped.prefix_len().checked_sub(MAPPED_PREFIX_BITS);
    prefix
        .and_then(|prefix| Ipv4Net::new(address, prefix).ok())
        .map(IpNet::V4)
        .ok_or_else(|| "a network of IPv4-mapped addresses needs a prefix of at least 96".to_owned())
}

/// Parses the server of a URL: a host name or an IP address (IPv6 in brackets), and its port if it has one. The name becomes
/// lower case. None if it is malformed.
pub fn parse_server(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), port)
    } else {
        let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        ((!host.is_empty() && host.bytes().all(is_name)).then(|| host.to_ascii_lowercase())?, port)
    };
    let Some(digits) = port.strip_prefix(':') else { return port.is_empty().then_some((host, None)) };
    // `parse` would accept a sign.
    let digits = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let port = digits.and_then(|digits| digits.parse().ok()).filter(|port| *port != 0)?;
    Some((host, Some(port)))
}

/// Parses a node of a forwarding header (RFC 7239): an address, with or without a port, quotes, brackets and a zone. None if
/// it is malformed or no client's address, such as `unknown`, `_hidden` and `0.0.0.0`.
pub fn parse_node(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches([' ', '\t']);
    let text = text.strip_prefix('"').map_or(Some(text), |quoted| quoted.strip_suffix('"'))?;
    let (address, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        (parse_ipv6(address)?, port)
    } else if text.matches(':').count() > 1 {
        (parse_ipv6(text)?, "")
    } else {
        let (address, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        (IpAddr::V4(address.parse().ok()?), port)
    };
    (is_node_port(port) && !address.is_unspecified()).then_some(address)
}

/// Parses an IPv6 address and drops its zone, which has a meaning only on the proxy's machine.
fn parse_ipv6(text: &str) -> Option<IpAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let is_zone = zone.is_none_or(|zone| !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_graphic()));
    let address: Ipv6Addr = address.parse().ok().filter(|_| is_zone)?;
    Some(canonical(address.into()))
}

/// Whether the text is empty, or a colon with a port number or an obfuscated port (RFC 7239, section 6).
fn is_node_port(text: &str) -> bool {
    let Some(port) = text.strip_prefix(':') else { return text.is_empty() };
    if let Some(hidden) = port.strip_prefix('_') {
        return !hidden.is_empty()
            && hidden.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    }
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_parsed_in_every_form_that_proxies_write() {
        let v4 =
            ["203.0.113.9", " 203.0.113.9\t", "203.0.113.9:51008", "\"203.0.113.9\"", "\"203.0.113.9:80\""];
        let mapped =
            ["::ffff:203.0.113.9", "::ffff:cb00:7109", "[::FFFF:203.0.113.9]:443", "[::ffff:cb00:7109%1]"];
        for text in v4.iter().chain(&mapped).chain(&["203.0.113.9:_secret", "203.0.113.9:0"]) {
            assert_eq!(parse_node(text), Some([203, 0, 113, 9].into()), "{text}");
        }
        for text in [
            "2001:db8::1",
            "[2001:db8::1]",
            "[2001:db8::1]:443",
            "\"[2001:db8::1]:443\"",
            "2001:DB8:0:0:0:0:0:1",
            "2001:db8::1%eth0",
            "[2001:db8::1%25eth0]:_p",
        ] {
            assert_eq!(parse_node(text), Some("2001:db8::1".parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_node_that_is_malformed_or_no_clients_address_is_none() {
        for text in [
            "",
            " ",
            "\"\"",
            "unknown",
            "_hidden",
            "-",
            "unix:",
            "localhost",
            "0.0.0.0",
            "::",
            "[::]:443",
            "::ffff:0.0.0.0",
            "203.0.113",
            "203.0.113.256",
            "203.0.113.09",
            "0x7f.0.0.1",
            "2130706433",
            "203.0.113.9:",
            "203.0.113.9:65536",
            "203.0.113.9:+80",
            "203.0.113.9:http",
            "203.0.113.9:_",
            "203.0.113.9%eth0",
            "203.0.113.9/32",
            "203.0.113.9 10.0.0.1",
            "\"203.0.113.9",
            "203.0.113.9\"",
            "[203.0.113.9]",
            "[2001:db8::1",
            "2001:db8::1]",
            "[2001:db8::1]443",
            "[2001:db8::1]:",
            "[2001:db8::1%]",
            "2001:db8::1%",
            "2001:db8::1/64",
            "2001:db8:1:2:3:4:5:6:443",
            "http://203.0.113.9",
        ] {
            assert_eq!(parse_node(text), None, "{text}");
        }
    }

    #[test]
    fn a_network_of_ipv4_mapped_addresses_becomes_the_ipv4_network() {
        for (text, expected) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:a00:0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.7/128", "192.0.2.7/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
        ] {
            assert_eq!(parse_net(text), Ok(expected.parse().unwrap()), "{text}");
        }
        for text in
            ["::ffff:10.0.0.0/90", "10.0.0.0/33", "10.0.0.0/", "10.0.0", "", "everyone", "fe80::1%eth0"]
        {
            assert!(parse_net(text).is_err(), "{text}");
        }
    }
}
