//! Owns the head of the answer that carries a run, as both dialects write it.

use crate::transport::Run;

/// Appends the head. The answer is written by us, not by hyper, so it has only what a client needs.
pub(super) fn head(run: &Run, keep_alive: Option<u64>, named: bool, head: &mut Vec<u8>) {
    head.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: ");
    head.extend_from_slice(&run.content_type);
    head.extend_from_slice(b"\r\ncontent-length: ");
    head.extend_from_slice(itoa::Buffer::new().format(run.payload.len()).as_bytes());
    if named {
        head.extend_from_slice(b"\r\npilotlight-run: ");
        head.extend_from_slice(run.id.as_bytes());
    }
    connection(keep_alive, head);
    head.extend_from_slice(b"\r\n\r\n");
}

/// Appends whether the connection goes on, and for how many seconds it may rest then.
pub(super) fn connection(keep_alive: Option<u64>, head: &mut Vec<u8>) {
    match keep_alive {
        Some(seconds) => {
            head.extend_from_slice(b"\r\nkeep-alive: timeout=");
            head.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
        }
        None => head.extend_from_slice(b"\r\nconnection: close"),
    }
}
