//! Owns where a connection comes from: its peer, or the client that a PROXY protocol header names before it is served.
//!
//! The header is read from the socket itself, byte for byte, so that what stands behind it (a TLS handshake, a request)
//! is there for whoever reads next.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use tokio::net::TcpStream;

use crate::address::canonical;

/// The longest accepted header of version 2, in bytes; its fields besides the addresses are thrown away.
const LONGEST: usize = 4096;
/// The longest header of version 1, in bytes.
const LONGEST_TEXT: usize = 107;
/// How a header of version 1 begins,
const TEXT: &[u8] = b"PROXY ";
/// and one of version 2.
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The command of version 2 with which a proxy speaks for itself.
const LOCAL: u8 = 0x20;
/// A client that a proxy passes on and does not name, as one of its Unix sockets.
const NOBODY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// An address that is written once at most, before others read it: no lock, and no more room than an address.
pub(super) struct Origin([AtomicU64; 2]);

impl Origin {
    /// The peer's canonical address.
    pub(super) fn new(peer: IpAddr) -> Self {
        Self(halves(peer).map(AtomicU64::new))
    }

    /// The canonical address of now.
    pub(super) fn address(&self) -> IpAddr {
        let [high, low] = self.0.each_ref().map(|half| u128::from(half.load(Ordering::Relaxed)));
        canonical(Ipv6Addr::from(high << 64 | low).into())
    }

    /// A relay in between has passed somebody on.
    fn set(&self, client: IpAddr) {
        for (half, value) in self.0.iter().zip(halves(client)) {
            half.store(value, Ordering::Relaxed);
        }
    }

    /// Reads a header of either version, and takes the client that it names: the unspecified address, if the proxy passes
    /// somebody on and does not say whom. Returns its length, as nothing behind it is read, and whether somebody is passed on:
    /// in a health check the proxy speaks for itself. `InvalidData` if there is no valid header.
    pub(super) async fn read(&self, stream: &TcpStream) -> io::Result<(usize, bool)> {
        let mut header = vec![0; LONGEST];
        let mut known = 0;
        loop {
            let peeked = stream.peek(&mut header[known..]).await?;
            if peeked == 0 {
                return if known == 0 {
                    Err(io::ErrorKind::UnexpectedEof.into())
                } else {
                    wrong("the header is cut off")
                };
            }
            let parsed = parse(&header[..known + peeked])?;
            // Of a header that is not whole yet, all that is there is its own.
            let end = parsed.map_or(known + peeked, |(length, _)| length);
            while known < end {
                known += stream.try_read(&mut header[known..end])?;
            }
            if let Some((_, client)) = parsed {
                if let Some(client) = client {
                    self.set(client);
                }
                return Ok((known, client.is_some()));
            }
        }
    }
}

fn halves(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let bits = bits.to_bits();
    #[expect(clippy::cast_possible_truncation, reason = "each is a half")]
    [(bits >> 64) as u64, bits as u64]
}

fn wrong<T>(why: &'static str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// The length of the header that these bytes begin with, and whom it names; none if it is not whole yet.
fn parse(bytes: &[u8]) -> io::Result<Option<(usize, Option<IpAddr>)>> {
    let may_be = |begin: &[u8]| bytes.iter().zip(begin).all(|(one, other)| one == other);
    let is_text = may_be(TEXT);
    if !is_text && !may_be(BINARY) {
        return wrong("no PROXY protocol header");
    }
    let longest = if is_text { LONGEST_TEXT } else { LONGEST };
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(bytes, config) {
        Ok((_, length)) if length > longest => wrong("the header is too long"),
        Ok((header, length)) => match header.proxied_address() {
            None => {
                let speaks_for_itself = !is_text && bytes.get(BINARY.len()) == Some(&LOCAL);
                Ok(Some((length, (!speaks_for_itself).then_some(NOBODY))))
            }
            Some(named) if named.protocol == Protocol::Stream && !named.source.ip().is_unspecified() => {
                Ok(Some((length, Some(canonical(named.source.ip())))))
            }
            Some(_) => wrong("the header names no client of TCP"),
        },
        Err(Error::BufferTooShort) if bytes.len() >= longest => wrong("the header is too long"),
        Err(Error::BufferTooShort) if !is_text || !bytes.contains(&b'\n') => Ok(None),
        Err(_) => wrong("the header is malformed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [BINARY, &[command, family], &length, rest].concat()
    }

    fn accepted() -> Vec<(Vec<u8>, Option<IpAddr>)> {
        let v4 = Some(IpAddr::from([192, 0, 2, 9]));
        let v4_pair = [192, 0, 2, 9, 10, 0, 0, 1, 200, 1, 27, 158];
        let v6: Ipv6Addr = "2001:db8::9".parse().unwrap();
        let v6_pair = |source: Ipv6Addr| [&source.octets()[..], &[0; 15], &[1], &[200, 1, 27, 158]].concat();
        let mapped = Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0209]);
        let with_fields = [&v4_pair[..], &[4, 1, 0], &[7; 256]].concat();
        vec![
            (b"PROXY TCP4 192.0.2.9 10.0.0.1 51201 7070\r\n".to_vec(), v4),
            (b"PROXY TCP6 2001:db8::9 ::1 51201 7070\r\n".to_vec(), Some(v6.into())),
            (b"PROXY TCP6 ::ffff:192.0.2.9 ::1 51201 7070\r\n".to_vec(), v4),
            (b"PROXY UNKNOWN\r\n".to_vec(), Some(NOBODY)),
            (b"PROXY UNKNOWN ff:ff ff:ff 65535 65535\r\n".to_vec(), Some(NOBODY)),
            (binary(0x21, 0x11, &v4_pair), v4),
            (binary(0x21, 0x11, &with_fields), v4),
            (binary(0x21, 0x21, &v6_pair(v6)), Some(v6.into())),
            (binary(0x21, 0x21, &v6_pair(mapped)), v4),
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, &v4_pair), None),
            (binary(0x21, 0x00, &[]), Some(NOBODY)),
            (binary(0x21, 0x31, &[0; 216]), Some(NOBODY)),
        ]
    }

    #[test]
    fn a_header_is_read_to_its_last_byte_and_no_further() {
        for (header, client) in accepted() {
            for behind in
                [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"PROXY UNKNOWN\r\n", b"\x16\x03\x01", &header]
            {
                let all = [&header, behind].concat();
                assert_eq!(parse(&all).unwrap(), Some((header.len(), client)), "{}", all.escape_ascii());
            }
            for length in 1..header.len() {
                assert_eq!(parse(&header[..length]).unwrap(), None, "{}", header[..length].escape_ascii());
            }
        }
    }

    #[test]
    fn anything_else_is_no_header() {
        let long = [b"PROXY UNKNOWN ", &[b'x'; 100][..], b"\r\n"].concat();
        for wrong in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"POST /warm-start HTTP/1.1\r\n",
            b"PROXYTCP4 ",
            b"\x16\x03\x01\x02\x00",
            b"PROXY TCP4 2001:db8::9 ::1 51201 7070\r\n",
            b"PROXY TCP6 192.0.2.9 10.0.0.1 51201 7070\r\n",
            b"PROXY TCP4 0.0.0.0 10.0.0.1 51201 7070\r\n",
            b"PROXY TCP4 192.0.2.9 10.0.0.1 51201 70700\r\n",
            b"PROXY TCP4 192.0.2.9 10.0.0.1 51201 7070\rGET",
            b"PROXY TCP4 192.0.2.9\r\n",
            b"PROXY UDP4 192.0.2.9 10.0.0.1 51201 7070\r\n",
            &long,
            &long[..LONGEST_TEXT],
            &binary(0x11, 0x11, &[1; 12]),
            &binary(0x22, 0x11, &[1; 12]),
            &[binary(0x21, 0x11, &[1; 11]), vec![1; 2]].concat(),
            &binary(0x21, 0x12, &[1; 12]),
            &binary(0x21, 0x41, &[1; 12]),
            &binary(0x21, 0x11, &[0; 12]),
            &binary(0x21, 0x11, &[1; LONGEST]),
        ] {
            assert!(parse(wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn an_address_comes_back_as_it_was_put_in() {
        for text in ["192.0.2.9", "2001:db8::9", "::1", "::", "0.0.0.0", "255.255.255.255"] {
            let address: IpAddr = text.parse().unwrap();
            let origin = Origin::new(address);
            assert_eq!(origin.address(), address);
            let origin = Origin::new([10, 0, 0, 1].into());
            origin.set(address);
            assert_eq!(origin.address(), address);
        }
    }
}
