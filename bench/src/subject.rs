//! Owns what can be measured: pilotlight at its levels of proof, the peers, and how each is made ready.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A broker that speaks the protocol, ready to be started.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Every run takes a new connection.
    pub(crate) fresh: bool,
    /// Whether it is told by arguments, as pilotlight, or by the environment, as its peers.
    pub(crate) is_pilotlight: bool,
}

/// Every peer by name; with `cargo` the floor is built beside this program.
pub(crate) const PEERS: [&str; 6] = ["floor", "bun", "bun-compiled", "node-map", "go", "node-sqlite"];

impl Subject {
    /// The broker beside this program, on one thread, with a level of proof.
    pub(crate) fn pilotlight(proof: &'static str) -> anyhow::Result<Self> {
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

    /// A peer; `fresh` makes it end each connection with its run.
    pub(crate) fn peer(name: &'static str, fresh: bool) -> anyhow::Result<Self> {
        let folder = peers();
        let runtime = |runtime: &str| folder.join("node_modules/.bin").join(runtime);
        let script = |file: &str| vec![folder.join(file).display().to_string()];
        let (program, arguments) = match name {
            "floor" => (beside("floor")?, Vec::new()),
            "bun" => (runtime("bun"), script("bun-map.mjs")),
            "bun-compiled" => (folder.join("bun-map"), Vec::new()),
            "node-map" => (runtime("node"), script("node-map.mjs")),
            "node-sqlite" => (runtime("node"), script("node-sqlite.mjs")),
            _ => (folder.join("go/peers"), Vec::new()),
        };
        Ok(Self { name, program, arguments, fresh, is_pilotlight: false })
    }

    /// The same with more arguments.
    pub(crate) fn with(mut self, arguments: &[String]) -> Self {
        self.arguments.extend_from_slice(arguments);
        self
    }
}

/// Installs and compiles what the peers need. Those that cannot be had here are named and left out.
pub(crate) fn install() -> anyhow::Result<Vec<&'static str>> {
    let folder = peers();
    let npm = run(&folder, "npm", &["ci", "--no-progress", "--loglevel=error"])
        .and_then(|()| run(&folder, "npm", &["run", "--silent", "compile"]));
    if which("go").is_none() && which("apt-get").is_some() && rustix::process::getuid().is_root() {
        let _ = run(&folder, "apt-get", &["-qq", "install", "-y", "--no-install-recommends", "golang-go"]);
    }
    let go = run(&folder.join("go"), "go", &["build", "-o", "peers", "."]);
    let missing = |name: &str| match name {
        "floor" => None,
        "go" => go.as_ref().err(),
        _ => npm.as_ref().err(),
    };
    let mut ready = Vec::new();
    for name in PEERS {
        match missing(name) {
            None => ready.push(name),
            Some(error) => crate::say(&format!("{name} is left out: {error:#}\n")),
        }
    }
    ensure!(
        Subject::peer("floor", false)?.program.exists(),
        "build the floor first: cargo build --release --workspace"
    );
    Ok(ready)
}

/// What a program says of its version.
pub(crate) fn version(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "absent".to_owned())
}

pub(crate) fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn beside(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

fn which(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.with_context(|| format!("{program} does not start"))?;
    ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
