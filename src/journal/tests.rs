//! Owns the journal's promises that need its inside: what readers miss and do not miss.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::metrics::DispatchOutcome;

/// A run's POST that nobody waited for.
pub(super) fn dispatch(run: &str, at: u64) -> Dispatch {
    Dispatch {
        at,
        names: Arc::new(Names::new([run, "d1", "20260821.3"])),
        cpu: 0.5,
        memory: 0.5,
        outcome: DispatchOutcome::Aborted,
        proof: None,
        attempts: Vec::new(),
        took: Duration::from_millis(1),
        trace: None,
    }
}
