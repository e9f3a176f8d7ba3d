//! pilotlight, the open warm-start broker: idle controllers hold a request open, supervisors post runs, and each run is sent
//! down the held connection of a controller that matches it.
//!
//! Layers, from the bottom up; imports point down only (`tests/architecture.rs` checks it):
//! 0 [`model`], [`broker`], [`collector`], [`nats_url`], [`address`], [`allocator`], [`json`], [`lambda`],
//! [`logging`] · 1 [`exchange`],
//! [`metrics`], [`journal`], [`config`], [`auth`] · 2 [`transport`] · 3 [`reply`], [`dispatch`] · 4 [`cluster`] · 5 [`http`] ·
//! 6 [`ops`] · 7 [`server`] · 8 [`commands`] and `main`.

pub mod address;
pub mod allocator;
pub mod auth;
pub mod broker;
pub mod cluster;
pub mod collector;
pub mod commands;
pub mod config;
pub mod dispatch;
pub mod exchange;
pub mod http;
pub mod journal;
pub mod json;
pub mod lambda;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod nats_url;
pub mod ops;
pub mod reply;
pub mod server;
pub mod transport;
