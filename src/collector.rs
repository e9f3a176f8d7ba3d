//! Owns the address of a collector of traces: what is taken for one, what is asked there, and what of it may be shown.

use url::Url;

/// Where a collector takes traces (OTLP over HTTP), below its base URL.
const TRACES: &str = "/v1/traces";

/// Where a collector takes traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// The whole URL, without a user.
    pub url: Url,
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
        let (scheme, _) = text.split_once("://").ok_or(wrong)?;
        if scheme.eq_ignore_ascii_case("https") {
            return Err(
                "is not a URL of the form http://host:port: https is not spoken here, use a collector beside the broker",
            );
        }
        let mut url = Url::parse(text).map_err(|_| wrong)?;
        if url.scheme() != "http" || !url.has_host() || url.port() == Some(0) {
            return Err(wrong);
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&if path.ends_with(TRACES) { path } else { path + TRACES });
        url.set_fragment(None);
        let decoded =
            |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = (!url.username().is_empty() || url.password().is_some())
            .then(|| (decoded(url.username()), decoded(url.password().unwrap_or_default())));
        // It has a host, so that it may have a user, or none.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Self { url, user })
    }

    /// What of a text that should be a URL may be shown.
    pub fn shown_of(text: &str) -> String {
        Self::parse(text).map_or_else(|_| "(no URL)".to_owned(), |collector| collector.shown())
    }

    /// The URL without what may be secret in it.
    pub fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.into()
    }
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
        ] {
            assert_eq!(Collector::parse(text).unwrap().url.as_str(), url, "{text}");
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
