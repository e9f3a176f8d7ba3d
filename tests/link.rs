//! Owns what the connection to NATS promises, against a real nats-server.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use support::nats::NatsServer;

#[test]
fn a_server_is_paused_and_started_again_on_its_port() {
    let Some(mut server) = NatsServer::start("max_payload: 4096") else { return };
    let info = |server: &NatsServer| {
        let mut stream = TcpStream::connect(server.address)?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        let mut text = [0; 2048];
        stream.read(&mut text).map(|length| String::from_utf8_lossy(&text[..length]).into_owned())
    };
    assert!(info(&server).unwrap().contains("\"max_payload\":4096"));
    server.pause();
    assert!(info(&server).is_err(), "a paused server is silent");
    server.resume();
    assert!(info(&server).is_ok());
    let address = server.address;
    server.configure("max_payload: 8192");
    server.restart();
    assert_eq!(server.address, address);
    assert!(info(&server).unwrap().contains("\"max_payload\":8192"));
    server.stop();
    assert!(info(&server).is_err());
}
