//! Owns the schema of a message, in one table: that of `@trigger.dev/core` 4.8.

use std::borrow::Cow;

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::kind::{Described, Field, Kind, Part};
use super::shape::{
    self, AnyObject, Anything, ArrayOf, Date, Object, Text, deserialize, non_null, string_enum,
};
use crate::metrics::MessageField;

/// The schema's own version. It is not an enumeration: another version would be another schema.
#[derive(Debug)]
pub(super) struct VersionOne;

impl<'de> Deserialize<'de> for VersionOne {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        shape::literal("1", deserializer).map(|()| Self)
    }
}

impl Described for VersionOne {
    const KIND: Kind = Kind::Literal;
}

string_enum!(ExecutionStatus: "RUN_CREATED", "QUEUED", "QUEUED_EXECUTING", "PENDING_EXECUTING", "EXECUTING",
    "EXECUTING_WITH_WAITPOINTS", "SUSPENDED", "PENDING_CANCEL", "FINISHED", "DELAYED");
string_enum!(WaitpointType: "RUN", "DATETIME", "MANUAL", "BATCH");
string_enum!(CheckpointType: "DOCKER", "KUBERNETES", "COMPUTE");
string_enum!(MachineName: "micro", "small-1x", "small-2x", "medium-1x", "medium-2x", "large-1x", "large-2x");
string_enum!(EnvironmentType: "PRODUCTION", "STAGING", "DEVELOPMENT", "PREVIEW");

/// The waitpoints that a run has waited for.
#[derive(Debug)]
pub(super) struct Waitpoints {
    /// Whether all of their types are in the schema.
    are_known: bool,
}

deserialize! {
    Waitpoints: deserialize_seq as "an array" {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Waitpoints, A::Error> {
            let mut are_known = true;
            while let Some(Object(waitpoint)) = seq.next_element::<Object<Waitpoint>>()? {
                are_known &= waitpoint.r#type.is_known;
            }
            Ok(Waitpoints { are_known })
        }
    }
}

impl Described for Waitpoints {
    const KIND: Kind = Kind::Array(&Waitpoint::KIND);
}

impl DequeuedMessage<'_> {
    /// The first enumeration whose value is not in the schema, and the values that are.
    pub(super) fn unknown_value(&self) -> Option<(MessageField, &'static [&'static str])> {
        let checkpoint = self.checkpoint.as_ref().is_none_or(|checkpoint| checkpoint.0.r#type.is_known);
        let machine = self.run.0.machine.0.name.is_known;
        let enumerations = [
            (
                self.snapshot.0.execution_status.is_known,
                MessageField::ExecutionStatus,
                ExecutionStatus::VALUES,
            ),
            (checkpoint, MessageField::CheckpointType, CheckpointType::VALUES),
            (self.completed_waitpoints.are_known, MessageField::WaitpointType, WaitpointType::VALUES),
            (machine, MessageField::MachineName, MachineName::VALUES),
            (self.environment.0.r#type.is_known, MessageField::EnvironmentType, EnvironmentType::VALUES),
        ];
        enumerations.into_iter().find(|(is_known, ..)| !is_known).map(|(_, field, values)| (field, values))
    }
}

/// A field that is absent or of its type, never `null`.
type NonNull<T> = Option<T>;
/// A field that is absent, `null` or of its type.
type Nullish<T> = Option<T>;

// A part that the broker uses has its name behind the type.
macro_rules! shapes {
    ($($name:ident $(<$life:lifetime>)? {
        $($(#[$meta:meta])* $field:ident: $kind:ty $(=> $part:ident)?,)*
    })*) => {$(
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[allow(dead_code, reason = "most fields are checked, and not read")]
        pub(super) struct $name $(<$life>)? { $($(#[$meta])* pub(super) $field: $kind,)* }

        impl $(<$life>)? Described for $name $(<$life>)? {
            const KIND: Kind = Kind::Object(&[$(Field {
                name: stringify!($field),
                kind: <$kind as Described>::KIND,
                part: shapes!(@part $($part)?),
            },)*]);
        }
    )*

        /// What serde and the description know of each object.
        #[cfg(test)]
        pub(super) fn objects() -> Vec<(Vec<String>, Kind)> {
            vec![$((shape::names_of::<$name>(), $name::KIND)),*]
        }
    };
    (@part) => { None };
    (@part $part:ident) => { Some(Part::$part) };
}

shapes! {
    DequeuedMessage<'a> {
        version: VersionOne,
        #[serde(borrow)]
        snapshot: Object<Snapshot<'a>>,
        dequeued_at: Date,
        #[serde(default, deserialize_with = "non_null")]
        worker_queue_length: NonNull<f64>,
        #[serde(default, deserialize_with = "non_null")]
        image: NonNull<Text>,
        #[serde(default, deserialize_with = "non_null")]
        template_key: NonNull<Text>,
        #[serde(default, deserialize_with = "non_null")]
        checkpoint: NonNull<Object<Checkpoint>>,
        completed_waitpoints: Waitpoints,
        #[serde(borrow)]
        background_worker: Object<BackgroundWorker<'a>>,
        #[serde(borrow)]
        deployment: Object<Deployment<'a>>,
        #[serde(borrow)]
        run: Object<RunFields<'a>>,
        environment: Object<Environment>,
        organization: Object<Organization>,
        project: Object<Project>,
        #[serde(default, deserialize_with = "non_null")]
        placement_tags: NonNull<ArrayOf<Object<PlacementTag>>>,
    }
    Snapshot<'a> {
        id: Text,
        #[serde(borrow)]
        friendly_id: Cow<'a, str> => Snapshot,
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
        #[serde(default, deserialize_with = "non_null")]
        index: NonNull<f64>,
        friendly_id: Text,
        r#type: WaitpointType,
        completed_at: Date,
        #[serde(default, deserialize_with = "non_null")]
        idempotency_key: NonNull<Text>,
        #[serde(default, deserialize_with = "non_null")]
        completed_by_task_run: NonNull<Object<CompletedByTaskRun>>,
        #[serde(default, deserialize_with = "non_null")]
        completed_after: NonNull<Date>,
        #[serde(default, deserialize_with = "non_null")]
        completed_by_batch: NonNull<Object<BatchRef>>,
        #[serde(default, deserialize_with = "non_null")]
        output: NonNull<Text>,
        #[serde(default, deserialize_with = "non_null")]
        output_type: NonNull<Text>,
        output_is_error: bool,
    }
    CompletedByTaskRun {
        id: Text,
        friendly_id: Text,
        #[serde(default, deserialize_with = "non_null")]
        batch: NonNull<Object<BatchRef>>,
    }
    BatchRef {
        id: Text,
        friendly_id: Text,
    }
    BackgroundWorker<'a> {
        id: Text,
        friendly_id: Text,
        #[serde(borrow)]
        version: Cow<'a, str> => Version,
        #[serde(default, deserialize_with = "non_null")]
        runtime: NonNull<Text>,
    }
    Deployment<'a> {
        #[serde(default, deserialize_with = "non_null")]
        id: NonNull<Text>,
        #[serde(borrow, default, deserialize_with = "shape::non_null_text")]
        friendly_id: NonNull<Cow<'a, str>> => Deployment,
        #[serde(default, deserialize_with = "non_null")]
        image_platform: NonNull<Text>,
    }
    RunFields<'a> {
        id: Text,
        #[serde(borrow)]
        friendly_id: Cow<'a, str> => Run,
        is_test: bool,
        #[serde(default)]
        is_replay: bool,
        machine: Object<Machine>,
        attempt_number: f64,
        master_queue: Text,
        trace_context: AnyObject,
        #[serde(default, deserialize_with = "non_null")]
        annotations: NonNull<Object<Annotations>>,
    }
    Machine {
        name: MachineName,
        cpu: f64 => Cpu,
        memory: f64 => Memory,
        cents_per_ms: f64,
    }
    Annotations {
        trigger_source: Text,
        trigger_action: Text,
        root_trigger_source: Text,
        #[serde(default, deserialize_with = "non_null")]
        root_schedule_id: NonNull<Text>,
        #[serde(default, deserialize_with = "non_null")]
        task_kind: NonNull<Text>,
        #[serde(default, deserialize_with = "non_null")]
        external_deployment_id: NonNull<Text>,
        #[serde(default, deserialize_with = "non_null")]
        webhook_delivery_id: NonNull<Text>,
        #[serde(default, deserialize_with = "non_null")]
        webhook_endpoint_id: NonNull<Text>,
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
        #[serde(default, deserialize_with = "non_null")]
        has_private_link: NonNull<bool>,
    }
    Project {
        id: Text,
    }
    PlacementTag {
        key: Text,
        #[serde(default, deserialize_with = "non_null")]
        values: NonNull<ArrayOf<Text>>,
    }
}
