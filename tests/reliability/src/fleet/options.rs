//! Owns the options that a fleet's process is started with.

use std::net::SocketAddr;

use clap::Args;

/// How many controllers a fleet has, and how they behave.
#[derive(Debug, Clone, Args)]
pub(crate) struct FleetOptions {
    /// The brokers; each new connection goes to any of them
    #[arg(required = true)]
    pub(crate) brokers: Vec<SocketAddr>,
    /// Which process this is: part of its controllers' names and its address
    #[arg(long)]
    pub(crate) serial: u64,
    #[arg(long)]
    pub(crate) count: usize,
    #[arg(long)]
    pub(crate) pools: usize,
    /// Milliseconds after which a controller ends a poll: the timeout that /connect returned
    #[arg(long)]
    pub(crate) timeout: u64,
    /// The share of polls that are aborted
    #[arg(long, default_value_t = 0.0)]
    pub(crate) aborts: f64,
    /// The share of polls whose controller falls silent forever, and is replaced
    #[arg(long, default_value_t = 0.0)]
    pub(crate) silent: f64,
    /// The share of controllers that wait in the native dialect
    #[arg(long, default_value_t = 0.0)]
    pub(crate) native: f64,
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}
