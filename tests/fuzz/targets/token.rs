//! Owns the fuzzing of credentials. The first byte says whether the rest is sent as it is, or signed first.

#![no_main]

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use pilotlight::auth::{Authorizer, TokenError};
use pilotlight_fuzz::json::{self, Node, Value};
use pilotlight_fuzz::state::{OLDER_TOKEN_SECRET, OPERATORS, SUPERVISORS, TOKEN_SECRET, guarded};
use ring::hmac::{HMAC_SHA256, Key, sign, verify};

static ACCESS: LazyLock<Authorizer> = LazyLock::new(guarded);
static UNVERIFYING: LazyLock<Authorizer> = LazyLock::new(Authorizer::default);

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
const FOREIGN: &str = "a secret of another broker";

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    check_bearers(rest);
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let (header, claims) = text.split_once('\n').unwrap_or((HEADER, text));
    let (token, is_foreign) = match choice % 5 {
        0 => (text.to_owned(), false),
        1 => (signed(HEADER, text, TOKEN_SECRET), false),
        2 => (signed(header, claims, OLDER_TOKEN_SECRET), false),
        3 => (signed(header, claims, FOREIGN), true),
        _ => (signed(header, claims, ""), true),
    };
    let plain = UNVERIFYING.resolve_deployment(&token, "v1");
    if let Ok(named) = &plain {
        assert!(**named == *token || deployment_of(&token).as_deref() == Some(&**named), "{token}");
    }
    // Twice: the cache of tokens must not authorize another request.
    for _ in 0..2 {
        let named = ACCESS.resolve_deployment(&token, "v1");
        let Ok(deployment) = &named else { continue };
        assert!(!is_foreign, "accepted with a foreign signature: {token}");
        let claims = valid_claims(&token).unwrap_or_else(|| panic!("accepted, but not valid: {token}"));
        assert_eq!(claims.only("deployment").and_then(Node::text), Some(&**deployment));
        assert_eq!(
            plain.as_deref(),
            Ok(&**deployment),
            "the claim is the same with and without verification"
        );
        let shown = format!("Bearer {token}");
        let poll =
            |deployment: &str, version| ACCESS.authorize_poll(Some(shown.as_bytes()), deployment, version);
        assert_eq!(poll(deployment, "v1"), Ok(()));
        assert_eq!(poll("another", "v1").is_ok(), **deployment == *"another");
        assert_eq!(poll(deployment, "v2"), Err(TokenError::OtherDeployment));
        assert!(
            ACCESS.authorize_dispatch(Some(shown.as_bytes())).is_err()
                && ACCESS.authorize_ops(Some(shown.as_bytes())).is_err()
        );
    }
});

fn signed(header: &str, claims: &str, secret: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = sign(&Key::new(HMAC_SHA256, secret.as_bytes()), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A part of a token, parsed by the naive model. In unused claims, serde accepts invalid UTF-8, too.
fn part(part: Option<&str>) -> Option<Node> {
    json::parse(&String::from_utf8_lossy(&URL_SAFE_NO_PAD.decode(part?).ok()?))
}

fn deployment_of(token: &str) -> Option<String> {
    part(token.split('.').nth(1))?.only("deployment")?.text().map(str::to_owned)
}

/// The claims of a valid token for version v1.
fn valid_claims(token: &str) -> Option<Node> {
    let (text, signature) = token.rsplit_once('.')?;
    let (header, claims) = text.split_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    let knows =
        |secret: &str| verify(&Key::new(HMAC_SHA256, secret.as_bytes()), text.as_bytes(), &signature).is_ok();
    let (header, claims) = (part(Some(header))?, part(Some(claims))?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    let is = |name: &str, text: &str| match &claims.only(name)?.value {
        Value::List(all) => all.iter().any(|one| one.text() == Some(text)).then_some(()),
        Value::Text(one) => (one.as_deref() == Some(text)).then_some(()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    };
    is("iss", "https://id.trigger.dev")?;
    is("aud", "https://api.trigger.dev")?;
    is("deployment_version", "v1")?;
    let holds = (knows(TOKEN_SECRET) || knows(OLDER_TOKEN_SECRET))
        && header.only("alg")?.text() == Some("HS256")
        && claims.only("ver")?.number() == Some(1.0)
        && claims.only("exp")?.number()? + 62.0 > now;
    holds.then_some(claims)
}

/// A bearer token authorizes only its own kind of request.
fn check_bearers(header: &[u8]) {
    let text = String::from_utf8_lossy(header);
    let (scheme, rest) = text.split_once(' ').unwrap_or_default();
    let shown = if scheme.eq_ignore_ascii_case("bearer") { rest.trim() } else { "" };
    if ACCESS.authorize_dispatch(Some(header)).is_ok() {
        assert_eq!(shown, SUPERVISORS);
    }
    if ACCESS.authorize_ops(Some(header)).is_ok() && shown != OPERATORS {
        assert!(scheme.eq_ignore_ascii_case("basic"));
        let pair = STANDARD.decode(rest.trim()).expect("a password in base64");
        assert!(pair.ends_with(format!(":{OPERATORS}").as_bytes()));
    }
}
