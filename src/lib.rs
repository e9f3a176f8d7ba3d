//! pilotlight, the open warm-start broker: idle controllers wait, supervisors post runs, matches go down held
//! connections.
//!
//! Floors, from the ground up; imports point down only (`tests/architecture.rs` holds them to it):
//! 0 [`broker`], [`collector`], [`address`], [`allocator`], [`logging`] · 1 [`exchange`], [`metrics`], [`journal`], [`config`], [`auth`] · 2 [`transport`] · 3 [`http`] ·
//! 4 [`server`] · 5 [`commands`] and `main`.

pub mod address;
pub mod allocator;
pub mod auth;
pub mod broker;
pub mod collector;
pub mod commands;
pub mod config;
pub mod exchange;
pub mod http;
pub mod journal;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod server;
pub mod transport;
