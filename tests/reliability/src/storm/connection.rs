//! Owns one connection of the storm: it sends a script and reads until the broker closes or sends nothing for a while.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::grammar::ConnectionScript;

/// A broker that is silent for this long holds a poll, or waits for more bytes.
const IDLE_TIMEOUT: Duration = Duration::from_millis(30);
/// How long an expected response may take on a busy machine.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause between two parts of a script.
const PART_DELAY: Duration = Duration::from_millis(1);
/// 127.0.32.0, the first source address, and how many follow it.
const FIRST_SOURCE: u32 = 0x7f00_2000;
const SOURCES: u32 = 5000;

/// What the broker sent, and how the connection ended.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    pub(super) bytes: Vec<u8>,
    pub(super) statuses: Vec<u16>,
    pub(super) end: &'static str,
}

pub(super) async fn run_script(
    address: SocketAddr,
    conversation: &ConnectionScript,
) -> anyhow::Result<Transcript> {
    let mut stream = connect(address).await?;
    let (mut reader, mut writer) = stream.split();
    let said = async {
        for (number, part) in conversation.parts.iter().enumerate() {
            if number > 0 {
                tokio::time::sleep(PART_DELAY).await;
            }
            if writer.write_all(part).await.is_err() {
                break;
            }
        }
    };
    let patience = if conversation.expected_responses.is_some() { RESPONSE_TIMEOUT } else { IDLE_TIMEOUT };
    let mut bytes = Vec::new();
    let heard = async {
        loop {
            match tokio::time::timeout(patience, reader.read_buf(&mut bytes)).await {
                Err(_) => return "left by us",
                Ok(Ok(0)) => return "closed by it",
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return "reset by it",
            }
        }
    };
    let end = {
        let (mut said, mut heard) = (pin!(said), pin!(heard));
        tokio::select! {
            end = &mut heard => end,
            () = &mut said => heard.await,
        }
    };
    let statuses = statuses(&bytes);
    Ok(Transcript { bytes, statuses, end })
}

/// Connects from the next of several loopback addresses, because each has few ports.
async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let source = Ipv4Addr::from(FIRST_SOURCE + NEXT.fetch_add(1, Ordering::Relaxed) % SOURCES);
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The statuses of all responses. Bodies are not parsed: only the first line of a response has a text of this form.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let begin = b"HTTP/1.1 ";
    let found = memchr::memmem::find_iter(bytes, begin);
    found.filter_map(|at| std::str::from_utf8(bytes.get(at + 9..at + 12)?).ok()?.parse().ok()).collect()
}
