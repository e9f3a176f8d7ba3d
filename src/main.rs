//! Owns the process: its allocator, arguments and exit code.

use std::process::ExitCode;

use pilotlight::{allocator, commands};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    allocator::configure();
    commands::run(std::env::args_os().collect())
}
