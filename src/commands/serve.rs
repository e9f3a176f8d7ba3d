//! Owns `pilotlight serve`: the broker until a signal ends it; another lets it read its settings again.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Command, FromArgMatches};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{self, Parsed, Settings, innermost};
use crate::server::{Addresses, Adopted, Inherited, Server, Signal, raise_open_files};

pub(super) fn serve(
    mut settings: Settings,
    inherited: Inherited,
    mut given: Given,
) -> anyhow::Result<ExitCode> {
    given.adopted = inherited.addresses()?;
    given.adopted.put(&mut settings);
    settings.check()?;
    let settings = &settings;
    let open_files = raise_open_files();
    let runtime = super::runtime()?;
    let served = runtime.block_on(async {
        let server = Server::bind(settings, open_files, inherited)?;
        let addresses = server.addresses()?;
        let limits = settings.limits(open_files);
        tracing::info!(?addresses, ?limits, threads = settings.threads(), "serving");
        // Before the greeting: whoever reads it may send one.
        let signals = signals(given)?;
        super::print(&greeting(&addresses, settings.tls_cert.is_some(), settings.ops_tls_cert.is_some()));
        server.run(signals).await
    });
    // A question about the past that waits for a disk does not hold up the end.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

/// How the settings were given, to read them again the same way.
pub(super) struct Given {
    pub(super) command: Command,
    pub(super) arguments: Vec<OsString>,
    pub(super) parsed: Parsed,
    pub(super) adopted: Adopted,
}

impl Given {
    /// Reads the settings again. What cannot change while the broker runs is said, and stays.
    fn read_again(&mut self) -> anyhow::Result<Settings> {
        let parsed = config::parse(&self.command, self.arguments.clone())?;
        let mut settings = Settings::from_arg_matches(innermost(&parsed.matches))?;
        self.adopted.put(&mut settings);
        settings.check()?;
        for flag in config::needing_a_restart(&self.command, &self.parsed, &parsed) {
            tracing::warn!("--{flag} has changed; that needs a restart");
        }
        Ok(settings)
    }
}

/// What a newcomer can copy.
fn greeting(addresses: &Addresses, is_tls: bool, is_ops_tls: bool) -> String {
    let Addresses { public, dispatch, ops } = addresses;
    let dispatch = dispatch.unwrap_or(*public);
    let [scheme, ops_scheme] = [is_tls, is_ops_tls].map(|is_tls| if is_tls { "https" } else { "http" });
    format!(
        "pilotlight waits for controllers on {scheme}://{public} and for operators on {ops_scheme}://{ops}\n\
         \n\
         wait:      curl '{scheme}://{public}/v1/pools/hello/1/0.5/0.5'\n\
         dispatch:  curl -d 'a run' '{scheme}://{dispatch}/v1/pools/hello/1/0.5/0.5'\n\
         look:      curl '{ops_scheme}://{ops}/pools'\n"
    )
}

/// SIGTERM and SIGINT end, SIGHUP reloads.
fn signals(mut given: Given) -> std::io::Result<mpsc::Receiver<Signal>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, signals) = mpsc::channel(2);
    #[expect(clippy::disallowed_methods, reason = "ends with the process")]
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = terminate.recv() => Signal::End,
                _ = interrupt.recv() => Signal::End,
                _ = hangup.recv() => Signal::Reload(given.read_again().map(Box::new)),
            };
            if sender.send(signal).await.is_err() {
                return;
            }
        }
    });
    Ok(signals)
}
