//! Owns the questions of operators to all brokers: each answers for its own waiters, within a time, and who does not is named.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::codec::{
    Answer, BrokerId, Direct, OperatorQuestion, OperatorRequest, OperatorRows, PoolRow, RowKey, WaiterRow,
    decode, encode,
};
use super::inbox::Answers;
use super::shared::Shared;
use crate::broker::{Filter, Key, Number, PoolSummary, WaiterSummary};
use crate::transport::{CloseReason, Exchange};

/// The most rows of one answer: about 100 KB.
const ROWS_PER_PAGE: usize = 512;
/// How long the answers may take together.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The answer of one other broker.
#[derive(Debug)]
pub struct BrokerAnswer {
    /// Its name for people.
    pub broker: Arc<str>,
    /// Its rows, in pages; none if it did not answer in time.
    pub pages: Option<Vec<OperatorRows>>,
}

/// Asks all other brokers.
pub(super) async fn ask(shared: &Arc<Shared>, request: OperatorRequest) -> Vec<BrokerAnswer> {
    let peers = shared.member.lock().directory.peers(shared.now());
    let deadline = Instant::now() + ANSWER_WITHIN;
    let question = Direct::Operator(request);
    let asked: Vec<_> =
        peers.into_iter().map(|peer| (peer.name, asked(shared, peer.id, &question))).collect();
    let mut found = Vec::with_capacity(asked.len());
    for (broker, answers) in asked {
        let pages = match answers {
            Some(answers) => {
                tokio::time::timeout_at(deadline.into(), read_pages(answers)).await.ok().flatten()
            }
            None => None,
        };
        found.push(BrokerAnswer { broker, pages });
    }
    found
}

fn asked(shared: &Arc<Shared>, broker: BrokerId, question: &Direct<'_>) -> Option<Answers> {
    let answers = shared.inbox.expect();
    shared.send(broker, &answers, question, &[]).ok()?;
    Some(answers)
}

async fn read_pages(mut answers: Answers) -> Option<Vec<OperatorRows>> {
    let mut pages = Vec::new();
    loop {
        let bytes = answers.next().await?;
        let Ok((Answer::Page { page, is_last, rows }, _)) = decode(&bytes) else { return None };
        if page as usize != pages.len() {
            return None;
        }
        pages.push(rows);
        if is_last {
            return Some(pages);
        }
    }
}

/// This broker's answer, in pages.
pub(super) fn answer(exchange: &Arc<Exchange>, request: &OperatorRequest) -> Vec<Vec<u8>> {
    let figure = |figure: Option<f64>| figure.map(Number::new).transpose();
    // No broker asks with a figure that is none.
    let (Ok(cpu), Ok(memory)) = (figure(request.cpu), figure(request.memory)) else { return Vec::new() };
    let (deployment, version) = (request.deployment.clone(), request.version.clone());
    let filter = Filter { deployment, version, cpu, memory };
    match request.what {
        OperatorQuestion::Pools => {
            let rows: Vec<_> = exchange.pools(&filter).iter().map(pool_row).collect();
            pages(&rows, OperatorRows::Pools)
        }
        OperatorQuestion::Waiters { limit } => {
            let found = exchange.waiters(&filter, 0, limit as usize);
            let rows: Vec<_> = found.rows.iter().map(waiter_row).collect();
            pages(&rows, OperatorRows::Waiters)
        }
        OperatorQuestion::Retire => {
            let retired = exchange.retire(&filter, |taken| taken.waiter.close(CloseReason::Retired));
            let rows = OperatorRows::Retired(retired as u64);
            vec![encode(&Answer::Page { page: 0, is_last: true, rows }, &[])]
        }
    }
}

fn pages<R: Clone>(rows: &[R], of: impl Fn(Vec<R>) -> OperatorRows) -> Vec<Vec<u8>> {
    let count = rows.len().div_ceil(ROWS_PER_PAGE).max(1);
    let page = |page: usize| {
        let start = (page * ROWS_PER_PAGE).min(rows.len());
        let end = (start + ROWS_PER_PAGE).min(rows.len());
        let number = u32::try_from(page).unwrap_or(u32::MAX);
        let rows = of(rows[start..end].to_vec());
        encode(&Answer::Page { page: number, is_last: page + 1 == count, rows }, &[])
    };
    (0..count).map(page).collect()
}

fn row_key(key: &Key) -> RowKey {
    RowKey {
        deployment: key.deployment.to_string(),
        version: key.version.to_string(),
        cpu: key.cpu.get(),
        memory: key.memory.get(),
    }
}

fn pool_row(pool: &PoolSummary) -> PoolRow {
    PoolRow {
        key: row_key(&pool.key),
        waiters: pool.waiters as u64,
        oldest: pool.oldest,
        newest: pool.newest,
    }
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
