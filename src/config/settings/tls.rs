//! Owns the settings of TLS: certificates, keys and the authorities of clients.

use std::path::PathBuf;

use clap::Args;

use crate::config::error::ConfigError;

/// Certificates and keys.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsSettings {
    /// Serve TLS on the public listeners with this certificate chain (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Accept only clients with a certificate from these authorities (PEM): mutual TLS
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Serve TLS on the operators' listener with this certificate chain (PEM)
    #[arg(long, value_name = "FILE")]
    pub ops_tls_cert: Option<PathBuf>,

    /// The private key of --ops-tls-cert (PEM)
    #[arg(long, value_name = "FILE")]
    pub ops_tls_key: Option<PathBuf>,
}

impl TlsSettings {
    pub(in crate::config) fn validate(&self) -> Result<(), ConfigError> {
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(ConfigError::invalid(
                "--tls-cert and --tls-key belong together: set both or neither",
            ));
        }
        if self.ops_tls_cert.is_some() != self.ops_tls_key.is_some() {
            return Err(ConfigError::invalid(
                "--ops-tls-cert and --ops-tls-key belong together: set both or neither",
            ));
        }
        if self.tls_client_ca.is_some() && self.tls_cert.is_none() {
            return Err(ConfigError::invalid(
                "--tls-client-ca needs --tls-cert and --tls-key: clients present certificates only over TLS",
            ));
        }
        Ok(())
    }
}
