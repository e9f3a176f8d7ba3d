//! Owns where a broker is: an origin over TCP, with or without TLS, or a Unix socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::parse_origin;

/// An address of a broker, as it is written in an argument: `https://warm.example.org`, `127.0.0.1:7071`, `unix:/run/ops.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::commands) enum BrokerUrl {
    /// A TCP port. An IPv6 address has brackets.
    Tcp { is_tls: bool, host: String, port: Option<u16> },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl BrokerUrl {
    /// The value of the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port: None, .. } => host.clone(),
            Self::Tcp { host, port: Some(port), .. } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    pub(in crate::commands) fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { is_tls: true, .. })
    }
}

impl From<SocketAddr> for BrokerUrl {
    fn from(address: SocketAddr) -> Self {
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self::Tcp { is_tls: false, host, port: Some(address.port()) }
    }
}

impl FromStr for BrokerUrl {
    type Err = String;

    /// Without a scheme it is `http://`. The error does not quote the text, which may contain a password by mistake.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///run/x` is the same as `unix:/run/x`.
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Self::Unix(path.into()));
        }
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let origin = parse_origin(&text)?;
        let (scheme, server) = origin.split_once("://").ok_or("has no scheme")?;
        let (host, port) = crate::address::parse_server(server).ok_or("has no host")?;
        Ok(Self::Tcp { is_tls: scheme == "https", host, port })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { is_tls, .. } => {
                write!(f, "http{}://{}", if *is_tls { "s" } else { "" }, self.authority())
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_scheme_is_http_and_what_is_no_origin_is_refused_without_quoting_it() {
        for (text, shown) in [
            ("127.0.0.1:7071", "http://127.0.0.1:7071"),
            ("localhost", "http://localhost"),
            ("HTTPS://Warm.example.org/", "https://warm.example.org"),
            ("[::1]:7071", "http://[::1]:7071"),
            ("unix:///run/ops.sock", "unix:/run/ops.sock"),
        ] {
            let url: BrokerUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
        }
        for text in ["", "ftp://host", "http://host/pools", "http://user:s3cret@host", "host:0"] {
            let error = text.parse::<BrokerUrl>().expect_err(text);
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
