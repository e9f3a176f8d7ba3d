//! Owns the settings of proxies: which are trusted, and what they send.

use clap::Args;
use ipnet::IpNet;

use crate::address::parse_net;
use crate::config::error::ConfigError;

/// Proxies in front of the broker.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Proxies")]
pub struct ProxySettings {
    /// Networks of proxies whose forwarded client addresses are trusted; a delivery through them is proved only as far as the proxy (`hop`)
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',', value_parser = parse_net)]
    pub behind_proxy: Vec<IpNet>,

    /// Each connection from --behind-proxy begins with a PROXY protocol header (v1 or v2), which names the client's address
    #[arg(long)]
    pub proxy_protocol: bool,
}

impl ProxySettings {
    pub(in crate::config) fn validate(&self) -> Result<(), ConfigError> {
        if self.proxy_protocol && self.behind_proxy.is_empty() {
            return Err(ConfigError::invalid(
                "--proxy-protocol needs --behind-proxy: only a trusted proxy may name a connection's client",
            ));
        }
        Ok(())
    }
}
