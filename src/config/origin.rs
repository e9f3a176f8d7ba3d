//! Owns the parsing of an origin: a scheme, a host and perhaps a port, without a path.

use std::net::Ipv6Addr;

/// Parses an origin such as `https://warm.example.org`, and returns it in its canonical form. The error says what is wrong; it
/// does not quote the text, which may contain a password by mistake.
pub(super) fn parse(text: &str) -> Result<String, &'static str> {
    let malformed = "is not an origin of the form http://host:port or https://host:port";
    let (scheme, server) = text.split_once("://").ok_or(malformed)?;
    let scheme =
        ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known)).ok_or(malformed)?;
    if server.contains('@') {
        return Err("has a user: controllers would send it in every request; give an origin without one");
    }
    let server = server.strip_suffix('/').unwrap_or(server);
    if server.contains(['/', '?', '#']) {
        return Err(
            "has a path or a query: controllers are sent to /warm-start at an origin; give the origin only",
        );
    }
    let (host, port) = match server.strip_prefix('[') {
        Some(bracketed) => {
            let (address, port) = bracketed.split_once(']').ok_or(malformed)?;
            (format!("[{}]", address.parse::<Ipv6Addr>().map_err(|_| malformed)?), port)
        }
        None => {
            let (host, port) = server.split_at(server.find(':').unwrap_or(server.len()));
            (host.to_ascii_lowercase(), port)
        }
    };
    let is_host = host.starts_with('[')
        || !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let digits = port.strip_prefix(':').unwrap_or("0");
    let port_number = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let port_number = port_number.and_then(|digits| digits.parse::<u16>().ok()).ok_or(malformed)?;
    if !is_host || (port_number == 0) != port.is_empty() {
        return Err(malformed);
    }
    Ok(if port.is_empty() {
        format!("{scheme}://{host}")
    } else {
        format!("{scheme}://{host}:{port_number}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
