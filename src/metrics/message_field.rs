//! Owns the fields of a message that can cause its refusal: a closed list of paths in the schema.

use super::labels::{Label, label};

label! {
    /// The refused field of a message: its path, or the nearest path above it in this list.
    MessageField {
        /// The whole body: invalid JSON or UTF-8, too deeply nested, or without a message.
        Body = "body",
        /// The schema's version.
        Version = "version",
        /// The snapshot.
        Snapshot = "snapshot",
        /// The snapshot's friendly id.
        SnapshotId = "snapshot.friendlyId",
        /// The snapshot's status, an enumeration.
        ExecutionStatus = "snapshot.executionStatus",
        /// The checkpoint.
        Checkpoint = "checkpoint",
        /// The checkpoint's type, an enumeration.
        CheckpointType = "checkpoint.type",
        /// The waitpoints that are completed.
        Waitpoints = "completedWaitpoints",
        /// A waitpoint's type, an enumeration.
        WaitpointType = "completedWaitpoints.type",
        /// The worker.
        Worker = "backgroundWorker",
        /// The worker's version.
        WorkerVersion = "backgroundWorker.version",
        /// The deployment.
        Deployment = "deployment",
        /// The deployment's friendly id.
        DeploymentId = "deployment.friendlyId",
        /// The run.
        Run = "run",
        /// The run's friendly id.
        RunId = "run.friendlyId",
        /// The run's annotations.
        Annotations = "run.annotations",
        /// The run's machine.
        Machine = "run.machine",
        /// The machine's preset, an enumeration.
        MachineName = "run.machine.name",
        /// vCPUs.
        Cpu = "run.machine.cpu",
        /// GB of memory.
        Memory = "run.machine.memory",
        /// The environment.
        Environment = "environment",
        /// The environment's type, an enumeration.
        EnvironmentType = "environment.type",
        /// The organization.
        Organization = "organization",
        /// The project.
        Project = "project",
        /// The placement tags.
        PlacementTags = "placementTags",
        /// Any other field of the message.
        Other = "other",
    }
}

impl MessageField {
    /// The field of a path: names joined by dots, without array indexes.
    pub fn at(path: &str) -> Self {
        let holds = |field: &Self| {
            path.strip_prefix(field.text()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let found = Self::all().into_iter().filter(holds).max_by_key(|field| field.text().len());
        found.unwrap_or(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_nearest_listed_field() {
        for (path, field) in [
            ("run.machine.name", MessageField::MachineName),
            ("run.machine.centsPerMs", MessageField::Machine),
            ("run.machines", MessageField::Run),
            ("runs", MessageField::Other),
            ("completedWaitpoints.completedByBatch.id", MessageField::Waitpoints),
            ("", MessageField::Other),
        ] {
            assert_eq!(MessageField::at(path), field, "{path}");
        }
    }
}
