//! Owns a run's trace in the form in which AWS writes it.

/// `Root=1-…;Parent=…;Sampled=…` for a `traceparent` of W3C. None if it is malformed.
pub(super) fn from_traceparent(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.trim().split('-').collect();
    let [version, trace, parent, flags, ..] = parts.as_slice() else { return None };
    let is_hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_known = is_hex(version, 2) && *version != "ff" && (*version != "00" || parts.len() == 4);
    let is_whole = is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
    if !is_known || !is_whole || is_zero(trace) || is_zero(parent) {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1;
    let (time, random) = trace.split_at(8);
    Some(format!("Root=1-{time}-{random};Parent={parent};Sampled={sampled}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_an_amazon_trace_or_nothing() {
        let expected = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1";
        let trace = |text| from_traceparent(text);
        assert_eq!(
            trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").as_deref(),
            Some(expected)
        );
        assert!(
            trace("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-x")
                .unwrap()
                .ends_with("Sampled=0")
        );
        for malformed in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(trace(malformed), None, "{malformed}");
        }
    }
}
