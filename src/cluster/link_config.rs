//! Owns how a connection to NATS is configured: servers, credentials, authorities, reconnection.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use async_nats::{ConnectOptions, ServerAddr};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::nats_url::{NatsUrl, UrlUser};

/// A server that has not completed the handshake within this time is left for the next one.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent server is asked this often whether it still lives. The third question without an answer ends the connection.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait before an attempt to connect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(3);

/// How to connect to a cluster's NATS.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// The servers, of which one is chosen at random; further ones are learned from it.
    pub servers: Vec<NatsUrl>,
    /// The cluster's name: one token of a NATS subject.
    pub cluster: String,
    /// Who this broker is to NATS, unless the servers' URLs say it.
    pub credentials: Credentials,
    /// The only authorities that are trusted (PEM). With them the connection must use TLS.
    pub ca: Option<PathBuf>,
}

/// Who a broker is to NATS. The files are read when the connection is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody, or as the URLs say.
    None,
    /// A user JWT and the seed of its key, as `nsc` writes them.
    CredsFile(PathBuf),
    /// A token.
    TokenFile(PathBuf),
    /// A user and the file of the password.
    Password {
        /// The user's name.
        user: String,
        /// Has the password.
        file: PathBuf,
    },
    /// The seed of an nkey.
    NkeyFile(PathBuf),
}

impl LinkConfig {
    /// The options that every connection has. The error names a file, and never quotes it.
    pub(super) fn connect_options(&self) -> anyhow::Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .name(format!("pilotlight {}", self.cluster))
            .connection_timeout(CONNECTION_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(reconnect_delay)
            // A server that was learned from another one must not be used without TLS if that one demands it.
            .require_tls(self.ca.is_some() || self.servers.iter().any(|server| server.needs_tls));
        if let Some(ca) = &self.ca {
            check_authorities(ca).with_context(|| format!("--nats-ca {} cannot be used", ca.display()))?;
            options = options.add_root_certificates(ca.clone());
        }
        let in_url = self.servers.iter().find_map(|server| server.user.clone());
        Ok(match (&self.credentials, in_url) {
            (Credentials::None, None) => options,
            (Credentials::None, Some(UrlUser::Token(token))) => options.token(token),
            (Credentials::None, Some(UrlUser::Password { name, password })) => {
                options.user_and_password(name, password)
            }
            (Credentials::CredsFile(file), _) => options
                .credentials(&read("nats-creds", file)?)
                .with_context(|| format!("--nats-creds {} cannot be used", file.display()))?,
            (Credentials::TokenFile(file), _) => options.token(secret("nats-token-file", file)?),
            (Credentials::Password { user, file }, _) => {
                options.user_and_password(user.clone(), secret("nats-password-file", file)?)
            }
            (Credentials::NkeyFile(file), _) => options.nkey(nkey_seed(file)?),
        })
    }

    /// The servers without their users, which the library would show in its log.
    pub(super) fn addresses(&self) -> anyhow::Result<Vec<ServerAddr>> {
        let addresses = self.servers.iter().map(|server| server.to_string().parse());
        addresses.collect::<Result<_, _>>().context("--nats has an unusable URL")
    }

    /// The servers as they may be shown.
    pub(super) fn shown_servers(&self) -> String {
        self.servers.iter().map(NatsUrl::to_string).collect::<Vec<_>>().join(",")
    }
}

/// The wait before an attempt to connect, which is the more random the more brokers lose the same server at once.
fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(6);
    let most = Duration::from_millis(50 << doublings).min(MAX_RECONNECT_DELAY);
    most.mul_f64(0.5 + fastrand::f64() / 2.0)
}

fn read(flag: &str, file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("--{flag} {} cannot be read", file.display()))
}

/// The text of a file, without the white space around it.
fn secret(flag: &str, file: &Path) -> anyhow::Result<String> {
    let text = read(flag, file)?;
    let secret = text.trim();
    anyhow::ensure!(!secret.is_empty(), "--{flag} {} is empty", file.display());
    anyhow::ensure!(!secret.contains(char::is_control), "--{flag} {} has more than one line", file.display());
    Ok(secret.to_owned())
}

/// The first line that is a user's seed: tools write comments around it.
fn nkey_seed(file: &Path) -> anyhow::Result<String> {
    let text = read("nats-nkey-file", file)?;
    let is_seed = |line: &&str| {
        line.starts_with("SU") && line.len() == 58 && line.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let seed = text.lines().map(str::trim).find(is_seed);
    seed.map(str::to_owned)
        .with_context(|| format!("--nats-nkey-file {} has no seed of a user's nkey (SU…)", file.display()))
}

fn check_authorities(file: &Path) -> anyhow::Result<()> {
    let certificates = CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(!certificates.is_empty(), "it has no certificate");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnection_waits_longer_after_each_failure_and_never_the_same_time() {
        for attempts in [1, 2, 3, 7, 1000, usize::MAX] {
            let delays: Vec<_> = (0..50).map(|_| reconnect_delay(attempts)).collect();
            let most =
                Duration::from_millis(50 << attempts.saturating_sub(1).min(6)).min(MAX_RECONNECT_DELAY);
            assert!(delays.iter().all(|delay| (most / 2..=most).contains(delay)), "{attempts}: {delays:?}");
            assert!(delays.iter().any(|delay| *delay != delays[0]), "{attempts}: {delays:?}");
        }
    }

    #[test]
    fn the_error_of_a_secret_names_its_file_and_does_not_quote_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let refused = |credentials, ca| {
            let servers = vec![NatsUrl::parse("nats://127.0.0.1:4222").unwrap()];
            let config = LinkConfig { servers, cluster: "c".to_owned(), credentials, ca };
            let error = format!("{:#}", config.connect_options().expect_err("it is unusable"));
            assert!(!error.contains("s3cret"), "{error}");
            error
        };
        let missing = folder.path().join("missing");
        assert!(refused(Credentials::TokenFile(missing), None).contains("missing cannot be read"));
        assert!(refused(Credentials::TokenFile(file("empty", " \n")), None).contains("empty is empty"));
        let two = file("two", "s3cret\ns3cret\n");
        assert!(refused(Credentials::TokenFile(two), None).contains("two has more than one line"));
        let seed = file("seed", "SUs3cret\n");
        assert!(refused(Credentials::NkeyFile(seed), None).contains("has no seed"));
        let creds = file("creds", "-----BEGIN NATS USER JWT-----\ns3cret\n");
        assert!(refused(Credentials::CredsFile(creds), None).contains("creds cannot be used"));
        let ca = file("ca", "s3cret");
        assert!(refused(Credentials::None, Some(ca)).contains("it has no certificate"));
    }
}
