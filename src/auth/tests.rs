//! Owns the tests of authorization.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "a secret of the platform";

fn signed(header: &Value, claims: &Value, secret: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, text.as_bytes())))
}

fn claims() -> Value {
    json!({
        "ver": 1, "deployment": "d1", "deployment_version": "v1", "environment_id": "e", "org_id": "o",
        "iss": "https://id.trigger.dev", "aud": "https://api.trigger.dev", "exp": 4_000_000_000_u64,
    })
}

fn token_with(change: &[(&str, Value)]) -> String {
    let mut claims = claims();
    for (name, value) in change {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(*name);
        } else {
            claims[*name] = value.clone();
        }
    }
    signed(&json!({"alg": "HS256", "typ": "JWT"}), &claims, SECRET)
}

fn verifying() -> JwtVerifier {
    JwtVerifier::new(&["an older secret of it".to_owned(), SECRET.to_owned()], true)
}

#[test]
fn without_a_secret_a_plain_id_is_accepted_and_a_token_decoded() {
    let tokens = JwtVerifier::default();
    assert_eq!(tokens.resolve_deployment("deployment_1", "v").unwrap(), "deployment_1");
    assert_eq!(tokens.resolve_deployment("eyJno_dots", "v").unwrap(), "eyJno_dots");
    assert_eq!(
        tokens
            .resolve_deployment(&signed(&json!({"alg": "HS256"}), &json!({"deployment": "d1"}), "x"), "v")
            .unwrap(),
        "d1"
    );
    for (text, expected) in [
        ("eyJhbGciOiJIUzI1NiJ9.e30".to_owned(), TokenError::NotAJwt),
        ("eyJhbGciOiJIUzI1NiJ9.e30.x.x".to_owned(), TokenError::NotAJwt),
        ("eyJhbGciOiJIUzI1NiJ9.!.x".to_owned(), TokenError::NotAJwt),
        (signed(&json!({"alg": "HS256"}), &json!([1]), "x"), TokenError::NotAJwt),
        (signed(&json!({"alg": "HS256"}), &json!({}), "x"), TokenError::NoDeployment),
        (
            signed(&json!({"alg": "HS256"}), &json!({"deployment": "x".repeat(4096)}), "x"),
            TokenError::TooLong,
        ),
    ] {
        assert_eq!(tokens.resolve_deployment(&text, "v"), Err(expected), "{text}");
    }
}

#[test]
fn a_valid_token_is_accepted_again_from_the_cache() {
    let tokens = verifying();
    for _ in 0..2 {
        assert_eq!(tokens.resolve_deployment(&token_with(&[]), "v1").unwrap(), "d1");
        assert_eq!(tokens.authorizes(&token_with(&[]), "d1", "v1"), Ok(()));
    }
    assert_eq!(
        tokens.resolve_deployment(&token_with(&[("aud", json!(["https://api.trigger.dev"]))]), "v1").unwrap(),
        "d1"
    );
}

#[test]
fn every_other_token_is_refused_also_after_a_good_one() {
    let tokens = verifying();
    tokens.resolve_deployment(&token_with(&[]), "v1").unwrap();
    let of_header = |header: Value| signed(&header, &claims(), SECRET);
    let forged = {
        let good = token_with(&[]);
        let (_, signature) = good.rsplit_once('.').unwrap();
        let other = token_with(&[("deployment", json!("d2"))]);
        format!("{}.{signature}", other.rsplit_once('.').unwrap().0)
    };
    for (text, expected) in [
        ("d1".to_owned(), TokenError::Missing),
        (signed(&json!({"alg": "HS256"}), &claims(), "another secret of it"), TokenError::BadSignature),
        (forged, TokenError::BadSignature),
        (format!("{}.", token_with(&[]).rsplit_once('.').unwrap().0), TokenError::BadSignature),
        (of_header(json!({"alg": "none"})), TokenError::NotAJwt),
        (of_header(json!({"alg": "HS512"})), TokenError::BadSignature),
        (of_header(json!({"alg": "RS256"})), TokenError::BadSignature),
        (token_with(&[("exp", json!(1_000_000_000))]), TokenError::Expired),
        (token_with(&[("exp", Value::Null)]), TokenError::Expired),
        (token_with(&[("exp", json!("tomorrow"))]), TokenError::NotAJwt),
        (token_with(&[("iss", json!("https://id.example"))]), TokenError::NotOurs),
        (token_with(&[("iss", Value::Null)]), TokenError::NotOurs),
        (token_with(&[("aud", json!("https://api.example"))]), TokenError::NotOurs),
        (token_with(&[("aud", Value::Null)]), TokenError::NotOurs),
        (token_with(&[("ver", json!(2))]), TokenError::NotOurs),
        (token_with(&[("ver", Value::Null)]), TokenError::NotOurs),
        (token_with(&[("deployment", Value::Null)]), TokenError::NoDeployment),
        (token_with(&[("deployment_version", json!("v2"))]), TokenError::OtherDeployment),
        (token_with(&[("deployment_version", Value::Null)]), TokenError::OtherDeployment),
    ] {
        assert_eq!(tokens.resolve_deployment(&text, "v1"), Err(expected), "{text}");
    }
    assert_eq!(tokens.authorizes(&token_with(&[]), "d2", "v1"), Err(TokenError::OtherDeployment));
    assert_eq!(tokens.authorizes(&token_with(&[]), "d1", "v2"), Err(TokenError::OtherDeployment));
}

#[test]
fn the_cache_of_tokens_is_bounded() {
    let tokens = verifying();
    for number in 0..5000 {
        tokens.resolve_deployment(&token_with(&[("jti", json!(number))]), "v1").unwrap();
    }
    assert!(tokens.cached_tokens() <= 1024);
}

fn access(files: &[(&str, &str)]) -> anyhow::Result<Authorizer> {
    let folder = tempfile::tempdir().unwrap();
    let mut config = AuthConfig::default();
    for (flag, text) in files {
        let path = folder.path().join(flag);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        match *flag {
            "tokens" => config.token_secret_file = Some(path),
            "dispatch" => config.dispatch_token_file = Some(path),
            _ => config.ops_token_file = Some(path),
        }
    }
    Authorizer::open(&config)
}

#[test]
fn a_bearer_token_allows_dispatches_and_during_a_rotation_two_do() {
    let access =
        access(&[("dispatch", "# of the supervisors\nthe older bearer\n\nthe newer bearer\n")]).unwrap();
    let check = |header: Option<&str>| access.authorize_dispatch(header.map(str::as_bytes));
    assert_eq!(check(Some("Bearer the older bearer")), Ok(()));
    assert_eq!(check(Some("bearer the newer bearer")), Ok(()));
    assert_eq!(check(None), Err(AuthFailure::NoBearer));
    for wrong in [
        "Bearer",
        "Bearer ",
        "Bearer the other bearer!",
        "the older bearer",
        "Basic dGhl",
        "Bearer # of the supervisors",
    ] {
        assert_eq!(check(Some(wrong)), Err(AuthFailure::BadBearer), "{wrong}");
    }
    assert_eq!(check(Some(&format!("Bearer {}", token_with(&[])))), Err(AuthFailure::WrongRole));
    assert!(access.is_supervisor_credential(Some(b"Bearer the older bearer")));
    assert_eq!(access.authorize_poll(Some(b"Bearer the older bearer"), "d", "v"), Err(TokenError::WrongRole));
    assert_eq!(access.authorize_poll(None, "d", "v"), Ok(()));
}

#[test]
fn an_operator_sends_a_bearer_token_or_a_password() {
    let access = access(&[("ops", "of the operators\n")]).unwrap();
    let basic = format!("Basic {}", STANDARD.encode("anybody:of the operators"));
    assert_eq!(access.authorize_ops(Some(basic.as_bytes())), Ok(()));
    assert_eq!(access.authorize_ops(Some(b"Bearer of the operators")), Ok(()));
    assert_eq!(access.authorize_ops(Some(b"Bearer of the operator")), Err(AuthFailure::BadBearer));
    assert_eq!(access.authorize_ops(Some(b"Basic !")), Err(AuthFailure::BadBearer));
    assert_eq!(access.authorize_ops(None), Err(AuthFailure::NoBearer));
    assert_eq!(access.authorize_dispatch(None), Ok(()), "each role has its own file");
}

#[test]
fn a_file_without_a_usable_secret_is_refused_and_never_quoted() {
    for (text, why) in
        [("", "is empty"), ("# only this\n", "is empty"), ("short\n", "fewer than 16 characters")]
    {
        let error = format!("{:#}", access(&[("dispatch", text)]).unwrap_err());
        assert!(error.contains(why) && error.contains("--dispatch-token-file"), "{error}");
        assert!(!error.contains("short"), "{error}");
    }
    let known = access(&[("dispatch", "the older bearer\n"), ("tokens", SECRET)]).unwrap();
    let shown = format!("{known:?}");
    assert!(!shown.contains("older") && !shown.contains("secret of the platform"), "{shown}");
    let missing = AuthConfig { ops_token_file: Some("/nowhere/at/all".into()), ..AuthConfig::default() };
    assert!(
        format!("{:#}", Authorizer::open(&missing).unwrap_err()).contains("--ops-token-file /nowhere/at/all")
    );
}

#[test]
fn a_line_that_is_not_a_secret_is_refused_with_its_reason_and_never_quoted() {
    const SECRET: &str = "hunter2hunter2hunter2";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bearers");
    let open = |bytes: &[u8], is_bearer: bool| {
        std::fs::write(&path, bytes).unwrap();
        let file = Some(path.clone());
        let config = if is_bearer {
            AuthConfig { ops_token_file: file, ..AuthConfig::default() }
        } else {
            AuthConfig { token_secret_file: file, ..AuthConfig::default() }
        };
        Authorizer::open(&config)
    };
    let cases: [(&str, &str); 11] = [
        ("\"S\"\n", "line 1 is in quotes"),
        ("# ours\n'S'\n", "line 2 is in quotes"),
        ("TOKEN=S\n", "NAME=secret"),
        ("export PILOTLIGHT_TOKEN=\"S\"", "NAME=secret"),
        ("my_token = S", "NAME=secret"),
        ("an-older-bearer-of-ours a-newer-bearer-of-ours", "line 1 seems to have two secrets"),
        ("Bearer S", "begins with `Bearer`"),
        ("S\0\n", "control character"),
        ("S\u{1b}[0m", "control character"),
        ("S\tS", "control character"),
        ("\u{feff}\"S\"", "line 1 is in quotes"),
    ];
    for (text, reason) in cases {
        for is_bearer in [true, false] {
            let message = format!("{:#}", open(text.replace('S', SECRET).as_bytes(), is_bearer).unwrap_err());
            assert!(message.contains(reason) && !message.contains(SECRET), "{text:?}: {message}");
        }
    }
    let utf16: Vec<u8> = [b"\xFF\xFE".to_vec(), SECRET.bytes().flat_map(|byte| [byte, 0]).collect()].concat();
    assert!(format!("{:#}", open(&utf16, true).unwrap_err()).contains("UTF-16"));
    assert!(format!("{:#}", open(b"hunter2hunter2hunter2\xC3\x28", true).unwrap_err()).contains("UTF-8"));
    // A platform's secret is only used for signatures, and never sent.
    let non_ascii = "hunter2hunter2hunter2 \u{e9}";
    assert!(format!("{:#}", open(non_ascii.as_bytes(), true).unwrap_err()).contains("outside ASCII"));
    assert!(open(non_ascii.as_bytes(), false).is_ok());
    for fine in [
        "\u{feff}S\r\nSS\r\n",
        "  S  \n\n",
        "aHVudGVyMmh1bnRlcjI=",
        "AAAAAAAAAAAAAAAAAAAAAA==",
        "S with = in it",
    ] {
        let access = open(fine.replace('S', SECRET).as_bytes(), true);
        assert!(access.is_ok(), "{fine:?}: {access:?}");
    }
    let access = open("\u{feff}hunter2hunter2hunter2\r\n".as_bytes(), true).unwrap();
    assert_eq!(access.authorize_ops(Some(b"Bearer hunter2hunter2hunter2")), Ok(()));
}
