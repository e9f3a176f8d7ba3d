//! Owns the key: deployment, version, cpu and memory, with canonical numbers.

use std::fmt;

use thiserror::Error;

/// The longest accepted deployment or version, in bytes.
const MAX_PART_BYTES: usize = 256;

/// The largest accepted cpu or memory figure (vCPU or GB).
const MAX_NUMBER: f64 = 1e6;

/// Why a part of a key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text is longer than 256 bytes.
    #[error("is longer than 256 bytes")]
    TooLong,
    /// The text has a byte outside printable ASCII.
    #[error("has a byte outside printable ASCII")]
    NotPrintable,
    /// The number is not written as JavaScript writes a finite decimal number.
    #[error("is not a decimal number")]
    NotANumber,
    /// The number is negative or above a million.
    #[error("is outside 0 to 1000000")]
    OutOfRange,
}

/// A cpu or memory figure: finite, from 0 to 1,000,000, one bit pattern per value.
///
/// `0.5`, `0.50` and `5e-1` are the same number; `0` is an ordinary number, not a wildcard.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Number(u64);

impl Number {
    /// From a parsed number, for example from a JSON body.
    pub fn new(value: f64) -> Result<Self, KeyError> {
        if !(0.0..=MAX_NUMBER).contains(&value) {
            return Err(KeyError::OutOfRange);
        }
        // Adding zero turns -0.0 into 0.0, so that equal numbers have equal bits.
        Ok(Self((value + 0.0).to_bits()))
    }

    /// Parses the text of a header or a path segment.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        // Rust also parses "inf" and "nan", which JavaScript's decimal literals do not allow.
        if !text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-')) {
            return Err(KeyError::NotANumber);
        }
        Self::new(text.parse().map_err(|_| KeyError::NotANumber)?)
    }

    /// The value.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Refuses a deployment or version that is empty, too long or not printable.
pub fn check_part(text: &str) -> Result<&str, KeyError> {
    if text.is_empty() {
        return Err(KeyError::Empty);
    }
    if text.len() > MAX_PART_BYTES {
        return Err(KeyError::TooLong);
    }
    // All of them, without an early end: the text is short, and this is vectorized.
    let is_printable = text.bytes().fold(true, |is_so_far, b| is_so_far & matches!(b, b' '..=b'~'));
    if !is_printable {
        return Err(KeyError::NotPrintable);
    }
    Ok(text)
}

/// What a controller and a run must have in common. A tuple: concatenated strings could collide.
///
/// The borrowed form is for lookups, which then allocate nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRef<'a> {
    /// The deployment's friendly id.
    pub deployment: &'a str,
    /// The version of the deployed code.
    pub version: &'a str,
    /// vCPUs.
    pub cpu: Number,
    /// GB of memory.
    pub memory: Number,
}

/// A [`KeyRef`] that owns its text, for pools and held requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The deployment's friendly id.
    pub deployment: Box<str>,
    /// The version of the deployed code.
    pub version: Box<str>,
    /// vCPUs.
    pub cpu: Number,
    /// GB of memory.
    pub memory: Number,
}

impl Key {
    /// The borrowed form.
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { deployment: &self.deployment, version: &self.version, cpu: self.cpu, memory: self.memory }
    }
}

impl From<KeyRef<'_>> for Key {
    fn from(key: KeyRef<'_>) -> Self {
        Self {
            deployment: key.deployment.into(),
            version: key.version.into(),
            cpu: key.cpu,
            memory: key.memory,
        }
    }
}

/// Selects pools by any subset of a key's four parts; an empty filter selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this deployment.
    pub deployment: Option<String>,
    /// Only this version.
    pub version: Option<String>,
    /// Only this cpu figure.
    pub cpu: Option<Number>,
    /// Only this memory figure.
    pub memory: Option<Number>,
}

impl Filter {
    /// Whether the filter selects this key.
    pub fn matches(&self, key: KeyRef<'_>) -> bool {
        self.deployment.as_deref().is_none_or(|d| d == key.deployment)
            && self.version.as_deref().is_none_or(|v| v == key.version)
            && self.cpu.is_none_or(|c| c == key.cpu)
            && self.memory.is_none_or(|m| m == key.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_javascript_calls_equal_are_equal() {
        for (a, b) in
            [("0.5", "0.50"), ("1", "1e0"), ("0.30000000000000004", "0.30000000000000004"), ("0", "-0")]
        {
            assert_eq!(Number::parse(a), Number::parse(b), "{a} and {b}");
        }
        assert_eq!(Number::parse("0.50"), Number::new(0.5));
        assert_ne!(Number::parse("0.3"), Number::parse("0.30000000000000004"));
    }

    #[test]
    fn text_that_is_not_a_number_is_refused() {
        for (text, expected) in [
            ("", KeyError::Empty),
            ("nan", KeyError::NotANumber),
            ("inf", KeyError::NotANumber),
            ("0x10", KeyError::NotANumber),
            (" 1", KeyError::NotANumber),
            ("1e", KeyError::NotANumber),
            ("-1", KeyError::OutOfRange),
            ("1e400", KeyError::OutOfRange),
            ("1000001", KeyError::OutOfRange),
        ] {
            assert_eq!(Number::parse(text), Err(expected), "{text:?}");
        }
        assert_eq!(Number::new(f64::NAN), Err(KeyError::OutOfRange));
    }

    #[test]
    fn a_part_is_short_printable_text() {
        assert_eq!(check_part("deployment_1"), Ok("deployment_1"));
        assert_eq!(check_part(""), Err(KeyError::Empty));
        assert_eq!(check_part("a\tb"), Err(KeyError::NotPrintable));
        assert_eq!(check_part("é"), Err(KeyError::NotPrintable));
        assert_eq!(check_part(&"x".repeat(257)), Err(KeyError::TooLong));
    }
}
