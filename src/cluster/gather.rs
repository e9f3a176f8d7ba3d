//! Owns the questions of operators to all brokers: each answers for its own waiters, within a time, and who does not is named.
//!
//! A list is asked for page by page, so that neither side holds more of it than one message, no answer is longer than NATS
//! accepts, and a slow reader loses nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::codec::{
    Answer, BrokerId, Direct, NotTaken, OperatorQuestion, OperatorRequest, OperatorRows, PoolRow, RowKey,
    WaiterRow, decode, encode,
};
use super::directory::PeerSummary;
use super::shared::Shared;
use crate::broker::{Filter, Key, KeyError, Number, PoolSummary, WaiterSummary, check_part};
use crate::transport::retire_pools;

/// A broker's whole answer is waited for this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The same for a broker that has been silent: it has rarely come back in this moment.
const HIDDEN_ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// The most rows of one page: below 512 KiB, as names have at most 256 bytes.
const ROWS_PER_PAGE: usize = 512;
/// A broker that lists more rows than this is not believed.
const MAX_ROWS: usize = 1 << 20;
/// Questions of this broker's operators that are asked at once; the others wait, because each may hold long lists.
static QUESTIONS: Semaphore = Semaphore::const_new(4);
/// One answer at a time is made for others, so that one thread at most is busy with it.
static ANSWERS: Semaphore = Semaphore::const_new(1);

/// What all other brokers have answered.
#[derive(Debug)]
pub struct Gathered<A> {
    /// The answers, each with the name of its broker.
    pub answers: Vec<(Arc<str>, A)>,
    /// The brokers that are known and have not answered in time.
    pub missing: Vec<Arc<str>>,
}

/// The pools of other brokers that this filter selects.
pub(super) async fn pools(shared: &Shared, filter: &Filter) -> Gathered<Vec<PoolSummary>> {
    let add = |all: &mut Vec<PoolSummary>, rows| {
        let OperatorRows::Pools(rows) = rows else { return None };
        add_rows(all, rows, pool_summary)
    };
    ask(shared, OperatorQuestion::Pools, filter, MAX_ROWS, add).await
}

/// At most `limit` waiters of each other broker, of the pools that this filter selects.
pub(super) async fn waiters(shared: &Shared, filter: &Filter, limit: usize) -> Gathered<Vec<WaiterSummary>> {
    let add = |all: &mut Vec<WaiterSummary>, rows| {
        let OperatorRows::Waiters(rows) = rows else { return None };
        add_rows(all, rows, waiter_summary)
    };
    let what = OperatorQuestion::Waiters { limit: u32::try_from(limit).unwrap_or(u32::MAX) };
    let mut found = ask(shared, what, filter, limit, add).await;
    found.answers.iter_mut().for_each(|(_, rows)| rows.truncate(limit));
    found
}

/// Retires the waiters of these pools at all other brokers, and returns their numbers.
pub(super) async fn retire(shared: &Shared, filter: &Filter) -> Gathered<u64> {
    let add = |all: &mut u64, rows| {
        let OperatorRows::Retired(retired) = rows else { return None };
        *all = retired;
        Some(0)
    };
    ask(shared, OperatorQuestion::Retire, filter, MAX_ROWS, add).await
}

/// Adds a page's rows, and returns how many there are then. None if one is invalid.
fn add_rows<R, S>(
    all: &mut Vec<S>,
    rows: Vec<R>,
    summary: impl Fn(R) -> Result<S, KeyError>,
) -> Option<usize> {
    for row in rows {
        all.push(summary(row).ok()?);
    }
    Some(all.len())
}

/// Asks all other brokers at once. `add` takes a page and returns how many rows there are, or none if the page is no answer to
/// the question. A broker is asked for more until there are `enough`.
async fn ask<A: Default>(
    shared: &Shared,
    what: OperatorQuestion,
    filter: &Filter,
    enough: usize,
    add: impl Fn(&mut A, OperatorRows) -> Option<usize>,
) -> Gathered<A> {
    // It is never closed.
    let _permit = QUESTIONS.acquire().await;
    let peers = shared.member.lock().directory.peers(shared.now());
    let ask_one = async |peer: PeerSummary| {
        let within = if peer.is_visible { ANSWER_WITHIN } else { HIDDEN_ANSWER_WITHIN };
        let whole = read_pages(shared, peer.id, what, filter, enough, &add);
        (peer.name, tokio::time::timeout(within, whole).await.ok().flatten())
    };
    let mut gathered = Gathered { answers: Vec::new(), missing: Vec::new() };
    for (name, answer) in join_all(peers.into_iter().map(ask_one)).await {
        match answer {
            Some(answer) => gathered.answers.push((name, answer)),
            None => gathered.missing.push(name),
        }
    }
    gathered
}

async fn read_pages<A: Default>(
    shared: &Shared,
    broker: BrokerId,
    what: OperatorQuestion,
    filter: &Filter,
    enough: usize,
    add: &impl Fn(&mut A, OperatorRows) -> Option<usize>,
) -> Option<A> {
    let mut all = A::default();
    let mut slot = 0;
    loop {
        let (rows, next) = read_page(shared, broker, what, filter, slot).await?;
        let count = add(&mut all, rows)?;
        match next {
            Some(next) if count < enough => slot = Some(next).filter(|&next| next > slot)?,
            Some(_) if count >= MAX_ROWS => return None,
            _ => return Some(all),
        }
    }
}

async fn read_page(
    shared: &Shared,
    broker: BrokerId,
    what: OperatorQuestion,
    filter: &Filter,
    slot: u32,
) -> Option<(OperatorRows, Option<u32>)> {
    let request = OperatorRequest {
        from: shared.member.lock().id(),
        sent: shared.now().micros(),
        what,
        slot,
        deployment: filter.deployment.clone(),
        version: filter.version.clone(),
        cpu: filter.cpu.map(Number::get),
        memory: filter.memory.map(Number::get),
    };
    let mut answers = shared.inbox.expect();
    shared.send(broker, &answers, &Direct::Operator(request), &[]).ok()?;
    let bytes = answers.next().await?;
    match decode(&bytes) {
        Ok((Answer::Page { rows, next }, _)) => Some((rows, next)),
        _ => None,
    }
}

/// This broker's answer to another one's question that arrived at this time.
pub(super) async fn answer(shared: &Arc<Shared>, request: OperatorRequest, arrived: Instant) -> Vec<u8> {
    let refused = |why| encode(&Answer::NotTaken(why), &[]);
    // Nobody waits for the answer any more, and an operator who was told that this broker is missing does not expect that it
    // retires waiters later.
    let age = shared.member.lock().directory.age(request.from, request.sent, shared.exchange.at(arrived));
    if age.is_none_or(|age| age > ANSWER_WITHIN) {
        return refused(NotTaken::Stale);
    }
    let (what, slot) = (request.what, request.slot);
    let filter = filter(request).ok();
    // An empty filter would retire every waiter, which no operator can ask for.
    let filter = filter.filter(|filter| what != OperatorQuestion::Retire || *filter != Filter::default());
    let Some(filter) = filter else { return refused(NotTaken::Malformed) };
    let (exchange, sessions) = (shared.exchange.clone(), shared.sessions.clone());
    let most = shared.link().map_or(0, |(_, link)| link.max_payload());
    let _turn = ANSWERS.acquire().await;
    // On a thread of its own: this one has other brokers to hear.
    let made = tokio::task::spawn_blocking(move || match what {
        OperatorQuestion::Pools => page(most, ROWS_PER_PAGE, |rows| {
            let page = exchange.pools_page(&filter, slot, rows);
            (OperatorRows::Pools(page.rows.iter().map(pool_row).collect()), page.next)
        }),
        OperatorQuestion::Waiters { limit } => page(most, ROWS_PER_PAGE.min(limit as usize), |rows| {
            let page = exchange.waiters(&filter, slot as usize, rows);
            (OperatorRows::Waiters(page.rows.iter().map(waiter_row).collect()), page.next)
        }),
        OperatorQuestion::Retire => {
            let line = "retired, as an operator asked at another broker";
            let retired = retire_pools(&exchange, &sessions, &filter, line);
            encode(&Answer::Page { rows: OperatorRows::Retired(retired as u64), next: None }, &[])
        }
    });
    made.await.unwrap_or_else(|error| {
        tracing::error!(%error, "answering an operator at another broker panicked");
        refused(NotTaken::Malformed)
    })
}

/// A page that is no longer than `most` bytes, if one row is not.
fn page(most: usize, mut rows: usize, read: impl Fn(usize) -> (OperatorRows, Option<u32>)) -> Vec<u8> {
    loop {
        let (found, next) = read(rows);
        let bytes = encode(&Answer::Page { rows: found, next }, &[]);
        if bytes.len() <= most || rows <= 1 {
            return bytes;
        }
        rows /= 2;
    }
}

fn filter(request: OperatorRequest) -> Result<Filter, KeyError> {
    let OperatorRequest { deployment, version, cpu, memory, .. } = request;
    let [cpu, memory] = [cpu, memory].map(|figure| figure.map(Number::new).transpose());
    Ok(Filter { deployment, version, cpu: cpu?, memory: memory? })
}

fn pool_row(pool: &PoolSummary) -> PoolRow {
    PoolRow {
        key: row_key(&pool.key),
        waiters: pool.waiters as u64,
        oldest: pool.oldest,
        newest: pool.newest,
    }
}

fn pool_summary(row: PoolRow) -> Result<PoolSummary, KeyError> {
    let PoolRow { key, waiters, oldest, newest } = row;
    let waiters = usize::try_from(waiters).unwrap_or(usize::MAX);
    Ok(PoolSummary { key: checked_key(key)?, waiters, oldest, newest })
}

fn waiter_row(waiter: &WaiterSummary) -> WaiterRow {
    WaiterRow {
        key: row_key(&waiter.key),
        controller: waiter.controller.to_string(),
        origin: waiter.origin,
        held: waiter.held,
        late: waiter.late,
        suspect: waiter.suspect,
    }
}

fn waiter_summary(row: WaiterRow) -> Result<WaiterSummary, KeyError> {
    let WaiterRow { key, controller, origin, held, late, suspect } = row;
    Ok(WaiterSummary { key: checked_key(key)?, controller: controller.into(), origin, held, late, suspect })
}

fn row_key(key: &Key) -> RowKey {
    RowKey {
        deployment: key.deployment.to_string(),
        version: key.version.to_string(),
        cpu: key.cpu.get(),
        memory: key.memory.get(),
    }
}

fn checked_key(key: RowKey) -> Result<Key, KeyError> {
    let RowKey { deployment, version, cpu, memory } = key;
    check_part(&deployment)?;
    check_part(&version)?;
    let (cpu, memory) = (Number::new(cpu)?, Number::new(memory)?);
    Ok(Key { deployment: deployment.into(), version: version.into(), cpu, memory })
}
