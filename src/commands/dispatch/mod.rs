//! Owns `pilotlight dispatch`: posts one run by hand, says how it ended, and passes the reply on as it comes.

mod outcome;
mod pool;

use std::fmt::Write as _;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::http::response::Parts;
use hyper::{Method, Request};

use super::client::{BrokerUrl, Client, ClientOptions, Connection};
use super::process;
use super::text::{millis, printable};
use crate::model::ReplyOutcome;
use outcome::{Outcome, RunReport};
use pool::PoolPath;

/// How long an answer may take beyond the times that the broker was asked to take.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer that is no reply has at most this many bytes.
const MAX_ANSWER: usize = 1 << 20;

/// The arguments of `pilotlight dispatch`.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    /// The broker's address for POSTs, such as <http://127.0.0.1:7070>
    #[arg(value_name = "URL")]
    url: BrokerUrl,

    /// The pool, as DEPLOYMENT/VERSION/CPU/MEMORY; a slash in a name is %2F
    #[arg(value_name = "POOL")]
    pool: PoolPath,

    /// The file with the payload; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    payload: PathBuf,

    /// Wait for the worker's reply, which is to begin within this time, and write it to standard output
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    reply: Option<Duration>,

    /// Wait this long for a controller to come, if there is none
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,

    /// Allow a second offer after one that could not be proved: the run may then be started twice
    #[arg(long)]
    redeliver: bool,

    /// The run's name; the broker answers a second POST of the same run with the outcome of the first
    #[arg(long, value_name = "ID")]
    run: Option<String>,

    /// The payload's type
    #[arg(long, value_name = "TYPE", default_value = "application/octet-stream")]
    content_type: String,

    #[command(flatten)]
    client: ClientOptions,
}

impl Options {
    fn target(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("reply", self.reply), ("wait", self.wait)] {
            if let Some(value) = value {
                query.append_pair(name, &humantime::format_duration(value).to_string().replace(' ', ""));
            }
        }
        if self.redeliver {
            query.append_pair("redeliver", "true");
        }
        let query = query.finish();
        let path = self.pool.path();
        if query.is_empty() { path } else { format!("{path}?{query}") }
    }

    fn request(&self, client: &Client, payload: Vec<u8>) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request =
            client.request(Method::POST, &self.target()).header(CONTENT_TYPE, self.content_type.as_str());
        if let Some(run) = &self.run {
            request = request.header("pilotlight-run", run.as_str());
        }
        request.body(payload.into()).context("a name or a type cannot be sent in a header")
    }
}

pub(super) fn dispatch(options: &Options) -> anyhow::Result<ExitCode> {
    let client = Client::new(options.url.clone(), &options.client)?;
    let request = options.request(&client, read(&options.payload)?)?;
    process::runtime()?.block_on(async {
        let mut connection = client.connect().await?;
        match post(&mut connection, request, options).await {
            Ok(outcome) => Ok(outcome.exit_code()),
            Err(error) => {
                process::note(&format!("{}: {error:#}", client.url()));
                process::note("a controller may have the run");
                Ok(Outcome::Other(ReplyOutcome::Unknown).exit_code())
            }
        }
    })
}

fn read(payload: &Path) -> anyhow::Result<Vec<u8>> {
    if payload.as_os_str() != "-" {
        return std::fs::read(payload).with_context(|| format!("{} cannot be read", payload.display()));
    }
    if std::io::stdin().is_terminal() {
        process::note("type the payload, and end it with Ctrl-D");
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("standard input cannot be read")?;
    Ok(bytes)
}

/// Posts the run, and reports how it ended. An error means that the answer did not come.
async fn post(
    connection: &mut Connection<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    options: &Options,
) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let within = options.reply.unwrap_or_default() + options.wait.unwrap_or_default() + PATIENCE;
    let sent = tokio::time::timeout(within, connection.send(request)).await;
    let Ok(sent) = sent else { bail!("no answer within {}", humantime::format_duration(within)) };
    let (head, body) = sent.context("the connection ended before an answer came")?.into_parts();
    let first = begun.elapsed();
    match outcome::stated(&head) {
        Some(ReplyOutcome::Replied) => pass_on(&head, body, first, begun).await,
        stated => {
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body =
                body.map_err(|error| anyhow::anyhow!(error)).context("the answer broke off")?.to_bytes();
            let (outcome, report) = outcome::read(stated, &head, &body);
            report.print(outcome, &format!("after {}", millis(first)));
            Ok(outcome)
        }
    }
}

/// Writes the reply to stdout, each piece as it comes.
async fn pass_on(
    head: &Parts,
    mut body: Incoming,
    first: Duration,
    begun: Instant,
) -> anyhow::Result<Outcome> {
    let report = RunReport::of_head(head);
    let (mut bytes, mut output) = (0_u64, std::io::stdout());
    while let Some(frame) = body.frame().await {
        let piece = match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(piece)) => piece,
            Ok(Err(_trailers)) => continue,
            Err(_) => {
                report.print(
                    Outcome::Other(ReplyOutcome::ReplyBroken),
                    &format!("{bytes} bytes after {}", millis(begun.elapsed())),
                );
                return Ok(Outcome::Other(ReplyOutcome::ReplyBroken));
            }
        };
        bytes += piece.len() as u64;
        if output.write_all(&piece).and_then(|()| output.flush()).is_err() {
            process::note("nobody reads the reply any more: it is cancelled");
            return Ok(Outcome::Other(ReplyOutcome::Unknown));
        }
    }
    let times = format!("{bytes} bytes in {}, the first after {}", millis(begun.elapsed()), millis(first));
    report.print(Outcome::Other(ReplyOutcome::Replied), &times);
    Ok(Outcome::Other(ReplyOutcome::Replied))
}

impl RunReport {
    /// Says on stderr how the run ended.
    fn print(&self, outcome: Outcome, times: &str) {
        let mut text = format!("{} ({times})", outcome.text());
        for (name, value) in self.fields() {
            let _ = write!(text, "\n{name:<12}{}", printable(&value));
        }
        process::note(&text);
    }
}
