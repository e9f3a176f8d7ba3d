//! Owns a TLS client that chooses the length of each record, and can send empty records, which no library does.

use std::sync::Arc;

use pilotlight::transport::TlsSession;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConnectionTrafficSecrets, RootCertStore, ServerConfig};

use crate::served::Served;

/// The type of records with application data.
const APPLICATION_DATA: u8 = 23;
/// The length of an encrypted alert: two bytes, its type and the tag.
const ALERT_BYTES: usize = 2 + 1 + 16;

/// The TLS configurations of both sides.
pub struct TlsConfigs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Default for TlsConfigs {
    fn default() -> Self {
        let made = rcgen::generate_simple_self_signed(["b".to_owned()]).expect("a certificate");
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let provider = || {
            let suites = vec![provider::cipher_suite::TLS13_AES_256_GCM_SHA384];
            Arc::new(CryptoProvider { cipher_suites: suites, ..provider::default_provider() })
        };
        let server = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let server = server.expect("versions").with_no_client_auth();
        let mut server = server.with_single_cert(vec![certificate.clone()], key).expect("they fit");
        server.send_tls13_tickets = 0;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a root");
        let client = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let mut client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
        client.enable_secret_extraction = true;
        Self { server: Arc::new(server), client: Arc::new(client) }
    }
}

impl TlsConfigs {
    /// The broker's side of a new connection.
    pub fn session(&self) -> TlsSession {
        TlsSession::new(self.server.clone()).expect("a session")
    }

    /// Performs the handshake as the client.
    pub async fn handshake(&self, served: &mut Served) -> RecordWriter {
        let name = ServerName::try_from("b").expect("a name");
        let mut tls = ClientConnection::new(self.client.clone(), name).expect("a client");
        while tls.is_handshaking() || tls.wants_write() {
            let mut out = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut out).expect("into memory");
            }
            served.write(&out).await;
            served.turn().await;
            let read = served.take_read();
            let mut rest = read.as_slice();
            while !rest.is_empty() {
                tls.read_tls(&mut rest).expect("from memory");
                tls.process_new_packets().expect("a handshake");
            }
        }
        served.rest().await;
        let secrets = tls.dangerous_extract_secrets().expect("secrets");
        let (sequence, ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = secrets.tx else {
            unreachable!("the one suite that is offered");
        };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("a key"));
        RecordWriter { key, iv: iv.as_ref().try_into().expect("12 bytes"), sequence }
    }
}

/// Encrypts the client's records (RFC 8446, 5.2).
pub struct RecordWriter {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl RecordWriter {
    /// Appends one record with these bytes, at most 16 KiB.
    pub fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let mut nonce = self.iv;
        for (byte, other) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= other;
        }
        self.sequence += 1;
        let mut sealed = [plain, &[APPLICATION_DATA]].concat();
        let length =
            u16::try_from(sealed.len() + AES_256_GCM.tag_len()).expect("a short record").to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, length[0], length[1]];
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).expect("sealed");
        out.extend_from_slice(&header);
        out.extend_from_slice(&sealed);
    }
}

/// Removes complete records from the front, and returns how many of them have application data. An alert, such as that before the end,
/// looks the same but for its length.
pub fn remove_complete(bytes: &mut Vec<u8>) -> usize {
    let (mut rest, mut records) = (bytes.as_slice(), 0);
    while let [kind, _, _, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(after) = after.get(length..) else { break };
        records += usize::from(*kind == APPLICATION_DATA && length != ALERT_BYTES);
        rest = after;
    }
    let taken = bytes.len() - rest.len();
    bytes.drain(..taken);
    records
}
