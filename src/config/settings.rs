//! Owns the list of settings: names, defaults, bounds and their meaning.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::address::{self, ListenAddress};
use crate::address::net;
use crate::broker::Pick;
use crate::metrics::Proof;

/// Whether this system can prove more than that bytes were written.
pub const CAN_PROVE: bool = cfg!(target_os = "linux");

/// The groups of the help's list.
const ADDRESSES: &str = "Addresses";
const ACCESS: &str = "Who is let in";
const POLLS: &str = "Controllers that wait";
const DISPATCH: &str = "Runs";
const LIMITS: &str = "Limits";
const RECORDS: &str = "History, traces and logs";
const PROCESS: &str = "Process";

/// Everything that can be set.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Settings {
    /// Read settings from this TOML file
    #[arg(long, global = true, hide_env = true, help_heading = ADDRESSES, value_name = "FILE", env = "PILOTLIGHT_CONFIG")]
    pub config: Option<PathBuf>,

    /// Where controllers and supervisors connect; `:7070` is every address, a name each of its own
    #[arg(
        long,
        global = true, hide_env = true, help_heading = ADDRESSES,
        value_name = "ADDR,...",
        env = "PILOTLIGHT_LISTEN", value_delimiter = ',', value_parser = address::parse,
        default_value = "127.0.0.1:7070"
    )]
    pub listen: Vec<ListenAddress>,

    /// Serve POSTs here, and only here; `unix:/path` is a Unix socket (mode 0660)
    #[arg(
        long,
        global = true, hide_env = true, help_heading = ADDRESSES,
        value_name = "ADDR,...",
        env = "PILOTLIGHT_DISPATCH_LISTEN", value_delimiter = ',', value_parser = address::parse
    )]
    pub dispatch_listen: Vec<ListenAddress>,

    /// Serve health, metrics and pools here; `unix:/path` is a Unix socket (mode 0660)
    #[arg(
        long,
        global = true, hide_env = true, help_heading = ADDRESSES,
        value_name = "ADDR,...",
        env = "PILOTLIGHT_OPS_LISTEN", value_delimiter = ',', value_parser = address::parse,
        default_value = "127.0.0.1:7071"
    )]
    pub ops_listen: Vec<ListenAddress>,

    /// Answer `GET /livez` on the public listeners, too, for load balancers' checks
    #[arg(long, global = true, hide_env = true, help_heading = ADDRESSES, env = "PILOTLIGHT_PUBLIC_LIVEZ")]
    pub public_livez: bool,

    /// Proxies in between: what they forward is believed, and a receipt is only theirs (proof is `hop`)
    #[arg(
        long,
        global = true, hide_env = true, help_heading = ADDRESSES,
        value_name = "CIDR,...",
        env = "PILOTLIGHT_BEHIND_PROXY",
        value_delimiter = ',',
        value_parser = net
    )]
    pub behind_proxy: Vec<IpNet>,

    /// Each connection of these proxies begins with a PROXY protocol header (v1 or v2), which names its client
    #[arg(long, global = true, hide_env = true, help_heading = ADDRESSES, env = "PILOTLIGHT_PROXY_PROTOCOL")]
    pub proxy_protocol: bool,

    /// Verify deployment tokens with this file's secret (HS256; one a line, so that two make a rotation)
    #[arg(long, global = true, hide_env = true, help_heading = ACCESS, value_name = "FILE", env = "PILOTLIGHT_TOKEN_SECRET_FILE")]
    pub token_secret_file: Option<PathBuf>,

    /// Refuse polls without a valid deployment token
    #[arg(long, global = true, hide_env = true, help_heading = ACCESS, env = "PILOTLIGHT_REQUIRE_TOKEN")]
    pub require_token: bool,

    /// Take POSTs only with a bearer token of this file (one a line, so that two make a rotation)
    #[arg(long, global = true, hide_env = true, help_heading = ACCESS, value_name = "FILE", env = "PILOTLIGHT_DISPATCH_TOKEN_FILE")]
    pub dispatch_token_file: Option<PathBuf>,

    /// Serve operators only with a bearer token, or password, of this file (one a line); /livez and /readyz stay open
    #[arg(long, global = true, hide_env = true, help_heading = ACCESS, value_name = "FILE", env = "PILOTLIGHT_OPS_TOKEN_FILE")]
    pub ops_token_file: Option<PathBuf>,

    /// Who may poll; others are closed without an answer [default: whoever reaches --listen]
    #[arg(
        long,
        global = true, hide_env = true, help_heading = ACCESS,
        value_name = "CIDR,...",
        env = "PILOTLIGHT_ALLOW_POLL",
        value_delimiter = ',',
        value_parser = net
    )]
    pub allow_poll: Vec<IpNet>,

    /// Who may dispatch [default: whoever reaches the listener]
    #[arg(
        long,
        global = true, hide_env = true, help_heading = ACCESS,
        value_name = "CIDR,...",
        env = "PILOTLIGHT_ALLOW_DISPATCH",
        value_delimiter = ',',
        value_parser = net
    )]
    pub allow_dispatch: Vec<IpNet>,

    /// Bind a non-loopback address although nothing is authenticated: whoever reaches it can take or plant runs
    #[arg(long, global = true, hide_env = true, help_heading = ACCESS, env = "PILOTLIGHT_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,

    /// Speak TLS on the public listeners with this certificate chain (PEM)
    #[arg(long, global = true, hide_env = true, help_heading = ACCESS, value_name = "FILE", env = "PILOTLIGHT_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key (PEM)
    #[arg(long, global = true, hide_env = true, help_heading = ACCESS, value_name = "FILE", env = "PILOTLIGHT_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// Let in only clients with a certificate of these authorities (PEM): mTLS
    #[arg(long, global = true, hide_env = true, help_heading = ACCESS, value_name = "FILE", env = "PILOTLIGHT_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,

    /// Speak TLS on the ops listener with this certificate chain (PEM)
    #[arg(long, global = true, hide_env = true, help_heading = ACCESS, value_name = "FILE", env = "PILOTLIGHT_OPS_TLS_CERT")]
    pub ops_tls_cert: Option<PathBuf>,

    /// The ops certificate's private key (PEM)
    #[arg(long, global = true, hide_env = true, help_heading = ACCESS, value_name = "FILE", env = "PILOTLIGHT_OPS_TLS_KEY")]
    pub ops_tls_key: Option<PathBuf>,

    /// How long a poll is held; advertised by /connect (1s to 299s; proxies often cut at 60s)
    #[arg(long, global = true, hide_env = true, help_heading = POLLS, value_name = "DUR", env = "PILOTLIGHT_CONNECTION_TIMEOUT",
        default_value = "50s", value_parser = humantime::parse_duration)]
    pub connection_timeout: Duration,

    /// How long an idle controller goes on polling; advertised by /connect; 0s turns warm starts off
    #[arg(long, global = true, hide_env = true, help_heading = POLLS, value_name = "DUR", env = "PILOTLIGHT_KEEPALIVE",
        default_value = "300s", value_parser = humantime::parse_duration)]
    pub keepalive: Duration,

    /// How long a connection may rest between two requests (1s to 1h); clients are told 5s less
    #[arg(long, global = true, hide_env = true, help_heading = POLLS, value_name = "DUR", env = "PILOTLIGHT_IDLE_TIMEOUT",
        default_value = "75s", value_parser = humantime::parse_duration)]
    pub idle_timeout: Duration,

    /// SIGTERM spreads the goodbyes over this time
    #[arg(long, global = true, hide_env = true, help_heading = POLLS, value_name = "DUR", env = "PILOTLIGHT_DRAIN_WINDOW",
        default_value = "10s", value_parser = humantime::parse_duration)]
    pub drain_window: Duration,

    /// What a `true` needs
    #[arg(long, global = true, hide_env = true, help_heading = DISPATCH, value_name = "LEVEL", env = "PILOTLIGHT_PROOF",
        default_value = if CAN_PROVE { "received" } else { "written" })]
    pub proof: ProofLevel,

    /// How long a run that a controller's system acknowledged may stay unread (10ms to 60s)
    #[arg(long, global = true, hide_env = true, help_heading = DISPATCH, value_name = "DUR", env = "PILOTLIGHT_PROOF_TIMEOUT",
        default_value = "500ms", value_parser = humantime::parse_duration)]
    pub proof_timeout: Duration,

    /// Which waiter is matched first
    #[arg(long, global = true, hide_env = true, help_heading = DISPATCH, value_name = "ORDER", env = "PILOTLIGHT_PICK", default_value = "newest")]
    pub pick: PickOrder,

    /// Every POST is answered within this time
    #[arg(long, global = true, hide_env = true, help_heading = DISPATCH, value_name = "DUR", env = "PILOTLIGHT_DISPATCH_BUDGET",
        default_value = "2s", value_parser = humantime::parse_duration)]
    pub dispatch_budget: Duration,

    /// A run posted again within this time is not delivered again; 0s makes every POST a run of its own (to 10m)
    #[arg(long, global = true, hide_env = true, help_heading = DISPATCH, value_name = "DUR", env = "PILOTLIGHT_REMEMBER_RUNS",
        default_value = "60s", value_parser = humantime::parse_duration)]
    pub remember_runs: Duration,

    /// What of a Trigger.dev message is checked before a controller is claimed
    #[arg(long, global = true, hide_env = true, help_heading = DISPATCH, value_name = "CHECK", env = "PILOTLIGHT_MESSAGE_CHECK", default_value = "strict")]
    pub message_check: MessageCheck,

    /// The largest accepted run; over it a POST is answered with 413
    #[arg(long, global = true, hide_env = true, help_heading = LIMITS, value_name = "SIZE", env = "PILOTLIGHT_BODY_LIMIT", default_value = "4MiB")]
    pub body_limit: bytesize::ByteSize,

    /// The most held polls; the surplus is closed without an answer [default: from the limit of open files]
    #[arg(long, global = true, hide_env = true, help_heading = LIMITS, value_name = "N", env = "PILOTLIGHT_MAX_WAITERS")]
    pub max_waiters: Option<usize>,

    /// The most held polls of one pool
    #[arg(
        long,
        global = true, hide_env = true, help_heading = LIMITS,
        value_name = "N",
        env = "PILOTLIGHT_MAX_WAITERS_PER_POOL",
        default_value = "10000"
    )]
    pub max_waiters_per_pool: usize,

    /// The most pools
    #[arg(long, global = true, hide_env = true, help_heading = LIMITS, value_name = "N", env = "PILOTLIGHT_MAX_POOLS", default_value = "100000")]
    pub max_pools: usize,

    /// The most open connections; then the silent ones make room [default: from the limit of open files]
    #[arg(long, global = true, hide_env = true, help_heading = LIMITS, value_name = "N", env = "PILOTLIGHT_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,

    /// The most open connections of one address [default: no limit, as a NAT makes many controllers one address]
    #[arg(long, global = true, hide_env = true, help_heading = LIMITS, value_name = "N", env = "PILOTLIGHT_MAX_CONNECTIONS_PER_SOURCE")]
    pub max_connections_per_source: Option<usize>,

    /// The most open connections of operators; then the quiet ones make room [default: 320, less where few files may be open]
    #[arg(long, global = true, hide_env = true, help_heading = LIMITS, value_name = "N", env = "PILOTLIGHT_MAX_OPS_CONNECTIONS")]
    pub max_ops_connections: Option<usize>,

    /// The most POSTs under way; over it a POST is answered with 429 at once
    #[arg(long, global = true, hide_env = true, help_heading = LIMITS, value_name = "N", env = "PILOTLIGHT_MAX_POSTS", default_value = "10000")]
    pub max_posts: usize,

    /// The most POSTs a second; over it a POST is answered with 429 at once [default: no limit]
    #[arg(long, global = true, hide_env = true, help_heading = LIMITS, value_name = "N", env = "PILOTLIGHT_MAX_POST_RATE")]
    pub max_post_rate: Option<u32>,

    /// Above this memory nobody new is held, and POSTs are misses [default: four fifths of the cgroup's limit, or of the machine's]
    #[arg(long, global = true, hide_env = true, help_heading = LIMITS, value_name = "SIZE", env = "PILOTLIGHT_MEMORY_LIMIT")]
    pub memory_limit: Option<bytesize::ByteSize>,

    /// Keep the record of dispatches in this SQLite file; without it the last 10,000 stand in memory
    #[arg(long, global = true, hide_env = true, help_heading = RECORDS, value_name = "FILE", env = "PILOTLIGHT_HISTORY")]
    pub history: Option<PathBuf>,

    /// Dispatches older than this leave the history's file (1m to 3650d)
    #[arg(long, global = true, hide_env = true, help_heading = RECORDS, value_name = "DUR", env = "PILOTLIGHT_HISTORY_AGE",
        default_value = "30d", value_parser = humantime::parse_duration)]
    pub history_age: Duration,

    /// The history's file is kept below this size, the oldest dispatches leaving first
    #[arg(long, global = true, hide_env = true, help_heading = RECORDS, value_name = "SIZE", env = "PILOTLIGHT_HISTORY_SIZE", default_value = "1GiB")]
    pub history_size: bytesize::ByteSize,

    /// Export a trace of each dispatch to this OTLP/HTTP collector, such as <http://127.0.0.1:4318>
    #[arg(long, global = true, hide_env = true, help_heading = RECORDS, value_name = "URL", env = "PILOTLIGHT_OTLP")]
    pub otlp: Option<String>,

    /// How log lines are written [default: text on a terminal, else json]; `RUST_LOG` sets how much
    #[arg(long, global = true, hide_env = true, help_heading = RECORDS, value_name = "FORMAT", env = "PILOTLIGHT_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Threads that serve connections [default: one per core]
    #[arg(long, global = true, hide_env = true, help_heading = PROCESS, value_name = "N", env = "PILOTLIGHT_THREADS")]
    pub threads: Option<usize>,
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

/// What of a Trigger.dev message is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MessageCheck {
    /// All that the client's schema checks: what it would refuse reaches no controller.
    Strict,
    /// The same, but enumerations may have words that the schema does not know, as those of a newer platform.
    Shape,
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
