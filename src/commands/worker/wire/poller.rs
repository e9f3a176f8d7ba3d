//! Owns the polls of one slot: one after the other until a run comes, whatever the broker answers meanwhile.

use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::RETRY_AFTER;
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::{Instant, sleep, timeout};

use super::body::{WorkerBody, WorkerConnection, whole};
use super::run::{REPLY, Run, receive};
use crate::commands::client::{BrokerUrl, Client, ClientOptions};
use crate::commands::worker::back_off::{BackOff, jitter};

/// A broker holds a poll for at most 299 s. One that is silent for longer is not there any more.
const LONGEST_POLL: Duration = Duration::from_secs(310);
/// A poll that ends sooner without a run is followed by a pause, so that a broker that drains is not asked again at once.
const SHORTEST_POLL: Duration = Duration::from_secs(1);
/// The pause after an operator has retired the pool.
const RETIRED_PAUSE: Duration = Duration::from_secs(300);
/// The longest pause that a broker can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// What the polls of a slot have in common.
#[derive(Debug, Clone)]
pub(in crate::commands::worker) struct PollOptions {
    pub(in crate::commands::worker) broker: BrokerUrl,
    pub(in crate::commands::worker) client: ClientOptions,
    /// The path of the pool.
    pub(in crate::commands::worker) path: String,
    /// What the pools' hits tell about this worker.
    pub(in crate::commands::worker) metadata: Option<String>,
}

/// Polls under a name of its own.
pub(in crate::commands::worker) struct Poller {
    options: PollOptions,
    controller: String,
    slot: usize,
    client: Client,
    /// The broker and the target of the next poll, if another one sent us there.
    redirect: Option<(Client, String)>,
    /// The connection of the last request, if the broker keeps it.
    connection: Option<WorkerConnection>,
    back_off: BackOff,
    is_failing: bool,
}

/// What a poll brought.
enum Polled {
    Run(Box<Run>),
    /// Poll again at once.
    Again,
    /// Poll at once where the broker sends us. Whether that works is not known yet.
    Elsewhere,
    /// Poll again after this time and a pause. The text says why.
    Pause(Duration, String),
}

impl Polled {
    fn pause(why: String) -> Self {
        Self::Pause(Duration::ZERO, why)
    }
}

impl Poller {
    pub(in crate::commands::worker) fn new(
        options: PollOptions,
        controller: String,
        slot: usize,
    ) -> anyhow::Result<Self> {
        let client = Client::new(options.broker.clone(), &options.client)?;
        let (redirect, connection, back_off) = (None, None, BackOff::new());
        Ok(Self { options, controller, slot, client, redirect, connection, back_off, is_failing: false })
    }

    /// The next poll goes over this connection.
    pub(in crate::commands::worker) fn keep(&mut self, connection: WorkerConnection) {
        self.connection = Some(connection);
    }

    /// Polls until a run comes. Dropping this withdraws the poll.
    pub(in crate::commands::worker) async fn next_run(&mut self) -> Run {
        loop {
            let polled = self.poll().await.unwrap_or_else(|error| Polled::pause(format!("{error:#}")));
            match polled {
                Polled::Run(run) => {
                    self.has_worked();
                    return *run;
                }
                Polled::Again => self.has_worked(),
                Polled::Elsewhere => {}
                Polled::Pause(at_least, why) => {
                    self.has_failed(&why);
                    sleep(at_least + self.back_off.pause()).await;
                }
            }
        }
    }

    fn has_worked(&mut self) {
        self.back_off.reset();
        if std::mem::take(&mut self.is_failing) {
            tracing::info!(slot = self.slot, "polls at {} again", self.options.broker);
        }
    }

    /// Only the first failure in a row is a warning.
    fn has_failed(&mut self, why: &str) {
        let slot = self.slot;
        if self.is_failing {
            tracing::debug!(slot, "{why}");
        } else if !why.is_empty() {
            self.is_failing = true;
            tracing::warn!(slot, "cannot poll: {why}");
        }
    }

    async fn poll(&mut self) -> anyhow::Result<Polled> {
        let redirect = self.redirect.take();
        let is_redirected = redirect.is_some();
        let (client, target) = redirect.unwrap_or_else(|| (self.client.clone(), self.options.path.clone()));
        let begun = Instant::now();
        let kept = self.connection.take().filter(|_| !is_redirected);
        let answered = match WorkerConnection::if_open(kept).await {
            Some(connection) => match self.send(&client, &target, connection).await {
                // The broker closed it while it was idle.
                Err(_) if begun.elapsed() < SHORTEST_POLL => self.connect_and_send(&client, &target).await,
                answered => answered,
            },
            None => self.connect_and_send(&client, &target).await,
        };
        let (connection, response) = answered?;
        let is_soon = begun.elapsed() < SHORTEST_POLL;
        if let Some(elsewhere) = client.redirected(&response)? {
            self.redirect = Some(elsewhere);
            // Two brokers that both drain redirect to each other.
            let is_circle = is_redirected && is_soon;
            return Ok(if is_circle { Polled::pause(String::new()) } else { Polled::Elsewhere });
        }
        if response.status() == StatusCode::NO_CONTENT {
            self.connection = Some(connection).filter(|_| !is_redirected);
            return Ok(if is_soon { Polled::pause(String::new()) } else { Polled::Again });
        }
        self.judge(&client, connection, response).await
    }

    async fn connect_and_send(
        &self,
        client: &Client,
        target: &str,
    ) -> anyhow::Result<(WorkerConnection, Response<Incoming>)> {
        let connection = client.connect().await?;
        self.send(client, target, connection).await
    }

    async fn send(
        &self,
        client: &Client,
        target: &str,
        mut connection: WorkerConnection,
    ) -> anyhow::Result<(WorkerConnection, Response<Incoming>)> {
        let response = timeout(LONGEST_POLL, connection.send(self.request(client, target)?)).await??;
        Ok((connection, response))
    }

    fn request(&self, client: &Client, target: &str) -> anyhow::Result<Request<WorkerBody>> {
        let request = client.request(Method::GET, target);
        let request = request.header("pilotlight-controller", &self.controller).header(REPLY, "early");
        let request = match &self.options.metadata {
            Some(metadata) => request.header("pilotlight-metadata", metadata),
            None => request,
        };
        Ok(request.body(whole(Bytes::new()))?)
    }

    async fn judge(
        &mut self,
        client: &Client,
        connection: WorkerConnection,
        response: Response<Incoming>,
    ) -> anyhow::Result<Polled> {
        let retry_after = retry_after(&response).unwrap_or_default();
        Ok(match response.status() {
            StatusCode::OK => Polled::Run(Box::new(receive(client, connection, response).await?)),
            StatusCode::GONE => Polled::Pause(jitter(RETIRED_PAUSE), "the pool is retired (410)".to_owned()),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                // The token may have been replaced.
                self.client = Client::new(self.options.broker.clone(), &self.options.client)?;
                Polled::pause(format!("the broker refuses this worker ({status})"))
            }
            status => Polled::Pause(retry_after, format!("the broker answers {status}")),
        })
    }
}

fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}
