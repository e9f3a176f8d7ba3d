//! Owns controllers and supervisors of both dialects at chosen brokers, and the ledger: what supervisors were answered is
//! compared with what controllers received.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::client::{Answer, Client};
use super::cluster::{Addresses, native_get, native_post, until};
use super::{Pool, post};

/// How long a client rests before it connects again.
const RECONNECT: Duration = Duration::from_millis(20);
/// How much later than the end of its budget, which is 2 s, a POST may be answered: this machine is busy.
const LATE: Duration = Duration::from_secs(3);

/// The dialect that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Native,
    Trigger,
}

/// What supervisors were answered, and what controllers received.
#[derive(Default)]
pub struct Ledger {
    posts: Mutex<Vec<Posted>>,
    receipts: Mutex<BTreeMap<String, Vec<String>>>,
    /// What no controller may ever see.
    wrong: Mutex<Vec<String>>,
}

/// One POST and its answer.
#[derive(Debug, Clone)]
pub struct Posted {
    pub run: String,
    /// The number of the broker.
    pub at: usize,
    pub dialect: Dialect,
    pub begun: Instant,
    pub took: Duration,
    /// None if the connection ended without an answer: the broker was killed.
    pub answer: Option<Value>,
}

impl Posted {
    pub fn is_hit(&self) -> bool {
        let is_true = |name| self.answer.as_ref().is_some_and(|answer| answer[name] == true);
        is_true("delivered") || is_true("didWarmStart")
    }

    /// Why the run was not delivered; none if it was, or if there is no answer.
    pub fn reason(&self) -> Option<&str> {
        self.answer.as_ref()?["reason"].as_str()
    }

    fn offers(&self) -> u64 {
        self.answer.as_ref().and_then(|answer| answer["offers"].as_u64()).unwrap_or_default()
    }
}

/// The account of all POSTs.
#[derive(Debug, Default)]
pub struct Account {
    pub posts: usize,
    pub hits: usize,
    /// How often each reason was given.
    pub misses: BTreeMap<String, usize>,
    /// POSTs without an answer.
    pub unanswered: usize,
    /// Runs that were received although the answer was `unknown`, or was lost.
    pub unknown_received: usize,
    /// Runs of stock supervisors that were offered again and received twice.
    pub duplicates: usize,
}

impl Ledger {
    /// The number of runs that were received at least once.
    pub fn received(&self) -> usize {
        self.receipts.lock().len()
    }

    /// The number of POSTs that have ended.
    pub fn posted(&self) -> usize {
        self.posts.lock().len()
    }

    fn receive(&self, run: &str, controller: &str) {
        self.receipts.lock().entry(run.to_owned()).or_default().push(controller.to_owned());
    }

    /// Waits until every run that was answered `true` is received, then judges every POST. Panics with the list of what is wrong.
    pub async fn judge(&self) -> Account {
        let posts = self.posts.lock().clone();
        let missing = || {
            let receipts = self.receipts.lock();
            posts.iter().any(|post| post.is_hit() && !receipts.contains_key(&post.run))
        };
        // A controller may still be reading.
        let end = Instant::now() + LATE;
        while missing() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut wrong = self.wrong.lock().clone();
        let mut account = Account { posts: posts.len(), ..Account::default() };
        let receipts = self.receipts.lock();
        for post in &posts {
            let received = receipts.get(&post.run).map_or(&[][..], Vec::as_slice);
            if let Err(why) = account.add(post, received.len()) {
                wrong.push(format!("{why}: {post:?}, received by {received:?}"));
            }
        }
        let known: std::collections::BTreeSet<&str> = posts.iter().map(|post| post.run.as_str()).collect();
        wrong.extend(
            receipts
                .keys()
                .filter(|run| !known.contains(run.as_str()))
                .map(|run| format!("{run} was never posted")),
        );
        let mut shown = String::new();
        for line in wrong.iter().take(20) {
            writeln!(shown, "{line}").unwrap();
        }
        assert!(wrong.is_empty(), "{} wrong of {account:?}:\n{shown}", wrong.len());
        account
    }
}

impl Account {
    /// Adds a POST whose run was received so often; the error says what is wrong with that.
    pub fn add(&mut self, post: &Posted, received: usize) -> Result<(), &'static str> {
        // A broker that fell silent may have gone on to offer the run, which nobody could count.
        let is_uncounted = post.answer.is_none() || post.reason() == Some("unknown");
        let may_be_offered_again = post.dialect == Dialect::Trigger && (post.offers() > 1 || is_uncounted);
        if received > 1 {
            if !may_be_offered_again {
                return Err("received twice, although it was offered once");
            }
            self.duplicates += 1;
        }
        match &post.answer {
            None => {
                self.unanswered += 1;
                self.unknown_received += usize::from(received > 0);
            }
            Some(_) if post.is_hit() => {
                self.hits += 1;
                if received == 0 {
                    return Err("`true`, and never received");
                }
            }
            Some(answer) => {
                let reason = post.reason().ok_or("`false` without a reason")?;
                *self.misses.entry(reason.to_owned()).or_default() += 1;
                if received > 0 && reason != "unknown" {
                    return Err("a miss, and received all the same");
                }
                if reason == "unknown" && answer["offers"] == 0 {
                    return Err("unknown, although it was offered to nobody");
                }
                self.unknown_received += usize::from(received > 0);
            }
        }
        Ok(())
    }

    /// The part of the POSTs that were hits.
    pub fn hit_rate(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "there are few")]
        let [hits, posts] = [self.hits, self.posts].map(|count| count as f64);
        hits / posts
    }
}

/// A controller at one broker: it waits, receives and waits again, and connects anew after every end, until its task is
/// aborted.
pub async fn controller(
    (addresses, at): (Addresses, usize),
    pool: Pool,
    dialect: Dialect,
    name: String,
    ledger: Arc<Ledger>,
) {
    let request = match dialect {
        Dialect::Native => native_get(&pool, &name),
        Dialect::Trigger => pool.poll(&name),
    };
    let mut kept = None;
    loop {
        let Some(mut client) = connect(kept.take(), &addresses, at).await else { continue };
        if client.stream.write_all(request.as_bytes()).await.is_err() {
            continue;
        }
        let Some(answer) = client.whole_answer().await else {
            tokio::time::sleep(RECONNECT).await;
            continue;
        };
        match answer.status {
            200 => ledger.receive(&run_of(&answer), &name),
            204 | 307 => tokio::time::sleep(RECONNECT).await,
            _ => ledger.wrong.lock().push(format!("{name} got {answer:?}")),
        }
        kept = (answer.header("connection") != Some("close")).then_some(client);
    }
}

async fn connect(kept: Option<Client>, addresses: &Addresses, at: usize) -> Option<Client> {
    if kept.is_some() {
        return kept;
    }
    let address = addresses.lock()[at];
    if let Ok(stream) = TcpStream::connect(address).await {
        return Some(Client::over(stream));
    }
    tokio::time::sleep(RECONNECT).await;
    None
}

fn run_of(answer: &Answer) -> String {
    match answer.header("pilotlight-run") {
        Some(run) => run.to_owned(),
        None => answer.json()["run"]["friendlyId"].as_str().unwrap().to_owned(),
    }
}

/// A supervisor, which posts runs to any broker on one connection to each.
pub struct Supervisor {
    addresses: Addresses,
    ledger: Arc<Ledger>,
    kept: Vec<Option<Client>>,
}

impl Supervisor {
    pub fn new(addresses: &Addresses, ledger: &Arc<Ledger>) -> Self {
        let kept = addresses.lock().iter().map(|_| None).collect();
        Self { addresses: addresses.clone(), ledger: ledger.clone(), kept }
    }

    /// Posts a run once, and enters it into the ledger. A broker that cannot be reached is no POST.
    pub async fn post(&mut self, at: usize, pool: &Pool, dialect: Dialect, run: &str) -> Option<Posted> {
        let request = match dialect {
            Dialect::Native => native_post(pool, "", run, pool.message(run).to_string().as_bytes()),
            Dialect::Trigger => post("/warm-start", &pool.body(run)).into_bytes(),
        };
        let mut client = connect(self.kept[at].take(), &self.addresses, at).await?;
        let begun = Instant::now();
        let is_sent = client.stream.write_all(&request).await.is_ok();
        let answer = client.whole_answer().await;
        let took = begun.elapsed();
        if !is_sent && answer.is_none() {
            return None;
        }
        if answer.as_ref().is_some_and(|answer| answer.header("connection") != Some("close")) {
            self.kept[at] = Some(client);
        }
        let answer = answer.map(|answer| answer.json());
        let posted = Posted { run: run.to_owned(), at, dialect, begun, took, answer };
        self.ledger.posts.lock().push(posted.clone());
        Some(posted)
    }
}

/// Controllers at their brokers, which end when this is dropped.
pub struct Fleet {
    controllers: JoinSet<()>,
    addresses: Addresses,
    pub ledger: Arc<Ledger>,
}

impl Fleet {
    pub fn new(addresses: &Addresses) -> Self {
        Self { controllers: JoinSet::new(), addresses: addresses.clone(), ledger: Arc::default() }
    }

    /// Adds controllers at one broker.
    pub fn add(&mut self, count: usize, at: usize, pool: &Pool, dialect: Dialect) {
        for _ in 0..count {
            let name = format!("controller_{at}_{}", self.controllers.len());
            let place = (self.addresses.clone(), at);
            self.controllers.spawn(controller(place, pool.clone(), dialect, name, self.ledger.clone()));
        }
    }

    pub fn supervisor(&self) -> Supervisor {
        Supervisor::new(&self.addresses, &self.ledger)
    }

    pub fn len(&self) -> usize {
        self.controllers.len()
    }

    /// Waits until so many POSTs have ended.
    pub async fn wait_for_posts(&self, count: usize) {
        until("the POSTs", async || self.ledger.posted() >= count).await;
    }
}
