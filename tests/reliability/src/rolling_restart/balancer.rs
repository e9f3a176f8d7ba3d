//! Owns a TCP balancer as those in front of real brokers are: round-robin over the brokers whose health check succeeds.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// A broker behind it.
struct Backend {
    address: SocketAddr,
    ops: SocketAddr,
    is_ready: Cell<bool>,
}

/// How often each broker's `/readyz` is asked. A change is noticed within this time and the timeout.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
const CHECK_TIMEOUT: Duration = Duration::from_millis(400);
/// A broker that does not accept a connection in this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Starts it in front of these brokers, each with its address and that of its ops listener, once all of them are ready. Returns its
/// own address.
pub(super) async fn start(brokers: Vec<(SocketAddr, SocketAddr)>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let backends: Rc<[Backend]> = brokers
        .into_iter()
        .map(|(address, ops)| Backend { address, ops, is_ready: Cell::new(true) })
        .collect();
    for backend in &*backends {
        while !matches!(timeout(CHECK_TIMEOUT, is_ready(backend.ops)).await, Ok(Ok(true))) {
            sleep(CHECK_INTERVAL / 10).await;
        }
    }
    for number in 0..backends.len() {
        tokio::task::spawn_local(check_health(backends.clone(), number));
    }
    tokio::task::spawn_local(accept(listener, backends));
    Ok(address)
}

async fn check_health(backends: Rc<[Backend]>, number: usize) {
    let backend = &backends[number];
    loop {
        let is_ready = timeout(CHECK_TIMEOUT, is_ready(backend.ops)).await;
        backend.is_ready.set(matches!(is_ready, Ok(Ok(true))));
        sleep(CHECK_INTERVAL).await;
    }
}

async fn is_ready(ops: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(ops).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text.starts_with("HTTP/1.1 200"))
}

async fn accept(listener: TcpListener, backends: Rc<[Backend]>) {
    let mut next = 0;
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        next += 1;
        tokio::task::spawn_local(relay(client, backends.clone(), next));
    }
}

/// Relays to the first of the brokers, from this one on, that is ready and accepts.
async fn relay(mut client: TcpStream, backends: Rc<[Backend]>, first: usize) -> std::io::Result<()> {
    for turn in 0..backends.len() {
        let backend = &backends[(first + turn) % backends.len()];
        if !backend.is_ready.get() {
            continue;
        }
        if let Ok(Ok(mut server)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(backend.address)).await {
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        }
    }
    // With no broker the client's connection is closed.
    Ok(())
}
