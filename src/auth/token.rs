//! Owns the deployment token: a JWT whose `deployment` claim is the deployment's friendly id.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ahash::RandomState;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, dangerous, decode, get_current_timestamp};
use parking_lot::Mutex;
use serde::Deserialize;
use thiserror::Error;

use super::hmac;
use crate::metrics::AuthFailure;

/// The longest accepted token, in bytes; Trigger.dev's are about 504.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// The issuer, audience and version in Trigger.dev's tokens.
const ISSUER: &str = "https://id.trigger.dev";
const AUDIENCE: &str = "https://api.trigger.dev";
const VERSION: u32 = 1;

/// The tolerated difference between clocks, in seconds.
const LEEWAY: u64 = 60;
/// How many verified tokens are cached; all controllers of a deployment have the same one.
const CACHED_TOKENS: usize = 1024;

/// Why a token was refused. Never carries a part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("is a token of more than 4096 bytes")]
    TooLong,
    /// Not three base64url parts with a JSON payload.
    #[error("looks like a JWT, but is malformed")]
    NotAJwt,
    /// The payload has no `deployment` text.
    #[error("is a token without a deployment claim")]
    NoDeployment,
    /// This broker requires a token.
    #[error("is not a deployment token, and this broker requires one")]
    Missing,
    /// Not signed with a known secret, or not by HS256.
    #[error("is a token that is not signed with this broker's secret by HS256")]
    BadSignature,
    /// It has expired, or has no expiry.
    #[error("is a token that has expired, or has no expiry")]
    Expired,
    /// It has another issuer, audience or version.
    #[error("is a token with another issuer, audience or version")]
    NotOurs,
    /// It is for another deployment or version than the request.
    #[error("is a token for another deployment or version")]
    OtherDeployment,
    /// It is a supervisor's token.
    #[error("is a supervisor's credential, which does not allow polls")]
    WrongRole,
}

impl TokenError {
    /// Whether the token is malformed, rather than refused.
    pub fn is_malformed(self) -> bool {
        matches!(self, Self::TooLong | Self::NotAJwt | Self::NoDeployment)
    }

    /// The label that it is counted under.
    pub fn failure(self) -> AuthFailure {
        match self {
            Self::Missing => AuthFailure::NoToken,
            Self::Expired => AuthFailure::ExpiredToken,
            Self::OtherDeployment => AuthFailure::OtherDeployment,
            Self::WrongRole => AuthFailure::WrongRole,
            Self::TooLong | Self::NotAJwt | Self::NoDeployment | Self::BadSignature | Self::NotOurs => {
                AuthFailure::BadToken
            }
        }
    }
}

/// A deployment's friendly id.
pub type Deployment<'a> = Cow<'a, str>;

#[derive(Debug, Deserialize)]
struct Claims {
    ver: Option<u32>,
    deployment: Option<String>,
    deployment_version: Option<String>,
    exp: Option<f64>,
}

/// Decodes tokens, and verifies them if there is a secret.
pub(super) struct JwtVerifier {
    secrets: Vec<DecodingKey>,
    required: bool,
    validation: Validation,
    /// The claims of valid tokens.
    verified: Mutex<HashMap<Box<str>, Arc<Claims>, RandomState>>,
}

impl Default for JwtVerifier {
    fn default() -> Self {
        Self::new(&[], false)
    }
}

impl fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} secrets, tokens are {}",
            self.secrets.len(),
            if self.required { "required" } else { "optional" }
        )
    }
}

impl JwtVerifier {
    pub(super) fn new(secrets: &[String], required: bool) -> Self {
        hmac::install();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let secrets = secrets.iter().map(|secret| DecodingKey::from_secret(secret.as_bytes())).collect();
        Self { secrets, required, validation, verified: Mutex::default() }
    }

    /// The deployment in a header: the text itself, or its claim if it is a token. Without a secret a token is only decoded:
    /// it cannot be verified, and a plain id is accepted, too.
    pub(super) fn resolve_deployment<'a>(
        &self,
        text: &'a str,
        version: &str,
    ) -> Result<Deployment<'a>, TokenError> {
        if !is_jwt_like(text) {
            return self.without_token(TokenError::Missing).map(|()| Cow::Borrowed(text));
        }
        let claims = self.claims_of(text)?;
        if !self.secrets.is_empty() && claims.deployment_version.as_deref() != Some(version) {
            return Err(TokenError::OtherDeployment);
        }
        match Arc::try_unwrap(claims) {
            Ok(claims) => claims.deployment.map(Cow::Owned),
            Err(shared) => shared.deployment.clone().map(Cow::Owned),
        }
        .ok_or(TokenError::NoDeployment)
    }

    /// Whether a token allows polls of this deployment and version. Without a secret every token does.
    pub(super) fn authorizes(&self, token: &str, deployment: &str, version: &str) -> Result<(), TokenError> {
        if self.secrets.is_empty() {
            return Ok(());
        }
        let claims = self.claims_of(token)?;
        let is_match = claims.deployment.as_deref() == Some(deployment)
            && claims.deployment_version.as_deref() == Some(version);
        is_match.then_some(()).ok_or(TokenError::OtherDeployment)
    }

    /// Whether a poll without a token is allowed.
    pub(super) fn without_token(&self, why: TokenError) -> Result<(), TokenError> {
        if self.required { Err(why) } else { Ok(()) }
    }

    #[cfg(test)]
    pub(super) fn cached_tokens(&self) -> usize {
        self.verified.lock().len()
    }

    fn claims_of(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        if token.bytes().filter(|&byte| byte == b'.').count() != 2 {
            return Err(TokenError::NotAJwt);
        }
        if self.secrets.is_empty() {
            return dangerous::insecure_decode_claims(token).map(Arc::new).map_err(|_| TokenError::NotAJwt);
        }
        let cached = self.verified.lock().get(token).cloned();
        if let Some(claims) = cached {
            let has_expired = claims.exp.is_none_or(is_expired);
            return if has_expired { Err(TokenError::Expired) } else { Ok(claims) };
        }
        let claims = Arc::new(self.verify(token)?);
        let mut verified = self.verified.lock();
        if verified.len() >= CACHED_TOKENS {
            verified.clear();
        }
        verified.insert(token.into(), claims.clone());
        Ok(claims)
    }

    fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let mut error = TokenError::BadSignature;
        for secret in &self.secrets {
            match decode::<Claims>(token, secret, &self.validation) {
                Ok(data) if data.claims.ver == Some(VERSION) => return Ok(data.claims),
                Ok(_) => return Err(TokenError::NotOurs),
                Err(wrong) => error = token_error(wrong.kind()),
            }
            if error != TokenError::BadSignature {
                break;
            }
        }
        Err(error)
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library may add kinds; all others mean a malformed token"
)]
fn token_error(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => {
            TokenError::BadSignature
        }
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::MissingRequiredClaim(claim) if claim == "exp" => TokenError::Expired,
        ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience | ErrorKind::MissingRequiredClaim(_) => {
            TokenError::NotOurs
        }
        _ => TokenError::NotAJwt,
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
fn is_expired(exp: f64) -> bool {
    exp + (LEEWAY as f64) < get_current_timestamp() as f64
}

/// A friendly id has no dots; the header of every JWT begins with the base64 of `{"`.
pub(super) fn is_jwt_like(text: &str) -> bool {
    text.starts_with("eyJ") && text.contains('.')
}
