//! Owns the bench's command line.
fn main() {}
