//! Owns the broker implementations that can be measured: pilotlight at each level of proof, and its peers.

use std::path::{Path, PathBuf};

/// A broker that implements the protocol, and how it is started.
#[derive(Debug, Clone)]
pub struct Implementation {
    /// Its name in the report.
    pub name: &'static str,
    /// Its executable.
    pub program: PathBuf,
    /// The arguments it is started with.
    pub arguments: Vec<String>,
    /// It closes each connection after a run, so that every run takes a new one.
    pub fresh: bool,
    /// It is configured by arguments, as pilotlight is; peers are configured by the environment.
    pub is_pilotlight: bool,
}

/// Every peer by name. Cargo builds the floor in the folder of this program; the report installs the others.
pub const PEERS: [&str; 6] = ["floor", "bun", "bun-compiled", "node-map", "go", "node-sqlite"];

/// The peers on which controllers wait with sessions: WebSockets and streams of events.
pub const SESSION_PEERS: [&str; 2] = ["bun-sessions", "node-sessions"];

/// The peers that relay streamed answers. Their last argument is the URL of the stub behind them.
pub const STREAM_PEERS: [&str; 4] = ["bun-stream", "go-stream", "axum-stream", "axum-stream-nagle"];

impl Implementation {
    /// The pilotlight in the folder of this program, on one thread, at this level of proof.
    pub fn pilotlight(proof: &'static str) -> anyhow::Result<Self> {
        let name = match proof {
            "written" => "pilotlight",
            "acked" => "pilotlight, acked",
            _ => "pilotlight, received",
        };
        let arguments = ["--threads", "1", "--proof", proof].map(str::to_owned).to_vec();
        Ok(Self {
            name,
            program: beside("pilotlight")?,
            arguments,
            fresh: proof == "received",
            is_pilotlight: true,
        })
    }

    /// A peer by its name. With `fresh` it closes each connection after a run.
    pub fn peer(name: &'static str, fresh: bool) -> anyhow::Result<Self> {
        let folder = peers_folder();
        let runtime = |runtime: &str| folder.join("node_modules/.bin").join(runtime);
        let script = |file: &str| vec![folder.join(file).display().to_string()];
        let (program, arguments) = match name {
            "floor" => (beside("floor")?, Vec::new()),
            "bun" => (runtime("bun"), script("bun-map.mjs")),
            "bun-compiled" => (folder.join("bun-map"), Vec::new()),
            "node-map" => (runtime("node"), script("node-map.mjs")),
            "bun-sessions" => (runtime("bun"), script("bun-sessions.mjs")),
            "node-sessions" => (runtime("node"), script("node-sessions.mjs")),
            "bun-stream" => (runtime("bun"), script("bun-stream.mjs")),
            "go-stream" => (folder.join("go/stream-proxy"), Vec::new()),
            "axum-stream" => (beside("axum-stream")?, Vec::new()),
            "axum-stream-nagle" => (beside("axum-stream")?, vec!["nagle".to_owned()]),
            "node-sqlite" => (runtime("node"), script("node-sqlite.mjs")),
            _ => (folder.join("go/peers"), Vec::new()),
        };
        Ok(Self { name, program, arguments, fresh, is_pilotlight: false })
    }

    /// The same with further arguments.
    #[must_use]
    pub fn with(mut self, arguments: &[String]) -> Self {
        self.arguments.extend_from_slice(arguments);
        self
    }
}

/// The folder with the peers' sources, and with what is installed for them.
pub fn peers_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn beside(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}
