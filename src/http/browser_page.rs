//! Owns the page for a person who opens a public listener in a browser: it says where the console is.

use hyper::Method;

use super::h1::{RequestHead, Signs};
use super::problem::Problem;
use super::response::HttpResponse;

/// It names no address, because strangers may reach this listener.
const PAGE: &str = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>pilotlight</title>\n\
    <h1>pilotlight</h1>\n\
    <p>Controllers and supervisors connect here; there is nothing to see.</p>\n\
    <p>The console is on the ops listener (<code>--ops-listen</code>), by default <code>http://127.0.0.1:7071/</code> on the \
    broker's own machine.</p>\n</html>\n";

/// The response for a problem: a page if a person reads it, else the problem document.
pub(super) fn refuse(head: &RequestHead<'_>, problem: Problem) -> HttpResponse {
    let response = HttpResponse::from(problem);
    if !is_navigation(head) {
        return response;
    }
    HttpResponse {
        extra: Some(("content-security-policy", "default-src 'none'")),
        close: response.close,
        ..HttpResponse::new(response.status, "text/html; charset=utf-8", PAGE.as_bytes())
    }
}

/// Whether a browser will show the response as a page. Over plain HTTP, only the `Accept` header of browsers shows this.
fn is_navigation(head: &RequestHead<'_>) -> bool {
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    let sign = if head.fields.show(Signs::FETCH_MODE) { Signs::NAVIGATION } else { Signs::ACCEPTS_HTML };
    is_read && head.fields.show(sign)
}
