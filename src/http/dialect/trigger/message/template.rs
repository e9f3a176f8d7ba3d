//! Owns a template: what all messages of one shape have in common, and the check of what they may differ in.
//!
//! It must accept only bodies that the parser accepts too, with the same result; `docs/decisions/022-templates.md` says why
//! it does.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use serde_json::from_str;

use super::kind::{Part, Parts};
use super::scan::{number_bytes, plain_text_bytes, special_bytes};
use super::shape::{Date, is_date};

/// A template has at most this many bytes that messages have in common.
pub(super) const MAX_LITERAL_BYTES: usize = 4096;
/// A template has at most this many leaves.
pub(super) const MAX_LEAVES: usize = 128;
/// The parser takes longer than a message's usual figure deserves if a number has very many digits.
const MAX_NUMBER_BYTES: usize = 32;

/// A value that may differ between two messages of one shape.
#[derive(Debug, Clone, Copy)]
pub(super) enum Leaf {
    Text,
    Part(Part),
    Number,
    DateText,
    DateMillis,
    Word(&'static [&'static str]),
}

/// A leaf, and the bytes after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    leaf: Leaf,
    is_number: bool,
    pub(super) literal_bytes: u16,
    /// How long the text was in the last body: a guess.
    last_bytes: u32,
}

/// What all bodies of one shape have in common.
#[derive(Debug, Default, Clone)]
pub(super) struct Template {
    /// All bytes outside the leaves.
    pub(super) literals: Vec<u8>,
    /// How many of them are before the first leaf.
    pub(super) first_bytes: u16,
    pub(super) steps: Vec<Step>,
    /// How many bytes of the body are before the message and after it.
    pub(super) before: u16,
    pub(super) after: u16,
    /// How many bytes of the literals could not be in a text.
    pub(super) special_bytes: usize,
}

impl Template {
    /// The message in a body of this shape and its parts, which are not checked yet; none if the body is not of this shape.
    pub(super) fn read<'a>(&mut self, body: &'a str) -> Option<(&'a str, Parts<'a>)> {
        let bytes = body.as_bytes();
        let mut parts = Parts::default();
        let (mut literal, mut literals) = self.literals.split_at_checked(usize::from(self.first_bytes))?;
        let mut at = 0;
        is_at(bytes, at, literal).then_some(())?;
        for step in &mut self.steps {
            let begin = at + literal.len();
            (literal, literals) = literals.split_at_checked(usize::from(step.literal_bytes))?;
            at = step.end(bytes, begin, literal)?;
            if !matches!(step.leaf, Leaf::Text) {
                step.leaf.check(body, begin..at, &mut parts)?;
            }
        }
        (at + literal.len() == bytes.len()).then_some(())?;
        // All literals have matched, so what is left of such bytes would be in a leaf.
        (special_bytes(bytes) == self.special_bytes).then_some(())?;
        let end = bytes.len().checked_sub(usize::from(self.after))?;
        Some((body.get(usize::from(self.before)..end)?, parts))
    }

    /// The same for all bodies of this shape. The literals and their lengths say what each leaf is, too.
    pub(super) fn shape(&self, hasher: &impl BuildHasher) -> u64 {
        let mut shape = hasher.build_hasher();
        shape.write(&self.literals);
        shape.write_u16(self.first_bytes);
        self.steps.iter().for_each(|step| shape.write_u16(step.literal_bytes));
        shape.finish()
    }
}

impl Step {
    pub(super) fn new(leaf: Leaf) -> Self {
        let is_number =
            matches!(leaf, Leaf::Number | Leaf::DateMillis | Leaf::Part(Part::Cpu | Part::Memory));
        Self { leaf, is_number, literal_bytes: 0, last_bytes: 0 }
    }

    /// Where the leaf ends: where the literal after it begins.
    fn end(&mut self, body: &[u8], begin: usize, literal: &[u8]) -> Option<usize> {
        if !self.is_number {
            // Most texts are as long as the last one was.
            let end = begin + self.last_bytes as usize;
            if is_at(body, end, literal) {
                return Some(end);
            }
        }
        let rest = body.get(begin..)?;
        let length = if self.is_number { number_bytes(rest) } else { self.text_bytes(rest)? };
        is_at(body, begin + length, literal).then_some(begin + length)
    }

    #[cold]
    fn text_bytes(&mut self, rest: &[u8]) -> Option<usize> {
        let length = plain_text_bytes(rest);
        self.last_bytes = length.try_into().ok()?;
        Some(length)
    }
}

impl Leaf {
    // The loop over the leaves is quicker without it, because most leaves are mere texts.
    #[inline(never)]
    fn check<'a>(self, body: &'a str, range: Range<usize>, parts: &mut Parts<'a>) -> Option<()> {
        let is_valid = match self {
            // It has no byte that a text cannot have, which is checked for all texts at once.
            Self::Text => true,
            Self::Part(part) => parts.set(part, body.get(range)?).is_some(),
            Self::Number => is_number(body.get(range)?),
            Self::DateText => is_date(body.get(range)?),
            Self::DateMillis => from_str::<Date>(number_text(body.get(range)?)?).is_ok(),
            Self::Word(words) => words.contains(&body.get(range)?),
        };
        is_valid.then_some(())
    }
}

/// Whether this literal is in the body there.
fn is_at(body: &[u8], at: usize, literal: &[u8]) -> bool {
    body.get(at..at + literal.len()) == Some(literal)
}

impl<'a> Parts<'a> {
    fn set(&mut self, part: Part, text: &'a str) -> Option<()> {
        match part {
            Part::Version => self.version = Cow::Borrowed(text),
            Part::Deployment => self.deployment = Some(Cow::Borrowed(text)),
            Part::Run => self.run = Cow::Borrowed(text),
            Part::Snapshot => self.snapshot = Cow::Borrowed(text),
            Part::Cpu => self.cpu = number(text)?,
            Part::Memory => self.memory = number(text)?,
        }
        Some(())
    }
}

/// Whether the parser reads a number here. Decimals without sign and exponent, which are the most frequent, need no parser:
/// so short, they are in its range.
fn is_number(token: &str) -> bool {
    let are_digits = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let token_bytes = token.as_bytes();
    let point = token_bytes.iter().position(|byte| *byte == b'.').unwrap_or(token.len());
    let (whole, fraction) = token_bytes.split_at(point);
    let is_decimal = are_digits(whole)
        && (whole.len() == 1 || whole[0] != b'0')
        && (fraction.is_empty() || are_digits(&fraction[1..]));
    is_decimal && token.len() <= MAX_NUMBER_BYTES || number(token).is_some()
}

/// The number as the parser reads it, so that its grammar, its range and its bits are the parser's.
fn number(token: &str) -> Option<f64> {
    from_str(number_text(token)?).ok()
}

fn number_text(token: &str) -> Option<&str> {
    (token.len() <= MAX_NUMBER_BYTES).then_some(token)
}
