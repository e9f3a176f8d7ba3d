//! Owns the parsing of an origin: a scheme, a host and perhaps a port, without a path.

use std::net::IpAddr;

use crate::address::parse_server;

/// Parses an origin such as `https://warm.example.org`, and returns it in its canonical form. The error says what is wrong; it
/// does not quote the text, which may contain a password by mistake.
pub fn parse(text: &str) -> Result<String, &'static str> {
    let malformed = "is not an origin of the form http://host:port or https://host:port";
    let (scheme, server) = text.split_once("://").ok_or(malformed)?;
    let scheme =
        ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known)).ok_or(malformed)?;
    if server.contains('@') {
        return Err("has a user: it would be sent in every request; give an origin without one");
    }
    let server = server.strip_suffix('/').unwrap_or(server);
    if server.contains(['/', '?', '#']) {
        return Err("has a path or a query, which are added to an origin; give the origin only");
    }
    let (host, port) = parse_server(server).ok_or(malformed)?;
    Ok(port.map_or_else(|| format!("{scheme}://{host}"), |port| format!("{scheme}://{host}:{port}")))
}

/// Whether the host of a canonical origin is the address of all interfaces, which is nobody's own.
pub(super) fn is_unspecified(origin: &str) -> bool {
    let server = origin.split_once("://").map_or(origin, |(_, server)| server);
    let host = parse_server(server).map(|(host, _)| host).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    address.is_ok_and(|address| address.to_canonical().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_all_interfaces_is_nobodys_own() {
        for origin in
            ["http://0.0.0.0", "http://0.0.0.0:7070", "https://[::]:7070", "http://[::ffff:0.0.0.0]"]
        {
            assert!(is_unspecified(&parse(origin).unwrap()), "{origin}");
        }
        for origin in ["http://10.0.0.1:7070", "http://[::1]", "http://0.0.0.0.example.org"] {
            assert!(!is_unspecified(&parse(origin).unwrap()), "{origin}");
        }
    }

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        for (text, origin) in [
            ("http://10.0.0.1:7070", "http://10.0.0.1:7070"),
            ("HTTPS://Warm.example.org/", "https://warm.example.org"),
            ("http://[::1]:7070", "http://[::1]:7070"),
            ("http://[::1]", "http://[::1]"),
            ("http://pilotlight_1:07070", "http://pilotlight_1:7070"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(origin), "{text}");
        }
        for text in [
            "",
            "warm",
            "warm:7070",
            "//warm",
            "ftp://warm",
            "http://",
            "http://:7070",
            "http://warm:",
            "http://warm:0",
            "http://warm:65536",
            "http://warm:+80",
            "http://warm:80:80",
            "http://warm/path",
            "http://warm//",
            "http://warm?x",
            "http://warm#x",
            "http://user:secret@warm",
            "http://wa rm",
            "http://warm\r\nx: y",
            "http://[warm]",
            "http://[::1",
            "http://[::1]7070",
            "http://b\u{fc}cher",
        ] {
            let error = parse(text).expect_err(text);
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }
}
