//! Owns the servers between callers and tokens: pilotlight with warm workers, and proxies with a stub behind them.

use std::net::SocketAddr;

use clap::ValueEnum;
use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::server::{Server, free_addresses};

/// A server that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Its name in the report.
    pub(crate) name: &'static str,
    pub(super) server: &'static str,
    /// How the workers behind it wait; none behind a proxy, which has a stub.
    wait: Option<Wait>,
}

/// All of them, pilotlight last.
pub(crate) const SUBJECTS: [Subject; 6] = [
    Subject { name: "Bun.serve", server: "bun-stream", wait: None },
    Subject { name: "Go net/http", server: "go-stream", wait: None },
    Subject { name: "axum", server: "axum-stream", wait: None },
    Subject { name: "axum, Nagle", server: "axum-stream-nagle", wait: None },
    Subject { name: OURS_WEBSOCKETS, server: "pilotlight", wait: Some(Wait::Websocket) },
    Subject { name: OURS, server: "pilotlight", wait: Some(Wait::Poll) },
];

/// With workers that wait with long polls, and with ones that wait over WebSockets.
pub(crate) const OURS: &str = "pilotlight";
pub(crate) const OURS_WEBSOCKETS: &str = "pilotlight, WebSockets";

/// The workers' pool.
pub(super) const POOL: &str = "/v1/pools/stream/v1/1/1";

/// A run may come a moment before the worker of the last one polls again.
const POSTED: &str = "/v1/pools/stream/v1/1/1?reply=30s&wait=10s";

/// A server that has started, and where its tokens have to come from.
pub(super) struct StartedSubject {
    pub(super) server: Server,
    pub(super) origin: Origin,
    /// Where callers post.
    pub(super) target: Target,
}

/// Where callers post.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    path: &'static str,
}

/// Where tokens come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// From a stub that has to listen here.
    Stub(SocketAddr),
    /// From workers that have to wait here.
    Workers(SocketAddr, Wait),
}

/// How workers wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wait {
    Poll,
    Websocket,
}

impl Subject {
    /// Starts it. Proxies connect to their stub with the first request, so it may start later.
    pub(super) fn start(&self) -> anyhow::Result<StartedSubject> {
        if let Some(wait) = self.wait {
            let server = Server::start(&Implementation::pilotlight("received")?)?;
            let origin = Origin::Workers(server.address, wait);
            let target = Target { address: server.address, path: POSTED };
            return Ok(StartedSubject { server, origin, target });
        }
        let [stub] = free_addresses()?;
        let with_stub = Implementation::peer(self.server, false)?.with(&[format!("http://{stub}/generate")]);
        let server = Server::start(&with_stub)?;
        let target = Target::of_stub(server.address);
        Ok(StartedSubject { server, origin: Origin::Stub(stub), target })
    }
}

/// Whether a server of this name is pilotlight.
pub(crate) fn is_ours(name: &str) -> bool {
    [OURS, OURS_WEBSOCKETS].contains(&name)
}

impl Target {
    /// A stub's, or a proxy's before it.
    pub(super) fn of_stub(address: SocketAddr) -> Self {
        Self { address, path: "/generate" }
    }

    /// A POST of a message.
    pub(super) fn request(&self, message: &str) -> Vec<u8> {
        let Self { address, path } = self;
        let length = message.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             accept: text/event-stream\r\ncontent-length: {length}\r\n\r\n{message}"
        )
        .into_bytes()
    }
}
