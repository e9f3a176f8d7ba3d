//! Owns the oracle: it compares what supervisors were answered with what controllers received, by the invariants' numbers.
//!
//! It cannot know whether a controller that was killed between its read and its report has received the run. A `true`
//! without a receipt counts as unknowable if a process was killed between the POST and its response. It allows a second
//! receipt in Trigger.dev's dialect, which may offer a run again, if the number of offers in the response allows it and the
//! controller that received it was failing at the time, by instruction or because its process was not scheduled.

mod checks;
mod held_polls;
mod records;
#[cfg(test)]
mod tests;

pub(crate) use records::{Affected, Disturbance, Oracle, Rules};
