//! Owns what settings must not say together, and the limits that follow from the machine.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::ConfigError;
use super::address::{self, Endpoint};
use super::settings::{CAN_PROVE, ProofLevel, Settings};
use crate::broker::Limits;
use crate::collector::Collector;

/// Descriptors that polls leave for dispatch, operations and the process itself.
const FDS_BESIDE_POLLS: u64 = 512;
/// Descriptors that connections leave for files and the process itself, beside those of operators.
const FDS_BESIDE_CONNECTIONS: u64 = 64;
/// Descriptors that a broker needs to begin with: for itself and the first connections,
const FDS_OF_THE_PROCESS: u64 = 32;
/// and for each serving thread.
const FDS_OF_A_THREAD: u64 = 8;
/// Operators' connections: every reader of events that there may be, and some who ask.
const OPS_CONNECTIONS: u64 = 320;

/// Where to listen: what the addresses of the settings stand for on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listeners {
    /// For controllers, and for supervisors unless they have their own.
    pub public: Vec<Endpoint>,
    /// For supervisors alone; empty if they have none.
    pub dispatch: Vec<Endpoint>,
    /// For operators.
    pub ops: Vec<Endpoint>,
}

impl Listeners {
    /// Each with its flag.
    pub fn by_flag(&self) -> [(&'static str, &[Endpoint]); 3] {
        [("listen", &self.public), ("dispatch-listen", &self.dispatch), ("ops-listen", &self.ops)]
    }

    /// Each endpoint with its flag.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Endpoint)> {
        self.by_flag().into_iter().flat_map(|(flag, endpoints)| endpoints.iter().map(move |one| (flag, one)))
    }
}

impl Settings {
    /// Refuses settings that contradict each other, and finds out where they let the broker listen.
    pub fn check(&self) -> Result<Listeners, ConfigError> {
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
        if self.memory_limit.is_some_and(|size| size.as_u64() == 0) {
            return refuse(
                "--memory-limit 0 would refuse everyone; leave it out for four fifths of the cgroup's"
                    .to_owned(),
            );
        }
        if self.history_size < bytesize::ByteSize::mib(1) {
            return refuse("--history-size is at least 1MiB".to_owned());
        }
        if let Some(Err(why)) = self.otlp.as_deref().map(Collector::parse) {
            return refuse(format!("--otlp {why}"));
        }
        if self.threads == Some(0) {
            return refuse("--threads 0 would serve nobody; leave it out for one per core".to_owned());
        }
        let counts = [
            ("max-waiters", self.max_waiters),
            ("max-waiters-per-pool", Some(self.max_waiters_per_pool)),
            ("max-pools", Some(self.max_pools)),
            ("max-connections", self.max_connections),
            ("max-connections-per-source", self.max_connections_per_source),
            ("max-ops-connections", self.max_ops_connections),
            ("max-posts", Some(self.max_posts)),
            ("max-post-rate", self.max_post_rate.map(|rate| rate as usize)),
        ];
        if let Some((flag, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
            return refuse(format!("--{flag} 0 would refuse everyone; it is at least 1"));
        }
        let listeners = self.listeners()?;
        self.check_access(&listeners)?;
        Ok(listeners)
    }

    /// Where to listen. Each listener has addresses of its own.
    fn listeners(&self) -> Result<Listeners, ConfigError> {
        let refuse = |what: String| Err(ConfigError::Contradiction(what));
        let of = |flag: &str, addresses: &[_]| {
            let endpoints = address::endpoints(addresses);
            endpoints.map_err(|why| ConfigError::Contradiction(format!("--{flag} {why}")))
        };
        let listeners = Listeners {
            public: of("listen", &self.listen)?,
            dispatch: of("dispatch-listen", &self.dispatch_listen)?,
            ops: of("ops-listen", &self.ops_listen)?,
        };
        if let Some(path) = listeners.public.iter().find(|endpoint| matches!(endpoint, Endpoint::Unix(_))) {
            return refuse(format!(
                "--listen {path}: controllers wait on TCP, which shows whether a run has arrived; supervisors can have a \
                 Unix socket, as --dispatch-listen"
            ));
        }
        if self.proxy_protocol && self.behind_proxy.is_empty() {
            return refuse(
                "--proxy-protocol needs --behind-proxy: only the proxies named there are believed about their clients"
                    .to_owned(),
            );
        }
        let given: Vec<_> = listeners.all().collect();
        for (place, (flag, one)) in given.iter().enumerate() {
            for (other_flag, other) in &given[place + 1..] {
                if flag != other_flag && one.meets(other) {
                    return refuse(format!(
                        "--{flag} {one} and --{other_flag} {other} are one address; give each its own"
                    ));
                }
            }
        }
        Ok(listeners)
    }

    /// Nothing that a stranger can reach may let everybody in.
    fn check_access(&self, listeners: &Listeners) -> Result<(), ConfigError> {
        let refuse = |what: String| Err(ConfigError::Contradiction(what));
        if self.require_token && self.token_secret_file.is_none() {
            return refuse(
                "--require-token needs --token-secret-file: without a secret no token can be verified"
                    .to_owned(),
            );
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return refuse("--tls-cert and --tls-key belong together: give both, or neither".to_owned());
        }
        if self.ops_tls_cert.is_some() != self.ops_tls_key.is_some() {
            return refuse(
                "--ops-tls-cert and --ops-tls-key belong together: give both, or neither".to_owned(),
            );
        }
        if self.tls_client_ca.is_some() && self.tls_cert.is_none() {
            return refuse(
                "--tls-client-ca needs --tls-cert and --tls-key: clients show certificates in TLS only"
                    .to_owned(),
            );
        }
        let unix = listeners.dispatch.iter().find(|endpoint| matches!(endpoint, Endpoint::Unix(_)));
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        if let Some(unix) = unix
            && !self.allow_dispatch.is_empty()
            && !self.allow_dispatch.iter().any(|net| net.contains(&local))
        {
            return refuse(format!(
                "--dispatch-listen {unix}: its clients count as {local}, which --allow-dispatch does not name; add it"
            ));
        }
        let certified = self.tls_client_ca.is_some();
        let dispatch = match listeners.dispatch.as_slice() {
            [] => ("--listen", listeners.public.as_slice()),
            own => ("--dispatch-listen", own),
        };
        let roles = [
            (
                ("--listen", listeners.public.as_slice()),
                "take runs",
                certified || self.require_token || !self.allow_poll.is_empty(),
                "--allow-poll, --require-token with --token-secret-file, or --tls-client-ca",
            ),
            (
                dispatch,
                "plant runs in warm controllers",
                certified || self.dispatch_token_file.is_some() || !self.allow_dispatch.is_empty(),
                "--allow-dispatch, --dispatch-token-file, or --tls-client-ca",
            ),
            (
                ("--ops-listen", listeners.ops.as_slice()),
                "read every key and retire controllers",
                self.ops_token_file.is_some(),
                "--ops-token-file",
            ),
        ];
        for ((flag, endpoints), harm, is_guarded, guards) in roles {
            let reachable = endpoints.iter().find(|endpoint| !endpoint.is_local());
            if let Some(address) = reachable.filter(|_| !is_guarded && !self.insecure_no_auth) {
                return refuse(format!(
                    "{flag} {address} is not a loopback address, and whoever reaches it could {harm}. Give {guards}; or \
                     bind 127.0.0.1; or say --insecure-no-auth if the network is closed to strangers"
                ));
            }
        }
        Ok(())
    }

    /// Every time with its bounds. The client's own header timeout is 300 s: a poll advertised that long would
    /// break in its hands.
    fn times(&self) -> [(&'static str, Duration, RangeInclusive<Duration>); 8] {
        let between = |least, most| Duration::from_millis(least)..=Duration::from_secs(most);
        [
            ("connection-timeout", self.connection_timeout, between(1000, 299)),
            ("keepalive", self.keepalive, between(0, 86_400)),
            ("idle-timeout", self.idle_timeout, between(1000, 3600)),
            ("dispatch-budget", self.dispatch_budget, between(1, 60)),
            ("proof-timeout", self.proof_timeout, between(10, 60)),
            ("remember-runs", self.remember_runs, between(0, 600)),
            ("drain-window", self.drain_window, between(0, 3600)),
            ("history-age", self.history_age, between(60_000, 3650 * 86_400)),
        ]
    }

    /// Refuses to begin with so few descriptors that there would be none for whoever connects. Bounds: the process and its
    /// threads take about half of what is asked for here.
    pub fn check_open_files(&self, open_files: u64) -> Result<(), ConfigError> {
        let needed = FDS_OF_THE_PROCESS + FDS_OF_A_THREAD * self.threads() as u64;
        if open_files < needed {
            return Err(ConfigError::Contradiction(format!(
                "this process may open {open_files} files, and needs {needed} with its {} threads (--threads); raise the \
                 limit: `ulimit -n 65536`, LimitNOFILE=65536 in a unit of systemd, --ulimit nofile=65536 for Docker",
                self.threads()
            )));
        }
        Ok(())
    }

    /// The limits of the core, given how many files the process may open.
    pub fn limits(&self, open_files: u64) -> Limits {
        let from_files = usize::try_from(open_files.saturating_sub(FDS_BESIDE_POLLS).max(open_files / 2));
        Limits {
            waiters: self.max_waiters.unwrap_or_else(|| from_files.unwrap_or(usize::MAX)),
            waiters_per_pool: self.max_waiters_per_pool,
            pools: self.max_pools,
        }
    }

    /// The most open connections on the public listeners, given how many files the process may open.
    pub fn connections(&self, open_files: u64) -> usize {
        let beside = FDS_BESIDE_CONNECTIONS + self.ops_connections(open_files) as u64;
        let from_files = usize::try_from(open_files.saturating_sub(beside).max(open_files / 2));
        self.max_connections.unwrap_or_else(|| from_files.unwrap_or(usize::MAX))
    }

    /// The most open connections of operators, given how many files the process may open.
    pub fn ops_connections(&self, open_files: u64) -> usize {
        let from_files = usize::try_from((open_files / 16).clamp(1, OPS_CONNECTIONS));
        self.max_ops_connections.unwrap_or_else(|| from_files.unwrap_or(usize::MAX))
    }

    /// Threads that serve connections.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}
