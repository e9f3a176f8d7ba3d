//! Owns a request's head as the routes read it, whoever has parsed it.

use hyper::Method;
use hyper::header::HeaderMap;

/// What the routes see of a request besides its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestHead<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    /// The connection may carry another request, as far as the version of HTTP goes.
    pub(super) is_http_11: bool,
    pub(super) fields: HeaderFields<'a>,
}

/// Header fields; names are found in any case.
#[derive(Debug, Clone, Copy)]
pub(super) enum HeaderFields<'a> {
    /// As hyper keeps them.
    Map(&'a HeaderMap),
    /// As they stand in the read buffer.
    List(&'a [httparse::Header<'a>]),
}

impl<'a> HeaderFields<'a> {
    /// The values of one name, in their order.
    pub(super) fn values(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let (map, list) = match self {
            Self::Map(map) => (Some(map.get_all(name)), [].as_slice()),
            Self::List(list) => (None, list),
        };
        let listed = list.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        let mapped =
            map.into_iter().flat_map(|values| values.iter().map(hyper::header::HeaderValue::as_bytes));
        mapped.chain(listed.map(|field| field.value))
    }

    /// Whether a name is there.
    pub(super) fn has(self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// Whether any name fits.
    pub(super) fn any_name(self, fits: impl Fn(&str) -> bool) -> bool {
        self.any(|name, _| fits(name))
    }

    /// Whether any field fits, by its name and value.
    pub(super) fn any(self, fits: impl Fn(&str, &[u8]) -> bool) -> bool {
        match self {
            Self::Map(map) => map.iter().any(|(name, value)| fits(name.as_str(), value.as_bytes())),
            Self::List(list) => list.iter().any(|field| fits(field.name, field.value)),
        }
    }

    /// A field that may stand once at most. `Err` if it stands more often or is not printable ASCII.
    pub(super) fn single(self, name: &str) -> Result<Option<&'a str>, ()> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => printable(value).map(Some).ok_or(()),
            (Some(_), Some(_)) => Err(()),
        }
    }
}

impl RequestHead<'_> {
    /// Whether a browser sends this for a page: it says so, and nobody else does.
    pub(super) fn is_browser(&self) -> bool {
        self.fields.any_name(|name| match name.len() {
            6 => name.eq_ignore_ascii_case("origin"),
            14 => name.eq_ignore_ascii_case("sec-fetch-site"),
            _ => false,
        })
    }

    /// Whether the connection may carry another request after this one's answer.
    pub(super) fn is_reusable(&self) -> bool {
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
