//! Owns the checks of `pilotlight check`: everything that a start needs, without creating or keeping anything.

use std::io::ErrorKind;
use std::time::SystemTime;

use anyhow::Context;

use super::tls::Certificates;
use super::{cluster, listen, reload};
use crate::cluster::NatsReport;
use crate::config::{Listeners, Settings};
use crate::journal;

/// What a start with these settings would find.
pub struct Preflight {
    /// When the certificate of the public listeners expires, if they have one.
    pub certificate_ends: Option<SystemTime>,
    /// When the certificate of the ops listeners expires, if they have one.
    pub ops_certificate_ends: Option<SystemTime>,
    /// Addresses that another process listens on, with their flags.
    pub taken: Vec<String>,
    /// What the broker may do at its cluster's NATS, if it is in a cluster.
    pub nats: Option<NatsReport>,
}

/// Checks files and addresses as a start would. An address in use is not an error: the running broker may have these
/// settings.
pub fn preflight(settings: &Settings, listeners: &Listeners) -> anyhow::Result<Preflight> {
    reload::request_limits(settings)?;
    let certificates = Certificates::read(&settings.tls)?;
    let warnings: Vec<_> = certificates.warnings().collect();
    if !warnings.is_empty() {
        anyhow::bail!("{}", warnings.join("; "));
    }
    let Certificates { public, ops } = certificates;
    journal::preflight(&settings.into())?;
    cluster::peer_authorities(&settings.cluster)?;
    let nats = cluster::link_config(&settings.cluster)?;
    let nats = nats.map(|config| crate::cluster::preflight(&config)).transpose()?;
    let mut taken = Vec::new();
    for (flag, all) in listeners.by_flag() {
        for endpoint in all {
            match listen::probe(endpoint, all) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    taken.push(format!("--{flag} {endpoint}"));
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("--{flag} {endpoint} cannot be bound"));
                }
            }
        }
    }
    Ok(Preflight {
        certificate_ends: public.map(|certificate| certificate.expires_at),
        ops_certificate_ends: ops.map(|certificate| certificate.expires_at),
        taken,
        nats,
    })
}
