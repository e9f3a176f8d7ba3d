//! Owns what the commands share: output, the form of the log, and a runtime.

use std::io::Write;
use std::process::ExitCode;

use crate::config::{LogFormat, Settings};
use crate::logging;

/// Prints to stdout. An error is ignored: the reader of a pipe may have closed it.
pub(super) fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Says something on stderr. An error is ignored, as in [`print`].
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub(super) fn is_log_json(settings: &Settings) -> bool {
    settings.process.log_format.map_or_else(logging::is_json_by_default, |format| format == LogFormat::Json)
}

pub(super) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
