//! Owns how an answer is written, by a stub as its response and by a worker as its reply.

use std::cell::Cell;
use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::ask::{Answer, Ask, DONE, event};

/// Bytes of an answer of bytes that are written at once.
const WRITE_AT_ONCE: usize = 64 * 1024;
static FILL: [u8; WRITE_AT_ONCE] = [b'.'; WRITE_AT_ONCE];

/// Writes what was asked for. `first_lines` are a head without its framing. Counts the body's bytes that the kernel has taken.
pub(super) async fn write_answer(
    stream: &mut TcpStream,
    first_lines: &str,
    ask: &Ask,
    written: &Cell<u64>,
) -> io::Result<()> {
    match ask.answer {
        Answer::Tokens { count, delay, hold } => {
            let begun = Instant::now();
            let head = format!("{first_lines}transfer-encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            for place in 0..count {
                sleep_until(begun + delay * (place + 1)).await;
                let event = event(ask.request, place);
                stream.write_all(chunk(&event).as_bytes()).await?;
                written.set(written.get() + event.len() as u64);
            }
            sleep_until(begun + delay * count + hold).await;
            stream.write_all(format!("{}0\r\n\r\n", chunk(DONE)).as_bytes()).await
        }
        Answer::Bytes(size) => {
            let head = format!("{first_lines}content-length: {size}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut left = size;
            while left > 0 {
                let part = usize::try_from(left).unwrap_or(usize::MAX).min(WRITE_AT_ONCE);
                let taken = stream.write(&FILL[..part]).await? as u64;
                written.set(written.get() + taken);
                left -= taken;
            }
            Ok(())
        }
    }
}

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}
