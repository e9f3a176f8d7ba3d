//! Owns the tests of TLS: runs and proofs through it, client certificates, and reloads of certificates under held polls.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use support::client::Client;
use support::cluster::{Cluster, native_post, outcome};
use support::event_stream::{EventStream, subscription};
use support::nats::NatsServer;
use support::offers::{Offered, PATIENT, is, outcome as receipt_outcome, post as receipt, run};
use support::proxy::{HAPROXY, start};
use support::replies::{dispatch, target, whole};
use support::websocket::{WebSocket, handshake};
use support::{Broker, Pool, free_addresses, post};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A certificate authority, and the folder with the certificate that it has signed for the broker.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        let authority = Self { issuer, folder };
        authority.certify_broker();
        authority
    }

    fn signed(&self) -> (rcgen::Certificate, KeyPair) {
        self.signed_for(&["localhost"])
    }

    fn signed_for(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Writes a new certificate for the broker.
    fn certify_broker(&self) {
        self.certify_broker_for(&["localhost"]);
    }

    fn certify_broker_for(&self, names: &[&str]) {
        let (certificate, key) = self.signed_for(names);
        std::fs::write(self.path("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn broker(&self, proof: &str, arguments: &[&str]) -> Broker {
        let shown = |path: &Path| path.to_str().unwrap().to_owned();
        let (cert, key) = (shown(&self.path("cert.pem")), shown(&self.path("key.pem")));
        Broker::proving(proof, &[&["--tls-cert", &cert, "--tls-key", &key], arguments].concat())
    }

    /// A client that trusts this authority, with a client certificate if one is given.
    fn client(&self, certificate: Option<(rcgen::Certificate, KeyPair)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

type TlsClient = Client<TlsStream<TcpStream>>;

async fn connect(connector: &TlsConnector, address: SocketAddr) -> std::io::Result<TlsClient> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Client::through(connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?))
}

async fn held(broker: &Broker, connector: &TlsConnector, pool: &Pool, controller: &str) -> TlsClient {
    let before = broker.waiters("").await;
    let mut client = connect(connector, broker.public).await.unwrap();
    client.send(pool.poll(controller)).await;
    broker.wait_for_waiters(before + 1).await;
    client
}

/// The handshake follows a PROXY protocol header, in a segment of its own or as a real haproxy sends it.
#[tokio::test]
async fn a_handshake_follows_a_proxy_protocol_header() {
    let authority = Authority::new();
    let connector = authority.client(None);
    let broker = authority.broker("received", &["--proxy-protocol", "--behind-proxy", "127.0.0.1"]);
    let layer_4 = HAPROXY.replace("mode http", "mode tcp").replace("  option forwardfor\n", "");
    let layer_4 = layer_4.replace("{broker}", "{broker} send-proxy-v2");
    let haproxy = start(&broker, &layer_4, "haproxy -db -f {folder}/configuration");
    let pool = Pool::small("d1");
    let connect = async |address: SocketAddr| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if address == broker.public {
            stream.write_all(b"PROXY TCP4 192.0.2.9 10.0.0.1 51201 7070\r\n").await.unwrap();
        }
        let name = ServerName::try_from("localhost").unwrap();
        Client::through(connector.connect(name, stream).await.unwrap())
    };
    for address in [Some(broker.public), haproxy.as_ref().map(|proxy| proxy.address)].into_iter().flatten() {
        let mut controller = connect(address).await;
        controller.send(pool.poll("one")).await;
        broker.wait_for_waiters(1).await;
        let mut supervisor = connect(address).await;
        supervisor.send(post("/warm-start", &pool.body("run"))).await;
        let (answer, receipt) = tokio::join!(supervisor.answer(), controller.answer());
        assert_eq!((&answer.json()["proof"], receipt.status), (&"hop".into(), 200));
    }
}

async fn post_run(broker: &Broker, connector: &TlsConnector, body: &str) -> serde_json::Value {
    connect(connector, broker.public).await.unwrap().ask(post("/warm-start", body)).await.json()
}

#[tokio::test]
async fn a_run_goes_through_tls_byte_for_byte_with_every_proof() {
    let authority = Authority::new();
    let connector = authority.client(None);
    let pool = Pool::small("d1");
    for proof in ["written", "acked", "received"] {
        let broker = authority.broker(proof, &[]);
        let mut waiting = held(&broker, &connector, &pool, "one").await;
        let mut message = pool.message("run_1");
        // Larger than the kernel takes at once, and larger than one record.
        message["somethingNew"] = "x".repeat(3_000_000).into();
        let sent = message.to_string();
        let body = format!("{{\"dequeuedMessage\":{sent}}}");
        let (answer, run) = tokio::join!(post_run(&broker, &connector, &body), waiting.answer());
        assert_eq!((answer["didWarmStart"].as_bool(), answer["proof"].as_str()), (Some(true), Some(proof)));
        assert!(run.body == sent.as_bytes(), "the bytes are the same");
        assert_eq!(broker.metric("pilotlight_connections{listener=\"public\",tls=\"false\"}").await, 0);
    }
}

#[tokio::test]
async fn sessions_go_through_tls_byte_for_byte_with_every_proof() {
    let authority = Authority::new();
    let connector = authority.client(None);
    let pool = Pool::small("d1");
    // Larger than the kernel takes at once, and larger than one record.
    let payload = "a line, and \"quotes\"\n".repeat(150_000).into_bytes();
    // An acknowledgement may come before the weaker proof that was asked for.
    let check = |answer: &serde_json::Value, proof| {
        let (is_hit, proved, offers) = outcome(answer);
        assert!(is_hit && [proof, "received"].contains(&proved) && offers == 1, "{answer}");
    };
    for proof in ["written", "acked", "received"] {
        let broker = authority.broker(proof, &[]);
        let ask =
            async |request: Vec<u8>| connect(&connector, broker.public).await.unwrap().ask(request).await;
        let client = connect(&connector, broker.public).await.unwrap();
        let mut socket = WebSocket::open(client, &handshake(&pool.path(), "")).await.ok().unwrap();
        for _ in 0..2 {
            socket.ready(1).await;
            broker.wait_for_waiters(1).await;
            let (answer, run) = tokio::join!(ask(native_post(&pool, "", "", &payload)), socket.take());
            check(&answer.json(), proof);
            assert!(run.payload == payload, "the bytes are the same");
        }
        drop(socket);
        let client = connect(&connector, broker.public).await.unwrap();
        let mut stream = EventStream::open(client, &subscription(&pool, "", "")).await.ok().unwrap();
        for _ in 0..2 {
            broker.wait_for_waiters(1).await;
            let receiving = async {
                let run = stream.run().await;
                let target = &run.ready;
                let post = format!("POST {target} HTTP/1.1\r\nhost: b\r\ncontent-length: 0\r\n\r\n");
                (run.payload, ask(post.into_bytes()).await.status)
            };
            let (answer, received) = tokio::join!(ask(native_post(&pool, "", "", &payload)), receiving);
            check(&answer.json(), proof);
            assert!(received == (payload.clone(), 204), "the bytes are the same");
        }
        assert_eq!(broker.metric("pilotlight_connections{listener=\"public\",tls=\"false\"}").await, 0);
    }
}

#[tokio::test]
async fn a_kept_connection_polls_again() {
    let authority = Authority::new();
    let connector = authority.client(None);
    let broker = authority.broker("acked", &[]);
    let pool = Pool::small("d1");
    let mut waiting = held(&broker, &connector, &pool, "one").await;
    for number in 0..5 {
        let answer = post_run(&broker, &connector, &pool.body(&format!("r{number}"))).await;
        assert_eq!(answer["didWarmStart"], true);
        assert_eq!(waiting.answer().await.status, 200);
        waiting.send(pool.poll("one")).await;
        broker.wait_for_waiters(1).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_or_does_not_read_proves_nothing() {
    let authority = Authority::new();
    let connector = authority.client(None);
    let broker = authority.broker("received", &["--proof-timeout", "100ms"]);
    let pool = Pool::small("d1");
    // A close_notify, with the socket still open.
    let mut leaving = held(&broker, &connector, &pool, "leaving").await;
    leaving.stream.shutdown().await.unwrap();
    broker.wait_for_waiters(0).await;
    // A socket that is closed without a close_notify.
    drop(held(&broker, &connector, &pool, "gone").await.stream.into_inner().0);
    broker.wait_for_waiters(0).await;
    // A process that does not read: its kernel acknowledges, and no FIN comes.
    let frozen = held(&broker, &connector, &pool, "frozen").await;
    let answer = post_run(&broker, &connector, &pool.body("r1")).await;
    assert_eq!(
        (answer["didWarmStart"].as_bool(), answer["reason"].as_str()),
        (Some(false), Some("undelivered"))
    );
    assert_eq!(broker.metric("pilotlight_offers_total{verdict=\"frozen\"}").await, 1);
    drop(frozen);
    // A process that closes its connection with the run unread: its kernel sends a reset.
    let rude = held(&broker, &connector, &pool, "rude").await;
    let body = pool.body("r2");
    let posting = post_run(&broker, &connector, &body);
    let leaving = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(rude);
    };
    let (answer, ()) = tokio::join!(posting, leaving);
    assert_eq!(answer["didWarmStart"], false);
    assert_eq!(broker.metric("pilotlight_offers_total{verdict=\"lost\"}").await, 1);
}

#[tokio::test]
async fn bytes_after_a_held_poll_close_it() {
    let authority = Authority::new();
    let connector = authority.client(None);
    let broker = authority.broker("written", &[]);
    let mut waiting = held(&broker, &connector, &Pool::small("d1"), "one").await;
    waiting.send("\r\n").await;
    assert!(waiting.is_closed_silently().await);
    broker.wait_for_waiters(0).await;
}

#[tokio::test]
async fn only_clients_with_a_certificate_are_served_where_it_is_required() {
    let (authority, other) = (Authority::new(), Authority::new());
    let ca = authority.path("ca.pem");
    let broker = authority.broker("written", &["--tls-client-ca", ca.to_str().unwrap()]);
    let pool = Pool::small("d1");
    let known = authority.client(Some(authority.signed()));
    let mut waiting = held(&broker, &known, &pool, "one").await;
    for stranger in [authority.client(None), authority.client(Some(other.signed()))] {
        // In TLS 1.3 a client learns of the refusal with its first read.
        if let Ok(mut client) = connect(&stranger, broker.public).await {
            let _ = client.stream.write_all(pool.poll("two").as_bytes()).await;
            assert!(client.stream.read(&mut [0; 64]).await.is_err());
        }
    }
    broker.wait_for_metric("pilotlight_connections_rejected_total{reason=\"tls\"}", 2).await;
    assert_eq!(broker.waiters("").await, 1);
    assert_eq!(post_run(&broker, &known, &pool.body("r")).await["didWarmStart"], true);
    assert_eq!(waiting.answer().await.status, 200);
}

#[tokio::test]
async fn plaintext_and_silence_end_the_handshake() {
    let authority = Authority::new();
    let broker = authority.broker("written", &[]);
    let mut plain = broker.client().await;
    plain.send("GET /connect HTTP/1.1\r\nhost: b\r\n\r\n").await;
    let alert = plain.rest().await.to_vec();
    assert!(alert.first() == Some(&21), "a TLS alert, and no plaintext response: {alert:?}");
    let mut silent = broker.client().await;
    assert!(silent.is_closed_silently().await);
    broker.wait_for_metric("pilotlight_connections_rejected_total{reason=\"tls\"}", 2).await;
}

#[tokio::test]
async fn certificates_are_reloaded_under_a_thousand_held_polls() {
    let authority = Authority::new();
    let connector = authority.client(None);
    let broker = authority.broker("received", &[]);
    let pool = Pool::small("d1");
    let mut crowd = Vec::new();
    for number in 0..1000 {
        let mut client = connect(&connector, broker.public).await.unwrap();
        client.send(pool.poll(&format!("c{number}"))).await;
        crowd.push(client);
    }
    broker.wait_for_waiters(1000).await;
    let shown = |client: &TlsClient| client.stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let old = shown(&crowd[0]);
    let reload = async |result: &str, count: u64| {
        broker.signal(Signal::HUP);
        broker
            .wait_for_metric(&format!("pilotlight_config_reloads_total{{result=\"{result}\"}}"), count)
            .await;
    };

    authority.certify_broker();
    reload("done", 1).await;
    let new = shown(&connect(&connector, broker.public).await.unwrap());
    assert!(new != old, "new handshakes see the new certificate");
    // A key that does not match the certificate, and a file without a certificate.
    std::fs::write(authority.path("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    reload("failed", 1).await;
    std::fs::write(authority.path("cert.pem"), "nothing").unwrap();
    reload("failed", 2).await;
    assert!(
        shown(&connect(&connector, broker.public).await.unwrap()) == new,
        "the valid certificate stays in use"
    );

    assert_eq!(broker.waiters("").await, 1000, "no held poll was dropped");
    let mut answers = JoinSet::new();
    for mut client in crowd {
        answers.spawn(async move { client.answer().await.status });
    }
    for number in 0..1000 {
        let answer = post_run(&broker, &connector, &pool.body(&format!("r{number}"))).await;
        assert_eq!(answer["proof"], "received", "{answer}");
    }
    assert!(answers.join_all().await.iter().all(|&status| status == 200));
    assert!(
        broker.metric("pilotlight_tls_certificate_expiry_timestamp_seconds{listener=\"public\"}").await > 0
    );
}

#[tokio::test]
async fn operators_are_served_through_tls_with_a_certificate_of_their_own() {
    let authority = Authority::new();
    let connector = authority.client(None);
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| authority.path(name).to_str().unwrap().to_owned());
    let broker = Broker::start(&["--ops-tls-cert", &cert, "--ops-tls-key", &key]);
    let operate = async |target: &str| {
        let mut client = connect(&connector, broker.ops).await.unwrap();
        let shown = client.stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let answer = client.ask(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        (answer.status, String::from_utf8(answer.body).unwrap(), shown)
    };
    assert_eq!(operate("/readyz").await.0, 200);
    let (_, text, old) = operate("/metrics").await;
    assert!(text.contains("\npilotlight_connections{listener=\"ops\",tls=\"true\"} 1\n"), "{text}");
    assert!(
        text.contains("\npilotlight_tls_certificate_expiry_timestamp_seconds{listener=\"ops\"} "),
        "{text}"
    );
    assert!(!text.contains("expiry_timestamp_seconds{listener=\"public\"}"), "{text}");
    // The public listener still serves plain HTTP.
    assert_eq!(broker.client().await.ask("GET /connect HTTP/1.1\r\nhost: b\r\n\r\n").await.status, 200);
    let mut plain = Client::connect(broker.ops).await;
    plain.send("GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let alert = plain.rest().await.to_vec();
    assert!(alert.first() == Some(&21), "a TLS alert, and no plaintext response: {alert:?}");

    let mut reader = connect(&connector, broker.ops).await.unwrap();
    reader.send("GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let pool = Pool::small("d1");
    let read = async {
        let mut text = String::new();
        while !text.contains("run_1") {
            let mut bytes = [0; 4096];
            let length = reader.stream.read(&mut bytes).await.unwrap();
            assert!(length > 0, "the events end: {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..length]));
            // The first events may come before the stream is open, so more are made.
            broker.post(&pool.body("run_1")).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, read).await.expect("events come through TLS");

    authority.certify_broker();
    broker.signal(Signal::HUP);
    broker.wait_until("the new certificate is shown", async || operate("/livez").await.2 != old).await;
}

#[tokio::test]
async fn bearer_tokens_of_operators_without_tls_are_warned_of() {
    let authority = Authority::new();
    let path = |name: &str| authority.path(name).to_str().unwrap().to_owned();
    std::fs::write(path("bearers"), "the bearer of them\n").unwrap();
    let bearers = path("bearers");
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    for (address, tls, is_warned) in [
        ("0.0.0.0:0", &["--ops-token-file", &bearers][..], true),
        ("127.0.0.1:0", &["--ops-token-file", &bearers], false),
        ("0.0.0.0:0", &["--ops-token-file", &bearers, "--ops-tls-cert", &cert, "--ops-tls-key", &key], false),
    ] {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pilotlight"));
        command.args(["--listen", "127.0.0.1:0", "--ops-listen", address, "--drain-window", "0s"]).args(tls);
        let mut broker = Broker::run(command.env("RUST_LOG", "warn").stderr(log.reopen().unwrap()));
        broker.signal(Signal::TERM);
        assert!(broker.ended().await.success());
        let said = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(said.contains("in clear"), is_warned, "{address} {tls:?}: {said}");
    }
}

#[tokio::test]
async fn a_receipt_is_passed_on_to_a_broker_that_proves_its_name_and_asks_for_a_certificate() {
    let Some(nats) = NatsServer::start("") else { return };
    let authority = Authority::new();
    let [advertised] = free_addresses();
    let (listen, url) = (advertised.to_string(), format!("https://{advertised}"));
    let host = advertised.ip().to_string();
    let stranger = Authority::new();
    let shown = |authority: &Authority, name: &str| authority.path(name).to_str().unwrap().to_owned();
    let [cert, key, ca] = ["cert.pem", "key.pem", "ca.pem"].map(|name| shown(&authority, name));
    let [other_cert, other_key] = ["cert.pem", "key.pem"].map(|name| shown(&stranger, name));
    let mut cluster = Cluster::empty(
        nats,
        "received",
        &[&PATIENT[..], &["--tls-client-ca", &ca, "--advertise-ca", &ca]].concat(),
    );
    let own = ["--tls-cert", &cert, "--tls-key", &key];
    cluster.join(&[&own[..], &["--listen", &listen, "--advertise", &url]].concat());
    cluster.join(&["--tls-cert", &other_cert, "--tls-key", &other_key]);
    cluster.settle().await;
    let (owner, other) = (&cluster.brokers[0], &cluster.brokers[1]);

    let connector = authority.client(Some(authority.signed()));
    let before = owner.waiters("").await;
    let stream = connect(&connector, owner.public).await.unwrap();
    let stream = EventStream::open(stream, &subscription(&Pool::small("d1"), "", "")).await.unwrap();
    owner.wait_for_waiters(before + 1).await;
    let mut supervisor = connect(&connector, owner.public).await.unwrap();
    supervisor.send(run(&Pool::small("d1"))).await;
    let Offered { ack, stream: _stream, .. } = Offered::next(stream).await;

    // The certificate of the second broker is a stranger's at first.
    let connector_to_stranger = stranger.client(Some(authority.signed()));
    let ask = async |connector: &TlsConnector| {
        receipt_outcome(&connect(connector, other.public).await.unwrap().ask(receipt(&ack)).await)
    };
    assert_eq!(
        ask(&connector_to_stranger).await,
        is(502, "broker-unreachable"),
        "the owner's is of another host"
    );
    authority.certify_broker_for(&["localhost", &host]);
    owner.signal(Signal::HUP);
    let is_refused = async || ask(&connector_to_stranger).await == is(502, "broker-failed");
    owner.wait_until("the owner refuses the other's certificate", is_refused).await;
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(authority.path(name), stranger.path(name)).unwrap();
    }
    other.signal(Signal::HUP);
    other
        .wait_until("its certificate is new", async || connect(&connector, other.public).await.is_ok())
        .await;
    assert_eq!(ask(&connector).await, is(204, ""));
    assert_eq!(supervisor.answer().await.json()["delivered"], true);
}

/// The broker reads a worker's next request on a connection whose offer it still watches, at every moment of it.
#[tokio::test]
async fn a_promised_reply_keeps_its_connection_through_tls() {
    let authority = Authority::new();
    let connector = authority.client(None);
    let pool = Pool::small("d1");
    let broker = authority.broker("received", &[]);
    let mut worker = connect(&connector, broker.public).await.unwrap();
    let mut caller = connect(&connector, broker.public).await.unwrap();
    for round in 0..40 {
        let (path, early) = (pool.path(), "pilotlight-controller: w1\r\npilotlight-reply: early");
        worker.send(format!("GET {path} HTTP/1.1\r\nhost: b\r\n{early}\r\n\r\n")).await;
        broker.wait_for_waiters(1).await;
        caller.send(dispatch(&pool, "?reply=30s", "")).await;
        let run = worker.answer().await;
        assert_eq!(run.header("connection"), None);
        // From before the first probe of the offer until after the third.
        tokio::time::sleep(Duration::from_millis(2) * round).await;
        assert_eq!(worker.ask(whole(&target(&run), "", "done")).await.status, 200, "{round}");
        assert_eq!(caller.answer().await.body, b"done");
    }
}
