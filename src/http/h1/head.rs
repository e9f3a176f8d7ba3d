//! Owns a request's head as the routes see it, whichever parser has read it.

use std::mem::MaybeUninit;

use hyper::Method;
use hyper::header::{HeaderMap, SEC_WEBSOCKET_KEY};

use super::field_names::Signs;
use super::fields::HeaderFields;

/// The most header fields of a head.
pub(super) const MAX_FIELDS: usize = 100;

/// A request without its body.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct RequestHead<'a> {
    pub(in crate::http) method: &'a Method,
    pub(in crate::http) path: &'a str,
    pub(in crate::http) query: Option<&'a str>,
    /// Whether its version of HTTP keeps connections open by default.
    pub(in crate::http) is_http_11: bool,
    pub(in crate::http) fields: &'a HeaderFields<'a>,
    /// All fields, for the few values that [`HeaderFields`] does not keep.
    pub(in crate::http) all_fields: AllFields<'a>,
}

/// All header fields of a request, in which one is searched by its name.
#[derive(Clone, Copy)]
pub(in crate::http) enum AllFields<'a> {
    /// As they came: the head, whose parse has succeeded.
    Bytes(&'a [u8]),
    /// As hyper has parsed them.
    Map(&'a HeaderMap),
}

impl<'a> RequestHead<'a> {
    /// Whether the connection may carry another request after the response to this one.
    pub(in crate::http) fn is_reusable(&self) -> bool {
        self.is_http_11 && !self.fields.show(Signs::CLOSE)
    }

    /// The key of a WebSocket handshake, if there is exactly one.
    pub(in crate::http) fn websocket_key(&self) -> Option<&'a [u8]> {
        self.all_fields.only(SEC_WEBSOCKET_KEY.as_str())
    }
}

impl<'a> AllFields<'a> {
    /// Calls `visit` with the name and the value of each field, in their order. Names are in any case.
    pub(in crate::http) fn visit(self, mut visit: impl FnMut(&str, &'a [u8])) {
        match self {
            Self::Bytes(head) => {
                let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
                let mut request = httparse::Request::new(&mut []);
                if request.parse_with_uninit_headers(head, &mut headers).is_ok() {
                    request.headers.iter().for_each(|field| visit(field.name, field.value));
                }
            }
            Self::Map(map) => map.iter().for_each(|(name, value)| visit(name.as_str(), value.as_bytes())),
        }
    }

    /// The value of a field that occurs exactly once.
    pub(in crate::http) fn only(self, name: &str) -> Option<&'a [u8]> {
        let (mut found, mut count) = (None, 0);
        self.visit(|other, value| {
            if other.eq_ignore_ascii_case(name) {
                (found, count) = (Some(value), count + 1);
            }
        });
        found.filter(|_| count == 1)
    }
}

/// Fields may hold secrets.
impl std::fmt::Debug for AllFields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AllFields")
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_field_is_found_if_it_occurs_once_whichever_parser_has_read_it() {
        for (sent, found) in [
            (vec![], None),
            (vec![("a", "1"), ("wanted", "2"), ("b", "3")], Some("2")),
            (vec![("Wanted", " a, b ")], Some("a, b")),
            (vec![("wanted", "1"), ("WANTED", "1")], None),
            (vec![("wante", "1"), ("wantedd", "2")], None),
        ] {
            let mut head = "GET / HTTP/1.1\r\n".to_owned();
            let mut map = HeaderMap::new();
            for (name, value) in &sent {
                head.extend([name, ": ", value, "\r\n"]);
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                map.append(name, HeaderValue::from_static(value.trim()));
            }
            head += "\r\nwanted: a body\r\n\r\n";
            for fields in [AllFields::Bytes(head.as_bytes()), AllFields::Map(&map)] {
                assert_eq!(fields.only("wanted"), found.map(str::as_bytes), "{sent:?}");
            }
        }
    }

    #[test]
    fn every_request_in_progress_pays_for_its_head() {
        assert!(size_of::<AllFields<'_>>() <= 16);
    }
}
