//! Owns what a person is told who opens a public listener in a browser: that this is not the console, and where it is.

use hyper::Method;

use super::head::RequestHead;
use super::problem::Problem;
use super::response::HttpResponse;

/// It names no address: whoever reaches this listener may be a stranger.
const PAGE: &str = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>pilotlight</title>\n\
    <h1>pilotlight</h1>\n\
    <p>Controllers and supervisors connect here; there is nothing to see.</p>\n\
    <p>The console is on the ops listener (<code>--ops-listen</code>), by default <code>http://127.0.0.1:7071/</code> on the \
    broker's own machine.</p>\n</html>\n";

/// The same refusal for whoever reads it: a page for a person, else the problem document.
pub(super) fn refuse(head: &RequestHead<'_>, problem: Problem) -> HttpResponse {
    let reply = HttpResponse::from(problem);
    if !is_navigation(head) {
        return reply;
    }
    HttpResponse {
        extra: Some(("content-security-policy", "default-src 'none'")),
        close: reply.close,
        ..HttpResponse::new(reply.status, "text/html; charset=utf-8", PAGE)
    }
}

/// Whether a browser wants to show what it gets. Over plain HTTP, browsers say so only with `Accept`.
fn is_navigation(head: &RequestHead<'_>) -> bool {
    let says = |name, word: &[u8]| {
        let is_word = |part: &[u8]| part.trim_ascii().eq_ignore_ascii_case(word);
        head.fields.values(name).any(|value| value.split(|&byte| byte == b',' || byte == b';').any(is_word))
    };
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    let mode_is_said = head.fields.has("sec-fetch-mode");
    is_read && if mode_is_said { says("sec-fetch-mode", b"navigate") } else { says("accept", b"text/html") }
}
