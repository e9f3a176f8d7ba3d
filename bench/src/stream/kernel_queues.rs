//! Owns the kernel's queues of a TCP connection, as `ss` shows them.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;

/// Bytes in the queues of one end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KernelQueues {
    /// Written, and not acknowledged by the other end's kernel.
    pub(super) unsent: u64,
    /// Arrived, and not read.
    pub(super) unread: u64,
}

/// The queues of the end of a loopback connection with this address, whose other end is `other`.
pub(super) fn of(own: SocketAddr, other: SocketAddr) -> anyhow::Result<KernelQueues> {
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    find(&table, own, other).with_context(|| format!("no connection of {own} with {other}"))
}

fn find(table: &str, own: SocketAddr, other: SocketAddr) -> Option<KernelQueues> {
    let line = table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let ends = (address(fields.next()?)?, address(fields.next()?)?);
        (ends == (own, other)).then(|| fields.nth(1))?
    })?;
    let (unsent, unread) = line.split_once(':')?;
    let number = |hex| u64::from_str_radix(hex, 16).ok();
    Some(KernelQueues { unsent: number(unsent)?, unread: number(unread)? })
}

/// The kernel prints an address as a number in this machine's order of bytes.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
    Some((ip, u16::from_str_radix(port, 16).ok()?).into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn bytes_are_in_the_queue_of_the_end_that_has_not_read_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut reader, _) = listener.accept().unwrap();
        writer.write_all(&[0; 1000]).unwrap();
        // The last of them has arrived with this.
        reader.read_exact(&mut [0; 400]).unwrap();
        let ends = (reader.local_addr().unwrap(), writer.local_addr().unwrap());
        assert_eq!(of(ends.0, ends.1).unwrap(), KernelQueues { unsent: 0, unread: 600 });
        assert_eq!(of(ends.1, ends.0).unwrap(), KernelQueues { unsent: 0, unread: 0 });
    }
}
