//! Owns the options that a fleet's process is started with.

use std::net::SocketAddr;

use clap::Args;

use super::protocol::place_of;
use super::transport::{Transport, slots};

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
    #[command(flatten)]
    pub(crate) transports: Transports,
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

impl FleetOptions {
    /// How the controller in this place waits with slots; none if it polls.
    pub(super) fn transport(&self, place: usize) -> Option<Transport> {
        #[allow(clippy::cast_precision_loss, reason = "there are few")]
        let part = (place as f64 + 0.5) / self.count as f64;
        let Transports { websockets, streams } = self.transports;
        if part < websockets {
            return Some(Transport::WebSocket);
        }
        (part < websockets + streams).then_some(Transport::EventStream)
    }

    /// How many waiters this process has: slots, and polls.
    pub(crate) fn waiters(&self) -> usize {
        (0..self.count).map(|place| self.waiters_of(place)).sum()
    }

    /// How many of them wait in this way: `poll`, `websocket` or `sse`.
    pub(crate) fn waiters_by(&self, transport: &str) -> usize {
        let theirs = |place: &usize| name(self.transport(*place)) == transport;
        (0..self.count).filter(theirs).map(|place| self.waiters_of(place)).sum()
    }

    fn waiters_of(&self, place: usize) -> usize {
        self.transport(place).map_or(1, |_| slots(place))
    }

    /// How the controller with this id waits: `poll`, `websocket` or `sse`.
    pub(crate) fn transport_of(&self, controller: u64) -> &'static str {
        name(place_of(controller).and_then(|place| self.transport(place)))
    }
}

fn name(transport: Option<Transport>) -> &'static str {
    match transport {
        None => "poll",
        Some(Transport::WebSocket) => "websocket",
        Some(Transport::EventStream) => "sse",
    }
}

/// How controllers wait; the others poll.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Transports {
    /// The share of controllers that wait over a WebSocket, with one to eight slots
    #[arg(long, default_value_t = 0.0)]
    pub(crate) websockets: f64,
    /// The share of controllers that wait over an event stream, with one to eight slots
    #[arg(long, default_value_t = 0.0)]
    pub(crate) streams: f64,
}
