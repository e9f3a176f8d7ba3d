//! Owns the naive model of a request's head: lines, split at their ends.

use std::str;

/// A head that is read by splitting it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NaiveHead<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub version: &'a str,
    pub fields: Vec<(&'a str, &'a [u8])>,
    /// Where the body begins.
    pub end: usize,
}

/// None if there is no complete head, or it is not made of lines that every parser reads alike.
pub fn read(bytes: &[u8]) -> Option<NaiveHead<'_>> {
    let mut at = 0;
    let mut next = || {
        let length = bytes[at..].iter().position(|&byte| byte == b'\n')?;
        let line = &bytes[at..at + length];
        at += length + 1;
        Some((line.strip_suffix(b"\r").unwrap_or(line), at))
    };
    // Empty lines before a request are ignored.
    let first = loop {
        let (line, _) = next()?;
        if !line.is_empty() {
            break str::from_utf8(line).ok()?;
        }
    };
    let [method, target, version] = first.split(' ').collect::<Vec<_>>()[..] else { return None };
    let mut fields = Vec::new();
    loop {
        let (line, end) = next()?;
        if line.is_empty() {
            return Some(NaiveHead { method, target, version, fields, end });
        }
        let colon = line.iter().position(|&byte| byte == b':')?;
        let name = str::from_utf8(&line[..colon]).ok()?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let value = &line[colon + 1..];
        let is_value = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        if name.is_empty() || !name.bytes().all(is_token) || !value.iter().all(|&byte| is_value(byte)) {
            return None;
        }
        fields.push((name, trim(value)));
    }
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

impl<'a> NaiveHead<'a> {
    /// The values of one name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The only value of one name.
    pub fn only(&self, name: &str) -> Option<&'a str> {
        let mut values = self.values(name);
        let value = str::from_utf8(values.next()?).ok()?;
        values.next().is_none().then_some(value)
    }
}
