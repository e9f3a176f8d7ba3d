//! Owns the cluster: several brokers that answer as one, over NATS.
//!
//! A broker announces its own pools to all others, and forwards a run for which it has no waiter to one broker that has. The
//! directory, this broker's announcements and the rules of a forward are pure; `tests/cluster_simulation.rs` drives them.

pub mod claims;
mod clock;
pub mod codec;
pub mod digest;
pub mod directory;
pub mod forward;
pub mod link;
mod link_config;
pub mod member;
pub mod own_pools;
mod preflight;
pub mod subjects;

pub use link_config::{Credentials, LinkConfig};
pub use preflight::{NatsReport, preflight};
