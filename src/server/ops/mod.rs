//! Owns the ops listener: its connections, its routes, and who may use an operator's verbs.

mod connection_slots;
mod console;
mod events;
mod guard;
mod pools;
mod runs;

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::accept::{AcceptLoop, HANDSHAKE_TIMEOUT};
use super::health::Health;
use super::socket::Acceptor;
use super::tls::Tls;
use crate::config::Endpoint;
use crate::http::{HttpResponse, HttpState, Problem};
use crate::metrics::{Listener, RejectReason, Route};
use connection_slots::ConnectionSlot;
pub(super) use connection_slots::ConnectionSlots;
use events::{EventStream, LagSignal};

const HEAD_TIME: Duration = Duration::from_secs(5);

/// What operators are served with.
#[derive(Clone)]
pub(super) struct OpsState {
    pub(super) front: Arc<HttpState>,
    /// Where controllers and supervisors connect, to be shown.
    pub(super) public: Arc<[Endpoint]>,
    /// Whether a browser's page could reach them by a name that is none of this machine's.
    pub(super) is_local: bool,
    pub(super) health: Arc<Health>,
    pub(super) room: Arc<ConnectionSlots>,
    pub(super) tls: Arc<Tls>,
    /// Held by whoever makes a large answer.
    pub(super) long_work: Arc<tokio::sync::Mutex<()>>,
}

/// A whole answer, or one that goes on as long as there are events.
type Body = Either<Full<Bytes>, EventStream>;

/// Serves operators on all of these, for as long as each accepts.
pub(super) async fn serve(listeners: Vec<(Acceptor, OpsState)>) -> anyhow::Error {
    let mut all: Vec<_> =
        listeners.into_iter().map(|(socket, desk)| Box::pin(listen(socket, desk))).collect();
    poll_fn(|cx| {
        all.iter_mut().map(|one| one.as_mut().poll(cx)).find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

async fn listen(socket: Acceptor, desk: OpsState) -> anyhow::Error {
    let metrics = desk.front.metrics.clone();
    let mut accepting = AcceptLoop::new(&socket, &metrics);
    loop {
        let (stream, _) = match accepting.next().await {
            Ok(accepted) => accepted,
            Err(error) => return anyhow::anyhow!("nothing can be accepted from the ops listener: {error}"),
        };
        let Some(seat) = desk.room.take_slot() else {
            metrics.rejected(RejectReason::Connections);
            continue;
        };
        let desk = desk.clone();
        #[expect(clippy::disallowed_methods, reason = "owned by the ops runtime, ends with its connection")]
        tokio::spawn(async move {
            let tls = desk.tls.config();
            let open = desk.front.metrics.connected(Listener::Ops, tls.is_some());
            // Nagle's delay would hold back what a reader of events waits for.
            let _ = stream.set_nodelay(true);
            tokio::select! {
                () = seat.revoked() => desk.front.metrics.rejected(RejectReason::Silent),
                () = serve_connection(stream, tls, &desk, &seat) => {}
            }
            drop(open);
        });
    }
}

/// One connection, once hands are shaken where there is TLS.
async fn serve_connection(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    desk: &OpsState,
    seat: &ConnectionSlot,
) {
    let Some(tls) = tls else { return serve_requests(stream, desk, seat).await };
    match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => serve_requests(stream, desk, seat).await,
        Ok(Err(error)) => {
            desk.front.metrics.rejected(RejectReason::Tls);
            tracing::debug!(%error, "a TLS handshake with an operator failed");
        }
        Err(_) => desk.front.metrics.rejected(RejectReason::Tls),
    }
}

/// Answers the requests of one connection.
async fn serve_requests(stream: impl AsyncRead + AsyncWrite + Unpin, desk: &OpsState, seat: &ConnectionSlot) {
    let lag = Mutex::new(None);
    let service = service_fn(async |request| {
        seat.asked();
        let response = respond(desk, request, &lag, seat).await;
        if matches!(response.body(), Either::Left(_)) {
            seat.answered();
        }
        desk.front.metrics.answered(Route::Ops, response.status().as_u16());
        Ok::<_, Infallible>(response)
    });
    let mut http = http1::Builder::new();
    let http = http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    tokio::select! {
        done = http.serve_connection(TokioIo::new(stream), service) => {
            if let Err(error) = done {
                tracing::debug!(%error, "an ops connection ended");
            }
        }
        () = events::lagged(&lag) => desk.front.metrics.events_cut_off(),
    }
}

/// Does what may take long on a thread of its own, one at a time: health is asked for meanwhile.
async fn apart(
    desk: &OpsState,
    work: impl FnOnce(&HttpState) -> Result<HttpResponse, Problem> + Send + 'static,
) -> Result<HttpResponse, Problem> {
    let front = desk.front.clone();
    let _turn = desk.long_work.lock().await;
    tokio::task::spawn_blocking(move || work(&front)).await.unwrap_or_else(|error| {
        tracing::error!(%error, "an operator's request has panicked");
        Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "this request cannot be answered; the log says why\n"))
    })
}

/// The one place where an operator's request finds its route.
async fn respond(
    desk: &OpsState,
    request: Request<Incoming>,
    lag: &Mutex<Option<LagSignal>>,
    seat: &ConnectionSlot,
) -> Response<Body> {
    let front = &desk.front;
    let query = request.uri().query().unwrap_or_default().to_owned();
    if let Err(problem) = guard::admit(desk, &request) {
        return Response::from(HttpResponse::from(problem)).map(Either::Left);
    }
    // hyper leaves out the body of an answer to HEAD, and announces it all the same.
    let is_head = request.method() == Method::HEAD;
    let method = if is_head { &Method::GET } else { request.method() };
    let reply = match (method, request.uri().path()) {
        (&Method::GET, "/events") if is_head => return events::head().map(Either::Left),
        (&Method::GET, "/events") if !seat.follow() => Err(Problem::too_many_readers()),
        (&Method::GET, "/events") => match events::subscribe(front, &request) {
            Ok((response, signal)) => {
                *lag.lock() = Some(signal);
                return response.map(Either::Right);
            }
            Err(problem) => Err(problem),
        },
        (&Method::GET, path) if console::has(path) => return console::page(path).map(Either::Left),
        (&Method::GET, "/console.json") => Ok(console::facts(&desk.public)),
        (&Method::GET, "/livez") => Ok(text(StatusCode::OK, "ok\n")),
        (&Method::GET, "/readyz") if front.exchange.is_draining() => {
            Ok(text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"))
        }
        (&Method::GET, "/readyz") => Ok(match desk.health.not_ready() {
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
            None => text(StatusCode::OK, "ready\n"),
        }),
        (&Method::GET, "/metrics") => apart(desk, |front| Ok(metrics(front))).await,
        (&Method::GET, "/pools") => apart(desk, move |front| pools::pools(front, &query)).await,
        (&Method::GET, "/waiters") => apart(desk, move |front| pools::waiters(front, &query)).await,
        (&Method::GET, path) if path == "/runs" || path.starts_with("/runs/") => {
            runs::find(front, path, &query).await
        }
        (&Method::POST, "/retire") => apart(desk, move |front| pools::retire(front, &query)).await,
        (&Method::POST, "/drain") => Ok(pools::drain(front)),
        (_, "/retire" | "/drain") => Err(Problem::method_not_allowed("POST")),
        (_, path) if is_read_only(path) => Err(Problem::method_not_allowed("GET, HEAD")),
        _ => Err(Problem::no_such_ops_route()),
    };
    Response::from(reply.unwrap_or_else(HttpResponse::from)).map(Either::Left)
}

fn is_read_only(path: &str) -> bool {
    const ROUTES: [&str; 8] =
        ["/livez", "/readyz", "/metrics", "/pools", "/waiters", "/runs", "/events", "/console.json"];
    ROUTES.contains(&path) || path.starts_with("/runs/") || console::has(path)
}

fn metrics(front: &HttpState) -> HttpResponse {
    match front.metrics.render(front.exchange.counts()) {
        Ok(body) => HttpResponse::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n")
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> HttpResponse {
    HttpResponse::new(status, "text/plain; charset=utf-8", body)
}

fn json(body: &serde_json::Value) -> HttpResponse {
    HttpResponse::new(StatusCode::OK, "application/json", body.to_string())
}
