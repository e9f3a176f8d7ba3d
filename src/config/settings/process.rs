//! Owns the settings of the process: its threads, its log, and how it shuts down.

use std::time::Duration;

use clap::{Args, ValueEnum};
use humantime::parse_duration;

use crate::config::bounds::{HOUR, check_not_zero, check_range};
use crate::config::error::ConfigError;

/// Descriptors that a broker needs at start: for itself and the first connections,
const FDS_OF_THE_PROCESS: u64 = 32;
/// and for each serving thread.
const FDS_OF_A_THREAD: u64 = 8;

/// The process itself.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessSettings {
    /// Threads that serve connections [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// After SIGTERM, end the held polls one by one over this time instead of all at once (up to 1h)
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = parse_duration)]
    pub drain_window: Duration,

    /// The format of log lines [default: text on a terminal, else json]; `RUST_LOG` sets their level
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

impl ProcessSettings {
    pub(in crate::config) fn validate(&self) -> Result<(), ConfigError> {
        check_not_zero("threads", self.threads)?;
        check_range("drain-window", self.drain_window, Duration::ZERO, HOUR)
    }

    /// Threads that serve connections.
    pub fn thread_count(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Refuses to start if so few files may be open that none would be left for connections. The process and its threads
    /// take about half of what is required here.
    pub fn check_open_files(&self, open_files: u64) -> Result<(), ConfigError> {
        let threads = self.thread_count();
        let needed = FDS_OF_THE_PROCESS + FDS_OF_A_THREAD * threads as u64;
        if open_files < needed {
            return Err(ConfigError::invalid(format!(
                "this process may open {open_files} files, but needs {needed} for its {threads} threads (--threads); \
                 raise the limit: `ulimit -n 65536`, LimitNOFILE=65536 in a systemd unit, --ulimit nofile=65536 for Docker"
            )));
        }
        Ok(())
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}
