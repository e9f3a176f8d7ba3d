//! Owns the schema: a message as `@trigger.dev/core` 4.8 reads it, one table.

use std::borrow::Cow;

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::shape::{self, Anything, ArrayOf, Date, Object, Record, Text, deserialize, non_null, string_enum};
use crate::metrics::MessageField;

/// The schema's own version. It is no word of an enumeration: another version would be another schema.
#[derive(Debug)]
pub(super) struct VersionOne;

impl<'de> Deserialize<'de> for VersionOne {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        shape::literal("1", deserializer).map(|()| Self)
    }
}

string_enum!(ExecutionStatus: "RUN_CREATED", "QUEUED", "QUEUED_EXECUTING", "PENDING_EXECUTING", "EXECUTING",
    "EXECUTING_WITH_WAITPOINTS", "SUSPENDED", "PENDING_CANCEL", "FINISHED", "DELAYED");
string_enum!(WaitpointType: "RUN", "DATETIME", "MANUAL", "BATCH");
string_enum!(CheckpointType: "DOCKER", "KUBERNETES", "COMPUTE");
string_enum!(MachineName: "micro", "small-1x", "small-2x", "medium-1x", "medium-2x", "large-1x", "large-2x");
string_enum!(EnvironmentType: "PRODUCTION", "STAGING", "DEVELOPMENT", "PREVIEW");

/// The waitpoints that a run waited for.
#[derive(Debug)]
pub(super) struct Waitpoints {
    /// Whether the schema has the type of each.
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

impl DequeuedMessage<'_> {
    /// The first enumeration whose word is not the schema's, and the words that it has there.
    pub(super) fn unknown_word(&self) -> Option<(MessageField, &'static [&'static str])> {
        let checkpoint = self.checkpoint.as_ref().is_none_or(|checkpoint| checkpoint.0.r#type.is_known);
        let machine = self.run.0.machine.0.name.is_known;
        let words = [
            (
                self.snapshot.0.execution_status.is_known,
                MessageField::ExecutionStatus,
                ExecutionStatus::WORDS,
            ),
            (checkpoint, MessageField::CheckpointType, CheckpointType::WORDS),
            (self.completed_waitpoints.are_known, MessageField::WaitpointType, WaitpointType::WORDS),
            (machine, MessageField::MachineName, MachineName::WORDS),
            (self.environment.0.r#type.is_known, MessageField::EnvironmentType, EnvironmentType::WORDS),
        ];
        words.into_iter().find(|(is_known, ..)| !is_known).map(|(_, field, words)| (field, words))
    }
}

/// A field that is absent or of its type, never `null`.
type Given<T> = Option<T>;
/// A field that is absent, `null` or of its type.
type Nullish<T> = Option<T>;

macro_rules! shapes {
    ($($name:ident $(<$life:lifetime>)? { $($(#[$meta:meta])* $field:ident: $kind:ty,)* })*) => {$(
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[allow(dead_code, reason = "most fields are there to be checked, not read")]
        pub(super) struct $name $(<$life>)? { $($(#[$meta])* pub(super) $field: $kind,)* }
    )*};
}

shapes! {
    DequeuedMessage<'a> {
        version: VersionOne,
        #[serde(borrow)]
        snapshot: Object<Snapshot<'a>>,
        dequeued_at: Date,
        #[serde(default, deserialize_with = "non_null")]
        worker_queue_length: Given<f64>,
        #[serde(default, deserialize_with = "non_null")]
        image: Given<Text>,
        #[serde(default, deserialize_with = "non_null")]
        template_key: Given<Text>,
        #[serde(default, deserialize_with = "non_null")]
        checkpoint: Given<Object<Checkpoint>>,
        completed_waitpoints: Waitpoints,
        #[serde(borrow)]
        background_worker: Object<BackgroundWorker<'a>>,
        #[serde(borrow)]
        deployment: Object<Deployment<'a>>,
        #[serde(borrow)]
        run: Object<TheRun<'a>>,
        environment: Object<Environment>,
        organization: Object<Organization>,
        project: Object<Project>,
        #[serde(default, deserialize_with = "non_null")]
        placement_tags: Given<ArrayOf<Object<PlacementTag>>>,
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
        #[serde(default, deserialize_with = "non_null")]
        index: Given<f64>,
        friendly_id: Text,
        r#type: WaitpointType,
        completed_at: Date,
        #[serde(default, deserialize_with = "non_null")]
        idempotency_key: Given<Text>,
        #[serde(default, deserialize_with = "non_null")]
        completed_by_task_run: Given<Object<CompletedByTaskRun>>,
        #[serde(default, deserialize_with = "non_null")]
        completed_after: Given<Date>,
        #[serde(default, deserialize_with = "non_null")]
        completed_by_batch: Given<Object<Named>>,
        #[serde(default, deserialize_with = "non_null")]
        output: Given<Text>,
        #[serde(default, deserialize_with = "non_null")]
        output_type: Given<Text>,
        output_is_error: bool,
    }
    CompletedByTaskRun {
        id: Text,
        friendly_id: Text,
        #[serde(default, deserialize_with = "non_null")]
        batch: Given<Object<Named>>,
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
        #[serde(default, deserialize_with = "non_null")]
        runtime: Given<Text>,
    }
    Deployment<'a> {
        #[serde(default, deserialize_with = "non_null")]
        id: Given<Text>,
        #[serde(borrow, default, deserialize_with = "shape::non_null_text")]
        friendly_id: Given<Cow<'a, str>>,
        #[serde(default, deserialize_with = "non_null")]
        image_platform: Given<Text>,
    }
    TheRun<'a> {
        id: Text,
        #[serde(borrow)]
        friendly_id: Cow<'a, str>,
        is_test: bool,
        #[serde(default)]
        is_replay: bool,
        machine: Object<Machine>,
        attempt_number: f64,
        master_queue: Text,
        trace_context: Record,
        #[serde(default, deserialize_with = "non_null")]
        annotations: Given<Object<Annotations>>,
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
        #[serde(default, deserialize_with = "non_null")]
        root_schedule_id: Given<Text>,
        #[serde(default, deserialize_with = "non_null")]
        task_kind: Given<Text>,
        #[serde(default, deserialize_with = "non_null")]
        external_deployment_id: Given<Text>,
        #[serde(default, deserialize_with = "non_null")]
        webhook_delivery_id: Given<Text>,
        #[serde(default, deserialize_with = "non_null")]
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
        #[serde(default, deserialize_with = "non_null")]
        has_private_link: Given<bool>,
    }
    Project {
        id: Text,
    }
    PlacementTag {
        key: Text,
        #[serde(default, deserialize_with = "non_null")]
        values: Given<ArrayOf<Text>>,
    }
}
