//! Owns the settings of waiting controllers: how long polls and connections live.

use std::time::Duration;

use clap::Args;
use humantime::parse_duration;

use crate::config::bounds::{DAY, HOUR, SECOND, check_range};
use crate::config::error::ConfigError;
use crate::config::origin;

/// Controllers that wait for a run.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Waiting controllers")]
pub struct WaitingSettings {
    /// How long a poll is held (1s to 299s); advertised by /connect; many proxies cut a request at 60s
    #[arg(long, value_name = "DUR", default_value = "50s", value_parser = parse_duration)]
    pub connection_timeout: Duration,

    /// How long an idle controller keeps polling (1s to 24h); advertised by /connect; 0s turns warm starts off
    #[arg(long, value_name = "DUR", default_value = "300s", value_parser = parse_duration)]
    pub keepalive: Duration,

    /// How long a connection may be idle between two requests (1s to 1h); announced to clients as 5s less
    #[arg(long, value_name = "DUR", default_value = "75s", value_parser = parse_duration)]
    pub idle_timeout: Duration,

    /// Where a drain sends stock controllers (307): an origin such as <https://warm.example.org>, where other brokers wait for them [default: the origin that they polled]
    #[arg(long, value_name = "URL")]
    pub redirect_to: Option<String>,
}

impl WaitingSettings {
    /// The origin to which a drain sends controllers.
    pub fn redirect_origin(&self) -> Result<Option<String>, ConfigError> {
        let origin = self.redirect_to.as_deref().map(origin::parse).transpose();
        origin.map_err(|reason| ConfigError::invalid(format!("--redirect-to {reason}")))
    }

    pub(in crate::config) fn validate(&self) -> Result<(), ConfigError> {
        // A stock client gives up on a response's header after 300 s: a poll held that long would fail there.
        check_range("connection-timeout", self.connection_timeout, SECOND, Duration::from_secs(299))?;
        self.redirect_origin()?;
        check_range("keepalive", self.keepalive, Duration::ZERO, DAY)?;
        if !self.keepalive.is_zero() && self.keepalive < SECOND {
            return Err(ConfigError::invalid(
                "--keepalive must be at least 1s, or 0s to turn warm starts off",
            ));
        }
        check_range("idle-timeout", self.idle_timeout, SECOND, HOUR)
    }
}
