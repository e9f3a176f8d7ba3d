//! Owns the process: arguments, logging, runtime, signals, exit code.

mod allocator;

use std::process::ExitCode;

use pilotlight::commands;

fn main() -> ExitCode {
    allocator::set_up();
    commands::run(std::env::args_os().collect())
}
