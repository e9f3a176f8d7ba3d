//! Owns the reasons for which settings are refused.

use thiserror::Error;

/// Why the settings were refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A flag is wrong. Clap's message names the flag and the reason.
    #[error(transparent)]
    Flag(#[from] clap::Error),
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// An environment variable has a wrong value.
    #[error("{name}: {reason}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong with the value, and what would be right.
        reason: String,
    },
    /// The file is not TOML, or one of its keys or values is wrong.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong and where, and what would be right.
        reason: String,
    },
    /// A value is out of range, two settings contradict each other, or one is impossible on this machine.
    #[error("{0}")]
    Invalid(String),
}

impl ConfigError {
    pub(super) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid(reason.into())
    }
}
