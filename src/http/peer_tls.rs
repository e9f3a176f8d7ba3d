//! Owns the TLS of requests to other brokers: whose certificates are trusted, and which one this broker presents.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};

/// The certificate that this broker presents to others that ask for one: that of its listeners.
#[derive(Default)]
pub struct OwnCertificate(ArcSwapOption<CertifiedKey>);

impl OwnCertificate {
    /// Presents another one from now on.
    pub(super) fn replace(&self, certificate: Option<Arc<CertifiedKey>>) {
        self.0.store(certificate);
    }
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnCertificate").finish_non_exhaustive()
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

/// The configuration of a client that trusts these authorities, or those of the system. Reading those takes time.
pub fn client_config(
    authorities: Option<Arc<RootCertStore>>,
    own: Arc<OwnCertificate>,
) -> Result<ClientConfig, rustls::Error> {
    let authorities = authorities.unwrap_or_else(|| Arc::new(system_authorities()));
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(authorities).with_client_cert_resolver(own))
}

fn system_authorities() -> RootCertStore {
    let mut authorities = RootCertStore::empty();
    // Some of them may be unusable on any system; without all, each handshake says that the authority is unknown.
    authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    authorities
}
