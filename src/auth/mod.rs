//! Owns authorization: by address, by deployment token, and by the bearer tokens of supervisors and operators.
//!
//! An [`Authorizer`] is immutable: a reload of the files replaces it with a new one.

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

/// The files and lists of an [`Authorizer`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthConfig {
    /// Secrets that deployment tokens are signed with, one per line.
    pub token_secret_file: Option<PathBuf>,
    /// Whether a poll needs a token.
    pub require_token: bool,
    /// Bearer tokens of supervisors, one per line.
    pub dispatch_token_file: Option<PathBuf>,
    /// Bearer tokens of operators, one per line.
    pub ops_token_file: Option<PathBuf>,
    /// Networks that may poll; if empty, every address may.
    pub allow_poll: Vec<IpNet>,
    /// Networks that may dispatch; if empty, every address may.
    pub allow_dispatch: Vec<IpNet>,
}

/// Decides which requests are allowed.
#[derive(Debug, Default)]
pub struct Authorizer {
    allow_poll: Vec<IpNet>,
    allow_dispatch: Vec<IpNet>,
    tokens: JwtVerifier,
    dispatch: Option<TokenSet>,
    ops: Option<TokenSet>,
}

impl Authorizer {
    /// Reads every file. An error names the file and the problem, and never quotes the content.
    pub fn open(config: &AuthConfig) -> anyhow::Result<Self> {
        let tokens = |flag: &str, path: &Option<PathBuf>| {
            path.as_deref().map(|path| read_secrets(flag, path, true).map(TokenSet::new)).transpose()
        };
        let secrets =
            config.token_secret_file.as_deref().map(|path| read_secrets("--token-secret-file", path, false));
        Ok(Self {
            allow_poll: config.allow_poll.clone(),
            allow_dispatch: config.allow_dispatch.clone(),
            tokens: JwtVerifier::new(&secrets.transpose()?.unwrap_or_default(), config.require_token),
            dispatch: tokens("--dispatch-token-file", &config.dispatch_token_file)?,
            ops: tokens("--ops-token-file", &config.ops_token_file)?,
        })
    }

    /// Whether a client with this canonical address may poll. A client without an address is on no list.
    pub fn may_poll_from(&self, client: Option<IpAddr>) -> Result<(), AuthFailure> {
        check_address(&self.allow_poll, client)
    }

    /// Whether a client with this canonical address may dispatch. A client without an address is on no list.
    pub fn may_dispatch_from(&self, client: Option<IpAddr>) -> Result<(), AuthFailure> {
        check_address(&self.allow_dispatch, client)
    }

    /// Whether only some addresses may dispatch.
    pub fn restricts_dispatch_addresses(&self) -> bool {
        !self.allow_dispatch.is_empty()
    }

    /// Whether this canonical address may poll or dispatch.
    pub fn may_connect_from(&self, address: IpAddr) -> bool {
        self.may_poll_from(Some(address)).is_ok() || self.may_dispatch_from(Some(address)).is_ok()
    }

    /// The deployment in a controller's header: a plain id, or the claim of a token, which is verified if there is a secret.
    pub fn resolve_deployment<'a>(
        &self,
        deployment: &'a str,
        version: &str,
    ) -> Result<Deployment<'a>, TokenError> {
        self.tokens.resolve_deployment(deployment, version)
    }

    /// Whether a poll with this `Authorization` may wait in a pool of this deployment and version.
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

    /// Whether the credential is a supervisor's token, which a controller must not have.
    pub fn is_supervisor_credential(&self, authorization: Option<&[u8]>) -> bool {
        matches!(authorization.and_then(Credential::parse),
            Some(Credential::Bearer(token)) if self.is_supervisor_token(token))
    }

    fn is_supervisor_token(&self, token: &str) -> bool {
        self.dispatch.as_ref().is_some_and(|tokens| tokens.contains(token))
    }

    /// Whether a POST with this `Authorization` may dispatch.
    pub fn authorize_dispatch(&self, authorization: Option<&[u8]>) -> Result<(), AuthFailure> {
        let Some(tokens) = &self.dispatch else { return Ok(()) };
        match authorization.map(Credential::parse) {
            None => Err(AuthFailure::NoBearer),
            Some(Some(Credential::Bearer(token))) if tokens.contains(token) => Ok(()),
            Some(Some(Credential::Bearer(token))) if is_jwt_like(token) => Err(AuthFailure::WrongRole),
            Some(_) => Err(AuthFailure::BadBearer),
        }
    }

    /// Whether a request with this `Authorization` may use the ops routes. The token may also be a password, which browsers send.
    pub fn authorize_ops(&self, authorization: Option<&[u8]>) -> Result<(), AuthFailure> {
        let Some(tokens) = &self.ops else { return Ok(()) };
        match authorization.map(Credential::parse) {
            None => Err(AuthFailure::NoBearer),
            Some(Some(credential)) if tokens.contains(credential.secret()) => Ok(()),
            Some(_) => Err(AuthFailure::BadBearer),
        }
    }

    /// Whether the ops routes require a token.
    pub fn requires_ops_token(&self) -> bool {
        self.ops.is_some()
    }
}

/// An empty list allows every client.
fn check_address(list: &[IpNet], client: Option<IpAddr>) -> Result<(), AuthFailure> {
    match client {
        _ if list.is_empty() => Ok(()),
        None => Err(AuthFailure::NoAddress),
        Some(address) if address::is_in_any(list, address) => Ok(()),
        Some(_) => Err(AuthFailure::Address),
    }
}

/// The shortest accepted secret, in bytes: shorter ones can be guessed.
const MIN_SECRET_BYTES: usize = 16;

/// Reads a file with one secret per line; empty lines and comments with `#` are skipped. With `in_header`, clients send the
/// secrets in a header.
pub fn read_secrets(flag: &str, path: &Path, in_header: bool) -> anyhow::Result<Vec<String>> {
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
        if let Some(why) = secret_mistake(line, in_header) {
            anyhow::bail!("{flag} {shown}: line {} {why}", number + 1);
        }
        secrets.push(line.to_owned());
    }
    if secrets.is_empty() {
        anyhow::bail!("{flag} {shown} is empty: it needs one secret per line");
    }
    if secrets.iter().any(|line| line.len() < MIN_SECRET_BYTES) {
        anyhow::bail!(
            "{flag} {shown} has a secret of fewer than {MIN_SECRET_BYTES} characters; make a longer one"
        );
    }
    Ok(secrets)
}

/// Why a line is probably a mistake, or cannot be sent.
fn secret_mistake(line: &str, in_header: bool) -> Option<&'static str> {
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
        return Some("is in quotes, which would be part of the secret; remove them");
    }
    // The `=` of base64 padding is not an assignment.
    if assigned.is_some_and(|(name, value)| is_name(name.trim()) && !value.trim_matches('=').is_empty()) {
        return Some("looks like NAME=secret; write only the secret");
    }
    if line.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer ")) {
        return Some("begins with `Bearer`; write only the secret");
    }
    // A passphrase has spaces, too, but its words are shorter.
    if line.split(' ').filter(|part| part.len() >= MIN_SECRET_BYTES).count() > 1 {
        return Some("seems to have two secrets; write one per line");
    }
    if in_header && !line.is_ascii() {
        return Some("has a character outside ASCII, which clients cannot send in a header");
    }
    None
}

#[cfg(test)]
mod tests;
