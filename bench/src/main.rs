//! Owns the bench's command line: which measurement runs.

mod json;

use std::process::ExitCode;

fn main() -> ExitCode {
    let measure = std::env::args().nth(1);
    if measure.as_deref() == Some("json") {
        json::compare();
        return ExitCode::SUCCESS;
    }
    json::say("usage: pilotlight-bench json    what reading one POST's body costs, by parser\n");
    ExitCode::from(2)
}
