//! Owns the deployment token: a JWT whose `deployment` claim stands for the deployment's friendly id.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use thiserror::Error;

/// The longest accepted token, in bytes; Trigger.dev's are about 504.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// Why a token was refused. Never carries a part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("is a token of more than 4096 bytes")]
    TooLong,
    /// Not three base64url parts with a JSON payload.
    #[error("looks like a JWT and is none")]
    NotAToken,
    /// The payload has no `deployment` text.
    #[error("is a token without a deployment claim")]
    NoDeployment,
}

#[derive(Deserialize)]
struct Claims {
    deployment: Option<String>,
}

/// The deployment that a header names: the text itself, or the claim if the text is a JWT.
///
/// Decodes only: without the platform's secret nothing can be verified, and a plain id would be believed as well.
pub fn deployment(text: &str) -> Result<Cow<'_, str>, TokenError> {
    // A friendly id has no dots; the header of every JWT begins with the base64 of `{"`.
    if !text.starts_with("eyJ") || !text.contains('.') {
        return Ok(Cow::Borrowed(text));
    }
    if text.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    let mut parts = text.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::NotAToken);
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::NotAToken)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| TokenError::NotAToken)?;
    claims.deployment.map(Cow::Owned).ok_or(TokenError::NoDeployment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part(r#"{"alg":"HS256","typ":"JWT"}"#), part(payload), part("signature"))
    }

    #[test]
    fn a_plain_id_is_itself() {
        assert_eq!(deployment("deployment_1").unwrap(), "deployment_1");
        assert_eq!(deployment("eyJno_dots").unwrap(), "eyJno_dots");
    }

    #[test]
    fn a_token_stands_for_its_claim() {
        assert_eq!(deployment(&token(r#"{"ver":1,"deployment":"deployment_1"}"#)).unwrap(), "deployment_1");
    }

    #[test]
    fn a_broken_token_is_refused() {
        for (text, expected) in [
            ("eyJhbGciOiJIUzI1NiJ9.e30".to_owned(), TokenError::NotAToken),
            ("eyJhbGciOiJIUzI1NiJ9.!.x".to_owned(), TokenError::NotAToken),
            (token("[]"), TokenError::NotAToken),
            (token("{}"), TokenError::NoDeployment),
            (token(&format!(r#"{{"deployment":"{}"}}"#, "x".repeat(4096))), TokenError::TooLong),
        ] {
            assert_eq!(deployment(&text), Err(expected), "{text}");
        }
    }
}
