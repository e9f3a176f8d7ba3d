//! Owns a relay of TCP connections that is slow, or frozen: nothing passes and nothing ends, as in a partitioned network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A relay to one address. Dropping it resets every connection.
pub struct Relay {
    pub address: SocketAddr,
    is_frozen: Arc<watch::Sender<bool>>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Relays what comes to this address.
    pub async fn between(listen: SocketAddr, target: SocketAddr) -> Self {
        Self::slow(listen, target, Duration::ZERO).await
    }

    /// Relays what comes to this address, each way after this delay.
    pub async fn slow(listen: SocketAddr, target: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_frozen = Arc::new(watch::Sender::new(false));
        let mut tasks = JoinSet::new();
        let frozen = is_frozen.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let frozen = frozen.subscribe();
                connections.spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let ((near_read, near_write), (far_read, far_write)) =
                        (near.into_split(), far.into_split());
                    tokio::join!(
                        pass(near_read, far_write, frozen.clone(), delay),
                        pass(far_read, near_write, frozen, delay)
                    );
                });
            }
        });
        Self { address, is_frozen, _tasks: tasks }
    }

    /// From now on nothing passes; what comes meanwhile passes later.
    pub fn freeze(&self) {
        self.is_frozen.send_replace(true);
    }

    pub fn thaw(&self) {
        self.is_frozen.send_replace(false);
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut frozen: watch::Receiver<bool>,
    delay: Duration,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer).await {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if frozen.wait_for(|frozen| !frozen).await.is_err() || length == 0 {
            break;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
