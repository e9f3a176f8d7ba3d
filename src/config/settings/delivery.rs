//! Owns the settings of delivery: which waiter gets a run, what proves it, and how long a POST may take.

use std::time::Duration;

use clap::{Args, ValueEnum};
use humantime::parse_duration;

use crate::broker::SelectionPolicy;
use crate::config::bounds::{MINUTE, check_range};
use crate::config::error::ConfigError;
use crate::model::Proof;

/// Whether this system can prove more than that the kernel accepted the bytes.
pub const CAN_PROVE: bool = cfg!(target_os = "linux");

/// How a run is handed to a controller.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Delivery")]
pub struct DeliverySettings {
    /// What must be proved of a delivery before its POST is answered with `true`
    #[arg(long, value_name = "LEVEL", default_value = if CAN_PROVE { "received" } else { "written" })]
    pub proof: ProofLevel,

    /// How long a run may stay unread after the controller's kernel acknowledged it (10ms to 60s)
    #[arg(long, value_name = "DUR", default_value = "500ms", value_parser = parse_duration)]
    pub proof_timeout: Duration,

    /// Which waiter of a pool is offered a run first
    #[arg(long, value_name = "ORDER", default_value = "newest")]
    pub pick: PickOrder,

    /// Every POST is answered within this time (1ms to 60s)
    #[arg(long, value_name = "DUR", default_value = "2s", value_parser = parse_duration)]
    pub dispatch_budget: Duration,

    /// A run that is posted again within this time is not delivered again (up to 10m); 0s delivers every POST
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = parse_duration)]
    pub remember_runs: Duration,

    /// How strictly a Trigger.dev message is checked before a controller is claimed
    #[arg(long, value_name = "CHECK", default_value = "strict")]
    pub message_check: MessageCheck,
}

impl DeliverySettings {
    pub(in crate::config) fn validate(&self) -> Result<(), ConfigError> {
        check_range("dispatch-budget", self.dispatch_budget, Duration::from_millis(1), MINUTE)?;
        check_range("proof-timeout", self.proof_timeout, Duration::from_millis(10), MINUTE)?;
        check_range("remember-runs", self.remember_runs, Duration::ZERO, 10 * MINUTE)?;
        if !CAN_PROVE && self.proof != ProofLevel::Written {
            return Err(ConfigError::invalid("--proof: this system can prove nothing above `written`"));
        }
        Ok(())
    }
}

/// What must be proved of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProofLevel {
    /// The broker's kernel accepted every byte of the run.
    Written,
    /// The controller's kernel acknowledged every byte.
    Acked,
    /// The controller's process read every byte.
    Received,
}

impl From<ProofLevel> for Proof {
    fn from(level: ProofLevel) -> Self {
        match level {
            ProofLevel::Written => Self::Written,
            ProofLevel::Acked => Self::Acked,
            ProofLevel::Received => Self::Received,
        }
    }
}

/// Which waiter of a pool is offered a run first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PickOrder {
    /// The last to come: few controllers stay busy, and those in surplus time out.
    Newest,
    /// The first to come: every controller gets its turn.
    Oldest,
}

impl From<PickOrder> for SelectionPolicy {
    fn from(order: PickOrder) -> Self {
        match order {
            PickOrder::Newest => Self::Newest,
            PickOrder::Oldest => Self::Oldest,
        }
    }
}

/// How strictly a Trigger.dev message is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MessageCheck {
    /// All that the client's schema checks: a message that the client would refuse reaches no controller.
    Strict,
    /// The same, but an enumeration may have values that the schema lacks, such as those of a newer platform.
    Shape,
}
