//! Owns the stream peer in Rust: axum relays what the stub answers, as it comes. With the argument `nagle` its sockets are without
//! `TCP_NODELAY`, as they are unless a server asks for it.

use std::io::Write;
use std::net::Ipv4Addr;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Request, Response, StatusCode, Uri};
use axum::routing::post;
use axum::serve::ListenerExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

#[derive(Clone)]
struct Proxy {
    stub: Uri,
    client: Client<HttpConnector, Body>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let without_delay = !arguments.iter().any(|argument| argument == "nagle");
    let stub = arguments.last().context("the last argument is the stub's URL")?.parse()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(without_delay);
    let proxy = Proxy { stub, client: Client::builder(TokioExecutor::new()).build(connector) };
    let routes = Router::new().route("/generate", post(relay)).with_state(proxy);
    let port = std::env::var_os("PORT").and_then(|port| port.to_str()?.parse().ok()).unwrap_or(7070);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    // Stdout flushes at the end of each line.
    std::io::stdout().write_all(format!("listening on http://{} \n", listener.local_addr()?).as_bytes())?;
    let listener = listener.tap_io(move |stream| {
        // An error means that the client has left already.
        let _ = stream.set_nodelay(without_delay);
    });
    Ok(axum::serve(listener, routes).await?)
}

async fn relay(
    State(Proxy { stub, client }): State<Proxy>,
    request: Request<Body>,
) -> Result<Response<Body>, StatusCode> {
    let mut onward = Request::post(stub).body(request.into_body()).map_err(|_| StatusCode::BAD_GATEWAY)?;
    onward.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (head, body) = client.request(onward).await.map_err(|_| StatusCode::BAD_GATEWAY)?.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = head.status;
    if let Some(content_type) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
    }
    Ok(response)
}
