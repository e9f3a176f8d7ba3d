//! Owns a broker that a test plays: it hands over runs with any fields, and keeps what the worker posts about them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;

use super::PATIENCE;

/// A broker for one worker. It replaces a reply by the one that is opened after it, as the real one does.
pub struct ScriptedBroker {
    pub address: SocketAddr,
    runs: mpsc::Sender<Response<Full<Bytes>>>,
    posts: mpsc::Receiver<Post>,
    polls: watch::Receiver<u64>,
    _connections: JoinSet<()>,
}

/// A reply, or an error, that has ended.
#[derive(Debug)]
pub struct Post {
    pub path: String,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

struct State {
    runs: Mutex<mpsc::Receiver<Response<Full<Bytes>>>>,
    posts: mpsc::Sender<Post>,
    /// How many replies were opened.
    opened: watch::Sender<u64>,
    /// How many polls are held.
    polls: watch::Sender<u64>,
}

impl ScriptedBroker {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (runs, to_run) = mpsc::channel(16);
        let (posted, posts) = mpsc::channel(16);
        let (held, polls) = watch::channel(0);
        let (opened, runs_to_run) = (watch::Sender::default(), Mutex::new(to_run));
        let state = Arc::new(State { runs: runs_to_run, posts: posted, opened, polls: held });
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                open.spawn(async move {
                    let answer =
                        service_fn(|request| async { Ok::<_, Infallible>(state.answer(request).await) });
                    let _ = Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { address, runs, posts, polls, _connections: connections }
    }

    /// Waits until the worker polls.
    pub async fn wait_for_poll(&mut self) {
        let held = self.polls.wait_for(|held| *held > 0);
        tokio::time::timeout(PATIENCE, held).await.expect("a poll in time").unwrap();
    }

    /// Hands over a run whose reply is awaited, with these fields.
    pub async fn run(&self, run: &str, fields: &[(&str, &str)], payload: String) {
        let mut response = Response::new(Full::from(payload));
        let target = format!("/v1/runs/{run}/reply?token=t");
        for (name, value) in [("pilotlight-run", run), ("pilotlight-reply", &target)].iter().chain(fields) {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            response.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        self.runs.send(response).await.unwrap();
    }

    /// The next reply or error that has ended.
    pub async fn posted(&mut self) -> Post {
        tokio::time::timeout(PATIENCE, self.posts.recv()).await.expect("a post in time").unwrap()
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() == Method::GET {
            self.polls.send_modify(|held| *held += 1);
            let run = self.runs.lock().await.recv().await.unwrap();
            self.polls.send_modify(|held| *held -= 1);
            return run;
        }
        let mut opened = self.opened.subscribe();
        self.opened.send_modify(|count| *count += 1);
        opened.mark_unchanged();
        let own = *self.opened.borrow();
        let (head, body) = request.into_parts();
        let replaced = async move {
            let _ = opened.wait_for(|count| *count > own).await;
        };
        tokio::select! {
            () = replaced => {
                let mut gone = Response::new(Full::default());
                *gone.status_mut() = StatusCode::GONE;
                gone
            }
            body = body.collect() => {
                let Ok(body) = body else { return Response::new(Full::default()) };
                let trailers = body.trailers().cloned().unwrap_or_default();
                let path = head.uri.path().to_owned();
                let body = body.to_bytes().to_vec();
                self.posts.send(Post { path, fields: head.headers, body, trailers }).await.unwrap();
                Response::new(Full::default())
            }
        }
    }
}
