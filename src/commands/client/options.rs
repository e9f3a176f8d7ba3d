//! Owns the options of the commands that talk to a broker: whom to trust, and which token to send.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use hyper::header::HeaderValue;

use crate::auth;
use crate::server;

/// How to reach a broker.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::commands) struct ClientOptions {
    /// Trust only these authorities (PEM) for the broker's certificate [default: the system's]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// Send the first token in this file as a bearer token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl ClientOptions {
    /// The authorities to trust; none for the system's.
    pub(super) fn authorities(&self) -> anyhow::Result<Option<rustls::RootCertStore>> {
        self.tls_ca.as_deref().map(|path| server::read_authorities("tls-ca", path)).transpose()
    }

    /// The value of the `Authorization` header, if there is a token.
    pub(super) fn authorization(&self) -> anyhow::Result<Option<HeaderValue>> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let tokens = auth::read_secrets("--token-file", path, true)?;
        let token = tokens.first().context("the file of the token is empty")?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}
