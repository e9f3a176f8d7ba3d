//! Owns the naive model of JSON (RFC 8259): a tree with every member, also repeated ones, and the range of each value.

use std::ops::Range;

/// A value, and its range in the text.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub at: Range<usize>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    /// None if it has half of a surrogate pair, which is valid JSON but not valid Unicode.
    Text(Option<String>),
    List(Vec<Node>),
    /// In their order. A name is `None` for the same reason as a text.
    Object(Vec<(Option<String>, Node)>),
}

/// The deepest nesting that the model accepts.
const DEEPEST: usize = 300;

/// None if the text is not one JSON value.
pub fn parse(text: &str) -> Option<Node> {
    let mut reader = Reader { text, at: 0 };
    let node = reader.value(DEEPEST)?;
    reader.space();
    (reader.at == text.len()).then_some(node)
}

impl Node {
    /// The members of this name.
    pub fn all<'a>(&'a self, name: &str) -> Vec<&'a Self> {
        let Value::Object(members) = &self.value else { return Vec::new() };
        members.iter().filter(|(this, _)| this.as_deref() == Some(name)).map(|(_, node)| node).collect()
    }

    /// The member of this name, if there is exactly one.
    pub fn only(&self, name: &str) -> Option<&Self> {
        match self.all(name)[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { text.as_deref() } else { None }
    }

    pub fn number(&self) -> Option<f64> {
        if let Value::Number(number) = self.value { Some(number) } else { None }
    }

    /// How deep objects and lists nest.
    pub fn depth(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Value::Object(members) => 1 + members.iter().map(|(_, node)| node.depth()).max().unwrap_or(0),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => 0,
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &[u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn space(&mut self) {
        while matches!(self.rest().first(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn takes(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token.as_bytes());
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn value(&mut self, depth: usize) -> Option<Node> {
        self.space();
        let begin = self.at;
        let value = match self.rest().first()? {
            b'n' => self.takes("null").then_some(Value::Null)?,
            b't' => self.takes("true").then_some(Value::Bool(true))?,
            b'f' => self.takes("false").then_some(Value::Bool(false))?,
            b'"' => Value::Text(self.string()?),
            b'[' => Value::List(self.items("[", "]", depth, |reader, depth| reader.value(depth))?),
            b'{' => Value::Object(self.items("{", "}", depth, Self::member)?),
            _ => Value::Number(self.number()?),
        };
        Some(Node { at: begin..self.at, value })
    }

    fn items<T>(
        &mut self,
        open: &str,
        close: &str,
        depth: usize,
        item: impl Fn(&mut Self, usize) -> Option<T>,
    ) -> Option<Vec<T>> {
        let depth = depth.checked_sub(1)?;
        let mut items = Vec::new();
        self.takes(open);
        self.space();
        if self.takes(close) {
            return Some(items);
        }
        loop {
            items.push(item(self, depth)?);
            self.space();
            if self.takes(close) {
                return Some(items);
            }
            self.takes(",").then_some(())?;
        }
    }

    fn member(&mut self, depth: usize) -> Option<(Option<String>, Node)> {
        self.space();
        let name = self.string()?;
        self.space();
        self.takes(":").then_some(())?;
        Some((name, self.value(depth)?))
    }

    /// The outer `None` if it is no JSON string; the inner one if it is a JSON string that is not valid Unicode.
    fn string(&mut self) -> Option<Option<String>> {
        self.takes("\"").then_some(())?;
        let mut units = Vec::new();
        loop {
            let next = self.text[self.at..].chars().next()?;
            self.at += next.len_utf8();
            match next {
                '"' => return Some(String::from_utf16(&units).ok()),
                '\\' => units.push(self.escaped()?),
                '\0'..='\x1f' => return None,
                other => units.extend_from_slice(other.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn escaped(&mut self) -> Option<u16> {
        let kind = *self.rest().first()?;
        self.at += 1;
        Some(match kind {
            b'"' | b'\\' | b'/' => u16::from(kind),
            b'b' => 8,
            b'f' => 12,
            b'n' => 10,
            b'r' => 13,
            b't' => 9,
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4)?;
                let digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(digits)?;
                self.at += 4;
                u16::from_str_radix(digits, 16).ok()?
            }
            _ => return None,
        })
    }

    fn digits(&mut self) -> Option<()> {
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        (count > 0).then_some(())
    }

    fn number(&mut self) -> Option<f64> {
        let begin = self.at;
        self.takes("-");
        if !self.takes("0") {
            self.digits()?;
        }
        if self.takes(".") {
            self.digits()?;
        }
        if self.takes("e") || self.takes("E") {
            let _ = self.takes("+") || self.takes("-");
            self.digits()?;
        }
        self.text[begin..self.at].parse().ok()
    }
}
