//! Owns the settings of a cluster: the NATS servers that its brokers share, and how this broker proves there who it is.

use std::path::PathBuf;

use clap::Args;

use crate::config::bounds::check_not_zero;
use crate::config::error::ConfigError;
use crate::config::origin;
use crate::nats_url::NatsUrl;

/// The longest name of a cluster, in bytes.
const MAX_NAME: usize = 64;

/// Several brokers that dispatch as one.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterSettings {
    /// Dispatch together with the other brokers on these NATS servers, such as <nats://nats:4222> (tls:// demands TLS); a user and a password, or a token, may precede the host [default: this broker is alone]
    #[arg(long, value_name = "URL,...", value_delimiter = ',')]
    pub nats: Vec<String>,

    /// The cluster's name (up to 64 of A-Z a-z 0-9 - _), with which all of its NATS subjects begin
    #[arg(long, value_name = "NAME", default_value = "pilotlight")]
    pub cluster: String,

    /// Connect to NATS with the user JWT and the key in this credentials file
    #[arg(long, value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,

    /// Connect to NATS with the token in this file
    #[arg(long, value_name = "FILE")]
    pub nats_token_file: Option<PathBuf>,

    /// Connect to NATS as this user
    #[arg(long, value_name = "NAME")]
    pub nats_user: Option<String>,

    /// The password of --nats-user
    #[arg(long, value_name = "FILE")]
    pub nats_password_file: Option<PathBuf>,

    /// Connect to NATS with the nkey whose seed is in this file
    #[arg(long, value_name = "FILE")]
    pub nats_nkey_file: Option<PathBuf>,

    /// Demand TLS of NATS servers, and trust only these authorities (PEM) for their certificates [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,

    /// Where the other brokers reach this one, to pass on what is for it: an origin such as <http://10.0.0.1:7070> that leads to this broker's --listen and to no other broker; they need --allow-poll there [default: they cannot]
    #[arg(long, value_name = "URL")]
    pub advertise: Option<String>,

    /// Trust only these authorities (PEM) for the certificates of other brokers' --advertise [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub advertise_ca: Option<PathBuf>,

    /// The most runs of other brokers that this one delivers at once; it refuses further ones, so that they go to the next broker
    #[arg(long, value_name = "N", default_value = "4096")]
    pub max_forwards: usize,
}

impl ClusterSettings {
    /// The servers of NATS; none if the broker is alone.
    pub fn servers(&self) -> Result<Vec<NatsUrl>, ConfigError> {
        let servers = self.nats.iter().map(|text| NatsUrl::parse(text)).collect::<Result<_, _>>();
        servers.map_err(|reason| ConfigError::invalid(format!("--nats {reason}")))
    }

    /// The origin at which other brokers reach this one.
    pub fn advertised_origin(&self) -> Result<Option<String>, ConfigError> {
        let invalid = |reason| ConfigError::invalid(format!("--advertise {reason}"));
        let Some(text) = self.advertise.as_deref() else { return Ok(None) };
        let origin = origin::parse(text).map_err(invalid)?;
        if origin::is_unspecified(&origin) {
            return Err(invalid(
                "is an address to listen on; give the one at which others reach this broker",
            ));
        }
        Ok(Some(origin))
    }

    pub(in crate::config) fn validate(&self) -> Result<(), ConfigError> {
        check_not_zero("max-forwards", Some(self.max_forwards))?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if self.cluster.is_empty() || self.cluster.len() > MAX_NAME || !self.cluster.bytes().all(is_token) {
            return Err(ConfigError::invalid(format!(
                "--cluster must be 1 to {MAX_NAME} letters, digits, - and _: it is a part of NATS subjects"
            )));
        }
        let flags = [
            ("--advertise", self.advertised_origin()?.is_some()),
            ("--advertise-ca", self.advertise_ca.is_some()),
        ];
        if let Some((flag, _)) = flags.iter().find(|(_, is_set)| *is_set && self.nats.is_empty()) {
            return Err(ConfigError::invalid(format!(
                "{flag} needs --nats: it concerns the other brokers of a cluster, and this broker is alone"
            )));
        }
        let users: Vec<_> = self.servers()?.into_iter().filter_map(|server| server.user).collect();
        if users.len() > 1 && users.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(ConfigError::invalid(
                "--nats has URLs with different credentials; the broker has one identity in a cluster",
            ));
        }
        self.check_credentials(!users.is_empty())
    }

    fn check_credentials(&self, has_user_in_url: bool) -> Result<(), ConfigError> {
        let Self {
            nats_creds, nats_token_file, nats_user, nats_password_file, nats_nkey_file, nats_ca, ..
        } = self;
        let ways: Vec<&str> = [
            ("a URL with credentials", has_user_in_url),
            ("--nats-creds", nats_creds.is_some()),
            ("--nats-token-file", nats_token_file.is_some()),
            ("--nats-user", nats_user.is_some()),
            ("--nats-nkey-file", nats_nkey_file.is_some()),
        ]
        .into_iter()
        .filter_map(|(way, is_set)| is_set.then_some(way))
        .collect();
        if let [one, other, ..] = ways[..] {
            return Err(ConfigError::invalid(format!(
                "{one} and {other} are different credentials for NATS; choose one"
            )));
        }
        if nats_user.is_some() != nats_password_file.is_some() {
            return Err(ConfigError::invalid(
                "--nats-user and --nats-password-file belong together: set both or neither",
            ));
        }
        let without_nats = ways
            .first()
            .copied()
            .or(nats_ca.is_some().then_some("--nats-ca"))
            .filter(|_| self.nats.is_empty());
        if let Some(flag) = without_nats {
            return Err(ConfigError::invalid(format!(
                "{flag} needs --nats: it says how to connect to NATS, and no server is named"
            )));
        }
        Ok(())
    }
}
