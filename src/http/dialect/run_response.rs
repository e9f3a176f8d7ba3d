//! Owns the head of the response that carries a run, as every dialect writes it.

use crate::http::response::write_keep_alive;
use crate::transport::Run;

/// Appends the head. Our code writes it, not hyper's, so it has only what a client needs. With `names_run`, it has the run's id.
pub(super) fn write_run_head(run: &Run, keep_alive: Option<u64>, names_run: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: ");
    out.extend_from_slice(&run.content_type);
    out.extend_from_slice(b"\r\ncontent-length: ");
    out.extend_from_slice(itoa::Buffer::new().format(run.payload.len()).as_bytes());
    if names_run {
        out.extend_from_slice(b"\r\npilotlight-run: ");
        out.extend_from_slice(&run.id);
    }
    if let Some(reply) = &run.reply {
        out.extend_from_slice(b"\r\npilotlight-reply: ");
        out.extend_from_slice(reply.path().as_bytes());
    }
    if let Some(fields) = &run.fields {
        out.extend_from_slice(fields.rendered());
    }
    write_keep_alive(keep_alive, out);
    out.extend_from_slice(b"\r\n\r\n");
}
