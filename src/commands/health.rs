//! Owns `pilotlight health`: whether a broker lives, as an exit code, for containers without an HTTP client.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use hyper::StatusCode;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::client::{BrokerUrl, Client, ClientOptions, KeptConnection};
use super::ops_client::ops_url;
use super::process;
use crate::config::Settings;

/// The time for the whole check.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The arguments of `pilotlight health`.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    /// An address that serves `GET /livez`, such as <http://127.0.0.1:7071> or `unix:/run/ops.sock` [default: that of --ops-listen; its certificate is not checked]
    #[arg(value_name = "URL")]
    url: Option<BrokerUrl>,

    #[command(flatten)]
    client: ClientOptions,
}

pub(super) fn health(settings: &Settings, options: &Options) -> anyhow::Result<ExitCode> {
    let client = match &options.url {
        Some(url) => Client::new(url.clone(), &options.client)?,
        None => own_broker(ops_url(settings))?,
    };
    let url = client.url().clone();
    process::runtime()?.block_on(async {
        let asked = tokio::time::timeout(TIMEOUT, ask(client)).await;
        asked.unwrap_or_else(|_| {
            bail!("{url} has not answered within {}", humantime::format_duration(TIMEOUT))
        })
    })?;
    process::note(&format!("{url} lives"));
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: Client) -> anyhow::Result<()> {
    let url = client.url().clone();
    let status = KeptConnection::new(client).get("/livez").await?.status();
    if status != StatusCode::OK {
        bail!("{url}/livez has answered {status}");
    }
    Ok(())
}

/// A client for the broker of this machine, which the certificate of its name for others need not fit. Nothing secret is sent
/// to it.
fn own_broker(url: BrokerUrl) -> anyhow::Result<Client> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)));
    let config = config.with_no_client_auth();
    Ok(if url.is_tls() { Client::with_tls_config(url, config) } else { Client::plain(url) })
}

/// Trusts every certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
