//! Owns the HTTP requests to other brokers of the cluster: a POST without a body, or with that of a request that is being received, on
//! a connection that is kept.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ahash::RandomState;
use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use http_body_util::{BodyExt, Either, Empty, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER};
use hyper::http::uri::Scheme;
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::h1::{BadBody, StreamedBody};
use super::peer_tls::{OwnCertificate, client_config};
use super::problem::Problem;
use crate::transport::{Connection, KEEPALIVE_IDLE};

/// The time for a request, from its begin to the end of the response, and for connecting.
const TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The most requests to one broker at once.
const MAX_REQUESTS: usize = 32;
/// The connections to one broker that are kept, and for how long: less than the other broker keeps them by default.
const MAX_KEPT: usize = 4;
const KEPT_FOR: Duration = Duration::from_secs(30);
/// So much of a reply stands in the kernel, at most, and in the client.
const SEND_BUFFER_BYTES: usize = 16 * 1024;
const MAX_BUFFERED_BYTES: usize = 16 * 1024;
/// A problem document has at most this many bytes.
const MAX_PROBLEM: usize = 4096;

/// Nothing, or what a worker sends.
type PeerBody = Either<Empty<Bytes>, RelayedBody>;

/// The body of a worker's request, as it comes.
struct RelayedBody {
    source: Arc<RelaySource>,
    /// The fields behind it were sent, or there are none.
    has_trailed: bool,
}

/// A worker's request that is passed on.
pub(super) struct RelaySource {
    connection: Arc<Connection>,
    body: Mutex<StreamedBody>,
    /// The fields behind the body that are passed on.
    trailers: &'static [HeaderName],
}

impl RelaySource {
    /// A request of which nothing but the body is left, and these fields behind it.
    pub(super) fn new(
        connection: Arc<Connection>,
        body: StreamedBody,
        trailers: &'static [HeaderName],
    ) -> Self {
        Self { connection, body: Mutex::new(body), trailers }
    }

    /// Whether all of the body was read, and what was read behind it.
    pub(super) fn end(&self) -> (bool, BytesMut) {
        let mut body = self.body.lock();
        (body.has_ended(), body.take_unread())
    }

    /// The fields behind the body, once it has ended.
    fn found_trailers(&self) -> HeaderMap {
        let body = self.body.lock();
        let found = self.trailers.iter().filter_map(|name| {
            let value = HeaderValue::from_bytes(body.trailer(name.as_str())?).ok()?;
            Some((name.clone(), value))
        });
        found.collect()
    }
}

impl Body for RelayedBody {
    type Data = Bytes;
    type Error = BadBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BadBody>>> {
        let data = ready!(self.source.body.lock().poll_next(&self.source.connection, cx));
        if data.is_none() && !std::mem::replace(&mut self.has_trailed, true) {
            let trailers = self.source.found_trailers();
            if !trailers.is_empty() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        // What is behind chunks is known when the end is asked for.
        let body = self.source.body.lock();
        body.has_ended() && (self.has_trailed || body.announced().is_some())
    }

    fn size_hint(&self) -> SizeHint {
        self.source.body.lock().announced().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A client for the other brokers.
pub(super) struct PeerClient {
    plain: Client<HttpConnector, PeerBody>,
    /// Made for the first request over TLS.
    tls: OnceCell<Client<HttpsConnector<HttpConnector>, PeerBody>>,
    /// Who is trusted over TLS; the system's authorities if there are none.
    authorities: Option<Arc<RootCertStore>>,
    own_certificate: Arc<OwnCertificate>,
    /// The requests under way to each broker that has any.
    under_way: Arc<Mutex<HashMap<u128, usize, RandomState>>>,
}

/// Another broker's response.
pub(super) struct PeerResponse {
    pub(super) status: StatusCode,
    /// Its problem document, if it is one.
    pub(super) problem: Option<Bytes>,
}

/// Why a request got no response of the broker that it was for.
#[derive(Debug, Error)]
pub(super) enum PeerError {
    /// Nothing was sent.
    #[error("too many requests to it are under way")]
    Busy,
    /// Nothing was sent.
    #[error("it cannot be reached: {0}")]
    NotSent(String),
    /// The other broker may have handled the request.
    #[error("the connection failed: {0}; does its --allow-poll include this broker's address?")]
    Broken(String),
    /// The other broker may have handled the request.
    #[error("it did not answer within {}", humantime::format_duration(TIMEOUT))]
    TimedOut,
    /// A response that another broker does not give.
    #[error("it answered {0}")]
    Unexpected(StatusCode),
}

impl PeerClient {
    /// A client that trusts these authorities, or those of the system.
    pub(super) fn new(authorities: Option<Arc<RootCertStore>>) -> Self {
        let own_certificate = Arc::default();
        let (tls, under_way) = (OnceCell::new(), Arc::default());
        Self { plain: client(connector()), tls, authorities, own_certificate, under_way }
    }

    /// From now on, brokers that ask for a certificate are presented this one.
    pub(super) fn present(&self, certificate: Option<Arc<CertifiedKey>>) {
        self.own_certificate.replace(certificate);
    }

    /// Sends a POST without a body to the broker with this id, which announces this origin.
    pub(super) async fn post(
        &self,
        broker: u128,
        origin: &str,
        target: &str,
    ) -> Result<PeerResponse, PeerError> {
        let _place = Place::take(&self.under_way, broker).ok_or(PeerError::Busy)?;
        let request = Request::post(format!("{origin}{target}"))
            .header(CONTENT_LENGTH, HeaderValue::from_static("0"))
            .body(Either::Left(Empty::new()))
            .map_err(|error| PeerError::NotSent(root_cause(&error)))?;
        timeout(TIMEOUT, self.ask(request)).await.unwrap_or(Err(PeerError::TimedOut))
    }

    /// Sends a request with the body of one that is being received, as it comes. It ends when either side ends it.
    pub(super) async fn relay(
        &self,
        origin: &str,
        target: &str,
        mut fields: HeaderMap,
        source: Arc<RelaySource>,
    ) -> Result<PeerResponse, PeerError> {
        if !fields.contains_key(CONTENT_LENGTH) {
            for name in source.trailers {
                fields.append(TRAILER, name.clone().into());
            }
        }
        let body = Either::Right(RelayedBody { source, has_trailed: false });
        let request = Request::post(format!("{origin}{target}")).body(body);
        let mut request = request.map_err(|error| PeerError::NotSent(root_cause(&error)))?;
        *request.headers_mut() = fields;
        self.ask(request).await
    }

    async fn ask(&self, request: Request<PeerBody>) -> Result<PeerResponse, PeerError> {
        let response = self.send(request).await?.await;
        let response = response.map_err(|error| {
            let cause = root_cause(&error);
            if error.is_connect() { PeerError::NotSent(cause) } else { PeerError::Broken(cause) }
        })?;
        read(response).await
    }

    async fn send(&self, request: Request<PeerBody>) -> Result<ResponseFuture, PeerError> {
        if request.uri().scheme() != Some(&Scheme::HTTPS) {
            return Ok(self.plain.request(request));
        }
        let make = async || {
            let (authorities, own) = (self.authorities.clone(), self.own_certificate.clone());
            let config = spawn_blocking(move || client_config(authorities, own)).await;
            let config = config.map_err(|error| root_cause(&error))?.map_err(|error| root_cause(&error))?;
            let mut connector = connector();
            connector.enforce_http(false);
            let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
            Ok(client(builder.enable_http1().wrap_connector(connector)))
        };
        let client = self.tls.get_or_try_init(make).await.map_err(PeerError::NotSent)?;
        Ok(client.request(request))
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    // A reply that its caller does not read waits with its worker, and a broker whose machine has vanished is found.
    connector.set_send_buffer_size(Some(SEND_BUFFER_BYTES));
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_IDLE / 2));
    connector.set_keepalive_retries(Some(3));
    connector
}

fn client<C: Connect + Clone>(connector: C) -> Client<C, PeerBody> {
    Client::builder(TokioExecutor::new())
        .http1_max_buf_size(MAX_BUFFERED_BYTES)
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(KEPT_FOR)
        .pool_max_idle_per_host(MAX_KEPT)
        .build(connector)
}

async fn read(response: Response<Incoming>) -> Result<PeerResponse, PeerError> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_PROBLEM).collect().await;
    let body = body.map_err(|error| PeerError::Broken(root_cause(&*error)))?.to_bytes();
    let is_problem = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == Problem::CONTENT_TYPE);
    Ok(PeerResponse { status: head.status, problem: is_problem.then_some(body) })
}

/// The innermost cause: the errors around it say little.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// One of the requests to a broker, until this is dropped.
struct Place {
    under_way: Arc<Mutex<HashMap<u128, usize, RandomState>>>,
    broker: u128,
}

impl Place {
    /// None if there are too many.
    fn take(under_way: &Arc<Mutex<HashMap<u128, usize, RandomState>>>, broker: u128) -> Option<Self> {
        let mut requests = under_way.lock();
        let count = requests.entry(broker).or_default();
        if *count == MAX_REQUESTS {
            return None;
        }
        *count += 1;
        Some(Self { under_way: under_way.clone(), broker })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut requests = self.under_way.lock();
        if let Some(count) = requests.get_mut(&self.broker) {
            *count -= 1;
            if *count == 0 {
                requests.remove(&self.broker);
            }
        }
    }
}
