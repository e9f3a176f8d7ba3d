//! Owns the HTTP connection to a collector of traces: one request at a time, on a runtime of its own.

use std::error::Error;
use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Uri;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderMap, HeaderValue, PROXY_AUTHORIZATION};
use hyper::http::uri::PathAndQuery;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// A response that is longer than this, in bytes, cannot be a collector's.
const MAX_RESPONSE: usize = 4 << 20;

type CollectorConnection = SendRequest<Full<Bytes>>;

/// A client for one collector. `send_bytes` blocks its thread, which is the exporter's own.
pub(super) struct CollectorClient {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    timeout: Duration,
    host: String,
    port: u16,
    /// Whether that is an `http://` address; a proxy of the environment may be another one.
    is_usable: bool,
    /// Whether `host` is a proxy of the environment (`HTTP_PROXY`), which needs the whole URL in each request.
    is_proxied: bool,
    /// Headers of each request, besides the exporter's.
    headers: HeaderMap,
    /// The connection of the last request, if the collector keeps it.
    kept: Mutex<Option<CollectorConnection>>,
}

impl CollectorClient {
    pub(super) fn new(collector: &Uri, timeout: Duration) -> anyhow::Result<Self> {
        let proxy = Matcher::from_env().intercept(collector);
        let peer = proxy.as_ref().map_or(collector, |proxy| proxy.uri());
        // The broker serves without traces, too: such a proxy fails each export, and not the start.
        let is_usable = peer.scheme_str() == Some("http");
        let host = peer.host().context("there is no host")?;
        // A URL has brackets around an IPv6 address, the address itself has none.
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = address.filter(|address| address.parse::<Ipv6Addr>().is_ok()).unwrap_or(host).to_owned();
        let port = peer.port_u16().unwrap_or(80);
        let authority = collector.authority().context("there is no host")?;
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
        if let Some(credentials) = proxy.as_ref().and_then(|proxy| proxy.basic_auth()) {
            headers.insert(PROXY_AUTHORIZATION, credentials.clone());
        }
        let (is_proxied, kept) = (proxy.is_some(), Mutex::new(None));
        // Last, because a runtime may not be dropped on a thread of another one, where this is called.
        let runtime = Some(Builder::new_current_thread().enable_all().thread_name("collector").build()?);
        Ok(Self { runtime, timeout, host, port, is_usable, is_proxied, headers, kept })
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        if !self.is_usable {
            return Err("the proxy of the environment is not http://".into());
        }
        request.headers_mut().extend(self.headers.clone());
        if !self.is_proxied {
            let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
            *request.uri_mut() = path.parse()?;
        }
        let mut request = request.map(Full::new);
        let kept = self.kept.lock().take();
        if let Some(mut connection) = kept {
            // This runtime has not run since the last request. Yielding lets it poll its sockets first, so that the
            // connection notices if the collector has closed it.
            tokio::task::yield_now().await;
            match connection.try_send_request(request).await {
                Ok(response) => return self.receive(response, connection).await,
                // The collector has closed the connection since. Only a request of which no byte was sent is returned.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        let mut connection = self.connect().await?;
        let response = connection.send_request(request).await?;
        self.receive(response, connection).await
    }

    async fn connect(&self) -> Result<CollectorConnection, HttpError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of this client")]
        tokio::spawn(driver);
        Ok(connection)
    }

    async fn receive(
        &self,
        response: Response<hyper::body::Incoming>,
        mut connection: CollectorConnection,
    ) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_RESPONSE).collect().await?.to_bytes();
        if connection.ready().await.is_ok() {
            *self.kept.lock() = Some(connection);
        }
        Ok(Response::from_parts(head, body))
    }
}

#[async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let Some(runtime) = &self.runtime else { return Err("the client is closed".into()) };
        runtime.block_on(async {
            let sent = tokio::time::timeout(self.timeout, self.send(request));
            sent.await.unwrap_or_else(|_| Err("the operation timed out".into()))
        })
    }
}

impl fmt::Debug for CollectorClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the host is shown, because headers can contain passwords.
        f.debug_struct("CollectorClient").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Drop for CollectorClient {
    fn drop(&mut self) {
        // A name that is still being resolved must not delay the end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The innermost cause, because the errors around it contain the URL, which may contain a secret.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::sync_channel;

    use futures_executor::block_on;

    use super::*;

    fn answer(stream: &mut TcpStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"spans") {
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the client has closed");
            request.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    }

    #[test]
    fn a_connection_is_used_again_and_replaced_after_the_collector_has_closed_it() {
        let timeout = Duration::from_secs(20);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Uri = format!("http://{}/v1/traces", listener.local_addr().unwrap()).parse().unwrap();
        // Two answers on each connection, which the test closes.
        let (sender, connections) = sync_channel(1);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                answer(&mut stream);
                answer(&mut stream);
                // The test may have failed already.
                let _ = sender.send(stream);
            }
        });
        let client = CollectorClient::new(&url, timeout).unwrap();
        for round in 0..3 {
            for _ in 0..2 {
                let request = Request::post(&url).body(Bytes::from_static(b"spans")).unwrap();
                let response = block_on(client.send_bytes(request));
                assert_eq!(response.unwrap().status().as_u16(), 200, "round {round}");
            }
            // The client does not run meanwhile, so it notices the closed connection at its next request.
            drop(connections.recv_timeout(timeout).unwrap());
        }
    }
}
