//! Owns real proxies and load balancers in front of the broker, each in a process of its own.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Broker, PATIENCE};

/// A proxy in front of the broker, in a process of its own.
pub struct Proxy {
    child: Child,
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a proxy with this configuration and command; both may name `{ip}`, `{port}`, `{broker}`, `{ops}` and `{folder}`.
pub fn start(broker: &Broker, configuration: &str, command: &str) -> Option<Proxy> {
    let folder = tempfile::tempdir().unwrap();
    let [address] = super::free_addresses();
    let fill = |text: &str| {
        let folder = folder.path().to_str().unwrap();
        text.replace("{ip}", &address.ip().to_string())
            .replace("{port}", &address.port().to_string())
            .replace("{broker}", &broker.public.to_string())
            .replace("{ops}", &broker.ops.to_string())
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
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < until, "{program} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(Proxy { child, address, _folder: folder })
}

pub const NGINX: &str =
    "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; events {} http {
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server { listen {ip}:{port}; location / { proxy_pass http://{broker}; proxy_http_version 1.1;
    proxy_read_timeout 120s; {headers} } } }";

pub const HAPROXY: &str = "defaults
  mode http
  timeout connect 5s
  timeout client 120s
  timeout server 120s
  option forwardfor
frontend in
  bind {ip}:{port}
  default_backend out
backend out
  server broker {broker}
";
