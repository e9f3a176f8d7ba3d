//! Owns bearer tokens: parsed from a header, and compared in constant time.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::{Choice, ConstantTimeEq};

/// The credential of an `Authorization` header.
pub(super) enum Credential<'a> {
    /// A token.
    Bearer(&'a str),
    /// A password, as browsers send it; the user name is ignored.
    Basic(String),
}

impl<'a> Credential<'a> {
    /// None for any other scheme.
    pub(super) fn parse(header: &'a [u8]) -> Option<Self> {
        let (scheme, rest) = std::str::from_utf8(header).ok()?.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(rest));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
            return pair.split_once(':').map(|(_, password)| Self::Basic(password.to_owned()));
        }
        None
    }

    pub(super) fn secret(&self) -> &str {
        match self {
            Self::Bearer(token) => token,
            Self::Basic(password) => password,
        }
    }
}

/// The accepted tokens. During a rotation there are two: the old one stays until every client has the new one.
pub(super) struct TokenSet(Vec<String>);

impl TokenSet {
    pub(super) fn new(secrets: Vec<String>) -> Self {
        Self(secrets)
    }

    /// Whether the secret is one of the tokens. The time that this takes reveals only its length.
    pub(super) fn contains(&self, secret: &str) -> bool {
        let known = self.0.iter().map(|known| known.as_bytes().ct_eq(secret.as_bytes()));
        known.fold(Choice::from(0), |any, this| any | this).into()
    }
}

impl fmt::Debug for TokenSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}
