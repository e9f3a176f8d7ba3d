//! Owns how a template is learned from an accepted body: the bytes outside its leaves, and what the schema says of each leaf.

use std::ops::Range;

use super::kind::{Field, Kind, Part};
use super::scan::{number_bytes, plain_text_bytes, special_bytes};
use super::template::{Leaf, MAX_LEAVES, MAX_LITERAL_BYTES, Step, Template};
use crate::config::MessageCheck;

/// A name that is not in the schema is kept if it looks like one, up to this length.
const MAX_NAME_BYTES: usize = 48;

/// Makes a template of a body that the parser has accepted, in a template whose memory is used again. `message` is the
/// message's range in the body, whose other bytes are in common to all bodies of the shape. None if there cannot be a
/// template, or it would be too large.
pub(super) fn learn(
    body: &str,
    message: Range<usize>,
    schema: Kind,
    check: MessageCheck,
    template: &mut Template,
) -> Option<()> {
    template.literals.clear();
    template.steps.clear();
    template.before = message.start.try_into().ok()?;
    template.after = (body.len() - message.end).try_into().ok()?;
    let mut learner = Learner { body: body.as_bytes(), at: message.start, literal: 0, check, template };
    learner.value(schema, None)?;
    (learner.at == message.end).then_some(())?;
    learner.keep_literal(body.len())?;
    template.special_bytes = special_bytes(&template.literals);
    Some(())
}

/// Walks through a valid body once.
struct Learner<'a> {
    body: &'a [u8],
    at: usize,
    /// Where the bytes since the last leaf begin.
    literal: usize,
    check: MessageCheck,
    template: &'a mut Template,
}

impl Learner<'_> {
    fn value(&mut self, kind: Kind, part: Option<Part>) -> Option<()> {
        match (self.next()?, kind) {
            (b'{', Kind::Object(fields)) => self.object(fields),
            (b'{', Kind::Any) => self.object(&[]),
            (b'[', Kind::Array(kind)) => self.array(*kind),
            (b'[', Kind::Any) => self.array(Kind::Any),
            (b'"', _) => self.text(kind, part),
            (b't' | b'f' | b'n', _) => {
                self.at += self.body[self.at..].iter().take_while(|byte| byte.is_ascii_lowercase()).count();
                Some(())
            }
            (_, _) => self.number(kind, part),
        }
    }

    fn object(&mut self, fields: &[Field]) -> Option<()> {
        self.at += 1;
        if self.takes(b'}') {
            return Some(());
        }
        // Clients write most fields in the order of the schema.
        let mut next = 0;
        loop {
            let key = self.plain_text()?;
            let name = &self.body[key];
            let (before, after) = fields.split_at(next);
            let place = after.iter().chain(before).position(|field| field.is_named(name));
            let field = place.map(|place| (next + place) % fields.len()).inspect(|at| next = at + 1);
            let field = field.map(|at| &fields[at]);
            // A name that the schema does not know could be anything, even a secret.
            field.is_some().then_some(()).or_else(|| looks_like_a_name(name).then_some(()))?;
            self.takes(b':').then_some(())?;
            self.value(field.map_or(Kind::Any, |field| field.kind), field.and_then(|field| field.part))?;
            if self.takes(b'}') {
                return Some(());
            }
            self.takes(b',').then_some(())?;
        }
    }

    fn array(&mut self, kind: Kind) -> Option<()> {
        self.at += 1;
        if self.takes(b']') {
            return Some(());
        }
        loop {
            self.value(kind, None)?;
            if self.takes(b']') {
                return Some(());
            }
            self.takes(b',').then_some(())?;
        }
    }

    fn text(&mut self, kind: Kind, part: Option<Part>) -> Option<()> {
        let text = self.plain_text()?;
        let leaf = match (kind, part, self.check) {
            (Kind::Literal, ..) => return Some(()),
            (Kind::Text, Some(part), _) => Leaf::Part(part),
            (Kind::Text | Kind::Any, None, _) | (Kind::Word(_), _, MessageCheck::Shape) => Leaf::Text,
            (Kind::Word(words), _, MessageCheck::Strict) => Leaf::Word(words),
            (Kind::Date, ..) => Leaf::DateText,
            (Kind::Any | Kind::Number | Kind::Array(_) | Kind::Object(_), ..) => return None,
        };
        self.leaf(text, leaf)
    }

    fn number(&mut self, kind: Kind, part: Option<Part>) -> Option<()> {
        let token = self.at..self.at + number_bytes(&self.body[self.at..]);
        self.at = token.end;
        let leaf = match (kind, part) {
            (Kind::Number, Some(part)) => Leaf::Part(part),
            (Kind::Number | Kind::Any, None) => Leaf::Number,
            (Kind::Date, _) => Leaf::DateMillis,
            (
                Kind::Any | Kind::Literal | Kind::Text | Kind::Word(_) | Kind::Array(_) | Kind::Object(_),
                _,
            ) => {
                return None;
            }
        };
        (!token.is_empty()).then_some(())?;
        self.leaf(token, leaf)
    }

    fn leaf(&mut self, range: Range<usize>, leaf: Leaf) -> Option<()> {
        self.keep_literal(range.start)?;
        self.literal = range.end;
        (self.template.steps.len() < MAX_LEAVES).then_some(())?;
        self.template.steps.push(Step::new(leaf));
        Some(())
    }

    /// Keeps the bytes between the last leaf and this place.
    fn keep_literal(&mut self, end: usize) -> Option<()> {
        let literal = self.body.get(self.literal..end)?;
        (self.template.literals.len() + literal.len() <= MAX_LITERAL_BYTES).then_some(())?;
        self.template.literals.extend_from_slice(literal);
        let bytes = literal.len().try_into().ok()?;
        match self.template.steps.last_mut() {
            Some(step) => step.literal_bytes = bytes,
            None => self.template.first_bytes = bytes,
        }
        Some(())
    }

    /// The next byte after white space.
    fn next(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.body.get(self.at) {
            self.at += 1;
        }
        self.body.get(self.at).copied()
    }

    fn takes(&mut self, token: u8) -> bool {
        let found = self.next() == Some(token);
        self.at += usize::from(found);
        found
    }

    /// The range of a text without escapes, inside its quotes.
    fn plain_text(&mut self) -> Option<Range<usize>> {
        self.takes(b'"').then_some(())?;
        let begin = self.at;
        let end = begin + plain_text_bytes(self.body.get(begin..)?);
        self.at = end;
        (self.body.get(end) == Some(&b'"')).then_some(())?;
        self.at += 1;
        Some(begin..end)
    }
}

fn looks_like_a_name(key: &[u8]) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':');
    key.len() <= MAX_NAME_BYTES && key.iter().all(is_of_name)
}
