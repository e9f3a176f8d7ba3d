//! Owns the table of what requests may cost (`bench/counts.json`): how it is read, written, and compared with new counts.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::conditions::Conditions;
use super::counts::Counts;

/// A count may be higher than the table's by this factor,
const MARGIN: f64 = 1.05;
/// and under another compiler, valgrind or CPU than the table's, instructions by this one.
const MARGIN_ELSEWHERE: f64 = 1.10;
/// Small counts are also allowed this much more: a wake-up may come a little earlier in one run than in another.
const SLACK: f64 = 0.3;

/// The table.
#[derive(Debug, Clone)]
pub struct Limits {
    /// In which it was counted.
    conditions: Conditions,
    /// Figures by what was counted and their names.
    counts: Value,
}

impl Limits {
    /// A table of these figures: of requests, and of the live bytes of held waiters of each kind.
    pub fn new(conditions: Conditions, counts: &[(&str, Counts)], live_bytes: &[(&str, f64)]) -> Self {
        let mut table = Map::new();
        for (what, counts) in counts {
            let figures = figures(counts).map(|(name, count)| (name.to_owned(), rounded(count)));
            table.insert((*what).to_owned(), Value::Object(figures.into_iter().collect()));
        }
        for (held, bytes) in live_bytes {
            table.insert((*held).to_owned(), json!({ LIVE_BYTES: bytes.round() }));
        }
        Self { conditions, counts: Value::Object(table) }
    }

    /// Reads the table.
    pub fn read() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file()).context("bench/counts.json cannot be read")?;
        let table: Value = serde_json::from_str(&text)?;
        let condition = |name: &str| table["conditions"][name].as_str().unwrap_or_default().to_owned();
        let conditions = Conditions {
            rustc: condition("rustc"),
            valgrind: condition("valgrind"),
            cpu_features: condition("cpu_features"),
        };
        Ok(Self { conditions, counts: table["counts"].clone() })
    }

    /// Writes the table.
    pub fn write(&self) -> anyhow::Result<()> {
        let Conditions { rustc, valgrind, cpu_features } = &self.conditions;
        let conditions = json!({ "rustc": rustc, "valgrind": valgrind, "cpu_features": cpu_features });
        let table = json!({ "conditions": conditions, "counts": self.counts });
        Ok(std::fs::write(file(), format!("{table:#}\n"))?)
    }

    /// A line for each figure of `new` that is higher than this table allows, or that it lacks.
    pub fn exceeded_by(&self, new: &Self) -> Vec<String> {
        let margin = if self.conditions == new.conditions { MARGIN } else { MARGIN_ELSEWHERE };
        let mut lines = Vec::new();
        for (what, figures) in new.counts.as_object().into_iter().flatten() {
            for (name, count) in figures.as_object().into_iter().flatten() {
                let count = count.as_f64().unwrap_or(f64::NAN);
                let Some(limit) = self.counts[what][name].as_f64() else {
                    lines.push(format!("{what}: the table has no {name}"));
                    continue;
                };
                let allowed = if name == INSTRUCTIONS { limit * margin } else { limit * MARGIN + SLACK };
                if count.is_nan() || count > allowed {
                    lines.push(format!("{what}: {name} {count}, in the table {limit}, allowed {allowed:.1}"));
                }
            }
        }
        lines
    }
}

const INSTRUCTIONS: &str = "user instructions";
const LIVE_BYTES: &str = "live bytes";

fn figures(counts: &Counts) -> [(&'static str, f64); 4] {
    [
        (INSTRUCTIONS, counts.instructions),
        ("allocations", counts.allocations),
        ("clock reads", counts.clock_reads),
        ("system calls", counts.all_system_calls()),
    ]
}

/// Whole above a thousand, else with one decimal.
fn rounded(count: f64) -> Value {
    let scale = if count >= 1000.0 { 1.0 } else { 10.0 };
    json!((count * scale).round() / scale)
}

fn file() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/counts.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rustc: &str, instructions: f64, allocations: f64) -> Limits {
        let conditions =
            Conditions { rustc: rustc.to_owned(), valgrind: "v".to_owned(), cpu_features: "avx2".to_owned() };
        Limits::new(
            conditions,
            &[("miss", Counts { instructions, allocations, ..Counts::default() })],
            &[("held poll", 800.0)],
        )
    }

    #[test]
    fn instructions_have_a_wider_margin_under_another_compiler() {
        let table = limits("1", 1000.0, 10.0);
        assert_eq!(table.exceeded_by(&limits("1", 1049.0, 10.0)), Vec::<String>::new());
        let line = "miss: user instructions 1051, in the table 1000, allowed 1050.0";
        assert_eq!(table.exceeded_by(&limits("1", 1051.0, 10.0)), [line]);
        assert_eq!(table.exceeded_by(&limits("2", 1099.0, 10.0)), Vec::<String>::new());
        assert_eq!(table.exceeded_by(&limits("2", 1101.0, 10.0)).len(), 1);
    }

    #[test]
    fn other_counts_have_no_wider_margin() {
        let table = limits("1", 1000.0, 10.0);
        assert_eq!(table.exceeded_by(&limits("2", 1000.0, 10.8)), Vec::<String>::new());
        assert_eq!(table.exceeded_by(&limits("2", 1000.0, 10.9)).len(), 1);
    }

    #[test]
    fn a_figure_that_the_table_lacks_is_named() {
        let mut table = limits("1", 1000.0, 10.0);
        table.counts = json!({ "held poll": { "live bytes": 800 } });
        assert_eq!(table.exceeded_by(&limits("1", 1000.0, 10.0)).len(), 4);
    }
}
