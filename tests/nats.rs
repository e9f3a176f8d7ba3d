//! Owns how a broker gets into a cluster's NATS: every kind of credentials, TLS, what `check` says about it, and that no secret
//! is ever shown.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use pilotlight::cluster::link::{self, Received};
use pilotlight::cluster::{Credentials, LinkConfig, preflight};
use pilotlight::nats_url::NatsUrl;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa};
use serde_json::{Value, json};
use support::nats::NatsServer;
use support::{Broker, PATIENCE};
use tempfile::TempDir;

const SECRET: &str = "s3cret-of-the-broker";

fn config(url: &str, credentials: Credentials) -> LinkConfig {
    let servers = vec![NatsUrl::parse(url).unwrap()];
    LinkConfig { servers, cluster: "testing".to_owned(), credentials, ca: None }
}

/// Connects as a broker does.
fn connect(config: &LinkConfig) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_link, mut inbound) = link::open(config, 1, 0).unwrap();
        let first = tokio::time::timeout(PATIENCE, inbound.next()).await;
        assert_eq!(first, Ok(Received::Connected));
    });
}

/// Why a broker cannot connect.
fn refusal(config: &LinkConfig) -> String {
    let error = preflight(config).expect_err("the connection should be refused");
    let text = format!("{error:#}");
    assert!(!text.contains(SECRET), "{text}");
    text
}

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_token_in_a_file_or_in_the_url_admits_a_broker() {
    let Some(server) = NatsServer::start(&format!("authorization {{ token: \"{SECRET}\" }}")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = write(&folder, "token", &format!("{SECRET}\n"));
    connect(&config(&server.url(), Credentials::TokenFile(file)));
    connect(&config(&format!("nats://{SECRET}@{}", server.address), Credentials::None));
    let wrong = write(&folder, "wrong", &format!("{SECRET}x"));
    let error = refusal(&config(&server.url(), Credentials::TokenFile(wrong)));
    assert!(error.ends_with("it refuses the credentials"), "{error}");
    refusal(&config(&server.url(), Credentials::None));
}

#[test]
fn a_user_and_a_password_admit_a_broker() {
    let users = format!("authorization {{ users: [{{ user: broker, password: \"{SECRET}\" }}] }}");
    let Some(server) = NatsServer::start(&users) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = write(&folder, "password", SECRET);
    let named = |user: &str| Credentials::Password { user: user.to_owned(), file: file.clone() };
    connect(&config(&server.url(), named("broker")));
    connect(&config(&format!("nats://broker:{SECRET}@{}", server.address), Credentials::None));
    refusal(&config(&server.url(), named("somebody")));
    refusal(&config(&format!("nats://broker:{SECRET}x@{}", server.address), Credentials::None));
}

#[test]
fn an_nkey_admits_a_broker() {
    let user = KeyPair::new_user();
    let users = format!("authorization {{ users: [{{ nkey: {} }}] }}", user.public_key());
    let Some(server) = NatsServer::start(&users) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = write(&folder, "seed", &format!("# a comment\n{}\n", user.seed().unwrap()));
    connect(&config(&server.url(), Credentials::NkeyFile(file)));
    let other = write(&folder, "other", &KeyPair::new_user().seed().unwrap());
    refusal(&config(&server.url(), Credentials::NkeyFile(other)));
}

/// A JWT as NATS signs them: about `subject`, by `issuer`.
fn signed(issuer: &KeyPair, subject: &KeyPair, nats: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let claims = part(&json!({
        "jti": "1", "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(), "name": "testing",
        "nats": nats,
    }));
    let signature =
        BASE64_URL_SAFE_NO_PAD.encode(issuer.sign(format!("{header}.{claims}").as_bytes()).unwrap());
    format!("{header}.{claims}.{signature}")
}

#[test]
fn a_credentials_file_admits_a_broker() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let of_operator = signed(&operator, &operator, &json!({ "type": "operator", "version": 2 }));
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let of_account =
        signed(&operator, &account, &json!({ "type": "account", "version": 2, "limits": limits }));
    let of_user = signed(
        &account,
        &user,
        &json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 }),
    );
    let resolver = format!(
        "operator: {of_operator}\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account} }}",
        account.public_key()
    );
    let Some(server) = NatsServer::start(&resolver) else { return };
    let folder = tempfile::tempdir().unwrap();
    let creds = |name: &str, key: &KeyPair| {
        let seed = key.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        Credentials::CredsFile(write(&folder, name, &text))
    };
    connect(&config(&server.url(), creds("right", &user)));
    refusal(&config(&server.url(), creds("wrong", &KeyPair::new_user())));
}

#[test]
fn with_an_authority_the_server_must_have_a_certificate_of_it() {
    let Some(mut server) = NatsServer::start("") else { return };
    let folder = tempfile::tempdir().unwrap();
    let authority = |name: &str| {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let path = write(&folder, name, &issuer.pem());
        (issuer, path)
    };
    let ((issuer, ca), (_, other)) = (authority("ca.pem"), authority("other.pem"));
    let with_ca = |scheme: &str, ca: Option<&Path>| LinkConfig {
        ca: ca.map(Path::to_owned),
        ..config(&format!("{scheme}://{}", server.address), Credentials::None)
    };
    let trusted = with_ca("nats", Some(&ca));
    let (foreign, scheme_only) = (with_ca("nats", Some(&other)), with_ca("tls", None));
    let error = refusal(&trusted);
    assert!(error.contains("cannot be used"), "a server without TLS is refused: {error}");

    let key = rcgen::KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![server.address.ip().to_string()]).unwrap();
    let certificate = write(&folder, "cert.pem", &params.signed_by(&key, &issuer).unwrap().pem());
    let key = write(&folder, "key.pem", &key.serialize_pem());
    server.configure(&format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}",
        certificate.display(),
        key.display()
    ));
    server.restart();
    connect(&trusted);
    refusal(&foreign);
    refusal(&scheme_only);
}

/// Runs `pilotlight check`; returns its exit code and everything that it prints.
fn check(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    let addresses = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
    let Output { status, stdout, stderr } =
        command.arg("check").args(addresses).args(arguments).env("RUST_LOG", "trace").output().unwrap();
    let text = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert!(!text.contains(SECRET), "{text}");
    (status.code(), text)
}

#[test]
fn check_says_what_the_broker_finds_at_its_nats_and_disturbs_no_broker() {
    let Some(server) = NatsServer::start("max_payload: 65536") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (link, mut inbound) = runtime.block_on(async {
        let (link, mut inbound) = link::open(&config(&server.url(), Credentials::None), 1, 0).unwrap();
        assert_eq!(inbound.next().await, Received::Connected);
        (link, inbound)
    });
    let (code, text) = check(&["--nats", &server.url(), "--cluster", "testing"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("NATS {}: version 2.", server.url())), "{text}");
    assert!(
        text.contains("messages up to 64.0 KiB\nlarger runs")
            && text.contains("NATS subjects testing.v1.>: OK"),
        "{text}"
    );
    assert!(
        text.contains(
            "may subscribe to subjects of others and every subject (>); a broker needs testing.v1.> only"
        ),
        "{text}"
    );
    // The broker that is there has got nothing of it.
    runtime.block_on(async {
        let subjects = pilotlight::cluster::subjects::Subjects::new("testing");
        link.publish("nobody.here".to_owned(), Some(subjects.answer(1, 2)), "x".into()).unwrap();
        assert_eq!(inbound.next().await, Received::Answer { token: 2, payload: None });
    });
}

/// The users of a server: one with these permissions, as JSON.
fn permitted(permissions: &Value) -> String {
    format!(
        "authorization {{ users: [{{ user: broker, password: \"{SECRET}\", permissions: {permissions} }}] }}"
    )
}

#[test]
fn check_knows_what_the_credentials_may_and_may_not_do() {
    let own = "testing.v1.>";
    let Some(mut server) = NatsServer::start(&permitted(&json!({ "publish": own, "subscribe": own }))) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let password = write(&folder, "password", SECRET);
    let by_file = ["--nats-user", "broker", "--nats-password-file", password.to_str().unwrap()];
    let (url, with_user) = (server.url(), format!("nats://broker:{SECRET}@{}", server.address));
    let given = ["--nats", &url, "--cluster", "testing"];
    let (code, text) = check(&[&given[..], &by_file].concat());
    assert!(code == Some(0) && !text.contains("warnings:"), "{text}");
    let (code, text) = check(&["--nats", &with_user, "--cluster", "testing"]);
    assert!(code == Some(0) && text.contains(&format!("{:<24} {url}", "nats")), "{text}");
    let (code, text) = check(&["--nats", &with_user, "--cluster", "other"]);
    assert_eq!(code, Some(1), "{text}");
    for missing in
        ["subscribe to other.v1.to.*", "publish to other.v1.directory", "publish to other.v1.re.*.*"]
    {
        assert!(text.contains(missing), "{missing}: {text}");
    }

    for (allowed, missing) in [
        (
            json!({ "publish": own, "subscribe": ["testing.v1.to.*", "testing.v1.directory"] }),
            "subscribe to testing.v1.re.*.*",
        ),
        (
            json!({ "publish": own, "subscribe": ["testing.v1.to.*", "testing.v1.re.>"] }),
            "subscribe to testing.v1.directory",
        ),
        (
            json!({ "publish": own, "subscribe": ["testing.v1.directory", "testing.v1.re.>"] }),
            "subscribe to testing.v1.to.*",
        ),
        (
            json!({ "publish": ["testing.v1.to.*", "testing.v1.re.>"], "subscribe": own }),
            "publish to testing.v1.directory",
        ),
        (
            json!({ "publish": ["testing.v1.to.*", "testing.v1.directory"], "subscribe": own }),
            "publish to testing.v1.re.*.*",
        ),
        (
            json!({ "publish": ["testing.v1.directory", "testing.v1.re.>"], "subscribe": own }),
            "publish to testing.v1.to.*",
        ),
    ] {
        server.configure(&permitted(&allowed));
        server.restart();
        let (code, text) = check(&["--nats", &with_user, "--cluster", "testing"]);
        assert_eq!(code, Some(1), "{text}");
        let error = text.lines().find(|line| line.starts_with("pilotlight: ")).unwrap();
        assert!(error.ends_with(&format!("the credentials may not {missing}")), "{error}");
    }
    server.configure(&permitted(&json!({ "publish": own, "subscribe": [own, "*.of.permissions"] })));
    server.restart();
    let (code, text) = check(&["--nats", &with_user, "--cluster", "testing"]);
    assert!(
        code == Some(0) && text.contains("may subscribe to subjects of others; a broker needs"),
        "{text}"
    );
}

#[test]
fn check_fails_without_its_nats_and_without_its_files() {
    let Some(mut server) = NatsServer::start("") else { return };
    let url = server.url();
    server.pause();
    let (code, text) = check(&["--nats", &url]);
    assert!(code == Some(1) && text.contains("does not answer within 2s"), "{text}");
    server.stop();
    let with_secret = format!("nats://broker:{SECRET}@{}", server.address);
    let (code, text) = check(&["--nats", &with_secret]);
    assert!(code == Some(1) && text.contains(&format!("--nats {url} cannot be used")), "{text}");
    let (code, text) = check(&["--nats", &url, "--nats-token-file", "/nowhere/token"]);
    assert!(code == Some(1) && text.contains("--nats-token-file /nowhere/token cannot be read"), "{text}");
    let (code, text) = check(&["--nats", &format!("http://broker:{SECRET}@h:4222")]);
    assert!(code == Some(2) && text.contains("--nats is not a URL of the form"), "{text}");
}

#[tokio::test]
async fn the_log_has_one_line_when_nats_is_missing_and_one_when_it_comes_and_never_a_secret() {
    let users = format!("authorization {{ users: [{{ user: broker, password: \"{SECRET}\" }}] }}");
    let Some(mut server) = NatsServer::start(&users) else { return };
    server.stop();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.args(["--nats", &format!("nats://broker:{SECRET}@{}", server.address)]);
    command.env("RUST_LOG", "trace,async_nats=trace");
    let (broker, log) = Broker::logging(&mut command);
    let lines = |text: &str| {
        let all = std::fs::read_to_string(log.path()).unwrap();
        assert!(!all.contains(SECRET), "{all}");
        let of_broker = all.lines().filter(|line| line.contains("\"target\":\"pilotlight::cluster::link\""));
        of_broker.filter(|line| line.contains(text)).count()
    };
    broker.wait_until("NATS is missed", async || lines("NATS cannot be reached") > 0).await;
    // Several attempts later there is still one line.
    let attempts = || std::fs::read_to_string(log.path()).unwrap().matches("attempting connection").count();
    broker.wait_until("it has tried again", async || attempts() > 4).await;
    assert_eq!(lines("NATS cannot be reached"), 1);
    server.restart();
    broker.wait_until("NATS is found", async || lines("connected to NATS") > 0).await;
    server.stop();
    broker.wait_until("NATS is lost", async || lines("is lost") > 0).await;
    let before = attempts();
    broker.wait_until("it has tried again", async || attempts() > before + 3).await;
    let all = [lines("NATS cannot be reached"), lines("connected to NATS"), lines("is lost")];
    assert_eq!(all, [1, 1, 1]);
}
