//! Owns the header fields of one request, as far as the broker reads them: one pass sorts them into slots.
//!
//! After it, nobody searches for a field by its name. Both parsers' fields go through it.

use hyper::header::HeaderMap;

use super::field_names::{FieldName, Signs, Use, find};

/// The fields of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::http) struct HeaderFields<'a> {
    /// The value of each [`FieldName`].
    values: [Option<&'a [u8]>; FieldName::COUNT],
    /// A bit for each [`FieldName`] that occurs more than once.
    repeated: u16,
    signs: Signs,
    transfer_codings: TransferCodings,
}

/// The transfer codings of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TransferCodings {
    pub(super) count: u16,
    /// Whether the last one is `chunked`.
    pub(super) ends_chunked: bool,
    /// Whether any is neither `chunked` nor `identity`.
    pub(super) has_other: bool,
}

const _: () = assert!(FieldName::COUNT <= u16::BITS as usize, "each has a bit in `repeated`");

impl<'a> HeaderFields<'a> {
    /// Whether the fields show this.
    pub(in crate::http) fn show(&self, sign: Signs) -> bool {
        self.signs.intersects(sign)
    }

    /// The value of a field. If it occurs more than once, this is the last value where each proxy adds one, else the first.
    pub(in crate::http) fn value(&self, field: FieldName) -> Option<&'a [u8]> {
        self.values[field as usize]
    }

    /// The value of a field that may occur once. `Err` if it occurs more often.
    pub(super) fn only(&self, field: FieldName) -> Result<Option<&'a [u8]>, ()> {
        if self.is_repeated(field) { Err(()) } else { Ok(self.value(field)) }
    }

    /// Whether a field occurs more than once; false for those where each proxy adds one.
    pub(in crate::http) fn is_repeated(&self, field: FieldName) -> bool {
        self.repeated & bit(field) != 0
    }

    /// The text of a field that may occur once. `Err` if it occurs more often, or is not printable ASCII.
    pub(in crate::http) fn single(&self, field: FieldName) -> Result<Option<&'a str>, ()> {
        self.only(field)?.map(|value| printable(value).ok_or(())).transpose()
    }

    /// Every value that is kept.
    #[cfg(fuzzing)]
    pub(in crate::http) fn kept(&self) -> impl Iterator<Item = (FieldName, &'a [u8])> {
        super::field_names::KNOWN.into_iter().filter_map(|(_, found)| {
            let (Use::First(field) | Use::Forwarded(field)) = found else { return None };
            Some((field, self.value(field)?))
        })
    }

    #[cfg(fuzzing)]
    pub(in crate::http) fn signs(&self) -> Signs {
        self.signs
    }

    pub(super) fn transfer_codings(&self) -> TransferCodings {
        self.transfer_codings
    }

    fn add(&mut self, found: Use, value: &'a [u8]) {
        let shown = |sign, is_shown| if is_shown { sign } else { Signs::empty() };
        self.signs |= match found {
            Use::First(field) => {
                let slot = &mut self.values[field as usize];
                if slot.is_some() {
                    self.repeated |= bit(field);
                } else {
                    *slot = Some(value);
                }
                return;
            }
            Use::Forwarded(field) => {
                self.values[field as usize] = Some(value);
                Signs::PROXY
            }
            Use::Sign(sign) => sign,
            // What nearly every client sends.
            Use::Connection if value == b"keep-alive" => return,
            Use::Accept if value == b"*/*" => return,
            Use::Connection => {
                shown(Signs::CLOSE, lists(value, b",", b"close"))
                    | shown(Signs::UPGRADE, lists(value, b",", b"upgrade"))
            }
            Use::Accept => {
                shown(Signs::ACCEPTS_HTML, lists(value, b",;", b"text/html"))
                    | shown(Signs::ACCEPTS_EVENTS, lists(value, b",;", b"text/event-stream"))
            }
            Use::Upgrade => Signs::FRAMING | shown(Signs::WEBSOCKET, lists(value, b",", b"websocket")),
            Use::WebSocketVersion => shown(Signs::WEBSOCKET_13, value == b"13"),
            Use::WebSocketProtocol => shown(Signs::PILOTLIGHT_V1, lists(value, b",", b"pilotlight.v1")),
            Use::FetchMode => Signs::FETCH_MODE | shown(Signs::NAVIGATION, lists(value, b",;", b"navigate")),
            Use::AmazonTrace => shown(Signs::PROXY, is_load_balancers(value)),
            Use::TransferEncoding => {
                self.transfer_codings.add(value);
                return;
            }
        };
    }
}

/// Fields are added in their order, by name and value.
impl<'a, 'n> Extend<(&'n str, &'a [u8])> for HeaderFields<'a> {
    fn extend<T: IntoIterator<Item = (&'n str, &'a [u8])>>(&mut self, fields: T) {
        for (name, value) in fields {
            if let Some(found) = find(name) {
                self.add(found, value);
            }
        }
    }
}

impl<'a> From<&'a HeaderMap> for HeaderFields<'a> {
    fn from(map: &'a HeaderMap) -> Self {
        let mut fields = Self::default();
        fields.extend(map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        fields
    }
}

impl TransferCodings {
    fn add(&mut self, list: &[u8]) {
        for coding in list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            self.count = self.count.saturating_add(1);
            self.ends_chunked = coding.eq_ignore_ascii_case(b"chunked");
            self.has_other |= !self.ends_chunked && !coding.eq_ignore_ascii_case(b"identity");
        }
    }
}

const fn bit(field: FieldName) -> u16 {
    1 << field as u16
}

/// Whether a word, in any case, is one of the parts between separators.
fn lists(value: &[u8], separators: &[u8], word: &[u8]) -> bool {
    let is_word = |part: &[u8]| part.trim_ascii().eq_ignore_ascii_case(word);
    value.len() >= word.len() && value.split(|byte| separators.contains(byte)).any(is_word)
}

/// Clients send `X-Amzn-Trace-Id` as well, but only AWS's load balancers add `Self=` to it.
fn is_load_balancers(trace: &[u8]) -> bool {
    trace.split(|&byte| byte == b';').any(|part| part.trim_ascii_start().starts_with(b"Self="))
}

fn printable(value: &[u8]) -> Option<&str> {
    // Neither parser accepts a control character other than a tab.
    std::str::from_utf8(value).ok().filter(|text| text.is_ascii())
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::super::field_names::KNOWN;
    use super::*;

    type Sent = Vec<(String, &'static [u8])>;

    fn fields(sent: &Sent) -> HeaderFields<'_> {
        let mut fields = HeaderFields::default();
        fields.extend(sent.iter().map(|(name, value)| (name.as_str(), *value)));
        fields
    }

    fn sent(sent: &[(&str, &'static str)]) -> Sent {
        sent.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes())).collect()
    }

    /// Names and values of every kind, in random cases and numbers.
    fn random_fields(random: &mut fastrand::Rng) -> Sent {
        const VALUES: [&[u8]; 13] = [
            b"",
            b"close",
            b"keep-alive, Close",
            b"chunked",
            b"identity,chunked",
            b"gzip",
            b"text/html;q=1",
            b"navigate",
            b"Self=1",
            b"1.2.3.4",
            b"a\tb",
            b"\xc3\xa9",
            b"\xff",
        ];
        let names: Vec<&str> = KNOWN
            .iter()
            .map(|(name, _)| *name)
            .chain(["x-envoy-a", "x-forwarded-a", "x-a", "user-agent"])
            .collect();
        let field = |random: &mut fastrand::Rng| {
            let letters = names[random.usize(..names.len())].chars();
            let name = letters.map(|c| if random.bool() { c.to_ascii_uppercase() } else { c }).collect();
            (name, VALUES[random.usize(..VALUES.len())])
        };
        (0..random.usize(..12)).map(|_| field(random)).collect()
    }

    #[test]
    fn a_list_and_a_map_of_the_same_fields_are_equal() {
        let mut random = fastrand::Rng::with_seed(15);
        for _ in 0..20_000 {
            let sent = random_fields(&mut random);
            let mut map = HeaderMap::new();
            for (name, value) in &sent {
                map.append(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_bytes(value).unwrap(),
                );
            }
            assert_eq!(fields(&sent), HeaderFields::from(&map), "{sent:?}");
        }
    }

    #[test]
    fn slots_agree_with_a_search_by_name() {
        let mut random = fastrand::Rng::with_seed(16);
        for _ in 0..20_000 {
            let sent = random_fields(&mut random);
            let fields = fields(&sent);
            let values = |name: &str| -> Vec<&[u8]> {
                sent.iter()
                    .filter(|(this, _)| this.eq_ignore_ascii_case(name))
                    .map(|(_, value)| *value)
                    .collect()
            };
            for (name, found) in KNOWN {
                let values = values(name);
                match found {
                    Use::First(field) => {
                        assert_eq!(fields.value(field), values.first().copied(), "{name}: {sent:?}");
                        assert_eq!(fields.only(field).is_err(), values.len() > 1, "{name}: {sent:?}");
                        let is_single = values.len() < 2 && values.iter().all(|value| value.is_ascii());
                        let value = values.first().map(|value| std::str::from_utf8(value).unwrap_or(""));
                        let single = if is_single { Ok(value) } else { Err(()) };
                        assert_eq!(fields.single(field), single, "{name}: {sent:?}");
                    }
                    Use::Forwarded(field) => {
                        assert_eq!(fields.value(field), values.last().copied(), "{name}: {sent:?}");
                        assert!(values.is_empty() || fields.show(Signs::PROXY), "{name}: {sent:?}");
                    }
                    Use::Sign(sign) => assert!(values.is_empty() || fields.show(sign), "{name}: {sent:?}"),
                    Use::Connection
                    | Use::Accept
                    | Use::Upgrade
                    | Use::WebSocketVersion
                    | Use::WebSocketProtocol
                    | Use::FetchMode
                    | Use::AmazonTrace
                    | Use::TransferEncoding => {}
                }
            }
        }
    }

    /// So a value that is ASCII is printable.
    #[test]
    fn neither_parser_accepts_a_control_character_other_than_a_tab() {
        for byte in (0..b' ').chain([0x7f]).filter(|&byte| byte != b'\t') {
            let head = [b"a: b".as_slice(), &[byte], b"c\r\n\r\n"].concat();
            assert!(httparse::parse_headers(&head, &mut [httparse::EMPTY_HEADER; 2]).is_err(), "{byte:#x}");
            assert!(HeaderValue::from_bytes(&[b'b', byte, b'c']).is_err(), "{byte:#x}");
        }
    }

    #[test]
    fn a_sign_is_shown_by_any_of_its_fields_and_by_no_other() {
        for (name, value, signs) in [
            ("connection", "keep-alive", Signs::empty()),
            ("connection", "closed", Signs::empty()),
            ("connection", "close;x", Signs::empty()),
            ("Connection", "x, CLOSE", Signs::CLOSE),
            ("accept", "*/*", Signs::empty()),
            ("accept", "a/b,text/html;q=0.9", Signs::ACCEPTS_HTML),
            ("sec-fetch-mode", "cors", Signs::FETCH_MODE),
            ("sec-fetch-mode", "navigate", Signs::FETCH_MODE | Signs::NAVIGATION),
            ("x-amzn-trace-id", "Root=1;Parent=Self=1", Signs::empty()),
            ("x-amzn-trace-id", "Root=1; Self=1", Signs::PROXY),
            ("x-forwarded-for", "", Signs::PROXY),
            ("te", "", Signs::FRAMING),
            ("expect", "x", Signs::EXPECT),
            ("origin", "null", Signs::BROWSER),
            ("content-encoding", "identity", Signs::CONTENT_ENCODING),
            ("pilotlight-metadata", "", Signs::METADATA),
            ("Pilotlight-Reply", "early", Signs::REPLY),
            ("host", "close", Signs::empty()),
            ("user-agent", "close", Signs::empty()),
        ] {
            let sent = sent(&[("connection", "x"), (name, value), ("connection", "x")]);
            assert_eq!(fields(&sent).signs, signs, "{name}: {value}");
        }
    }

    #[test]
    fn transfer_codings_of_several_fields_are_one_list() {
        let codings = |values: &[&'static str]| {
            let list: Vec<_> = values.iter().map(|value| ("transfer-encoding", *value)).collect();
            let TransferCodings { count, ends_chunked, has_other } = fields(&sent(&list)).transfer_codings();
            (count, ends_chunked, has_other)
        };
        assert_eq!(codings(&[]), (0, false, false));
        assert_eq!(codings(&[""]), (1, false, true));
        assert_eq!(codings(&[" Chunked "]), (1, true, false));
        assert_eq!(codings(&["gzip", "chunked"]), (2, true, true));
        assert_eq!(codings(&["chunked", "identity"]), (2, false, false));
        assert_eq!(codings(&["chunked, identity", "chunked"]), (3, true, false));
    }

    #[test]
    fn every_request_in_progress_pays_for_its_slots() {
        assert!(size_of::<HeaderFields<'_>>() <= 256);
    }
}
