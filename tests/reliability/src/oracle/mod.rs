//! Owns the oracle: it compares what supervisors were answered with what controllers received, by the invariants' numbers.
//!
//! What it cannot know: whether a controller that was killed between its read and its report has received the run. Such a `true` is counted as unknowable, if a process was killed between the POST and its answer. What it
//! excuses: a second receipt in Trigger.dev's dialect, which may offer a run again, if the answer's offers allow it and the
//! controller that received it was failing at the time, by instruction or because its process was not scheduled.

mod checks;
mod held_polls;
mod records;
#[cfg(test)]
mod tests;

pub(crate) use records::{Affected, Disturbance, Oracle, Rules};
