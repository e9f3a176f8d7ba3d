//! Owns what a run message of Trigger.dev must be before any controller is claimed for it.
//!
//! The schema is that of `@trigger.dev/core` 4.8: a stock controller exits on a message that fails it, so a
//! message that the broker lets through must pass there. `docs/decisions/003-strict-messages.md` says why.

mod shape;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::broker::{KeyError, KeyRef, Number, check_part};
use shape::{Anything, Date, Each, Record, Shape, Text, given, words};

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
    /// Not JSON, or not of the expected shape; says where, and nothing of what stands there.
    #[error("is not what a supervisor posts: {}", whereabouts(.0))]
    Shape(#[from] serde_json::Error),
    /// A part of the key, or the run's name, is out of bounds.
    #[error("has a {0} that cannot be relayed or matched: it {1}")]
    Key(&'static str, KeyError),
}

/// The parts of a message that the broker uses.
#[derive(Debug)]
pub struct Message<'a> {
    version: Cow<'a, str>,
    deployment: Option<Cow<'a, str>>,
    cpu: Number,
    memory: Number,
    run: Cow<'a, str>,
    snapshot: Cow<'a, str>,
}

impl<'a> Message<'a> {
    /// Finds the message in a POST's body; the text returned is the message's own bytes.
    pub fn in_body(body: &'a [u8]) -> Result<(&'a str, Self), MessageError> {
        let text = text(body)?;
        if let Some(found) = sole_member(text) {
            return found;
        }
        let body: Shape<Body<'a>> = serde_json::from_str(text)?;
        let message = body.0.dequeued_message.get();
        Ok((message, Self::read(serde_json::from_str(message)?)?))
    }

    /// Reads bytes that are the message itself.
    pub fn parse(message: &'a [u8]) -> Result<Self, MessageError> {
        Self::read(serde_json::from_str(text(message)?)?)
    }

    fn read(message: Shape<DequeuedMessage<'a>>) -> Result<Self, MessageError> {
        let DequeuedMessage { background_worker, deployment, run, snapshot, .. } = message.0;
        let machine = run.0.machine.0;
        let number = |name, value| Number::new(value).map_err(|error| MessageError::Key(name, error));
        let message = Self {
            version: background_worker.0.version,
            deployment: deployment.0.friendly_id.filter(|id| !id.is_empty()),
            cpu: number("run.machine.cpu", machine.cpu)?,
            memory: number("run.machine.memory", machine.memory)?,
            run: run.0.friendly_id,
            snapshot: snapshot.0.friendly_id,
        };
        let part = |name, text| check_part(text).map(drop).map_err(|error| MessageError::Key(name, error));
        // The run's name becomes a header for a controller of the other dialect.
        part("run.friendlyId", &message.run)?;
        part("snapshot.friendlyId", &message.snapshot)?;
        if let Some(deployment) = &message.deployment {
            part("deployment.friendlyId", deployment)?;
            part("backgroundWorker.version", &message.version)?;
        }
        Ok(message)
    }

    /// The key of the pool that fits; none for a run without a deployment, such as a dev run.
    pub fn key(&self) -> Option<KeyRef<'_>> {
        let deployment = self.deployment.as_deref()?;
        Some(KeyRef { deployment, version: &self.version, cpu: self.cpu, memory: self.memory })
    }

    /// The friendly id of the run's snapshot: the same run in another state of its life has another.
    pub fn snapshot(&self) -> &str {
        &self.snapshot
    }

    /// The run's friendly id.
    pub fn run(&self) -> &str {
        &self.run
    }
}

/// The parser's own words can quote a whole field, which is a part of somebody's payload. What it expected is ours.
fn whereabouts(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let expected = said.rfind(", expected ").map_or("", |at| &said[at..]);
    let expected = expected.split(" at line ").next().unwrap_or_default();
    let missing = said.strip_prefix("missing field ").and_then(|rest| rest.split(" at line ").next());
    let what = match (missing, error.classify()) {
        (Some(field), _) => format!("missing field {field}"),
        (None, Category::Data) => format!("a value of the wrong kind{expected}"),
        (None, Category::Syntax | Category::Io) => "no JSON".to_owned(),
        (None, Category::Eof) => "JSON that ends too early".to_owned(),
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}

/// Reads a body whose only member is the message, as every stock supervisor writes it, in one pass. None if the
/// body is any different, or wrong: then the general way decides.
fn sole_member(body: &str) -> Option<Result<(&str, Message<'_>), MessageError>> {
    let space = [' ', '\t', '\r', '\n'];
    let rest = body.trim_start_matches(space).strip_prefix('{')?.trim_start_matches(space);
    let rest = rest.strip_prefix("\"dequeuedMessage\"")?.trim_start_matches(space).strip_prefix(':')?;
    let rest = rest.trim_start_matches(space);
    let mut values = serde_json::Deserializer::from_str(rest).into_iter();
    let message = values.next()?.ok()?;
    let (text, after) = rest.split_at(values.byte_offset());
    let end = after.trim_start_matches(space).strip_prefix('}')?.trim_start_matches(space);
    end.is_empty().then(|| Message::read(message).map(|message| (text, message)))
}

fn text(body: &[u8]) -> Result<&str, MessageError> {
    let text = std::str::from_utf8(body).map_err(|_| MessageError::NotUtf8)?;
    if shape::depth_exceeds(text, MAX_DEPTH) { Err(MessageError::TooDeep) } else { Ok(text) }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, rename = "dequeuedMessage")]
    dequeued_message: &'a RawValue,
}

words!(VersionOne: "1");
words!(ExecutionStatus: "RUN_CREATED", "QUEUED", "QUEUED_EXECUTING", "PENDING_EXECUTING", "EXECUTING",
    "EXECUTING_WITH_WAITPOINTS", "SUSPENDED", "PENDING_CANCEL", "FINISHED", "DELAYED");
words!(WaitpointType: "RUN", "DATETIME", "MANUAL", "BATCH");
words!(CheckpointType: "DOCKER", "KUBERNETES", "COMPUTE");
words!(MachineName: "micro", "small-1x", "small-2x", "medium-1x", "medium-2x", "large-1x", "large-2x");
words!(EnvironmentType: "PRODUCTION", "STAGING", "DEVELOPMENT", "PREVIEW");

/// A field that is absent or of its type, never `null`.
type Given<T> = Option<T>;
/// A field that is absent, `null` or of its type.
type Nullish<T> = Option<T>;

macro_rules! shapes {
    ($($name:ident $(<$life:lifetime>)? { $($(#[$meta:meta])* $field:ident: $kind:ty,)* })*) => {$(
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[allow(dead_code, reason = "most fields are there to be checked, not read")]
        struct $name $(<$life>)? { $($(#[$meta])* $field: $kind,)* }
    )*};
}

shapes! {
    DequeuedMessage<'a> {
        version: VersionOne,
        #[serde(borrow)]
        snapshot: Shape<Snapshot<'a>>,
        dequeued_at: Date,
        #[serde(default, deserialize_with = "given")]
        worker_queue_length: Given<f64>,
        #[serde(default, deserialize_with = "given")]
        image: Given<Text>,
        #[serde(default, deserialize_with = "given")]
        template_key: Given<Text>,
        #[serde(default, deserialize_with = "given")]
        checkpoint: Given<Shape<Checkpoint>>,
        completed_waitpoints: Each<Shape<Waitpoint>>,
        #[serde(borrow)]
        background_worker: Shape<BackgroundWorker<'a>>,
        #[serde(borrow)]
        deployment: Shape<Deployment<'a>>,
        #[serde(borrow)]
        run: Shape<TheRun<'a>>,
        environment: Shape<Environment>,
        organization: Shape<Organization>,
        project: Shape<Project>,
        #[serde(default, deserialize_with = "given")]
        placement_tags: Given<Each<Shape<PlacementTag>>>,
    }
    Snapshot<'a> {
        id: Text,
        #[serde(borrow)]
        friendly_id: Cow<'a, str>,
        execution_status: ExecutionStatus,
        description: Text,
        created_at: Date,
    }
    Checkpoint {
        id: Text,
        r#type: CheckpointType,
        location: Text,
        image_ref: Nullish<Text>,
        reason: Nullish<Text>,
    }
    Waitpoint {
        id: Text,
        #[serde(default, deserialize_with = "given")]
        index: Given<f64>,
        friendly_id: Text,
        r#type: WaitpointType,
        completed_at: Date,
        #[serde(default, deserialize_with = "given")]
        idempotency_key: Given<Text>,
        #[serde(default, deserialize_with = "given")]
        completed_by_task_run: Given<Shape<CompletedByTaskRun>>,
        #[serde(default, deserialize_with = "given")]
        completed_after: Given<Date>,
        #[serde(default, deserialize_with = "given")]
        completed_by_batch: Given<Shape<Named>>,
        #[serde(default, deserialize_with = "given")]
        output: Given<Text>,
        #[serde(default, deserialize_with = "given")]
        output_type: Given<Text>,
        output_is_error: bool,
    }
    CompletedByTaskRun {
        id: Text,
        friendly_id: Text,
        #[serde(default, deserialize_with = "given")]
        batch: Given<Shape<Named>>,
    }
    Named {
        id: Text,
        friendly_id: Text,
    }
    BackgroundWorker<'a> {
        id: Text,
        friendly_id: Text,
        #[serde(borrow)]
        version: Cow<'a, str>,
        #[serde(default, deserialize_with = "given")]
        runtime: Given<Text>,
    }
    Deployment<'a> {
        #[serde(default, deserialize_with = "given")]
        id: Given<Text>,
        #[serde(borrow, default, deserialize_with = "shape::given_text")]
        friendly_id: Given<Cow<'a, str>>,
        #[serde(default, deserialize_with = "given")]
        image_platform: Given<Text>,
    }
    TheRun<'a> {
        id: Text,
        #[serde(borrow)]
        friendly_id: Cow<'a, str>,
        is_test: bool,
        #[serde(default)]
        is_replay: bool,
        machine: Shape<Machine>,
        attempt_number: f64,
        master_queue: Text,
        trace_context: Record,
        #[serde(default, deserialize_with = "given")]
        annotations: Given<Shape<Annotations>>,
    }
    Machine {
        name: MachineName,
        cpu: f64,
        memory: f64,
        cents_per_ms: f64,
    }
    Annotations {
        trigger_source: Text,
        trigger_action: Text,
        root_trigger_source: Text,
        #[serde(default, deserialize_with = "given")]
        root_schedule_id: Given<Text>,
        #[serde(default, deserialize_with = "given")]
        task_kind: Given<Text>,
        #[serde(default, deserialize_with = "given")]
        external_deployment_id: Given<Text>,
        #[serde(default, deserialize_with = "given")]
        webhook_delivery_id: Given<Text>,
        #[serde(default, deserialize_with = "given")]
        webhook_endpoint_id: Given<Text>,
        #[serde(default)]
        worker_cell: Anything,
        #[serde(default)]
        worker_lane: Anything,
    }
    Environment {
        id: Text,
        r#type: EnvironmentType,
    }
    Organization {
        id: Text,
        #[serde(default, deserialize_with = "given")]
        has_private_link: Given<bool>,
    }
    Project {
        id: Text,
    }
    PlacementTag {
        key: Text,
        #[serde(default, deserialize_with = "given")]
        values: Given<Each<Text>>,
    }
}
