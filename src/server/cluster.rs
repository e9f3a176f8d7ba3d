//! Owns what the settings of a cluster mean.

use rustls::RootCertStore;

use super::tls::read_authorities;
use crate::cluster::{ClusterConfig, Credentials, LinkConfig};
use crate::config::{ClusterSettings, Endpoint, Settings};

/// Payloads of forwards in progress have this much memory, or as much as this many of the largest.
const FORWARD_BYTES: usize = 64 * 1024 * 1024;
const LARGEST_FORWARDS: usize = 4;

/// How to connect to the cluster's NATS; none without `--nats`.
pub(super) fn link_config(settings: &ClusterSettings) -> anyhow::Result<Option<LinkConfig>> {
    let servers = settings.servers()?;
    if servers.is_empty() {
        return Ok(None);
    }
    let ClusterSettings {
        nats_creds, nats_token_file, nats_user, nats_password_file, nats_nkey_file, ..
    } = settings.clone();
    let password = nats_user.zip(nats_password_file).map(|(user, file)| Credentials::Password { user, file });
    let credentials = nats_creds
        .map(Credentials::CredsFile)
        .or(nats_token_file.map(Credentials::TokenFile))
        .or(password)
        .or(nats_nkey_file.map(Credentials::NkeyFile))
        .unwrap_or(Credentials::None);
    let (cluster, ca) = (settings.cluster.clone(), settings.nats_ca.clone());
    Ok(Some(LinkConfig { servers, cluster, credentials, ca }))
}

/// How this broker takes part in a cluster; none without `--nats`. `public` are its addresses for clients.
pub(super) fn cluster_config(
    settings: &Settings,
    public: &[Endpoint],
) -> anyhow::Result<Option<ClusterConfig>> {
    let Some(link) = link_config(&settings.cluster)? else { return Ok(None) };
    let body_limit = usize::try_from(settings.limits.largest_run().as_u64()).unwrap_or(usize::MAX);
    Ok(Some(ClusterConfig {
        link,
        name: broker_name(public),
        advertise: settings.cluster.advertised_origin()?,
        threads: settings.process.thread_count(),
        max_forwards: settings.cluster.max_forwards,
        max_forward_bytes: FORWARD_BYTES.max(body_limit.saturating_mul(LARGEST_FORWARDS)),
        remember_runs: settings.delivery.remember_runs,
    }))
}

/// The authorities that are trusted for the certificates of other brokers; none for the system's.
pub(super) fn peer_authorities(settings: &ClusterSettings) -> anyhow::Result<Option<RootCertStore>> {
    settings.advertise_ca.as_deref().map(|path| read_authorities("advertise-ca", path)).transpose()
}

/// The name of this broker for people: those of its machine and its first port.
fn broker_name(public: &[Endpoint]) -> String {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let port = public.iter().find_map(|endpoint| match endpoint {
        Endpoint::Ip(address) => Some(address.port()),
        Endpoint::Unix(_) => None,
    });
    port.map_or(machine.clone(), |port| format!("{machine}:{port}"))
}
