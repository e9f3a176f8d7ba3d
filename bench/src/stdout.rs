//! Owns the output of the programs.

use std::io::Write;

/// Writes to stdout. A reader that has closed the pipe is not an error.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
