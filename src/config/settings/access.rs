//! Owns the settings of access: which networks and which tokens may poll, dispatch and operate.

use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;

use crate::address::parse_net;
use crate::config::error::ConfigError;

/// Who may poll, dispatch and operate.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessSettings {
    /// Verify deployment tokens (JWT, HS256) with the secrets in this file, one per line; keep the old secret beside the new one during a rotation [default: tokens are decoded, not verified]
    #[arg(long, value_name = "FILE")]
    pub token_secret_file: Option<PathBuf>,

    /// Refuse polls without a valid deployment token
    #[arg(long)]
    pub require_token: bool,

    /// Accept POSTs only with a bearer token from this file, one per line; keep the old token beside the new one during a rotation
    #[arg(long, value_name = "FILE")]
    pub dispatch_token_file: Option<PathBuf>,

    /// Serve operators only with a token from this file (one per line), sent as a bearer token or as a password; /livez and /readyz need none
    #[arg(long, value_name = "FILE")]
    pub ops_token_file: Option<PathBuf>,

    /// Networks that may poll; connections from elsewhere are closed without a response [default: everyone who can reach --listen]
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',', value_parser = parse_net)]
    pub allow_poll: Vec<IpNet>,

    /// Networks that may dispatch runs [default: everyone who can reach the listener]
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',', value_parser = parse_net)]
    pub allow_dispatch: Vec<IpNet>,

    /// Allow non-loopback addresses without authentication: everyone who can reach them can take runs, and run code in your controllers
    #[arg(long)]
    pub insecure_no_auth: bool,
}

impl AccessSettings {
    pub(in crate::config) fn validate(&self) -> Result<(), ConfigError> {
        if self.require_token && self.token_secret_file.is_none() {
            return Err(ConfigError::invalid(
                "--require-token needs --token-secret-file: without a secret, no token can be verified",
            ));
        }
        Ok(())
    }
}
