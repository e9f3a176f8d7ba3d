//! Owns who may do what: addresses that may connect, tokens of deployments, bearers of supervisors and operators.
//!
//! An [`Access`] is built whole from its files, and replaced whole when they are read again.

mod bearer;
mod hmac;
mod token;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ipnet::IpNet;

use crate::address;
use crate::metrics::AuthFailure;
use bearer::{Credential, TokenSet};
pub use token::{Deployment, MAX_TOKEN_BYTES, TokenError};
use token::{JwtVerifier, is_jwt_like};

/// What an [`Access`] is built from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthConfig {
    /// Secrets that deployment tokens are signed with, one a line.
    pub token_secret_file: Option<PathBuf>,
    /// Whether a poll needs a token.
    pub require_token: bool,
    /// Bearers of supervisors, one a line.
    pub dispatch_token_file: Option<PathBuf>,
    /// Bearers of operators, one a line.
    pub ops_token_file: Option<PathBuf>,
    /// Who may poll; empty for whoever reaches the listener.
    pub allow_poll: Vec<IpNet>,
    /// Who may dispatch; empty for whoever reaches the listener.
    pub allow_dispatch: Vec<IpNet>,
}

/// Who may do what.
#[derive(Debug, Default)]
pub struct Authorizer {
    allow_poll: Vec<IpNet>,
    allow_dispatch: Vec<IpNet>,
    tokens: JwtVerifier,
    dispatch: Option<TokenSet>,
    ops: Option<TokenSet>,
}

impl Authorizer {
    /// Reads every file of the plan. The error names the file and what is wrong with it, and nothing that stands in it.
    pub fn open(plan: &AuthConfig) -> anyhow::Result<Self> {
        let bearers = |flag: &str, path: &Option<PathBuf>| {
            path.as_deref().map(|path| read_secrets(flag, path, true).map(TokenSet::new)).transpose()
        };
        let secrets =
            plan.token_secret_file.as_deref().map(|path| read_secrets("--token-secret-file", path, false));
        Ok(Self {
            allow_poll: plan.allow_poll.clone(),
            allow_dispatch: plan.allow_dispatch.clone(),
            tokens: JwtVerifier::new(&secrets.transpose()?.unwrap_or_default(), plan.require_token),
            dispatch: bearers("--dispatch-token-file", &plan.dispatch_token_file)?,
            ops: bearers("--ops-token-file", &plan.ops_token_file)?,
        })
    }

    /// Whether the client with this canonical address may poll; one without an address is on no list.
    pub fn may_poll_from(&self, client: Option<IpAddr>) -> Result<(), AuthFailure> {
        check_address(&self.allow_poll, client)
    }

    /// Whether the client with this canonical address may dispatch; one without an address is on no list.
    pub fn may_dispatch_from(&self, client: Option<IpAddr>) -> Result<(), AuthFailure> {
        check_address(&self.allow_dispatch, client)
    }

    /// Whether only some addresses may dispatch.
    pub fn restricts_dispatch_addresses(&self) -> bool {
        !self.allow_dispatch.is_empty()
    }

    /// Whether this canonical address may do anything at all.
    pub fn may_connect_from(&self, address: IpAddr) -> bool {
        self.may_poll_from(Some(address)).is_ok() || self.may_dispatch_from(Some(address)).is_ok()
    }

    /// The deployment that a controller's header names, itself or by a token, which is verified if that is possible.
    pub fn resolve_deployment<'a>(
        &self,
        deployment: &'a str,
        version: &str,
    ) -> Result<Deployment<'a>, TokenError> {
        self.tokens.resolve_deployment(deployment, version)
    }

    /// Whether a poll that names its pool by itself may wait there, given its `Authorization`.
    pub fn authorize_poll(
        &self,
        authorization: Option<&[u8]>,
        deployment: &str,
        version: &str,
    ) -> Result<(), TokenError> {
        match authorization.map(Credential::parse) {
            Some(Some(Credential::Bearer(token))) if self.is_supervisor_token(token) => {
                Err(TokenError::WrongRole)
            }
            Some(Some(Credential::Bearer(token))) => self.tokens.authorizes(token, deployment, version),
            Some(Some(Credential::Basic(_)) | None) => self.tokens.without_token(TokenError::NotAJwt),
            None => self.tokens.without_token(TokenError::Missing),
        }
    }

    /// Whether a stock controller shows what only a supervisor should have.
    pub fn is_supervisor_credential(&self, authorization: Option<&[u8]>) -> bool {
        matches!(authorization.and_then(Credential::parse),
            Some(Credential::Bearer(token)) if self.is_supervisor_token(token))
    }

    fn is_supervisor_token(&self, token: &str) -> bool {
        self.dispatch.as_ref().is_some_and(|bearers| bearers.contains(token))
    }

    /// Whether a POST may dispatch, given its `Authorization`.
    pub fn authorize_dispatch(&self, authorization: Option<&[u8]>) -> Result<(), AuthFailure> {
        let Some(bearers) = &self.dispatch else { return Ok(()) };
        match authorization.map(Credential::parse) {
            None => Err(AuthFailure::NoBearer),
            Some(Some(Credential::Bearer(token))) if bearers.contains(token) => Ok(()),
            Some(Some(Credential::Bearer(token))) if is_jwt_like(token) => Err(AuthFailure::WrongRole),
            Some(_) => Err(AuthFailure::BadBearer),
        }
    }

    /// Whether an operator may look and act, given the `Authorization`. Browsers send a password; it counts as well.
    pub fn authorize_ops(&self, authorization: Option<&[u8]>) -> Result<(), AuthFailure> {
        let Some(bearers) = &self.ops else { return Ok(()) };
        match authorization.map(Credential::parse) {
            None => Err(AuthFailure::NoBearer),
            Some(Some(credential)) if bearers.contains(credential.secret()) => Ok(()),
            Some(_) => Err(AuthFailure::BadBearer),
        }
    }

    /// Whether operators have to say who they are.
    pub fn requires_ops_token(&self) -> bool {
        self.ops.is_some()
    }
}

/// An empty list lets everybody in.
fn check_address(list: &[IpNet], client: Option<IpAddr>) -> Result<(), AuthFailure> {
    match client {
        _ if list.is_empty() => Ok(()),
        None => Err(AuthFailure::NoAddress),
        Some(address) if address::is_in_any(list, address) => Ok(()),
        Some(_) => Err(AuthFailure::Address),
    }
}

/// The shortest secret that is taken for one, in bytes: shorter ones are guessed.
const MIN_SECRET_BYTES: usize = 16;

/// The secrets of a file, one a line; empty lines and lines that begin with `#` are none. With `sent`, they come in a header.
fn read_secrets(flag: &str, path: &Path, sent: bool) -> anyhow::Result<Vec<String>> {
    let shown = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("{flag} {shown} cannot be read"))?;
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        anyhow::bail!("{flag} {shown} is UTF-16; save it as plain text");
    }
    let text =
        std::str::from_utf8(&bytes).ok().with_context(|| format!("{flag} {shown} is not text in UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut secrets = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(why) = secret_mistake(line, sent) {
            anyhow::bail!("{flag} {shown}: line {} {why}", number + 1);
        }
        secrets.push(line.to_owned());
    }
    if secrets.is_empty() {
        anyhow::bail!("{flag} {shown} is empty: it needs one secret a line");
    }
    if secrets.iter().any(|line| line.len() < MIN_SECRET_BYTES) {
        anyhow::bail!(
            "{flag} {shown} has a secret of fewer than {MIN_SECRET_BYTES} characters; make a longer one"
        );
    }
    Ok(secrets)
}

/// Why a line is surely not what was meant, or what nobody could send.
fn secret_mistake(line: &str, sent: bool) -> Option<&'static str> {
    let is_quoted = |quote: char| line.len() > 1 && line.starts_with(quote) && line.ends_with(quote);
    let assigned = line.strip_prefix("export ").map_or(line, str::trim_start).split_once('=');
    let is_name = |name: &str| {
        let is_word =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let lower = name.to_ascii_lowercase();
        is_word && (*name == name.to_ascii_uppercase() || lower.contains("token") || lower.contains("secret"))
    };
    if line.chars().any(char::is_control) {
        return Some("has a control character, such as NUL or a tab");
    }
    if is_quoted('"') || is_quoted('\'') {
        return Some("stands in quotes, which would be a part of the secret; take them away");
    }
    // The padding of base64 is no assignment.
    if assigned.is_some_and(|(name, value)| is_name(name.trim()) && !value.trim_matches('=').is_empty()) {
        return Some("looks like NAME=secret; the secret alone is wanted");
    }
    if line.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer ")) {
        return Some("begins with `Bearer`; the secret alone is wanted");
    }
    // A passphrase has spaces as well, but words are shorter.
    if line.split(' ').filter(|part| part.len() >= MIN_SECRET_BYTES).count() > 1 {
        return Some("seems to have two secrets; each has a line of its own");
    }
    if sent && !line.is_ascii() {
        return Some("has a character beyond ASCII, which clients cannot send in a header");
    }
    None
}

#[cfg(test)]
mod tests;
