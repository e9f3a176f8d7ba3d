//! Owns the checks of one value against its bounds, and the texts of the errors.

use std::time::Duration;

use super::error::ConfigError;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// Refuses a duration outside these bounds.
pub(super) fn check_range(
    flag: &str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let [value, least, most] = [value, least, most].map(humantime::format_duration);
    Err(ConfigError::invalid(format!("--{flag} {value} is out of range; it must be {least} to {most}")))
}

/// Refuses a zero, with which nothing could be served.
pub(super) fn check_not_zero<N: Copy + Default + PartialEq>(
    flag: &str,
    value: Option<N>,
) -> Result<(), ConfigError> {
    if value == Some(N::default()) {
        return Err(ConfigError::invalid(format!("--{flag} must be at least 1")));
    }
    Ok(())
}
