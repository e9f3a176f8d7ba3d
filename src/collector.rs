//! Owns the URL of an OTLP collector: how it is parsed, where traces are posted, and what of it may be shown.

use std::net::Ipv6Addr;

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// The path below a collector's base URL to which traces are posted (OTLP over HTTP).
const TRACES_PATH: &str = "/v1/traces";
/// Characters that must be percent-encoded in a path or a query.
const MUST_ENCODE: &AsciiSet = &CONTROLS.add(b'"').add(b'<').add(b'>').add(b'`').add(b'{').add(b'}');

/// A collector of traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// The URL to which traces are posted, without a user.
    pub url: Uri,
    /// The user and the password from the URL.
    pub user: Option<(String, String)>,
}

impl Collector {
    /// Parses a base URL, such as `http://127.0.0.1:4318`, or the full URL that ends with `/v1/traces`. The error says what is
    /// wrong without quoting the text, which may contain a password.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let malformed = "is not a URL of the form http://host:port";
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(malformed);
        }
        let (scheme, rest) = text.split_once("://").ok_or(malformed)?;
        if scheme.eq_ignore_ascii_case("https") {
            return Err(
                "is not a URL of the form http://host:port: https is not supported, use a collector on the broker's machine",
            );
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(malformed);
        }
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, server) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = (!user.is_empty()).then(|| (decoded(name), decoded(password)));
        let parts = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(parse_authority(server).ok_or(malformed)?)
            .path_and_query(traces_path(path).ok_or(malformed)?);
        Ok(Self { url: parts.build().map_err(|_| malformed)?, user })
    }

    /// The text of a setting without what may be secret in it; a placeholder if it is not a URL.
    pub fn redact(text: &str) -> String {
        Self::parse(text).map_or_else(|_| "(not a URL)".to_owned(), |collector| collector.redacted_url())
    }

    /// The URL without user and query, which may be secret.
    pub fn redacted_url(&self) -> String {
        let server = self.url.authority().map_or("", Authority::as_str);
        format!("http://{server}{}", self.url.path())
    }
}

/// Parses a host with an optional port, which is left out if it is 80.
fn parse_authority(text: &str) -> Option<Authority> {
    let given = text.to_ascii_lowercase().parse::<Authority>().ok()?;
    let host = given.host();
    let address = host.strip_prefix('[').map(|host| host.strip_suffix(']').unwrap_or(host));
    if host.is_empty() || address.is_some_and(|address| address.parse::<Ipv6Addr>().is_err()) {
        return None;
    }
    let port = given.as_str().strip_prefix(host)?;
    let digits = port.strip_prefix(':').unwrap_or(port);
    // `parse` would accept a sign.
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    match digits.parse::<u16>() {
        Ok(0) => None,
        Ok(80) => host.parse().ok(),
        Ok(port) => format!("{host}:{port}").parse().ok(),
        Err(_) => digits.is_empty().then(|| host.parse().ok())?,
    }
}

/// The path to which traces are posted, and the query of the URL.
fn traces_path(text: &str) -> Option<PathAndQuery> {
    let text = utf8_percent_encode(text, MUST_ENCODE).to_string();
    let (path, query) = text.split_at(text.find('?').unwrap_or(text.len()));
    let path = path.trim_end_matches('/');
    let traces = if path.ends_with(TRACES_PATH) { "" } else { TRACES_PATH };
    format!("{path}{traces}{query}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_and_a_full_url_are_the_same_collector() {
        for (text, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318//", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/v1/traces", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/v1/traces/", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector", "http://collector/v1/traces"),
            ("HTTP://collector:80", "http://collector/v1/traces"),
            ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
            ("http://h/otel", "http://h/otel/v1/traces"),
            ("http://h/otel/v1/traces/", "http://h/otel/v1/traces"),
            ("http://h/v1/traces?key=k#f", "http://h/v1/traces?key=k"),
            ("http://h:4318?key=k", "http://h:4318/v1/traces?key=k"),
            ("http://h:/", "http://h/v1/traces"),
            ("http://H:04318", "http://h:4318/v1/traces"),
            ("http://h/é{\"x\"}?k=<é>", "http://h/%C3%A9%7B%22x%22%7D/v1/traces?k=%3C%C3%A9%3E"),
            ("http://u:p|a@s^s@h/", "http://h/v1/traces"),
        ] {
            assert_eq!(Collector::parse(text).unwrap().url.to_string(), url, "{text}");
        }
    }

    #[test]
    fn a_malformed_url_is_refused_and_not_quoted() {
        for text in [
            "",
            "collector",
            "collector:4318",
            "127.0.0.1:4318",
            "http:",
            "http:/",
            "http://",
            "http:///",
            "http://:4318",
            "http:collector:4318",
            "http://h:port",
            "http://h:99999",
            "http://h:0",
            "http://::1:4318",
            "http://[::1",
            "http://[::1]x",
            "http://[h]:4318",
            "http://h:+80",
            "http://h:80:80",
            "http://bücher",
            "http://user@",
            "ftp://h",
            "grpc://h:4317",
            "unix:///run/otlp",
            "http://h :4318",
            "http://h\n:4318",
            " http://h",
            "http://se cret@h",
            "https://h:4318",
            "HTTPS://h",
            "http://user:secret@h:port",
        ] {
            let error = Collector::parse(text).expect_err(text);
            assert!(error.contains("http://host:port") && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_used_and_never_shown() {
        let collector = Collector::parse("http://us%40er:se%3Acret@h:4318/otel?token=secret").unwrap();
        assert_eq!(collector.user, Some(("us@er".to_owned(), "se:cret".to_owned())));
        assert_eq!(collector.redacted_url(), "http://h:4318/otel/v1/traces");
        assert_eq!(Collector::parse("http://h").unwrap().user, None);
    }
}
