//! Owns what requests meet of the settings: made at the start, and made again when they are read again.

use anyhow::Context;

use super::accept::ListenerContext;
use super::tls::Certificates;
use crate::auth::{self, Authorizer};
use crate::config::Settings;
use crate::http::RequestLimits;
use crate::metrics::{Listener, Reload};

/// Reads what the settings name, such as files of tokens.
pub(super) fn request_limits(settings: &Settings) -> anyhow::Result<RequestLimits> {
    let plan = auth::AuthConfig {
        token_secret_file: settings.access.token_secret_file.clone(),
        require_token: settings.access.require_token,
        dispatch_token_file: settings.access.dispatch_token_file.clone(),
        ops_token_file: settings.access.ops_token_file.clone(),
        allow_poll: settings.access.allow_poll.clone(),
        allow_dispatch: settings.access.allow_dispatch.clone(),
    };
    Ok(RequestLimits {
        connection_timeout: settings.waiting.connection_timeout,
        keepalive: settings.waiting.keepalive,
        dispatch_budget: settings.delivery.dispatch_budget,
        body_limit: usize::try_from(settings.limits.body_limit.as_u64()).unwrap_or(usize::MAX),
        proof: settings.delivery.proof.into(),
        proof_timeout: settings.delivery.proof_timeout,
        proxies: settings.proxies.behind_proxy.clone(),
        proxy_protocol: settings.proxies.proxy_protocol,
        remember_runs: settings.delivery.remember_runs,
        message_check: settings.delivery.message_check,
        max_posts: settings.limits.max_posts,
        max_post_rate: settings.limits.max_post_rate,
        public_livez: settings.listeners.public_livez,
        access: Authorizer::open(&plan).context("nobody can be let in")?,
    })
}

impl ListenerContext {
    /// New handshakes use these certificates.
    pub(super) fn report_certificate_expiry(&self, certificates: &Certificates) {
        for fault in certificates.faults() {
            tracing::warn!("{fault}");
        }
        let Certificates { public, ops } = certificates;
        for (listener, tls, certified) in
            [(Listener::Public, &self.tls, public), (Listener::Ops, &self.ops_tls, ops)]
        {
            tls.change(certified.as_ref());
            if let Some(certified) = certified {
                self.front.metrics.certificate_ends(listener, certified.ends);
            }
        }
    }

    /// Requests and handshakes meet the new settings from now on; what is wrong leaves the old ones in force. Whoever is
    /// held stays held.
    pub(super) fn reload(&self, settings: anyhow::Result<Box<Settings>>) {
        let metrics = &self.front.metrics;
        match settings.and_then(|settings| self.apply(&settings)) {
            Ok(()) => {
                metrics.reloaded(Reload::Done);
                tracing::info!("the settings were read again and are in force");
            }
            Err(error) => {
                metrics.reloaded(Reload::Failed);
                let error = format!("{error:#}");
                tracing::error!(
                    error,
                    "the settings were read again and are wrong; the old ones stay in force"
                );
            }
        }
    }

    fn apply(&self, settings: &Settings) -> anyhow::Result<()> {
        let terms = request_limits(settings)?;
        let certificates = Certificates::read(&settings.tls)?;
        let Certificates { public, ops } = &certificates;
        if public.is_some() != self.tls.is_on() || ops.is_some() != self.ops_tls.is_on() {
            anyhow::bail!("TLS is turned on or off by a restart only");
        }
        self.front.set_limits(terms);
        self.front.idle.set_timeout(settings.waiting.idle_timeout);
        self.report_certificate_expiry(&certificates);
        Ok(())
    }
}
