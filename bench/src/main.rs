//! Owns the bench's command line: which measurement runs.

mod json;

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("json") => {
            json::compare();
            ExitCode::SUCCESS
        }
        _ => {
            json::say("usage: pilotlight-bench json    what reading one POST's body costs, by parser\n");
            ExitCode::from(2)
        }
    }
}
