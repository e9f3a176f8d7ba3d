//! Owns the header fields that a run has beside its own, for the worker that gets it with a long poll.

use std::sync::Arc;

/// The most bytes of all of them together, rendered.
const MAX_BYTES: usize = 8 * 1024;

/// Header fields as they are written, each after a line break. They may hold what the caller keeps secret.
#[derive(Clone, PartialEq, Eq)]
pub struct RunFields(Arc<Box<[u8]>>);

impl RunFields {
    /// These fields, in this order; none if there are none. A field whose name is no token in lower case, or whose value has a byte
    /// outside printable ASCII, is left out, and so is what exceeds 8 KiB.
    pub fn new<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Option<Self> {
        let mut rendered = Vec::new();
        for (name, value) in fields {
            let is_small = rendered.len() + name.len() + value.len() + 4 <= MAX_BYTES;
            if is_small && is_name(name.as_bytes()) && is_value(value) {
                for part in [b"\r\n", name.as_bytes(), b": ", value] {
                    rendered.extend_from_slice(part);
                }
            }
        }
        (!rendered.is_empty()).then(|| Self(Arc::new(rendered.into())))
    }

    /// What another broker has rendered. None if it is no list of fields.
    pub fn parse(rendered: &[u8]) -> Option<Self> {
        let mut rest = rendered;
        let is_whole = rendered.len() <= MAX_BYTES && !rendered.is_empty();
        while let Some(line) = rest.strip_prefix(b"\r\n") {
            let end = line.windows(2).position(|pair| pair == b"\r\n").unwrap_or(line.len());
            let colon = line[..end].windows(2).position(|pair| pair == b": ")?;
            if !is_name(&line[..colon]) || !is_value(&line[colon + 2..end]) {
                return None;
            }
            rest = &line[end..];
        }
        (is_whole && rest.is_empty()).then(|| Self(Arc::new(rendered.into())))
    }

    /// The fields, each after a line break.
    pub fn rendered(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for RunFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of fields", self.0.len())
    }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_rendered_and_read_again() {
        let fields =
            RunFields::new([("x-amz-log-type", &b"Tail"[..]), ("traceparent", b"00-1-2-01")]).unwrap();
        assert_eq!(fields.rendered(), b"\r\nx-amz-log-type: Tail\r\ntraceparent: 00-1-2-01");
        assert_eq!(RunFields::parse(fields.rendered()), Some(fields.clone()));
        assert!(!format!("{fields:?}").contains("Tail"));
        assert_eq!(RunFields::new([]), None);
    }

    #[test]
    fn nothing_ends_the_head_early_or_adds_a_field() {
        for (name, value) in
            [("a", &b"1\r\nb: 2"[..]), ("a", b"1\n"), ("a b", b"1"), ("", b"1"), ("A", b"1"), ("a", b"\xff")]
        {
            assert_eq!(RunFields::new([(name, value)]), None, "{name}: {value:?}");
        }
        for rendered in
            ["", "a: 1", "\r\n", "\r\na: 1\r\n", "\r\n\r\n", "\r\na:1", "\r\na: 1\nb: 2", "\r\nA: 1"]
        {
            assert_eq!(RunFields::parse(rendered.as_bytes()), None, "{rendered:?}");
        }
        let large = vec![b'a'; MAX_BYTES];
        assert_eq!(RunFields::new([("a", &large[..])]), None);
        assert_eq!(RunFields::parse(&[b"\r\na: ", &large[..]].concat()), None);
    }

    #[test]
    fn a_run_without_fields_pays_a_pointer() {
        assert_eq!(size_of::<Option<RunFields>>(), size_of::<usize>());
    }
}
