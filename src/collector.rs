//! Owns the address of a collector of traces: what is taken for one, what is asked there, and what of it may be shown.

use std::net::Ipv6Addr;

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Where a collector takes traces (OTLP over HTTP), below its base URL.
const TRACES: &str = "/v1/traces";
/// What stands in a path or a query only in its encoded form.
const ENCODED: &AsciiSet = &CONTROLS.add(b'"').add(b'<').add(b'>').add(b'`').add(b'{').add(b'}');

/// Where a collector takes traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// The whole URL, without a user.
    pub url: Uri,
    /// The user and the password that the URL had.
    pub user: Option<(String, String)>,
}

impl Collector {
    /// Reads a base URL, such as `http://127.0.0.1:4318`, or the whole one with `/v1/traces` at its end. The error says what
    /// is wrong, and nothing of what was given: it may have a password in it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let wrong = "is not a URL of the form http://host:port";
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong);
        }
        let (scheme, rest) = text.split_once("://").ok_or(wrong)?;
        if scheme.eq_ignore_ascii_case("https") {
            return Err(
                "is not a URL of the form http://host:port: https is not spoken here, use a collector beside the broker",
            );
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(wrong);
        }
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, server) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = (!user.is_empty()).then(|| (decoded(name), decoded(password)));
        let parts = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(server_of(server).ok_or(wrong)?)
            .path_and_query(traces_below(path).ok_or(wrong)?);
        Ok(Self { url: parts.build().map_err(|_| wrong)?, user })
    }

    /// What of a text that should be a URL may be shown.
    pub fn shown_of(text: &str) -> String {
        Self::parse(text).map_or_else(|_| "(no URL)".to_owned(), |collector| collector.shown())
    }

    /// The URL without what may be secret in it.
    pub fn shown(&self) -> String {
        let server = self.url.authority().map_or("", Authority::as_str);
        format!("http://{server}{}", self.url.path())
    }
}

/// A host and its port, if there is one.
fn server_of(text: &str) -> Option<Authority> {
    let given = text.to_ascii_lowercase().parse::<Authority>().ok()?;
    let host = given.host();
    let address = host.strip_prefix('[').map(|host| host.strip_suffix(']').unwrap_or(host));
    if host.is_empty() || address.is_some_and(|address| address.parse::<Ipv6Addr>().is_err()) {
        return None;
    }
    let port = given.as_str().strip_prefix(host)?;
    let digits = port.strip_prefix(':').unwrap_or(port);
    // `parse` takes a sign, too.
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

/// The path below which traces are taken, and the query that the URL had.
fn traces_below(text: &str) -> Option<PathAndQuery> {
    let text = utf8_percent_encode(text, ENCODED).to_string();
    let (path, query) = text.split_at(text.find('?').unwrap_or(text.len()));
    let path = path.trim_end_matches('/');
    let traces = if path.ends_with(TRACES) { "" } else { TRACES };
    format!("{path}{traces}{query}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_and_a_whole_url_mean_the_same() {
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
    fn what_is_no_url_is_refused_and_not_quoted() {
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
        assert_eq!(collector.shown(), "http://h:4318/otel/v1/traces");
        assert_eq!(Collector::parse("http://h").unwrap().user, None);
    }
}
