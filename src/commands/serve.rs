//! Owns `pilotlight serve`: the broker until a signal ends it; another lets it read its settings again.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Command, FromArgMatches};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::broker::Limits;
use crate::config::{self, Endpoint, Listeners, Parsed, Settings, innermost};
use crate::server::{Adopted, Inherited, Server, Signal, raise_open_files};

pub(super) fn serve(
    mut settings: Settings,
    inherited: Inherited,
    mut given: Given,
) -> anyhow::Result<ExitCode> {
    given.adopted = inherited.addresses()?;
    given.adopted.put(&mut settings);
    let listeners = settings.check()?;
    for variable in config::misspelt(&given.command) {
        tracing::warn!("{variable}");
    }
    let settings = &settings;
    let open_files = raise_open_files();
    settings.check_open_files(open_files)?;
    let runtime = super::runtime()?;
    let served = runtime.block_on(async {
        let server = Server::bind(settings, &listeners, open_files, inherited)?;
        let listeners = server.listeners();
        let Limits { waiters, waiters_per_pool, pools } = settings.limits(open_files);
        let [listen, dispatch_listen, ops_listen] =
            listeners.by_flag().map(|(_, endpoints)| shown(endpoints));
        tracing::info!(
            listen,
            dispatch_listen,
            ops_listen,
            max_waiters = waiters,
            max_waiters_per_pool = waiters_per_pool,
            max_pools = pools,
            threads = settings.threads(),
            "serving"
        );
        // Before the greeting: whoever reads it may send one.
        let signals = signals(given)?;
        let greeting =
            Greeting::new(&listeners, [settings.tls_cert.is_some(), settings.ops_tls_cert.is_some()]);
        if super::logs_are_json(settings) {
            greeting.log();
        } else {
            super::print(&greeting.text());
        }
        server.run(signals).await
    });
    // A question about the past that waits for a disk does not hold up the end.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

/// A listener's endpoints in one text; none if it has none.
fn shown(endpoints: &[Endpoint]) -> Option<String> {
    let all: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
    (!all.is_empty()).then(|| all.join(", "))
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
struct Greeting {
    hello: String,
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
            hello: format!(
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
        let Self { hello, wait, dispatch, look } = self;
        format!("{hello}\n\nwait:      {wait}\ndispatch:  {dispatch}\nlook:      {look}\n")
    }

    /// A line of the log, where other programs read it: nothing else may stand between its lines.
    fn log(&self) {
        let Self { hello, wait, dispatch, look } = self;
        tracing::info!(wait, dispatch, look, "{hello}");
    }
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
