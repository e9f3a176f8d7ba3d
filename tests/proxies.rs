//! Owns what proxies do to the proof: real nginx, haproxy and socat between the controller and the broker.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::client::Client;
use support::{Broker, PATIENCE, Pool};

/// A proxy in front of the broker, in a process of its own.
struct Proxy {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a proxy with this configuration and command; both may name `{port}`, `{broker}` and `{folder}`.
fn start(broker: &Broker, configuration: &str, command: &str) -> Option<Proxy> {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let fill = |text: &str| {
        let folder = folder.path().to_str().unwrap();
        text.replace("{port}", &port.to_string())
            .replace("{broker}", &broker.public.to_string())
            .replace("{folder}", folder)
    };
    std::fs::write(folder.path().join("configuration"), fill(configuration)).unwrap();
    let command = fill(command);
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    if !["/usr/sbin", "/usr/bin"].iter().any(|place| Path::new(place).join(program).exists()) {
        eprintln!("skipped: {program} is not installed; tests/run installs it");
        return None;
    }
    let child =
        Command::new(program).args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < until, "{program} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(Proxy { child, address, _folder: folder })
}

const NGINX: &str =
    "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; events {} http {
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server { listen 127.0.0.1:{port}; location / { proxy_pass http://{broker}; proxy_http_version 1.1;
    proxy_read_timeout 120s; {headers} } } }";

const HAPROXY: &str = "defaults
  mode http
  timeout connect 5s
  timeout client 120s
  timeout server 120s
  option forwardfor
frontend in
  bind 127.0.0.1:{port}
  default_backend out
backend out
  server broker {broker}
";

async fn poll_through(proxy: &Proxy, broker: &Broker, pool: &Pool) -> Client {
    let before = broker.waiters("").await;
    let mut client = Client::connect(proxy.address).await;
    client.send(pool.poll("behind")).await;
    broker.wait_for_waiters(before + 1).await;
    client
}

/// A run through the proxy, first to a controller that reads it, then to one that does not.
async fn proofs(broker: &Broker, proxy: &Proxy) -> [String; 2] {
    let pool = Pool::small("d1");
    let word = |answer: &serde_json::Value| {
        answer["proof"].as_str().or(answer["reason"].as_str()).unwrap().to_owned()
    };
    let mut alive = poll_through(proxy, broker, &pool).await;
    let body = pool.body("run_1");
    let (answer, receipt) = tokio::join!(broker.post(&body), alive.answer());
    assert_eq!(receipt.json()["run"]["friendlyId"], "run_1");
    let _deaf = poll_through(proxy, broker, &pool).await;
    let deaf = broker.post(&pool.body("run_2")).await.1;
    [word(&answer.1), word(&deaf)]
}

#[tokio::test]
async fn behind_nginx_that_says_so_a_receipt_is_the_hops() {
    let broker = Broker::proving("received", &[]);
    let configuration = NGINX.replace("{headers}", "proxy_set_header X-Forwarded-For $remote_addr;");
    let Some(proxy) = start(&broker, &configuration, "nginx -c {folder}/configuration -p {folder}") else {
        return;
    };
    assert_eq!(
        proofs(&broker, &proxy).await,
        ["hop", "hop"],
        "nginx reads the run though the controller does not"
    );
}

#[tokio::test]
async fn behind_nginx_that_is_silent_the_broker_must_be_told() {
    let configuration = NGINX.replace("{headers}", "");
    let broker = Broker::proving("received", &["--behind-proxy", "127.0.0.0/8"]);
    let Some(proxy) = start(&broker, &configuration, "nginx -c {folder}/configuration -p {folder}") else {
        return;
    };
    assert_eq!(proofs(&broker, &proxy).await, ["hop", "hop"]);
}

#[tokio::test]
async fn behind_haproxy_a_receipt_is_the_hops() {
    let broker = Broker::proving("received", &[]);
    let Some(proxy) = start(&broker, HAPROXY, "haproxy -db -f {folder}/configuration") else { return };
    assert_eq!(proofs(&broker, &proxy).await, ["hop", "hop"]);
}

#[tokio::test]
async fn a_relay_of_bytes_passes_the_end_on_truthfully() {
    let broker = Broker::proving("received", &[]);
    let relay = "socat TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork TCP:{broker}";
    let Some(proxy) = start(&broker, "", relay) else { return };
    assert_eq!(
        proofs(&broker, &proxy).await,
        ["received", "undelivered"],
        "no header, and only the ACK is forged"
    );
}
