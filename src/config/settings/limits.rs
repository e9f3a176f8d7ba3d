//! Owns the settings of limits, and the defaults that follow from how many files the process may open.

use bytesize::ByteSize;
use clap::Args;

use crate::broker::Limits;
use crate::config::bounds::check_not_zero;
use crate::config::error::ConfigError;

/// Descriptors that polls leave for dispatch, operations and the process itself.
const FDS_BESIDE_POLLS: u64 = 512;
/// Descriptors that connections leave for files and the process itself, beside those of operators.
const FDS_BESIDE_CONNECTIONS: u64 = 64;
/// Operators' connections by default: as many as can follow events at once, and some for requests.
const OPS_CONNECTIONS: u64 = 320;

/// AWS accepts no larger event.
const MAX_EVENT: ByteSize = ByteSize::mib(6);

/// Sizes, counts and rates beyond which the broker refuses.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitSettings {
    /// The largest accepted run; a larger POST is answered with 413 [default: 4MiB, and AWS's 6MiB for calls of functions]
    #[arg(long, value_name = "SIZE")]
    pub body_limit: Option<ByteSize>,

    /// The most held polls; further polls are closed without a response [default: from the limit of open files]
    #[arg(long, value_name = "N")]
    pub max_waiters: Option<usize>,

    /// The most held polls of one pool
    #[arg(long, value_name = "N", default_value = "10000")]
    pub max_waiters_per_pool: usize,

    /// The most pools at once
    #[arg(long, value_name = "N", default_value = "100000")]
    pub max_pools: usize,

    /// The most open connections; beyond it, silent connections are closed to make room [default: from the limit of open files]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,

    /// The most open connections from one address [default: no limit, because a NAT puts many controllers behind one address]
    #[arg(long, value_name = "N")]
    pub max_connections_per_source: Option<usize>,

    /// The most open connections of operators; beyond it, quiet ones are closed to make room [default: 320, fewer where few files may be open]
    #[arg(long, value_name = "N")]
    pub max_ops_connections: Option<usize>,

    /// The most POSTs in progress; further ones are answered with 429 at once
    #[arg(long, value_name = "N", default_value = "10000")]
    pub max_posts: usize,

    /// The most POSTs per second; further ones are answered with 429 at once [default: no limit]
    #[arg(long, value_name = "N")]
    pub max_post_rate: Option<u32>,

    /// While more memory than this is in use, new polls are refused and POSTs are misses [default: four fifths of the cgroup's limit, or of the machine's memory]
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<ByteSize>,
}

impl LimitSettings {
    pub(in crate::config) fn validate(&self) -> Result<(), ConfigError> {
        check_not_zero("body-limit", self.body_limit)?;
        check_not_zero("max-waiters", self.max_waiters)?;
        check_not_zero("max-waiters-per-pool", Some(self.max_waiters_per_pool))?;
        check_not_zero("max-pools", Some(self.max_pools))?;
        check_not_zero("max-connections", self.max_connections)?;
        check_not_zero("max-connections-per-source", self.max_connections_per_source)?;
        check_not_zero("max-ops-connections", self.max_ops_connections)?;
        check_not_zero("max-posts", Some(self.max_posts))?;
        check_not_zero("max-post-rate", self.max_post_rate)?;
        check_not_zero("memory-limit", self.memory_limit)
    }

    /// The largest accepted run.
    pub fn largest_run(&self) -> ByteSize {
        self.body_limit.unwrap_or(ByteSize::mib(4))
    }

    /// The largest accepted event of a function that is called through AWS Lambda's Invoke API.
    pub fn largest_event(&self) -> ByteSize {
        self.body_limit.unwrap_or(MAX_EVENT).min(MAX_EVENT)
    }

    /// The limits of the core, if the process may open this many files.
    pub fn of_broker(&self, open_files: u64) -> Limits {
        Limits {
            waiters: self.max_waiters.unwrap_or_else(|| Self::polls_of(open_files)),
            waiters_per_pool: self.max_waiters_per_pool,
            pools: self.max_pools,
        }
    }

    /// How many polls leave enough for all else, if the process may open this many files.
    pub fn polls_of(open_files: u64) -> usize {
        let from_files = usize::try_from(open_files.saturating_sub(FDS_BESIDE_POLLS).max(open_files / 2));
        from_files.unwrap_or(usize::MAX)
    }

    /// The most open connections on the public listeners, if the process may open this many files.
    pub fn public_connections(&self, open_files: u64) -> usize {
        let beside = FDS_BESIDE_CONNECTIONS + self.ops_connections(open_files) as u64;
        let from_files = usize::try_from(open_files.saturating_sub(beside).max(open_files / 2));
        self.max_connections.unwrap_or_else(|| from_files.unwrap_or(usize::MAX))
    }

    /// The most open connections of operators, if the process may open this many files.
    pub fn ops_connections(&self, open_files: u64) -> usize {
        let from_files = usize::try_from((open_files / 16).clamp(1, OPS_CONNECTIONS));
        self.max_ops_connections.unwrap_or_else(|| from_files.unwrap_or(usize::MAX))
    }
}
