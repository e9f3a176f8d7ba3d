//! Owns addresses: whatever names one is read and made canonical here, so that no client has two.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// The prefix of IPv4 addresses mapped into IPv6 (`::ffff:0:0/96`), in bits.
const MAPPED: u8 = 96;

/// The form in which addresses are compared, kept and shown: an IPv4 address that came mapped into IPv6 is itself.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether one of these networks has this canonical address.
pub fn is_among(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// Reads a network, or one address, for comparison with canonical addresses. The error says what would be right.
pub fn net(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let one = |address: IpAddr| IpNet::from(canonical(address));
    let net = text
        .parse()
        .or_else(|_| text.parse().map(one))
        .map_err(|_| "not a network such as 10.0.0.0/8, nor an address".to_owned())?;
    let IpNet::V6(mapped) = net else { return Ok(net) };
    let Some(address) = mapped.addr().to_ipv4_mapped() else { return Ok(net) };
    let prefix = mapped.prefix_len().checked_sub(MAPPED);
    prefix
        .and_then(|prefix| Ipv4Net::new(address, prefix).ok())
        .map(IpNet::V4)
        .ok_or_else(|| "a network of mapped IPv4 addresses, whose prefix is 96 at least".to_owned())
}

/// Reads an address as proxies write it: with a port or without, quoted, an IPv6 address in brackets and with a zone.
/// None if it names nobody, as `unknown`, `_hidden` and `0.0.0.0` do, or cannot be read.
pub fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches([' ', '\t']);
    let text = text.strip_prefix('"').map_or(Some(text), |quoted| quoted.strip_suffix('"'))?;
    let (address, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        (v6(address)?, port)
    } else if text.matches(':').count() > 1 {
        (v6(text)?, "")
    } else {
        let (address, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        (IpAddr::V4(address.parse().ok()?), port)
    };
    (is_port(port) && !address.is_unspecified()).then_some(address)
}

/// An IPv6 address with or without a zone, which means something on the proxy's machine only.
fn v6(text: &str) -> Option<IpAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let is_zone = zone.is_none_or(|zone| !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_graphic()));
    let address: Ipv6Addr = address.parse().ok().filter(|_| is_zone)?;
    Some(canonical(address.into()))
}

/// Nothing, or a colon and a number, or a colon and a name that hides the number (RFC 7239, section 6.1).
fn is_port(text: &str) -> bool {
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
    fn an_address_is_read_however_a_proxy_writes_it() {
        let v4 =
            ["203.0.113.9", " 203.0.113.9\t", "203.0.113.9:51008", "\"203.0.113.9\"", "\"203.0.113.9:80\""];
        let mapped =
            ["::ffff:203.0.113.9", "::ffff:cb00:7109", "[::FFFF:203.0.113.9]:443", "[::ffff:cb00:7109%1]"];
        for text in v4.iter().chain(&mapped).chain(&["203.0.113.9:_secret", "203.0.113.9:0"]) {
            assert_eq!(node(text), Some([203, 0, 113, 9].into()), "{text}");
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
            assert_eq!(node(text), Some("2001:db8::1".parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_names_nobody_or_cannot_be_read_is_nobody() {
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
            assert_eq!(node(text), None, "{text}");
        }
    }

    #[test]
    fn a_network_of_mapped_addresses_is_the_networks_own() {
        for (text, meant) in [
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
            assert_eq!(net(text), Ok(meant.parse().unwrap()), "{text}");
        }
        for text in
            ["::ffff:10.0.0.0/90", "10.0.0.0/33", "10.0.0.0/", "10.0.0", "", "everyone", "fe80::1%eth0"]
        {
            assert!(net(text).is_err(), "{text}");
        }
    }
}
