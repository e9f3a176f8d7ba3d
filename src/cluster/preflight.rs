//! Owns the check of a cluster's NATS before a start: whether it can be reached, what this broker may do there, and whether it may
//! do more than it needs. Nothing is published that a broker of the cluster would take for a message.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use async_nats::{Client, ConnectErrorKind, Event, ServerError};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::link_config::LinkConfig;
use super::subjects::Subjects;

/// The time for everything: connecting, and hearing the server's refusals.
const TIMEOUT: Duration = Duration::from_secs(2);
/// If the probe cannot come back, the refusals are complete when none arrived for this long.
const QUIET: Duration = Duration::from_millis(300);

/// What a broker would find at its NATS.
#[derive(Debug)]
pub struct NatsReport {
    /// The servers, without credentials.
    pub servers: String,
    /// The version of the one that answered.
    pub version: String,
    /// The largest payload that it accepts, in bytes.
    pub max_payload: usize,
    /// All subjects of the cluster.
    pub subjects: String,
    /// Subjects of others that the credentials may subscribe to.
    pub excess: Vec<&'static str>,
}

/// Connects as a broker would, and tries its permissions. It is an error if one is missing that a broker needs.
pub fn preflight(config: &LinkConfig) -> anyhow::Result<NatsReport> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let until = Instant::now() + TIMEOUT;
    let what = || {
        format!(
            "--nats {} cannot be used (the broker would start, and dispatch alone)",
            config.shown_servers()
        )
    };
    let report = runtime.block_on(async { timeout_at(until, probe(config, until)).await });
    report
        .with_context(|| format!("it does not answer within {}", humantime::format_duration(TIMEOUT)))
        .and_then(|report| report)
        .with_context(what)
}

async fn probe(config: &LinkConfig, until: Instant) -> anyhow::Result<NatsReport> {
    let (sender, mut errors) = mpsc::channel(64);
    let options = config.connect_options()?.event_callback(move |event| {
        if let Event::ServerError(ServerError::Other(error)) = event {
            // What does not fit repeats what is there.
            let _ = sender.try_send(error);
        }
        std::future::ready(())
    });
    let client = options.connect(config.addresses()?).await.map_err(|error| {
        if error.kind() == ConnectErrorKind::AuthorizationViolation {
            return anyhow::anyhow!("it refuses the credentials");
        }
        error.into()
    })?;
    let info = client.server_info();
    let Permissions { refused, excess } =
        try_permissions(&client, &Subjects::new(&config.cluster), &mut errors, until).await?;
    anyhow::ensure!(refused.is_empty(), "the credentials may not {}", refused.join(", nor "));
    Ok(NatsReport {
        servers: config.shown_servers(),
        version: info.version,
        max_payload: client.max_payload(),
        subjects: Subjects::new(&config.cluster).all(),
        excess,
    })
}

struct Permissions {
    refused: Vec<String>,
    excess: Vec<&'static str>,
}

/// Tries every kind of subject that a broker needs, under an id of its own, and two that it does not.
async fn try_permissions(
    client: &Client,
    subjects: &Subjects,
    errors: &mut mpsc::Receiver<String>,
    until: Instant,
) -> anyhow::Result<Permissions> {
    let [id, token, other] = [(); 3].map(|()| fastrand::u128(..));
    let (direct, directory, answer) = (subjects.direct(id), subjects.directory(), subjects.answer(id, token));
    let foreign = format!("check-{other:032x}.of.permissions");
    // First, because the server handles all of it in order. At most one message is taken of what others publish.
    let mut excess = Vec::new();
    for subject in [foreign.as_str(), ">"] {
        let mut subscriber = client.subscribe(subject.to_owned()).await?;
        subscriber.unsubscribe_after(1).await?;
        excess.push(subscriber);
    }
    let _direct = client.queue_subscribe(direct.clone(), format!("{id:032x}")).await?;
    let _directory = client.subscribe(directory.clone()).await?;
    let mut answers = client.subscribe(subjects.answers(id)).await?;
    // Other brokers ignore an empty announcement; the other two subjects are nobody's.
    for subject in [&directory, &direct, &answer] {
        client.publish(subject.clone(), Bytes::new()).await?;
    }
    let mut heard = BTreeSet::new();
    let mut quiet_at = until;
    loop {
        // The probe comes back after all refusals, unless it is refused itself.
        tokio::select! {
            biased;
            Some(error) = errors.recv() => {
                if error.contains(&subjects.answers(id)) || error.contains(&answer) {
                    quiet_at = until.min(Instant::now() + QUIET);
                }
                heard.insert(error);
            }
            _ = answers.next() => break,
            () = tokio::time::sleep_until(quiet_at) => break,
        }
    }
    while let Ok(error) = errors.try_recv() {
        heard.insert(error);
    }
    let is_refused = |kind: &str, subject: &str| {
        heard.iter().any(|error| error.contains(kind) && error.contains(&format!("\"{subject}\"")))
    };
    let needed = [
        ("Subscription", "subscribe to", direct.as_str(), subjects.direct_pattern()),
        ("Subscription", "subscribe to", &directory, directory.clone()),
        ("Subscription", "subscribe to", &subjects.answers(id), subjects.answers_pattern()),
        ("Publish", "publish to", &direct, subjects.direct_pattern()),
        ("Publish", "publish to", &directory, directory.clone()),
        ("Publish", "publish to", &answer, subjects.answers_pattern()),
    ];
    let refused = needed.into_iter().filter(|(kind, _, subject, _)| is_refused(kind, subject));
    let excess = [("subjects of others", foreign.as_str()), ("every subject (>)", ">")];
    Ok(Permissions {
        refused: refused.map(|(_, what, _, pattern)| format!("{what} {pattern}")).collect(),
        excess: excess
            .into_iter()
            .filter(|(_, subject)| !is_refused("Subscription", subject))
            .map(|(what, _)| what)
            .collect(),
    })
}
