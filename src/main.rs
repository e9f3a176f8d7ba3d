//! Owns the process: its allocator, arguments, exit code.

use std::process::ExitCode;

use pilotlight::{allocator, commands};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    allocator::set_up();
    commands::run(std::env::args_os().collect())
}
