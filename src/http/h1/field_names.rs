//! Owns the names of the header fields that the broker reads, and what it reads each for.

use bitflags::bitflags;

/// A header field whose value is kept. The order is that of [`KNOWN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum FieldName {
    Host,
    ContentLength,
    ContentType,
    Authorization,
    TraceParent,
    XForwardedFor,
    Forwarded,
    TriggerController,
    TriggerDeployment,
    TriggerVersion,
    TriggerCpu,
    TriggerMemory,
    TriggerInstance,
    NativeController,
    NativeRun,
}

impl FieldName {
    /// How many there are.
    pub(super) const COUNT: usize = Self::NativeRun as usize + 1;

    /// The name in lower case.
    pub(in crate::http) const fn text(self) -> &'static str {
        KNOWN[self as usize].0
    }
}

bitflags! {
    /// What a field shows by being there, or by a word in its value.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub(in crate::http) struct Signs: u16 {
        /// A browser sent the request for a page: only browsers send Origin or Sec-Fetch-Site.
        const BROWSER = 1 << 0;
        /// A browser says what the response is for.
        const FETCH_MODE = 1 << 1;
        /// The response is shown as a page.
        const NAVIGATION = 1 << 2;
        /// The response may be a page.
        const ACCEPTS_HTML = 1 << 3;
        /// A proxy is in between: only proxies add the field.
        const PROXY = 1 << 4;
        /// The connection carries no other request.
        const CLOSE = 1 << 5;
        /// The client may wait to be asked for the body.
        const EXPECT = 1 << 6;
        /// The body is encoded.
        const CONTENT_ENCODING = 1 << 7;
        /// The message is framed in another way, or asks for another protocol.
        const FRAMING = 1 << 8;
        /// The client asks for a WebSocket,
        const WEBSOCKET = 1 << 9;
        /// on this connection,
        const UPGRADE = 1 << 10;
        /// of the version that exists,
        const WEBSOCKET_13 = 1 << 11;
        /// and speaks our subprotocol.
        const PILOTLIGHT_V1 = 1 << 12;
        /// The response may be a stream of server-sent events.
        const ACCEPTS_EVENTS = 1 << 13;
        /// The waiter says something to whoever claims it.
        const METADATA = 1 << 14;
        /// The worker says when it opens its replies.
        const REPLY = 1 << 15;
    }
}

/// What a field is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Its value. If it occurs more than once, the first one.
    First(FieldName),
    /// Its value, to which each proxy adds. If it occurs more than once, the last one.
    Forwarded(FieldName),
    /// The field is a sign, whatever its value is.
    Sign(Signs),
    /// Words in its value are signs.
    Connection,
    /// Words in its value are signs.
    Accept,
    /// It is a sign, and so is one word in its value.
    Upgrade,
    /// One value is a sign.
    WebSocketVersion,
    /// One word in its value is a sign.
    WebSocketProtocol,
    /// It is a sign, and so is one word in its value.
    FetchMode,
    /// The part that a load balancer adds to its value is a sign: clients send this field, too.
    AmazonTrace,
    /// The codings of the body.
    TransferEncoding,
}

/// Names in lower case, and what their fields are read for. Those whose value is kept come first.
pub(super) const KNOWN: [(&str, Use); 43] = [
    ("host", Use::First(FieldName::Host)),
    ("content-length", Use::First(FieldName::ContentLength)),
    ("content-type", Use::First(FieldName::ContentType)),
    ("authorization", Use::First(FieldName::Authorization)),
    ("traceparent", Use::First(FieldName::TraceParent)),
    ("x-forwarded-for", Use::Forwarded(FieldName::XForwardedFor)),
    ("forwarded", Use::Forwarded(FieldName::Forwarded)),
    ("x-trigger-workload-controller-id", Use::First(FieldName::TriggerController)),
    ("x-trigger-deployment-id", Use::First(FieldName::TriggerDeployment)),
    ("x-trigger-deployment-version", Use::First(FieldName::TriggerVersion)),
    ("x-trigger-machine-cpu", Use::First(FieldName::TriggerCpu)),
    ("x-trigger-machine-memory", Use::First(FieldName::TriggerMemory)),
    ("x-trigger-worker-instance-name", Use::First(FieldName::TriggerInstance)),
    ("pilotlight-controller", Use::First(FieldName::NativeController)),
    ("pilotlight-run", Use::First(FieldName::NativeRun)),
    ("connection", Use::Connection),
    ("transfer-encoding", Use::TransferEncoding),
    ("te", Use::Sign(Signs::FRAMING)),
    ("trailer", Use::Sign(Signs::FRAMING)),
    ("upgrade", Use::Upgrade),
    ("sec-websocket-version", Use::WebSocketVersion),
    ("sec-websocket-protocol", Use::WebSocketProtocol),
    ("http2-settings", Use::Sign(Signs::FRAMING)),
    ("expect", Use::Sign(Signs::EXPECT)),
    ("content-encoding", Use::Sign(Signs::CONTENT_ENCODING)),
    ("origin", Use::Sign(Signs::BROWSER)),
    ("sec-fetch-site", Use::Sign(Signs::BROWSER)),
    ("sec-fetch-mode", Use::FetchMode),
    ("accept", Use::Accept),
    (METADATA, Use::Sign(Signs::METADATA)),
    (REPLY, Use::Sign(Signs::REPLY)),
    ("via", PROXY),
    ("x-forwarded", PROXY),
    ("x-real-ip", PROXY),
    ("x-client-ip", PROXY),
    ("x-cluster-client-ip", PROXY),
    ("true-client-ip", PROXY),
    ("cf-connecting-ip", PROXY),
    ("cf-ray", PROXY),
    ("fastly-client-ip", PROXY),
    ("cdn-loop", PROXY),
    ("l5d-client-id", PROXY),
    ("x-amzn-trace-id", Use::AmazonTrace),
];
/// The field of [`Signs::METADATA`], which is too rare for its value to be kept.
pub(in crate::http) const METADATA: &str = "pilotlight-metadata";
/// The field of [`Signs::REPLY`], as rare.
pub(in crate::http) const REPLY: &str = "pilotlight-reply";
const PROXY: Use = Use::Sign(Signs::PROXY);
/// Fields whose names begin so are added by proxies.
const PROXY_PREFIXES: [&str; 3] = ["x-forwarded-", "x-envoy-", "x-original-forwarded-"];

/// What the field of this name, in any case, is read for; none if it is not read.
pub(super) fn find(name: &str) -> Option<Use> {
    let (known, found) = KNOWN[usize::from(INDEX[place(name.as_bytes())])];
    // Most clients send lower case, and equal bytes are compared sooner.
    if name == known || name.eq_ignore_ascii_case(known) {
        return Some(found);
    }
    let has_prefix =
        |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    (name.starts_with(['x', 'X']) && PROXY_PREFIXES.iter().any(has_prefix)).then_some(PROXY)
}

/// The position in [`KNOWN`] of the only name that can be at a place.
static INDEX: [u8; 256] = {
    let mut index = [0; 256];
    let mut taken = [false; 256];
    let mut position: u8 = 0;
    while (position as usize) < KNOWN.len() {
        let place = place(KNOWN[position as usize].0.as_bytes());
        assert!(!taken[place], "two names have one place: other factors are needed");
        taken[place] = true;
        index[place] = position;
        position += 1;
    }
    index
};

/// The place of a name in [`INDEX`], by its length and two letters, in any case. The factors give each known name its own.
const fn place(name: &[u8]) -> usize {
    const fn lower(byte: u8) -> usize {
        (byte | 0x20) as usize
    }
    let length = name.len();
    if length < 2 { 0 } else { (lower(name[0]) + 5 * lower(name[length - 2]) + 12 * length) % 256 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_fields_have_their_own_names() {
        for (position, (name, found)) in KNOWN.into_iter().enumerate() {
            if let Use::First(field) | Use::Forwarded(field) = found {
                assert_eq!((field as usize, field.text()), (position, name));
            } else {
                assert!(position >= FieldName::COUNT, "{name}");
            }
        }
    }

    #[test]
    fn every_name_is_found_in_any_case() {
        for (name, found) in KNOWN {
            assert_eq!(name, name.to_ascii_lowercase());
            let mut mixed = name.to_owned();
            mixed[1..].make_ascii_uppercase();
            for written in [name.to_owned(), name.to_ascii_uppercase(), mixed] {
                assert_eq!(find(&written), Some(found), "{written}");
            }
        }
    }

    #[test]
    fn a_name_that_is_one_byte_off_is_not_found() {
        for (name, _) in KNOWN {
            for at in 0..name.len() {
                for byte in (b'!'..=b'~').filter(|byte| !byte.eq_ignore_ascii_case(&name.as_bytes()[at])) {
                    let mut other = name.as_bytes().to_vec();
                    other[at] = byte;
                    check_unknown(&String::from_utf8(other).unwrap());
                }
                check_unknown(&[&name[..at], &name[at + 1..]].concat());
                check_unknown(&[&name[..at], "x", &name[at..]].concat());
            }
            check_unknown(&format!("{name}s"));
        }
        for name in ["", "x", "h", "x-", "x-envoy", "x-forwardedfor", "user-agent", "cookie"] {
            check_unknown(name);
        }
    }

    /// A byte more or less can make one name of another, or of a prefix.
    fn check_unknown(name: &str) {
        let is_known = KNOWN.iter().any(|(known, _)| *known == name);
        let is_prefixed = PROXY_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        assert_eq!(find(name).is_some(), is_known || is_prefixed, "{name}");
    }

    #[test]
    fn a_name_with_a_proxys_prefix_is_a_proxys() {
        for name in ["x-forwarded-", "X-Forwarded-Proto", "x-envoy-attempt-count", "X-ORIGINAL-FORWARDED-FOR"]
        {
            assert_eq!(find(name), Some(PROXY), "{name}");
        }
        assert_eq!(find("x-forwarded-for"), Some(Use::Forwarded(FieldName::XForwardedFor)));
    }
}
