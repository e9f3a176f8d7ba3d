//! Owns where tokens come from: a stub or warm workers, in a process of their own or in this one.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::stdout::print;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::progress::Progress;
use super::subject::{Origin, Wait};
use super::{session_worker, stub, worker};

/// Which origin a process is.
#[derive(Debug, Clone, Args)]
pub(crate) struct OriginOptions {
    /// The address on which a stub listens, or where workers poll
    address: SocketAddr,
    /// How many workers; none for a stub
    #[arg(long)]
    workers: Option<usize>,
    /// How they wait
    #[arg(long, default_value = "poll")]
    wait: Wait,
}

/// The process of a stub or of workers, ended when this value is dropped.
pub(super) struct OriginProcess(Child);

impl OriginProcess {
    /// Starts it, and returns when the stub listens or the workers have started.
    pub(super) fn start(origin: Origin, workers: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let command = match origin {
            Origin::Stub(address) => command.args(["stream-origin", &address.to_string()]),
            Origin::Workers(broker, wait) => {
                let wait = wait.to_possible_value().context("no way to wait is hidden")?;
                let (broker, workers) = (broker.to_string(), workers.to_string());
                command.args(["stream-origin", &broker, "--workers", &workers, "--wait", wait.get_name()])
            }
        };
        let mut process = Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        let mut line = String::new();
        let stdout = process.0.stdout.take().context("no output of the origin")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == STARTED, "the origin of tokens does not start");
        Ok(process)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for OriginProcess {
    fn drop(&mut self) {
        // An error means that it has exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const STARTED: &str = "started\n";

/// Runs a stub or workers until stdin is closed, or until one of them fails.
pub(crate) fn run(options: &OriginOptions) -> anyhow::Result<()> {
    let origin = match options.workers {
        Some(_) => Origin::Workers(options.address, options.wait),
        None => Origin::Stub(options.address),
    };
    let (closed, ends) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        // It has no receiver any more if the origin has failed.
        let _ = closed.send(());
    });
    let progress = Rc::default();
    block_on_local(async {
        let serving = start(origin, options.workers.unwrap_or(0), &progress).await?;
        print(STARTED);
        tokio::select! {
            failure = serving => failure,
            _ = ends => Ok(()),
        }
    })
}

/// Starts a stub or workers on this thread. What is returned ends with the first failure of one of them.
pub(super) async fn start(
    origin: Origin,
    workers: usize,
    progress: &Rc<Progress>,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let mut tasks = tokio::task::JoinSet::new();
    match origin {
        Origin::Stub(address) => {
            tasks.spawn_local(stub::serve(TcpListener::bind(address).await?, progress.clone()));
        }
        Origin::Workers(broker, wait) => {
            for number in 0..workers {
                let progress = progress.clone();
                match wait {
                    Wait::Poll => tasks.spawn_local(worker::work(broker, number, progress)),
                    Wait::Websocket => tasks.spawn_local(session_worker::work(broker, number, progress)),
                };
            }
        }
    }
    Ok(async move { tasks.join_next().await.context("nobody serves")?? })
}
