//! Owns how counts are printed: a table in Markdown, for terminals and for the report.

use std::fmt::Write;

use super::conditions::Conditions;
use super::counts::Counts;

/// A table with a row for each kind of request, and the conditions in which it was counted.
pub fn table(conditions: &Conditions, counts: &[(&str, Counts)]) -> String {
    let Conditions { rustc, valgrind, cpu_features } = conditions;
    let mut text = format!("Counted with {rustc}, {valgrind}; CPU features: {cpu_features}.\n\n");
    text.push_str(
        "| per request | user instructions | allocations | clock reads | system calls | journal's instructions | its allocations |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (name, counts) in counts {
        let _ = writeln!(
            text,
            "| {name} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} | {:.1} |",
            counts.instructions,
            counts.allocations,
            counts.clock_reads,
            counts.all_system_calls(),
            counts.journal_instructions,
            counts.journal_allocations,
        );
    }
    text.push('\n');
    for (name, counts) in counts {
        let mut calls: Vec<_> = counts.system_calls.iter().filter(|(_, calls)| **calls >= 0.05).collect();
        calls.sort_by(|one, other| other.1.total_cmp(one.1));
        let calls: Vec<_> = calls.into_iter().map(|(name, calls)| format!("{name} {calls:.1}")).collect();
        let _ = writeln!(text, "- {name}: {}.", calls.join(", "));
    }
    text
}
