//! What the benchmark shares with the reliability tests (`tests/reliability`): processes of brokers, clients, their
//! requests, and scrapes of the metrics.

pub mod client;
pub mod implementation;
pub mod requests;
pub mod runtime;
pub mod scrape;
pub mod server;
pub mod stdout;
