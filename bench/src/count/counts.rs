//! Owns the counts of one request.

use std::collections::BTreeMap;

/// What one request costs the serving thread, and what its record costs the journal's thread.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// User instructions.
    pub instructions: f64,
    /// Calls of the allocator for memory, reallocations included.
    pub allocations: f64,
    /// Reads of a clock. They are system calls under valgrind only.
    pub clock_reads: f64,
    /// System calls, by name.
    pub system_calls: BTreeMap<String, f64>,
    /// User instructions of the journal's thread.
    pub journal_instructions: f64,
    /// Allocations of the journal's thread.
    pub journal_allocations: f64,
}

impl Counts {
    /// All system calls together.
    pub fn all_system_calls(&self) -> f64 {
        self.system_calls.values().sum()
    }
}
