//! Owns the check of a run message of Trigger.dev before a controller is claimed for it.
//!
//! The schema is that of `@trigger.dev/core` 4.8. A stock controller exits on a message that fails it, so the broker
//! refuses such a message first. `docs/decisions/003-strict-messages.md` says why.

mod kind;
mod learner;
mod scan;
mod schema;
mod shape;
mod template;
#[cfg(test)]
mod template_tests;
mod templates;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;
use serde_path_to_error::Segment;
use thiserror::Error;

use crate::broker::{KeyError, KeyRef, Number, check_part};
use crate::config::MessageCheck;
use crate::metrics::MessageField;
use kind::{Described, Parts};
use schema::DequeuedMessage;
use shape::Object;

/// The deepest accepted nesting of a body.
const MAX_DEPTH: usize = 128;

/// Why a body or a message was refused.
#[derive(Debug, Error)]
pub enum MessageError {
    /// Not valid UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// Nested deeper than 128 levels.
    #[error("is nested deeper than 128 levels")]
    TooDeep,
    /// Not JSON, or not of the expected shape. The text says where, and quotes nothing.
    #[error("is not what a supervisor posts: {}{}", prefix(*.0), redacted_error(.1))]
    Shape(MessageField, serde_json::Error),
    /// An enumeration has a value that is not in the schema. Only a strict check refuses it.
    #[error(
        "is not what a supervisor posts: {} is none of {}; if the platform is newer than this broker, update it, or accept such \
         values with --message-check shape",
        .0.text(), .1.join(", ")
    )]
    UnknownValue(MessageField, &'static [&'static str]),
    /// A part of the key, or the run's name, is out of bounds.
    #[error("has a {} that cannot be relayed or matched: it {}", .0.text(), .1)]
    Key(MessageField, KeyError),
}

impl MessageError {
    /// The field that was refused.
    pub fn field(&self) -> MessageField {
        match self {
            Self::NotUtf8 | Self::TooDeep => MessageField::Body,
            Self::Shape(field, _) | Self::UnknownValue(field, _) | Self::Key(field, _) => *field,
        }
    }
}

/// The parts of a message that the broker uses.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub(super) version: Cow<'a, str>,
    pub(super) deployment: Option<Cow<'a, str>>,
    pub(super) cpu: Number,
    pub(super) memory: Number,
    pub(super) run: Cow<'a, str>,
    snapshot: Cow<'a, str>,
}

impl<'a> Message<'a> {
    /// Finds the message in a POST's body, and returns its text as it was sent.
    pub fn in_body(body: &'a [u8], check: MessageCheck) -> Result<(&'a str, Self), MessageError> {
        let text = utf8(body)?;
        if let Some(found) = Self::find_by_template(text, check) {
            return Ok(found);
        }
        let (message, parsed) = Self::parse_body(text, check)?;
        parsed.learn_from(text, message, check);
        Ok((message, parsed))
    }

    /// The same for a body that differs from earlier ones only in its values; none for any other, which may be valid, too.
    pub fn in_known_body(body: &'a [u8], check: MessageCheck) -> Option<(&'a str, Self)> {
        Self::find_by_template(utf8(body).ok()?, check)
    }

    /// The same by the parser alone, as if there had been no body before.
    pub fn in_new_body(body: &'a [u8], check: MessageCheck) -> Result<(&'a str, Self), MessageError> {
        Self::parse_body(utf8(body)?, check)
    }

    fn find_by_template(body: &'a str, check: MessageCheck) -> Option<(&'a str, Self)> {
        let (message, parts) = templates::read(body, check)?;
        // A template of messages alone is for `parse`: as a body, such a text has no message in it.
        (message.len() < body.len()).then_some(())?;
        Some((message, Self::new(parts).ok()?))
    }

    fn parse_body(text: &'a str, check: MessageCheck) -> Result<(&'a str, Self), MessageError> {
        check_depth(text)?;
        if let Some(parsed) = parse_sole_member(text, check) {
            return parsed;
        }
        let body: Object<Body<'a>> =
            serde_json::from_str(text).map_err(|error| MessageError::Shape(MessageField::Body, error))?;
        let message = body.0.dequeued_message.get();
        let parsed = serde_json::from_str(message)
            .map_err(|error| MessageError::Shape(find_field(message, &error), error))?;
        Ok((message, Self::validate(parsed, check)?))
    }

    /// Lets a template be learned, unless the body has more members than the message.
    fn learn_from(&self, body: &str, message: &str, check: MessageCheck) {
        if let Some(begin) = sole_member(body).map(|rest| body.len() - rest.len())
            && is_end_of_body(&body[begin + message.len()..])
        {
            let range = begin..begin + message.len();
            templates::learn(body, range, DequeuedMessage::KIND, check, |text, parts| {
                text.as_bytes().as_ptr_range() == message.as_bytes().as_ptr_range()
                    && Message::new(parts).is_ok_and(|learned| learned == *self)
            });
        }
    }

    /// Parses bytes that are the message itself; none if they are anything else.
    pub fn parse(message: &'a [u8], check: MessageCheck) -> Option<Self> {
        let text = utf8(message).ok()?;
        // A template of bodies finds a message inside the text, which is no message itself.
        let is_whole = |found: &str| found.len() == text.len();
        if let Some((_, parts)) = templates::read(text, check).filter(|(found, _)| is_whole(found)) {
            return Self::new(parts).ok();
        }
        check_depth(text).ok()?;
        let parsed = Self::validate(serde_json::from_str(text).ok()?, check).ok()?;
        templates::learn(text, 0..text.len(), DequeuedMessage::KIND, check, |found, parts| {
            is_whole(found) && Message::new(parts).is_ok_and(|learned| learned == parsed)
        });
        Some(parsed)
    }

    fn validate(message: Object<DequeuedMessage<'a>>, check: MessageCheck) -> Result<Self, MessageError> {
        if let (MessageCheck::Strict, Some((field, values))) = (check, message.0.unknown_value()) {
            return Err(MessageError::UnknownValue(field, values));
        }
        let DequeuedMessage { background_worker, deployment, run, snapshot, .. } = message.0;
        let machine = run.0.machine.0;
        Self::new(Parts {
            version: background_worker.0.version,
            deployment: deployment.0.friendly_id,
            run: run.0.friendly_id,
            snapshot: snapshot.0.friendly_id,
            cpu: machine.cpu,
            memory: machine.memory,
        })
    }

    fn new(parts: Parts<'a>) -> Result<Self, MessageError> {
        let number = |field, value| Number::new(value).map_err(|error| MessageError::Key(field, error));
        let message = Self {
            version: parts.version,
            deployment: parts.deployment.filter(|id| !id.is_empty()),
            cpu: number(MessageField::Cpu, parts.cpu)?,
            memory: number(MessageField::Memory, parts.memory)?,
            run: parts.run,
            snapshot: parts.snapshot,
        };
        let part = |field, text| check_part(text).map(drop).map_err(|error| MessageError::Key(field, error));
        // A native controller gets the run's name in a header.
        part(MessageField::RunId, &message.run)?;
        part(MessageField::SnapshotId, &message.snapshot)?;
        if let Some(deployment) = &message.deployment {
            part(MessageField::DeploymentId, deployment)?;
            part(MessageField::WorkerVersion, &message.version)?;
        }
        Ok(message)
    }

    /// The key of the pool that fits; none for a run without a deployment, such as a dev run.
    pub fn key(&self) -> Option<KeyRef<'_>> {
        let deployment = self.deployment.as_deref()?;
        Some(KeyRef { deployment, version: &self.version, cpu: self.cpu, memory: self.memory })
    }

    /// The friendly id of the run's snapshot, which is another one for the same run in another state.
    pub fn snapshot(&self) -> &str {
        &self.snapshot
    }

    /// The run's friendly id.
    pub fn run(&self) -> &str {
        &self.run
    }
}

/// The field's name, unless the fault is in the message as a whole.
fn prefix(field: MessageField) -> String {
    if matches!(field, MessageField::Body | MessageField::Other) {
        String::new()
    } else {
        format!("{}: ", field.text())
    }
}

/// The parser's error without quotes: it can contain a whole field of the payload. What the parser expected is our own text.
fn redacted_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let expected = text.rfind(", expected ").map_or("", |at| &text[at..]);
    let expected = expected.split(" at line ").next().unwrap_or_default();
    let missing = missing_field(&text);
    let what = match (missing, error.classify()) {
        (Some(field), _) => format!("missing field `{field}`"),
        (None, Category::Data) => format!("a value of the wrong kind{expected}"),
        (None, Category::Syntax | Category::Io) => "no JSON".to_owned(),
        (None, Category::Eof) => "JSON that ends too early".to_owned(),
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}

/// The field at which a message was refused, found by parsing it again: only a refused message pays for that.
fn find_field(message: &str, error: &serde_json::Error) -> MessageField {
    if error.classify() != Category::Data {
        return MessageField::Body;
    }
    let reader = &mut serde_json::Deserializer::from_str(message);
    let Err(found) = serde_path_to_error::deserialize::<_, Object<DequeuedMessage<'_>>>(reader) else {
        return MessageField::Other;
    };
    let names = found
        .path()
        .iter()
        .filter_map(|segment| if let Segment::Map { key } = segment { Some(key.as_str()) } else { None });
    let mut path = names.collect::<Vec<_>>().join(".");
    if let Some(missing) = missing_field(&found.inner().to_string()) {
        path = if path.is_empty() { missing.to_owned() } else { format!("{path}.{missing}") };
    }
    MessageField::at(&path)
}

fn missing_field(error: &str) -> Option<&str> {
    error.strip_prefix("missing field `")?.split('`').next()
}

/// What JSON allows between tokens.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// The rest of a body whose first member is the message, from there on.
fn sole_member(body: &str) -> Option<&str> {
    let rest = body.trim_start_matches(SPACE).strip_prefix('{')?.trim_start_matches(SPACE);
    let rest = rest.strip_prefix("\"dequeuedMessage\"")?.trim_start_matches(SPACE).strip_prefix(':')?;
    Some(rest.trim_start_matches(SPACE))
}

/// Whether nothing else is in the body after its message.
fn is_end_of_body(rest: &str) -> bool {
    rest.trim_start_matches(SPACE)
        .strip_prefix('}')
        .is_some_and(|end| end.trim_start_matches(SPACE).is_empty())
}

/// Parses a body whose only member is the message, as every stock supervisor writes it, in one pass. None for any other body,
/// valid or not, which the general parser handles.
fn parse_sole_member(body: &str, check: MessageCheck) -> Option<Result<(&str, Message<'_>), MessageError>> {
    let rest = sole_member(body)?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter();
    let message = values.next()?.ok()?;
    let (text, after) = rest.split_at(values.byte_offset());
    is_end_of_body(after).then(|| Message::validate(message, check).map(|message| (text, message)))
}

fn utf8(body: &[u8]) -> Result<&str, MessageError> {
    std::str::from_utf8(body).map_err(|_| MessageError::NotUtf8)
}

fn check_depth(text: &str) -> Result<(), MessageError> {
    if scan::depth_exceeds(text, MAX_DEPTH) { Err(MessageError::TooDeep) } else { Ok(()) }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, rename = "dequeuedMessage")]
    dequeued_message: &'a RawValue,
}
