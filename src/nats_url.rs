//! Owns the URL of a NATS server: how it is parsed, and what of it may be shown.

use std::fmt;

use percent_encoding::percent_decode_str;

use crate::address::parse_server;

/// The port of a URL without one.
const DEFAULT_PORT: u16 = 4222;

/// A server of NATS.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl {
    /// Whether the connection must use TLS. It does in any case if the server demands it.
    pub needs_tls: bool,
    /// A host name or an IP address; an IPv6 address has brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// What the URL has in front of its host, decoded.
    pub user: Option<UrlUser>,
}

/// The credentials in a URL, decoded.
#[derive(Clone, PartialEq, Eq)]
pub enum UrlUser {
    /// `token@host`
    Token(String),
    /// `name:password@host`
    Password {
        /// The user's name.
        name: String,
        /// The user's password.
        password: String,
    },
}

impl NatsUrl {
    /// Parses a URL. The error says what is wrong without quoting the text, which may contain a password.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let malformed = "is not a URL of the form nats://host:port or tls://host:port";
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(malformed);
        }
        let (scheme, rest) = text.split_once("://").ok_or(malformed)?;
        let needs_tls = scheme.eq_ignore_ascii_case("tls");
        if !needs_tls && !scheme.eq_ignore_ascii_case("nats") {
            return Err(malformed);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, server) =
            rest.rsplit_once('@').map_or((None, rest), |(user, server)| (Some(user), server));
        if server.contains(['/', '?', '#']) {
            return Err("has a path: give nats://host:port only");
        }
        let (host, port) = parse_server(server).ok_or(malformed)?;
        let user = user.map(parse_user).transpose()?;
        Ok(Self { needs_tls, host, port: port.unwrap_or(DEFAULT_PORT), user })
    }

    /// The text of a setting without what may be secret in it; a placeholder if it is not a URL.
    pub fn redact(text: &str) -> String {
        Self::parse(text).map_or_else(|_| "(not a URL)".to_owned(), |url| url.to_string())
    }
}

/// Shows no user.
impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.needs_tls { "tls" } else { "nats" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Shows no user.
impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn parse_user(text: &str) -> Result<UrlUser, &'static str> {
    let decoded = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().ok().filter(|text| !text.is_empty());
        text.map(String::from).ok_or("has credentials that are empty or malformed")
    };
    Ok(match text.split_once(':') {
        None => UrlUser::Token(decoded(text)?),
        Some((name, password)) => UrlUser::Password { name: decoded(name)?, password: decoded(password)? },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_server_and_a_port() {
        for (text, shown) in [
            ("nats://nats:4222", "nats://nats:4222"),
            ("NATS://Nats.example.org", "nats://nats.example.org:4222"),
            ("nats://127.0.0.1:4333/", "nats://127.0.0.1:4333"),
            ("tls://nats:4222", "tls://nats:4222"),
            ("nats://[::1]:4222", "nats://[::1]:4222"),
            ("nats://[::1]", "nats://[::1]:4222"),
        ] {
            assert_eq!(NatsUrl::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn a_malformed_url_is_refused_and_not_quoted() {
        for text in [
            "",
            "nats",
            "nats:4222",
            "127.0.0.1:4222",
            "nats://",
            "nats://:4222",
            "nats://h:port",
            "nats://h:0",
            "nats://h:99999",
            "nats://h:+80",
            "nats://h:",
            "nats://::1:4222",
            "nats://[::1",
            "nats://[h]:4222",
            "nats://h/secret",
            "nats://h?secret",
            "nats://bücher",
            "nats://u:secret@",
            "nats://@h",
            "nats://u:@h",
            "nats://:secret@h",
            "nats://u:%ff@h",
            "nats://se cret@h",
            " nats://h",
            "ws://h:4222",
            "http://user:secret@h:4222",
        ] {
            let error = NatsUrl::parse(text).expect_err(text);
            assert!(!error.contains("secret"), "{text}: {error}");
            assert_eq!(NatsUrl::redact(text), "(not a URL)");
        }
    }

    #[test]
    fn credentials_are_used_and_never_shown() {
        let url = NatsUrl::parse("nats://us%40er:se%3Acr%2Cet@h:4222").unwrap();
        let user = UrlUser::Password { name: "us@er".to_owned(), password: "se:cr,et".to_owned() };
        assert!(url.user == Some(user));
        assert_eq!(
            (url.to_string(), format!("{url:?}")),
            ("nats://h:4222".to_owned(), "nats://h:4222".to_owned())
        );
        let url = NatsUrl::parse("tls://s3cret@h").unwrap();
        assert!(url.user == Some(UrlUser::Token("s3cret".to_owned())));
        assert_eq!(NatsUrl::redact("tls://s3cret@h"), "tls://h:4222");
    }
}
