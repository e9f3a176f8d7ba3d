//! Owns the heads of requests and responses: they are read as far as the load needs them.

use anyhow::{Context, bail, ensure};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// A head, and how its body is framed.
pub(crate) struct Head {
    text: String,
}

/// The end of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

/// Bytes that are read for a head at once.
const READ_AT_ONCE: usize = 4096;

impl Head {
    /// Reads the next head. What comes behind it stays in `read`. `None` at the end of the connection.
    pub(crate) async fn read(stream: &mut TcpStream, read: &mut Vec<u8>) -> anyhow::Result<Option<Self>> {
        loop {
            if let Some(end) = memchr::memmem::find(read, b"\r\n\r\n") {
                let head: Vec<u8> = read.drain(..end + 4).collect();
                return Ok(Some(Self { text: String::from_utf8(head)? }));
            }
            read.reserve(READ_AT_ONCE);
            if stream.read_buf(read).await? == 0 {
                ensure!(read.is_empty(), "the connection ended within a head");
                return Ok(None);
            }
        }
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> anyhow::Result<u16> {
        Ok(self.text.get(9..12).context("no status")?.parse()?)
    }

    /// A field's value.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The end of the body.
    pub(crate) fn framing(&self) -> anyhow::Result<Framing> {
        match (self.field("content-length"), self.field("transfer-encoding")) {
            (Some(length), None) => Ok(Framing::Length(length.parse()?)),
            (None, Some("chunked")) => Ok(Framing::Chunked),
            // No content, or a request without a body.
            (None, None) => Ok(Framing::Length(0)),
            _ => bail!("an unusual framing: {}", self.text),
        }
    }

    /// The connection ends after the response.
    pub(crate) fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// Reads a short body with a known length.
pub(crate) async fn read_body(
    head: &Head,
    stream: &mut TcpStream,
    read: &mut Vec<u8>,
) -> anyhow::Result<Vec<u8>> {
    let Framing::Length(length) = head.framing()? else { bail!("a short body is not chunked here") };
    let length = usize::try_from(length)?;
    while read.len() < length {
        ensure!(stream.read_buf(read).await? > 0, "the connection ended within a body");
    }
    Ok(read.drain(..length).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_its_status_and_its_framing() {
        let head = |text: &str| Head { text: text.to_owned() };
        let sized = head("HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\n");
        assert_eq!((sized.status().unwrap(), sized.framing().unwrap()), (200, Framing::Length(12)));
        assert!(sized.closes());
        let chunked = head("HTTP/1.1 502 Bad Gateway\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!((chunked.status().unwrap(), chunked.framing().unwrap()), (502, Framing::Chunked));
        assert!(!chunked.closes());
        let both = head("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n");
        assert!(both.framing().is_err());
    }
}
