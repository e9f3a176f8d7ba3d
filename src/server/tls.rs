//! Owns the certificates: read from their files at the start and at each reload; a handshake uses the ones of its moment.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::certificate;
use crate::config::TlsSettings;
use crate::transport::TlsSession;

/// What new handshakes use; nothing if the listeners are plain.
#[derive(Debug, Default)]
pub(super) struct Tls(ArcSwapOption<ServerConfig>);

/// What was read from the files.
pub(super) struct Certified {
    config: Arc<ServerConfig>,
    /// When the certificate ends.
    pub(super) ends: SystemTime,
    /// Why clients will refuse it, or may.
    faults: Vec<String>,
}

impl Tls {
    /// From now on handshakes use these. Connections that stand go on as they are.
    pub(super) fn change(&self, certified: Option<&Certified>) {
        self.0.store(certified.map(|certified| certified.config.clone()));
    }

    /// Whether the listeners speak it.
    pub(super) fn is_on(&self) -> bool {
        self.0.load().is_some()
    }

    /// What a handshake of now uses, if the listeners speak it.
    pub(super) fn config(&self) -> Option<Arc<ServerConfig>> {
        self.0.load_full()
    }

    /// A new connection's TLS, if the listeners speak it.
    pub(super) fn session(&self) -> Option<TlsSession> {
        let config = self.0.load_full()?;
        match TlsSession::new(config) {
            Ok(session) => Some(session),
            Err(error) => unreachable_config(&error),
        }
    }
}

/// Nothing that a peer does leads here; a session without TLS in its place would be a betrayal.
fn unreachable_config(error: &rustls::Error) -> ! {
    panic!("a TLS configuration that was accepted makes no session: {error}")
}

/// What all listeners speak TLS with.
pub(super) struct Certificates {
    pub(super) public: Option<Certified>,
    pub(super) ops: Option<Certified>,
}

impl Certificates {
    /// Reads what the settings name. The error says which file is wrong.
    pub(super) fn read(settings: &TlsSettings) -> anyhow::Result<Self> {
        let TlsSettings { tls_cert, tls_key, tls_client_ca, ops_tls_cert, ops_tls_key } = settings;
        Ok(Self {
            public: read("tls", tls_cert.as_deref(), tls_key.as_deref(), tls_client_ca.as_deref())?,
            ops: read("ops-tls", ops_tls_cert.as_deref(), ops_tls_key.as_deref(), None)?,
        })
    }

    /// Why clients will refuse what was read, or may. It can be served with all the same.
    pub(super) fn faults(&self) -> impl Iterator<Item = &str> {
        [&self.public, &self.ops].into_iter().flatten().flat_map(|one| &one.faults).map(String::as_str)
    }
}

/// Reads the files of the flags that begin so; nothing if they name none.
fn read(
    flags: &str,
    cert: Option<&Path>,
    key: Option<&Path>,
    client_ca: Option<&Path>,
) -> anyhow::Result<Option<Certified>> {
    let (Some(cert), Some(key)) = (cert, key) else { return Ok(None) };
    let chain = certificate::chain(&format!("{flags}-cert"), cert)?;
    let private = certificate::private_key(&format!("{flags}-key"), key)?;
    let named = |flag: &str, path: &Path| format!("--{flags}-{flag} {}", path.display());
    let (cert, key) = (named("cert", cert), named("key", key));
    certificate::fit(&chain, &private, &cert, &key)?;
    let (ends, faults) = certificate::judge(&chain, &cert)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(path)?),
    };
    let mut config =
        builder.with_single_cert(chain, private).with_context(|| format!("{key} does not fit {cert}"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A proof ends its connection, so controllers come back often: they need not shake hands in full. The tickets' keys
    // are this configuration's own, so what an older one let in has to show itself again.
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Some(Certified { config: Arc::new(config), ends, faults }))
}

fn verifier(path: &Path) -> anyhow::Result<Arc<dyn rustls::server::danger::ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificate::chain("tls-client-ca", path)? {
        roots
            .add(certificate)
            .with_context(|| format!("--tls-client-ca {} is no authority", path.display()))?;
    }
    let provider = Arc::new(ring::default_provider());
    Ok(WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build()?)
}
