//! Owns how a short trial runs the program, on the broker of the same profile.

use std::path::Path;
use std::process::Command;

/// Runs the program with these arguments; prints what it printed if it fails.
pub(crate) fn check(arguments: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_pilotlight-reliability"));
    // Set by `tests/run`, which has built it. Another build, with the libraries of one package alone, would replace it.
    if std::env::var_os("PILOTLIGHT").is_none() {
        build_broker_beside(program);
    }
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A test of this package alone does not build it.
fn build_broker_beside(program: &Path) {
    let target = program.ancestors().nth(2).unwrap();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "-p", "pilotlight", "--target-dir"])
        .arg(target)
        .status();
    assert!(built.unwrap().success(), "the broker cannot be built");
}
