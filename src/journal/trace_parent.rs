//! Owns the `traceparent` header: the span of a supervisor that a dispatch continues (W3C Trace Context).

/// The span that a dispatch continues.
#[derive(Debug, Clone, Copy)]
pub struct TraceParent {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) flags: u8,
}

impl TraceParent {
    /// Parses the header's value. None if it is malformed, or of a version that is not known to be compatible.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // Version 00 has exactly four fields, later versions may have more; ff is invalid.
        let is_known = version == "00" && parts.next().is_none() || version != "00" && version != "ff";
        let is_lower_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let has_lengths = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2];
        if !is_known || !has_lengths || ![version, trace, span, flags].into_iter().all(is_lower_hex) {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|&trace| trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|&span| span != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace_id: trace.to_be_bytes(), span_id: span.to_be_bytes(), flags })
    }
}
