//! Owns the TLS configurations: built from the certificates' files at the start and at each reload. A handshake uses the
//! one that is current when it begins.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

use super::certificate;
use crate::config::TlsSettings;
use crate::transport::TlsSession;

/// The configuration for new handshakes; none if the listeners do not use TLS.
#[derive(Debug, Default)]
pub(super) struct ReloadableTls(ArcSwapOption<ServerConfig>);

/// A certificate with its key, ready for handshakes.
pub(super) struct LoadedCertificate {
    config: Arc<ServerConfig>,
    /// The same for this broker as a client.
    pub(super) certified_key: Arc<CertifiedKey>,
    pub(super) expires_at: SystemTime,
    /// Reasons for which clients refuse it, or may refuse it.
    warnings: Vec<String>,
}

impl ReloadableTls {
    /// Replaces the configuration for new handshakes. Open connections keep theirs.
    pub(super) fn replace(&self, certificate: Option<&LoadedCertificate>) {
        self.0.store(certificate.map(|certificate| certificate.config.clone()));
    }

    /// Whether the listeners use TLS.
    pub(super) fn is_enabled(&self) -> bool {
        self.0.load().is_some()
    }

    /// The configuration for a new handshake, if the listeners use TLS.
    pub(super) fn config(&self) -> Option<Arc<ServerConfig>> {
        self.0.load_full()
    }

    /// The TLS session of a new connection, if the listeners use TLS.
    pub(super) fn new_session(&self) -> Option<TlsSession> {
        let config = self.0.load_full()?;
        match TlsSession::new(config) {
            Ok(session) => Some(session),
            Err(error) => panic_without_session(&error),
        }
    }
}

/// A peer cannot cause this. Serving without TLS instead would expose the connection.
fn panic_without_session(error: &rustls::Error) -> ! {
    panic!("a valid TLS configuration cannot create a session: {error}")
}

/// The certificates of all listeners.
pub(super) struct Certificates {
    pub(super) public: Option<LoadedCertificate>,
    pub(super) ops: Option<LoadedCertificate>,
}

impl Certificates {
    /// Reads the files that the settings name. The error names the file that is wrong.
    pub(super) fn read(settings: &TlsSettings) -> anyhow::Result<Self> {
        let TlsSettings { tls_cert, tls_key, tls_client_ca, ops_tls_cert, ops_tls_key } = settings;
        Ok(Self {
            public: read("tls", tls_cert.as_deref(), tls_key.as_deref(), tls_client_ca.as_deref())?,
            ops: read("ops-tls", ops_tls_cert.as_deref(), ops_tls_key.as_deref(), None)?,
        })
    }

    /// Reasons for which clients refuse the certificates, or may refuse them. The broker can start all the same.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &str> {
        [&self.public, &self.ops].into_iter().flatten().flat_map(|one| &one.warnings).map(String::as_str)
    }
}

/// Reads the files that the flags with this prefix name; `None` if they name none.
fn read(
    flags: &str,
    cert: Option<&Path>,
    key: Option<&Path>,
    client_ca: Option<&Path>,
) -> anyhow::Result<Option<LoadedCertificate>> {
    let (Some(cert), Some(key)) = (cert, key) else { return Ok(None) };
    let chain = certificate::read_chain(&format!("{flags}-cert"), cert)?;
    let private_key = certificate::read_private_key(&format!("{flags}-key"), key)?;
    let named = |flag: &str, path: &Path| format!("--{flags}-{flag} {}", path.display());
    let (cert, key) = (named("cert", cert), named("key", key));
    certificate::check_key_matches(&chain, &private_key, &cert, &key)?;
    let (expires_at, warnings) = certificate::expiry_and_warnings(&chain, &cert)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(client_verifier(path)?),
    };
    let certified_key = CertifiedKey::from_der(chain, private_key, &ring::default_provider());
    let certified_key = Arc::new(certified_key.with_context(|| format!("{key} does not fit {cert}"))?);
    let resolver = SingleCertAndKey::from(certified_key.clone());
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Some proofs end the connection, so controllers reconnect often: tickets make their handshakes short. The keys of the
    // tickets belong to this configuration, so after a reload clients must authenticate again.
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Some(LoadedCertificate { config: Arc::new(config), certified_key, expires_at, warnings }))
}

fn client_verifier(path: &Path) -> anyhow::Result<Arc<dyn rustls::server::danger::ClientCertVerifier>> {
    let roots = read_authorities("tls-client-ca", path)?;
    let provider = Arc::new(ring::default_provider());
    Ok(WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build()?)
}

/// Reads the authorities in a PEM file.
pub fn read_authorities(flag: &str, path: &Path) -> anyhow::Result<RootCertStore> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificate::read_chain(flag, path)? {
        authorities
            .add(certificate)
            .with_context(|| format!("--{flag} {} is no authority", path.display()))?;
    }
    Ok(authorities)
}
