//! Owns `pilotlight serve`: the broker until a signal ends it.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::Settings;
use crate::server::{Addresses, Server, raise_open_files};

pub(super) fn serve(settings: &Settings) -> anyhow::Result<ExitCode> {
    let limits = settings.limits(raise_open_files());
    super::runtime()?.block_on(async {
        let server = Server::bind(settings, limits)?;
        let addresses = server.addresses()?;
        tracing::info!(?addresses, ?limits, threads = settings.threads(), "serving");
        super::print(&greeting(&addresses));
        server.run(signals()?).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What a newcomer can copy.
fn greeting(addresses: &Addresses) -> String {
    let Addresses { public, dispatch, ops } = addresses;
    let dispatch = dispatch.unwrap_or(*public);
    format!(
        "pilotlight waits for controllers on http://{public} and for operators on http://{ops}\n\
         \n\
         wait:      curl 'http://{public}/v1/pools/hello/1/0.5/0.5'\n\
         dispatch:  curl -d 'a run' 'http://{dispatch}/v1/pools/hello/1/0.5/0.5'\n\
         look:      curl 'http://{ops}/pools'\n"
    )
}

/// SIGTERM and SIGINT, as messages.
fn signals() -> std::io::Result<mpsc::Receiver<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, signals) = mpsc::channel(2);
    #[expect(clippy::disallowed_methods, reason = "ends with the process")]
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(signals)
}
