//! Owns the settings of records: the history of dispatches, and traces.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use humantime::parse_duration;

use crate::collector::Collector;
use crate::config::bounds::{DAY, MINUTE, check_range};
use crate::config::error::ConfigError;

/// The history and traces of dispatches.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "History and traces")]
pub struct RecordSettings {
    /// Keep the history of dispatches in this SQLite file [default: the last 10,000 in memory]
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,

    /// Delete dispatches that are older than this from the history file (1m to 3650d)
    #[arg(long, value_name = "DUR", default_value = "30d", value_parser = parse_duration)]
    pub history_age: Duration,

    /// Keep the history file below this size: the oldest dispatches are deleted first (1MiB or more)
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub history_size: ByteSize,

    /// Export a trace of each dispatch to this OTLP/HTTP collector, such as <http://127.0.0.1:4318>
    #[arg(long, value_name = "URL")]
    pub otlp: Option<String>,
}

impl RecordSettings {
    pub(in crate::config) fn validate(&self) -> Result<(), ConfigError> {
        check_range("history-age", self.history_age, MINUTE, 3650 * DAY)?;
        if self.history_size < ByteSize::mib(1) {
            return Err(ConfigError::invalid("--history-size must be at least 1MiB"));
        }
        if let Some(Err(reason)) = self.otlp.as_deref().map(Collector::parse) {
            return Err(ConfigError::invalid(format!("--otlp {reason}")));
        }
        Ok(())
    }
}
