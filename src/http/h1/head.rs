//! Owns a request's head as the routes see it, whichever parser has read it.

use hyper::Method;
use hyper::header::{HeaderMap, HeaderValue};

/// A request without its body.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct RequestHead<'a> {
    pub(in crate::http) method: &'a Method,
    pub(in crate::http) path: &'a str,
    pub(in crate::http) query: Option<&'a str>,
    /// Whether its version of HTTP keeps connections open by default.
    pub(in crate::http) is_http_11: bool,
    pub(in crate::http) fields: HeaderFields<'a>,
}

/// Header fields. Lookups ignore the case of names.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) enum HeaderFields<'a> {
    /// hyper's map.
    Map(&'a HeaderMap),
    /// Slices of the read buffer.
    List(&'a [httparse::Header<'a>]),
}

impl<'a> HeaderFields<'a> {
    /// The values of the fields of this name, in their order.
    pub(in crate::http) fn values(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let (map, list) = match self {
            Self::Map(map) => (Some(map.get_all(name)), [].as_slice()),
            Self::List(list) => (None, list),
        };
        let listed = list.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        let mapped = map.into_iter().flat_map(|values| values.iter().map(HeaderValue::as_bytes));
        mapped.chain(listed.map(|field| field.value))
    }

    /// Whether a field has this name.
    pub(in crate::http) fn has(self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// Whether the name of any field matches.
    pub(in crate::http) fn any_name(self, matches: impl Fn(&str) -> bool) -> bool {
        self.any(|name, _| matches(name))
    }

    /// Whether any field matches by its name and value.
    pub(in crate::http) fn any(self, matches: impl Fn(&str, &[u8]) -> bool) -> bool {
        match self {
            Self::Map(map) => map.iter().any(|(name, value)| matches(name.as_str(), value.as_bytes())),
            Self::List(list) => list.iter().any(|field| matches(field.name, field.value)),
        }
    }

    /// The value of a field that may occur once. `Err` if it occurs more often, or is not printable ASCII.
    pub(in crate::http) fn single(self, name: &str) -> Result<Option<&'a str>, ()> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => printable(value).map(Some).ok_or(()),
            (Some(_), Some(_)) => Err(()),
        }
    }
}

impl RequestHead<'_> {
    /// Whether a browser sent this for a page: only browsers send Origin or Sec-Fetch-Site.
    pub(in crate::http) fn is_browser(&self) -> bool {
        self.fields.any_name(|name| match name.len() {
            6 => name.eq_ignore_ascii_case("origin"),
            14 => name.eq_ignore_ascii_case("sec-fetch-site"),
            _ => false,
        })
    }

    /// Whether the connection may carry another request after the response to this one.
    pub(in crate::http) fn is_reusable(&self) -> bool {
        let closes = |value: &[u8]| {
            value.split(|&b| b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
        };
        self.is_http_11 && !self.fields.values("connection").any(closes)
    }
}

fn printable(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    text.bytes().all(|byte| byte == b'\t' || matches!(byte, b' '..=b'~')).then_some(text)
}
