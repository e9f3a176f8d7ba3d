//! Owns the description of the schema's values, from which a template learns what may differ between two messages.

use std::borrow::Cow;

/// A part of a message that the broker uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Version,
    Deployment,
    Run,
    Snapshot,
    Cpu,
    Memory,
}

/// The parts of one message, before their own checks.
#[derive(Debug, Default)]
pub(super) struct Parts<'a> {
    pub(super) version: Cow<'a, str>,
    pub(super) deployment: Option<Cow<'a, str>>,
    pub(super) run: Cow<'a, str>,
    pub(super) snapshot: Cow<'a, str>,
    pub(super) cpu: f64,
    pub(super) memory: f64,
}

/// What the schema says of a value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// The schema lets it alone.
    Any,
    /// It is the same in all messages of one shape: `true`, `false`, or the only text that the schema allows.
    Literal,
    Text,
    Number,
    Date,
    Word(&'static [&'static str]),
    Array(&'static Kind),
    Object(&'static [Field]),
}

/// A field of an object in the schema.
#[derive(Debug)]
pub(super) struct Field {
    /// As Rust writes it, with underscores.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) part: Option<Part>,
}

impl Field {
    /// Whether this is the field's name in JSON, which is written in camel case.
    pub(super) fn is_named(&self, key: &[u8]) -> bool {
        let name = self.name.as_bytes();
        let name = name.strip_prefix(b"r#").unwrap_or(name);
        let (mut key, mut is_capital) = (key.iter(), false);
        for byte in name {
            if *byte == b'_' {
                is_capital = true;
                continue;
            }
            let expected = if is_capital { byte.to_ascii_uppercase() } else { *byte };
            is_capital = false;
            if key.next() != Some(&expected) {
                return false;
            }
        }
        key.next().is_none()
    }
}

/// A type of the schema that says what it checks. The same table defines the check and the description, so that they cannot
/// differ.
pub(super) trait Described {
    const KIND: Kind;
}

impl Described for f64 {
    const KIND: Kind = Kind::Number;
}

impl Described for bool {
    const KIND: Kind = Kind::Literal;
}

impl Described for Cow<'_, str> {
    const KIND: Kind = Kind::Text;
}

impl<T: Described> Described for Option<T> {
    const KIND: Kind = T::KIND;
}
