//! Owns the settings of replies: how many there may be, and how long one may take.

use std::time::Duration;

use clap::Args;
use humantime::parse_duration;

use crate::config::bounds::{DAY, SECOND, check_not_zero, check_range};
use crate::config::error::ConfigError;

/// The most replies by default, where enough files may be open.
const MOST_REPLIES: u64 = 10_000;

/// Callers that wait for the answer of their run's worker.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Replies")]
pub struct ReplySettings {
    /// The most replies that are awaited at once; further POSTs with ?reply= are answered with 429 [default: 10000, or an eighth of the limit of open files]
    #[arg(long, value_name = "N")]
    pub max_replies: Option<usize>,

    /// The longest ?reply= of a POST: the time until a reply's first byte (1s to 24h)
    #[arg(long, value_name = "DUR", default_value = "15m", value_parser = parse_duration)]
    pub max_reply_wait: Duration,

    /// A reply ends as broken when nothing was sent to its caller for this long after its first byte (1s to 24h)
    #[arg(long, value_name = "DUR", default_value = "5m", value_parser = parse_duration)]
    pub reply_idle: Duration,
}

impl ReplySettings {
    pub(in crate::config) fn validate(&self) -> Result<(), ConfigError> {
        check_not_zero("max-replies", self.max_replies)?;
        check_range("max-reply-wait", self.max_reply_wait, SECOND, DAY)?;
        check_range("reply-idle", self.reply_idle, SECOND, DAY)
    }

    /// The most replies at once, if the process may open this many files.
    pub fn most(&self, open_files: u64) -> usize {
        let from_files = usize::try_from((open_files / 8).clamp(1, MOST_REPLIES));
        self.max_replies.unwrap_or_else(|| from_files.unwrap_or(usize::MAX))
    }
}
