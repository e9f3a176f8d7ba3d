//! Owns the list of settings: names, defaults, bounds and their meaning.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::ConfigError;
use crate::broker::{Limits, Pick};
use crate::metrics::Proof;

/// Whether this system can prove more than that bytes were written.
pub const CAN_PROVE: bool = cfg!(target_os = "linux");

/// Descriptors that polls leave for dispatch, operations and the process itself.
const RESERVED_FDS: u64 = 512;

/// Everything that can be set.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Read settings from this TOML file
    #[arg(long, global = true, value_name = "FILE", env = "PILOTLIGHT_CONFIG")]
    pub config: Option<PathBuf>,

    /// Where controllers and supervisors connect
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        env = "PILOTLIGHT_LISTEN",
        default_value = "127.0.0.1:7070"
    )]
    pub listen: SocketAddr,

    /// Serve POSTs here, and only here
    #[arg(long, global = true, value_name = "ADDR", env = "PILOTLIGHT_DISPATCH_LISTEN")]
    pub dispatch_listen: Option<SocketAddr>,

    /// Serve health, metrics and pools here
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        env = "PILOTLIGHT_OPS_LISTEN",
        default_value = "127.0.0.1:7071"
    )]
    pub ops_listen: SocketAddr,

    /// Bind a non-loopback address although nothing is authenticated: whoever reaches it can take or plant runs
    #[arg(long, global = true, env = "PILOTLIGHT_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,

    /// How long a poll is held; advertised by /connect (1s to 299s; proxies often cut at 60s)
    #[arg(long, global = true, value_name = "DUR", env = "PILOTLIGHT_CONNECTION_TIMEOUT",
        default_value = "50s", value_parser = humantime::parse_duration)]
    pub connection_timeout: Duration,

    /// How long an idle controller goes on polling; advertised by /connect; 0s turns warm starts off
    #[arg(long, global = true, value_name = "DUR", env = "PILOTLIGHT_KEEPALIVE",
        default_value = "300s", value_parser = humantime::parse_duration)]
    pub keepalive: Duration,

    /// What a `true` needs
    #[arg(long, global = true, value_name = "LEVEL", env = "PILOTLIGHT_PROOF",
        default_value = if CAN_PROVE { "received" } else { "written" })]
    pub proof: ProofLevel,

    /// How long a run that a controller's system acknowledged may stay unread (10ms to 60s)
    #[arg(long, global = true, value_name = "DUR", env = "PILOTLIGHT_PROOF_TIMEOUT",
        default_value = "500ms", value_parser = humantime::parse_duration)]
    pub proof_timeout: Duration,

    /// Proxies in between: what they forward is believed, and a receipt is only theirs (proof is `hop`)
    #[arg(
        long,
        global = true,
        value_name = "CIDR,...",
        env = "PILOTLIGHT_BEHIND_PROXY",
        value_delimiter = ','
    )]
    pub behind_proxy: Vec<IpNet>,

    /// Which waiter is matched first
    #[arg(long, global = true, value_name = "ORDER", env = "PILOTLIGHT_PICK", default_value = "newest")]
    pub pick: PickOrder,

    /// Every POST is answered within this time
    #[arg(long, global = true, value_name = "DUR", env = "PILOTLIGHT_DISPATCH_BUDGET",
        default_value = "2s", value_parser = humantime::parse_duration)]
    pub dispatch_budget: Duration,

    /// The largest accepted run; over it a POST is answered with 413
    #[arg(long, global = true, value_name = "SIZE", env = "PILOTLIGHT_BODY_LIMIT", default_value = "4MiB")]
    pub body_limit: bytesize::ByteSize,

    /// The most held polls; the surplus is closed without an answer [default: from the limit of open files]
    #[arg(long, global = true, value_name = "N", env = "PILOTLIGHT_MAX_WAITERS")]
    pub max_waiters: Option<usize>,

    /// The most held polls of one pool
    #[arg(
        long,
        global = true,
        value_name = "N",
        env = "PILOTLIGHT_MAX_WAITERS_PER_POOL",
        default_value = "10000"
    )]
    pub max_waiters_per_pool: usize,

    /// The most pools
    #[arg(long, global = true, value_name = "N", env = "PILOTLIGHT_MAX_POOLS", default_value = "100000")]
    pub max_pools: usize,

    /// SIGTERM spreads the goodbyes over this time
    #[arg(long, global = true, value_name = "DUR", env = "PILOTLIGHT_DRAIN_WINDOW",
        default_value = "10s", value_parser = humantime::parse_duration)]
    pub drain_window: Duration,

    /// Keep the record of dispatches in this SQLite file; without it the last 10,000 stand in memory
    #[arg(long, global = true, value_name = "FILE", env = "PILOTLIGHT_HISTORY")]
    pub history: Option<PathBuf>,

    /// Dispatches older than this leave the history's file (1m to 3650d)
    #[arg(long, global = true, value_name = "DUR", env = "PILOTLIGHT_HISTORY_AGE",
        default_value = "30d", value_parser = humantime::parse_duration)]
    pub history_age: Duration,

    /// The history's file is kept below this size, the oldest dispatches leaving first
    #[arg(long, global = true, value_name = "SIZE", env = "PILOTLIGHT_HISTORY_SIZE", default_value = "1GiB")]
    pub history_size: bytesize::ByteSize,

    /// Export a trace of each dispatch to this OTLP/HTTP collector, such as <http://127.0.0.1:4318>
    #[arg(long, global = true, value_name = "URL", env = "PILOTLIGHT_OTLP")]
    pub otlp: Option<String>,

    /// Threads that serve connections [default: one per core]
    #[arg(long, global = true, value_name = "N", env = "PILOTLIGHT_THREADS")]
    pub threads: Option<usize>,

    /// How log lines are written [default: text on a terminal, else json]; `RUST_LOG` sets how much
    #[arg(long, global = true, value_name = "FORMAT", env = "PILOTLIGHT_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// What a `true` needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProofLevel {
    /// The kernel took every byte of the run.
    Written,
    /// The controller's kernel acknowledged every byte.
    Acked,
    /// The controller's process read every byte.
    Received,
}

impl From<ProofLevel> for Proof {
    fn from(level: ProofLevel) -> Self {
        match level {
            ProofLevel::Written => Self::Written,
            ProofLevel::Acked => Self::Acked,
            ProofLevel::Received => Self::Received,
        }
    }
}

/// Which waiter is matched first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PickOrder {
    /// Few controllers stay hot, the surplus ends.
    Newest,
    /// Every controller gets its turn.
    Oldest,
}

impl From<PickOrder> for Pick {
    fn from(order: PickOrder) -> Self {
        match order {
            PickOrder::Newest => Self::Newest,
            PickOrder::Oldest => Self::Oldest,
        }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Settings {
    /// Refuses settings that contradict each other.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |what: String| Err(ConfigError::Contradiction(what));
        for (flag, value, bounds) in self.times() {
            if !bounds.contains(&value) {
                let [value, least, most] =
                    [value, *bounds.start(), *bounds.end()].map(humantime::format_duration);
                return refuse(format!("--{flag} {value} is outside {least} to {most}"));
            }
        }
        if !self.keepalive.is_zero() && self.keepalive < Duration::from_secs(1) {
            return refuse("--keepalive is at least 1s, or 0s to turn warm starts off".to_owned());
        }
        if !CAN_PROVE && self.proof != ProofLevel::Written {
            return refuse("--proof: on this system nothing above `written` can be proved".to_owned());
        }
        if self.body_limit.as_u64() == 0 {
            return refuse("--body-limit 0 would refuse every run".to_owned());
        }
        if self.history_size < bytesize::ByteSize::mib(1) {
            return refuse("--history-size is at least 1MiB".to_owned());
        }
        if let Some(url) = self.otlp.as_deref().filter(|url| !url.starts_with("http://")) {
            return refuse(format!("--otlp {url} is not a URL of the form http://host:port"));
        }
        if self.threads == Some(0) {
            return refuse("--threads 0 would serve nobody; leave it out for one per core".to_owned());
        }
        if [self.max_waiters, Some(self.max_waiters_per_pool), Some(self.max_pools)].contains(&Some(0)) {
            return refuse("--max-waiters, --max-waiters-per-pool and --max-pools are at least 1".to_owned());
        }
        let addresses = [
            ("--listen", Some(self.listen)),
            ("--dispatch-listen", self.dispatch_listen),
            ("--ops-listen", Some(self.ops_listen)),
        ];
        for (flag, address) in addresses {
            if let Some(address) =
                address.filter(|a| !a.ip().to_canonical().is_loopback() && !self.insecure_no_auth)
            {
                return refuse(format!(
                    "{flag} {address} is not a loopback address, and nothing is authenticated: whoever reaches it can \
                     take runs or plant them. Bind 127.0.0.1, or say --insecure-no-auth if the network is closed to strangers"
                ));
            }
        }
        Ok(())
    }

    /// Every time with its bounds. The client's own header timeout is 300 s: a poll advertised that long would
    /// break in its hands.
    fn times(&self) -> [(&'static str, Duration, RangeInclusive<Duration>); 6] {
        let between = |least, most| Duration::from_millis(least)..=Duration::from_secs(most);
        [
            ("connection-timeout", self.connection_timeout, between(1000, 299)),
            ("keepalive", self.keepalive, between(0, 86_400)),
            ("dispatch-budget", self.dispatch_budget, between(1, 60)),
            ("proof-timeout", self.proof_timeout, between(10, 60)),
            ("drain-window", self.drain_window, between(0, 3600)),
            ("history-age", self.history_age, between(60_000, 3650 * 86_400)),
        ]
    }

    /// The limits of the core, given how many files the process may open.
    pub fn limits(&self, open_files: u64) -> Limits {
        let from_files = usize::try_from(open_files.saturating_sub(RESERVED_FDS).max(open_files / 2));
        Limits {
            waiters: self.max_waiters.unwrap_or_else(|| from_files.unwrap_or(usize::MAX)),
            waiters_per_pool: self.max_waiters_per_pool,
            pools: self.max_pools,
        }
    }

    /// Threads that serve connections.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}
