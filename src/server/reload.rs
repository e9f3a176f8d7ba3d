//! Owns applying the settings that a reload can change: limits of requests, access and certificates.

use anyhow::Context;
use bytesize::ByteSize;

use super::context::ListenerContext;
use super::tls::Certificates;
use crate::auth::{self, Authorizer};
use crate::config::Settings;
use crate::http::RequestLimits;
use crate::metrics::{Listener, Reload};

/// Builds the limits of requests, and reads the token files that the settings name.
pub(super) fn request_limits(settings: &Settings) -> anyhow::Result<RequestLimits> {
    let config = auth::AuthConfig {
        token_secret_file: settings.access.token_secret_file.clone(),
        require_token: settings.access.require_token,
        dispatch_token_file: settings.access.dispatch_token_file.clone(),
        ops_token_file: settings.access.ops_token_file.clone(),
        allow_poll: settings.access.allow_poll.clone(),
        allow_dispatch: settings.access.allow_dispatch.clone(),
    };
    let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    Ok(RequestLimits {
        connection_timeout: settings.waiting.connection_timeout,
        keepalive: settings.waiting.keepalive,
        redirect_to: settings.waiting.redirect_origin()?,
        dispatch_budget: settings.delivery.dispatch_budget,
        body_limit: bytes(settings.limits.largest_run()),
        event_limit: bytes(settings.limits.largest_event()),
        proof: settings.delivery.proof.into(),
        proof_timeout: settings.delivery.proof_timeout,
        proxies: settings.proxies.behind_proxy.clone(),
        proxy_protocol: settings.proxies.proxy_protocol,
        remember_runs: settings.delivery.remember_runs,
        message_check: settings.delivery.message_check,
        max_reply_wait: settings.replies.max_reply_wait,
        reply_idle: settings.replies.reply_idle,
        functions: settings.functions.table()?,
        max_posts: settings.limits.max_posts,
        max_post_rate: settings.limits.max_post_rate,
        public_livez: settings.listeners.public_livez,
        access: Authorizer::open(&config).context("the access settings cannot be used")?,
    })
}

impl ListenerContext {
    /// Uses these certificates for new handshakes, and reports their warnings and their expiry.
    pub(super) fn replace_certificates(&self, certificates: &Certificates) {
        for warning in certificates.warnings() {
            tracing::warn!("{warning}");
        }
        let Certificates { public, ops } = certificates;
        self.state.present_certificate(public.as_ref().map(|public| public.certified_key.clone()));
        for (listener, tls, certificate) in
            [(Listener::Public, &self.tls, public), (Listener::Ops, &self.ops_tls, ops)]
        {
            tls.replace(certificate.as_ref());
            if let Some(certificate) = certificate {
                self.state.metrics.certificate_ends(listener, certificate.expires_at);
            }
        }
    }

    /// Applies new settings to new requests and handshakes; held polls stay held. If the settings are invalid, all old ones
    /// stay in force.
    pub(super) fn reload(&self, settings: anyhow::Result<Box<Settings>>) {
        let metrics = &self.state.metrics;
        match settings.and_then(|settings| self.apply(&settings)) {
            Ok(()) => {
                metrics.reloaded(Reload::Done);
                tracing::info!("the settings were reloaded");
            }
            Err(error) => {
                metrics.reloaded(Reload::Failed);
                let error = format!("{error:#}");
                tracing::error!(error, "the reloaded settings are invalid; the old ones stay in force");
            }
        }
    }

    fn apply(&self, settings: &Settings) -> anyhow::Result<()> {
        let limits = request_limits(settings)?;
        let certificates = Certificates::read(&settings.tls)?;
        let Certificates { public, ops } = &certificates;
        if public.is_some() != self.tls.is_enabled() || ops.is_some() != self.ops_tls.is_enabled() {
            anyhow::bail!("TLS can only be turned on or off by a restart");
        }
        self.state.set_limits(limits);
        self.state.idle.set_timeout(settings.waiting.idle_timeout);
        self.replace_certificates(&certificates);
        Ok(())
    }
}
