//! Owns the rehearsal of a start: what it needs is looked at, and nothing is made or kept.

use std::io::ErrorKind;
use std::time::SystemTime;

use anyhow::Context;

use super::tls::Certificates;
use super::{listen, reload};
use crate::config::{Listeners, Settings};
use crate::journal;

/// What a start with these settings would find.
pub struct Preflight {
    /// When the certificate of the public listeners ends, if they have one.
    pub certificate_ends: Option<SystemTime>,
    /// When that of the ops listener ends, if it has one.
    pub ops_certificate_ends: Option<SystemTime>,
    /// Addresses that somebody listens on already, with their flags.
    pub taken: Vec<String>,
}

/// Looks at files and addresses as a start would. That an address is taken is no error: by the broker, perhaps, that these
/// settings are for.
pub fn preflight(settings: &Settings, listeners: &Listeners) -> anyhow::Result<Preflight> {
    reload::request_limits(settings)?;
    let certificates = Certificates::read(&settings.tls)?;
    let faults: Vec<_> = certificates.faults().collect();
    if !faults.is_empty() {
        anyhow::bail!("{}", faults.join("; "));
    }
    let Certificates { public, ops } = certificates;
    journal::preflight(&settings.into())?;
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
        certificate_ends: public.map(|certified| certified.ends),
        ops_certificate_ends: ops.map(|certified| certified.ends),
        taken,
    })
}
