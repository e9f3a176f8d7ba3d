//! Owns `pilotlight serve`: runs the broker until SIGTERM or SIGINT, and reloads its settings on SIGHUP.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::process;
use crate::broker::Limits;
use crate::config::{self, Endpoint, Listeners, ParsedSettings, Settings};
use crate::server::{InheritedAddresses, InheritedSockets, Server, Signal, raise_open_files};

pub(super) fn serve(
    mut settings: Settings,
    inherited: InheritedSockets,
    mut invocation: Invocation,
) -> anyhow::Result<ExitCode> {
    invocation.inherited_addresses = inherited.addresses()?;
    invocation.inherited_addresses.apply_to(&mut settings);
    let listeners = settings.validate()?;
    for warning in config::misspelt_variables(&invocation.command) {
        tracing::warn!("{warning}");
    }
    let settings = &settings;
    let open_files = raise_open_files();
    settings.process.check_open_files(open_files)?;
    let runtime = process::runtime()?;
    let served = runtime.block_on(async {
        let server = Server::bind(settings, &listeners, open_files, inherited)?;
        let listeners = server.listeners();
        let Limits { waiters, waiters_per_pool, pools } = settings.limits.of_broker(open_files);
        let [listen, dispatch_listen, ops_listen] =
            listeners.by_flag().map(|(_, endpoints)| joined(endpoints));
        tracing::info!(
            listen,
            dispatch_listen,
            ops_listen,
            max_waiters = waiters,
            max_waiters_per_pool = waiters_per_pool,
            max_pools = pools,
            threads = settings.process.thread_count(),
            "serving"
        );
        // Before the greeting, because a program that has read the greeting may send a signal at once.
        let signals = signals(invocation)?;
        let greeting =
            Greeting::new(&listeners, [settings.tls.tls_cert.is_some(), settings.tls.ops_tls_cert.is_some()]);
        if process::is_log_json(settings) {
            greeting.log();
        } else {
            process::print(&greeting.text());
        }
        server.run(signals).await
    });
    // Shutdown does not wait for a query of the history that is blocked on a disk.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

/// A listener's endpoints as one text; none if there are none.
fn joined(endpoints: &[Endpoint]) -> Option<String> {
    let all: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// How the broker was started: what a reload needs to read the settings again.
pub(super) struct Invocation {
    pub(super) command: Command,
    pub(super) arguments: Vec<OsString>,
    pub(super) parsed: ParsedSettings,
    pub(super) inherited_addresses: InheritedAddresses,
}

impl Invocation {
    /// Reads the settings again, and warns of changes that only a restart can apply.
    fn read_settings(&mut self) -> anyhow::Result<Settings> {
        let parsed = config::parse(&self.command, self.arguments.clone())?;
        let mut settings = parsed.settings()?;
        self.inherited_addresses.apply_to(&mut settings);
        settings.validate()?;
        for flag in config::changes_needing_restart(&self.command, &self.parsed, &parsed) {
            tracing::warn!("--{flag} has changed; the change takes effect after a restart");
        }
        Ok(settings)
    }
}

/// What is printed once the broker serves: its addresses, and commands to try.
struct Greeting {
    addresses: String,
    wait: String,
    dispatch: String,
    look: String,
}

impl Greeting {
    fn new(listeners: &Listeners, is_tls: [bool; 2]) -> Self {
        let Listeners { public, dispatch, ops } = listeners;
        let [scheme, ops_scheme] = is_tls.map(|is_tls| if is_tls { "https" } else { "http" });
        let urls = |scheme: &str, endpoints: &[Endpoint]| {
            let url = |endpoint: &Endpoint| match endpoint {
                Endpoint::Ip(address) => format!("{scheme}://{address}"),
                Endpoint::Unix(_) => endpoint.to_string(),
            };
            endpoints.iter().map(url).collect::<Vec<_>>().join(", ")
        };
        let curl = |flags: &str, scheme: &str, endpoints: &[Endpoint], path: &str| match endpoints.first() {
            Some(Endpoint::Ip(address)) => format!("curl {flags}'{scheme}://{address}{path}'"),
            Some(Endpoint::Unix(file)) => {
                format!("curl --unix-socket '{}' {flags}'http://localhost{path}'", file.display())
            }
            None => String::new(),
        };
        let pool = "/v1/pools/hello/1/0.5/0.5";
        let posts = if dispatch.is_empty() { public } else { dispatch };
        Self {
            addresses: format!(
                "pilotlight waits for controllers on {} and for operators on {}",
                urls(scheme, public),
                urls(ops_scheme, ops)
            ),
            wait: curl("", scheme, public, pool),
            dispatch: curl("-d 'a run' ", scheme, posts, pool),
            look: curl("", ops_scheme, ops, "/pools"),
        }
    }

    fn text(&self) -> String {
        let Self { addresses, wait, dispatch, look } = self;
        format!("{addresses}\n\nwait:      {wait}\ndispatch:  {dispatch}\nlook:      {look}\n")
    }

    /// The greeting as one log line, for a JSON log: its readers expect nothing but JSON.
    fn log(&self) {
        let Self { addresses, wait, dispatch, look } = self;
        tracing::info!(wait, dispatch, look, "{addresses}");
    }
}

/// SIGTERM and SIGINT shut the broker down, SIGHUP reloads its settings.
fn signals(mut invocation: Invocation) -> std::io::Result<mpsc::Receiver<Signal>> {
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
                _ = hangup.recv() => Signal::Reload(invocation.read_settings().map(Box::new)),
            };
            if sender.send(signal).await.is_err() {
                return;
            }
        }
    });
    Ok(signals)
}
