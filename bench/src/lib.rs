//! What the benchmark shares with its tests and with the reliability tests (`tests/reliability`): processes of brokers
//! and of NATS, clients, their requests, scrapes of the metrics, and what a request costs.

pub mod client;
pub mod count;
pub mod event_stream;
pub mod implementation;
pub mod nats;
pub mod requests;
pub mod runtime;
pub mod scrape;
pub mod server;
pub mod stdout;
pub mod websocket;
