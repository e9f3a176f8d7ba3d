//! Owns the PROXY protocol: the header with which a layer 4 proxy names the client of a connection.
//!
//! Exactly the header is read from the socket, so that what follows it (a TLS handshake, a request) is left for the next reader.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use tokio::net::TcpStream;

use crate::address::canonical;

/// The longest accepted header of version 2, in bytes. Its type-length-value fields are ignored.
const MAX_V2_BYTES: usize = 4096;
/// The longest header of version 1, in bytes, by its specification.
const MAX_V1_BYTES: usize = 107;
const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The version and command byte of a connection that the proxy makes for itself, as for a health check.
const V2_LOCAL: u8 = 0x20;
/// The address of a client that the proxy does not name, as with its Unix sockets.
const UNNAMED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// In bytes.
    pub(super) length: usize,
    /// The client's canonical address; unspecified if the proxy does not name the client. None if the proxy connects for
    /// itself.
    pub(super) client: Option<IpAddr>,
}

/// Reads a header of either version, and nothing after it. `InvalidData` if there is no valid one, `UnexpectedEof` if the
/// connection ends before its first byte.
pub(super) async fn read_header(stream: &TcpStream) -> io::Result<Header> {
    let mut bytes = vec![0; MAX_V2_BYTES];
    let mut read = 0;
    loop {
        let peeked = stream.peek(&mut bytes[read..]).await?;
        if peeked == 0 {
            return if read == 0 {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else {
                invalid("the header is cut off")
            };
        }
        let header = parse(&bytes[..read + peeked])?;
        // As long as the header is not complete, every byte belongs to it.
        let end = header.map_or(read + peeked, |header| header.length);
        while read < end {
            read += stream.try_read(&mut bytes[read..end])?;
        }
        if let Some(header) = header {
            return Ok(header);
        }
    }
}

fn invalid<T>(why: &'static str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// The header at the beginning of these bytes; none if it is not complete yet.
fn parse(bytes: &[u8]) -> io::Result<Option<Header>> {
    let may_begin_with = |signature: &[u8]| bytes.iter().zip(signature).all(|(one, other)| one == other);
    let is_v1 = may_begin_with(V1_SIGNATURE);
    if !is_v1 && !may_begin_with(V2_SIGNATURE) {
        return invalid("no PROXY protocol header");
    }
    let max_bytes = if is_v1 { MAX_V1_BYTES } else { MAX_V2_BYTES };
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(bytes, config) {
        Ok((_, length)) if length > max_bytes => invalid("the header is too long"),
        Ok((header, length)) => match header.proxied_address() {
            None => {
                let is_local = !is_v1 && bytes.get(V2_SIGNATURE.len()) == Some(&V2_LOCAL);
                Ok(Some(Header { length, client: (!is_local).then_some(UNNAMED) }))
            }
            Some(addresses)
                if addresses.protocol == Protocol::Stream && !addresses.source.ip().is_unspecified() =>
            {
                Ok(Some(Header { length, client: Some(canonical(addresses.source.ip())) }))
            }
            Some(_) => invalid("the header names no TCP client"),
        },
        Err(Error::BufferTooShort) if bytes.len() >= max_bytes => invalid("the header is too long"),
        Err(Error::BufferTooShort) if !is_v1 || !bytes.contains(&b'\n') => Ok(None),
        Err(_) => invalid("the header is malformed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, body].concat()
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
            (b"PROXY UNKNOWN\r\n".to_vec(), Some(UNNAMED)),
            (b"PROXY UNKNOWN ff:ff ff:ff 65535 65535\r\n".to_vec(), Some(UNNAMED)),
            (v2(0x21, 0x11, &v4_pair), v4),
            (v2(0x21, 0x11, &with_fields), v4),
            (v2(0x21, 0x21, &v6_pair(v6)), Some(v6.into())),
            (v2(0x21, 0x21, &v6_pair(mapped)), v4),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &v4_pair), None),
            (v2(0x21, 0x00, &[]), Some(UNNAMED)),
            (v2(0x21, 0x31, &[0; 216]), Some(UNNAMED)),
        ]
    }

    #[test]
    fn a_header_is_read_to_its_last_byte_and_no_further() {
        for (header, client) in accepted() {
            for after in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"PROXY UNKNOWN\r\n", b"\x16\x03\x01", &header]
            {
                let all = [&header, after].concat();
                let expected = Header { length: header.len(), client };
                assert_eq!(parse(&all).unwrap(), Some(expected), "{}", all.escape_ascii());
            }
            for length in 1..header.len() {
                assert_eq!(parse(&header[..length]).unwrap(), None, "{}", header[..length].escape_ascii());
            }
        }
    }

    #[test]
    fn anything_else_is_invalid() {
        let long = [b"PROXY UNKNOWN ", &[b'x'; 100][..], b"\r\n"].concat();
        for bytes in [
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
            &long[..MAX_V1_BYTES],
            &v2(0x11, 0x11, &[1; 12]),
            &v2(0x22, 0x11, &[1; 12]),
            &[v2(0x21, 0x11, &[1; 11]), vec![1; 2]].concat(),
            &v2(0x21, 0x12, &[1; 12]),
            &v2(0x21, 0x41, &[1; 12]),
            &v2(0x21, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[1; MAX_V2_BYTES]),
        ] {
            assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }
}
