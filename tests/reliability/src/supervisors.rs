//! Owns the supervisors: they post runs at a fixed rate, correctly or with a fault, and keep the outcome of each POST.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use crate::fleet::unix_micros;
use pilotlight_bench::client::Client;
use pilotlight_bench::requests::{dispatch_request_of, native_dispatch_request_of};

/// The dialect of a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Trigger.dev's: a run may be offered again after an unproven offer.
    Trigger,
    /// The native one: a run is not offered again, and a run that is posted twice is delivered once.
    Native,
}

/// How a POST is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendMode {
    Whole,
    /// The connection ends in the middle of the body.
    CutInBody,
    /// The connection ends after the body.
    CutBeforeResponse,
    /// The body is sent in pieces over this many milliseconds.
    Slow(u64),
}

/// The outcome of a POST for its supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A controller has the run: the proof, and the controller if the response names it.
    Hit(Box<str>, Option<u64>),
    /// No controller has it, for this reason.
    Miss(Box<str>),
    /// A status other than 200.
    Status(u16),
    /// The connection ended without a response.
    NoResponse,
    /// No response came within ten seconds.
    TimedOut,
    /// The supervisor closed the connection before the response, on purpose.
    Abandoned,
}

/// One POST and its outcome. Times are in microseconds since 1970.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    pub(crate) run: u64,
    pub(crate) pool: usize,
    pub(crate) dialect: Dialect,
    pub(crate) mode: SendMode,
    /// The number of the broker that it was sent to.
    pub(crate) broker: usize,
    /// Before its first byte, after its last byte, and when its outcome was known.
    pub(crate) sent: u64,
    pub(crate) whole: u64,
    pub(crate) done: u64,
    /// It was the first POST on its connection.
    pub(crate) is_fresh: bool,
    /// The number of that broker's restarts before it.
    pub(crate) generation: u64,
    pub(crate) outcome: Outcome,
    pub(crate) offers: u64,
}

impl Post {
    pub(crate) fn is_hit(&self) -> bool {
        matches!(self.outcome, Outcome::Hit(..))
    }

    /// Whether the response contains the outcome of the run.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.outcome, Outcome::Hit(..) | Outcome::Miss(_))
    }
}

/// All supervisors, and the POSTs that have not been taken yet.
pub(crate) struct Supervisors {
    pub(crate) brokers: Vec<SocketAddr>,
    pools: usize,
    /// The share of runs that are posted in the native dialect.
    native: f64,
    generations: RefCell<Vec<u64>>,
    pub(crate) in_flight: Cell<usize>,
    pub(crate) posts: RefCell<Vec<Post>>,
    pub(crate) rng: RefCell<fastrand::Rng>,
    runs: Cell<u64>,
    paused: Cell<bool>,
    go_on: Notify,
}

/// A POST without a response for this long has timed out, whatever the broker's budget is.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

impl Supervisors {
    pub(crate) fn new(brokers: Vec<SocketAddr>, pools: usize, native: f64, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            generations: RefCell::new(vec![0; brokers.len()]),
            brokers,
            pools,
            native,
            in_flight: Cell::new(0),
            posts: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            runs: Cell::new(0),
            paused: Cell::new(true),
            go_on: Notify::new(),
        })
    }

    /// Starts supervisors that together post `rate` runs a second. They are paused at first. Each posts to one broker, so that
    /// a broker that does not answer holds up no run of another.
    pub(crate) fn start(self: &Rc<Self>, supervisors: u32, rate: f64) {
        let interval = Duration::from_secs_f64(f64::from(supervisors) / rate);
        for number in 0..supervisors {
            let offset = interval * number / supervisors;
            let broker = number as usize % self.brokers.len();
            tokio::task::spawn_local(supervise(self.clone(), broker, interval, offset));
        }
    }

    pub(crate) fn pause(&self) {
        self.paused.set(true);
    }

    pub(crate) fn resume(&self) {
        self.paused.set(false);
        self.go_on.notify_waiters();
    }

    /// How often a broker was restarted so far.
    pub(crate) fn generation(&self, broker: usize) -> u64 {
        self.generations.borrow()[broker]
    }

    /// Counts a restart.
    pub(crate) fn broker_restarted(&self, broker: usize) {
        self.generations.borrow_mut()[broker] += 1;
    }

    /// The number of the latest run.
    pub(crate) fn last_run(&self) -> u64 {
        self.runs.get()
    }

    /// The number, the pool and the dialect of a new run.
    pub(crate) fn next_run(&self) -> (u64, usize, Dialect) {
        let run = self.runs.get() + 1;
        self.runs.set(run);
        let mut rng = self.rng.borrow_mut();
        let dialect = if rng.f64() < self.native { Dialect::Native } else { Dialect::Trigger };
        (run, rng.usize(..self.pools), dialect)
    }

    /// Posts one run and records the outcome. The connection is kept if it can be used again.
    pub(crate) async fn post(
        &self,
        kept: &mut Option<Client>,
        broker: usize,
        (run, pool, dialect): (u64, usize, Dialect),
        mode: SendMode,
    ) {
        self.in_flight.set(self.in_flight.get() + 1);
        let client = kept.take().filter(|client| !client.is_closed());
        let is_fresh = client.is_none();
        let client = match client {
            Some(client) => Ok(client),
            None => Client::connect(self.brokers[broker]).await,
        };
        // While no broker listens, there is no POST to record.
        if let Ok(mut client) = client {
            let (generation, sent) = (self.generation(broker), unix_micros());
            let bytes = match dialect {
                Dialect::Trigger => dispatch_request_of(pool, run),
                Dialect::Native => native_dispatch_request_of(pool, run),
            };
            let mut whole = sent;
            let asked = async {
                send_and_read(&mut client, &bytes, mode, self, &mut whole)
                    .await
                    .unwrap_or((Outcome::NoResponse, 0))
            };
            let (outcome, offers) = tokio::time::timeout(RESPONSE_TIMEOUT + sending_time(mode), asked)
                .await
                .unwrap_or((Outcome::TimedOut, 0));
            if matches!(outcome, Outcome::Hit(..) | Outcome::Miss(_)) {
                *kept = Some(client);
            }
            let done = unix_micros();
            let post = Post {
                run,
                pool,
                dialect,
                mode,
                broker,
                sent,
                whole,
                done,
                is_fresh,
                generation,
                outcome,
                offers,
            };
            self.posts.borrow_mut().push(post);
        }
        self.in_flight.set(self.in_flight.get() - 1);
    }
}

fn sending_time(mode: SendMode) -> Duration {
    match mode {
        SendMode::Slow(millis) => Duration::from_millis(millis),
        SendMode::Whole | SendMode::CutInBody | SendMode::CutBeforeResponse => Duration::ZERO,
    }
}

async fn supervise(desk: Rc<Supervisors>, broker: usize, interval: Duration, offset: Duration) {
    let mut ticks = tokio::time::interval_at(Instant::now() + offset, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut client = None;
    loop {
        ticks.tick().await;
        while desk.paused.get() {
            // An idle connection would count as open when the broker should have none.
            client = None;
            desk.go_on.notified().await;
        }
        desk.post(&mut client, broker, desk.next_run(), SendMode::Whole).await;
        if client.is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn send_and_read(
    client: &mut Client,
    bytes: &[u8],
    mode: SendMode,
    desk: &Supervisors,
    whole: &mut u64,
) -> anyhow::Result<(Outcome, u64)> {
    match mode {
        SendMode::Whole => client.send(bytes).await?,
        SendMode::CutInBody | SendMode::CutBeforeResponse => {
            let (end, wait, is_rude) = {
                let mut rng = desk.rng.borrow_mut();
                let body = memchr::memmem::find(bytes, b"\r\n\r\n").unwrap_or(0) + 4;
                let end =
                    if mode == SendMode::CutInBody { rng.usize(body..bytes.len()) } else { bytes.len() };
                (end, rng.u64(..3000), rng.bool())
            };
            client.send(&bytes[..end]).await?;
            *whole = unix_micros();
            tokio::time::sleep(Duration::from_micros(wait)).await;
            if is_rude {
                client.stream().set_zero_linger()?;
            }
            return Ok((Outcome::Abandoned, 0));
        }
        SendMode::Slow(millis) => {
            let pieces: Vec<&[u8]> = bytes.chunks(bytes.len().div_ceil(20)).collect();
            for piece in pieces {
                client.send(piece).await?;
                tokio::time::sleep(Duration::from_millis(millis / 20)).await;
            }
        }
    }
    *whole = unix_micros();
    let answer = client.response().await?;
    if answer.status != 200 {
        return Ok((Outcome::Status(answer.status), 0));
    }
    let said: serde_json::Value = serde_json::from_slice(answer.body)?;
    let text = |name: &str| Box::<str>::from(said[name].as_str().unwrap_or("none"));
    let is_hit = said["didWarmStart"] == true || said["delivered"] == true;
    let controller = said["controller"]
        .as_str()
        .and_then(|name| name.strip_prefix("controller_")?.split('-').next()?.parse().ok());
    let outcome =
        if is_hit { Outcome::Hit(text("proof"), controller) } else { Outcome::Miss(text("reason")) };
    Ok((outcome, said["offers"].as_u64().unwrap_or(0)))
}
