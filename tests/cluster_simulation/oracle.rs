//! Owns what must be true whatever happens, from the view of somebody who sees everything.

use std::collections::BTreeMap;

use pilotlight::broker::PayloadKind;
use pilotlight::cluster::directory::CandidateEnd;
use pilotlight::dispatch::MAX_REDELIVERIES;
use pilotlight::model::MissReason;

use crate::delivery::{Outcome, Run};
use crate::network::Network;
use crate::world::{MILLI, World};

/// A claim is known to all brokers after this time, if nothing is lost.
const CLAIM_WINDOW: u64 = 60 * MILLI;
/// A waiter may be claimed for a forward this long after its origin has given up.
const LATE_CLAIM: u64 = 50 * MILLI;
/// How late the answer of a POST may be.
const SLACK: u64 = 30 * MILLI;
/// How often a POST may be forwarded.
const MOST_FORWARDS: u32 = 24;

pub struct Post {
    pub run: Run,
    pub budget: u64,
    pub wait: u64,
    /// The broker that it was posted to.
    pub node: Option<usize>,
    start: u64,
    pub answer: Option<Outcome>,
    forwards: u32,
    is_silent: bool,
    receipts: u32,
}

/// What happened, so that a simulation in which nothing happens is noticed.
#[derive(Debug, Default, Clone)]
pub struct Stats {
    pub posts: usize,
    pub hits: usize,
    pub remote_hits: usize,
    pub probes: usize,
    pub unknown: usize,
    pub silent: usize,
    pub stale: usize,
    pub no_receivers: usize,
    pub late_answers: usize,
    pub questions: usize,
    pub changed_ids: usize,
    pub most_forwards: u32,
    /// Runs that two POSTs at two brokers delivered at the same time,
    pub twice_in_window: usize,
    /// or because an announcement was lost, late, or older than the broker.
    pub twice_unheard: usize,
}

impl Stats {
    pub fn add(&mut self, other: &Self) {
        let add = |to: &mut usize, more: usize| *to += more;
        add(&mut self.posts, other.posts);
        add(&mut self.hits, other.hits);
        add(&mut self.remote_hits, other.remote_hits);
        add(&mut self.probes, other.probes);
        add(&mut self.unknown, other.unknown);
        add(&mut self.silent, other.silent);
        add(&mut self.stale, other.stale);
        add(&mut self.no_receivers, other.no_receivers);
        add(&mut self.late_answers, other.late_answers);
        add(&mut self.questions, other.questions);
        add(&mut self.changed_ids, other.changed_ids);
        add(&mut self.twice_in_window, other.twice_in_window);
        add(&mut self.twice_unheard, other.twice_unheard);
        self.most_forwards = self.most_forwards.max(other.most_forwards);
    }
}

#[derive(Default)]
pub struct Oracle {
    pub posts: Vec<Post>,
    /// The POSTs of each run of which a controller has received it.
    receipts: BTreeMap<u32, Vec<usize>>,
    tokens: BTreeMap<u128, usize>,
    given_up: BTreeMap<u128, u64>,
    /// When the first claim for a run was announced, and by whom.
    pub announced: BTreeMap<u32, (u64, usize)>,
    /// When each process started, and when its last pause was over.
    pub started: Vec<u64>,
    pub paused: Vec<u64>,
    /// Nothing happens any more but the protocol.
    pub is_quiet: bool,
    pub events: usize,
    pub stats: Stats,
    pub violations: Vec<String>,
}

impl Oracle {
    pub fn fail(&mut self, what: String) {
        self.violations.push(what);
    }

    pub fn add_post(&mut self, run: Run, budget: u64, wait: u64) {
        self.posts.push(Post {
            run,
            budget,
            wait,
            node: None,
            start: 0,
            answer: None,
            forwards: 0,
            is_silent: false,
            receipts: 0,
        });
    }

    pub fn begin(&mut self, node: usize, post: usize, now: u64) -> (Run, u64, u64) {
        self.stats.posts += 1;
        let post = &mut self.posts[post];
        (post.node, post.start) = (Some(node), now);
        (post.run, post.budget, post.wait)
    }

    /// A POST of a named run begins, and its broker knows of no claim.
    pub fn unaware(&mut self, node: usize, run: Run, now: u64, network: &Network) {
        let Some(&(at, by)) = self.announced.get(&run.number) else { return };
        let is_excused = by == node
            || now < at + CLAIM_WINDOW
            || self.started[node] > at
            || self.paused[node] >= at
            || network.unheard[by][node] >= at;
        if !is_excused {
            self.fail(format!(
                "broker {node} has not heard of the claim for run {} of broker {by}",
                run.number
            ));
        }
    }

    pub fn forwarded(&mut self, post: usize, token: u128) {
        self.tokens.insert(token, post);
        let forwards = &mut self.posts[post].forwards;
        *forwards += 1;
        self.stats.most_forwards = self.stats.most_forwards.max(*forwards);
        if *forwards > MOST_FORWARDS {
            self.fail(format!("POST {post} was forwarded too often"));
        }
    }

    pub fn post_of(&self, token: u128) -> usize {
        self.tokens[&token]
    }

    pub fn check_payload(&mut self, post: usize, payload: &[u8]) {
        if *payload != (post as u64).to_le_bytes() {
            self.fail(format!("POST {post} came with another payload"));
        }
    }

    pub fn gave_up(&mut self, post: usize, token: u128, now: u64) {
        self.stats.silent += 1;
        self.posts[post].is_silent = true;
        self.given_up.insert(token, now);
    }

    pub fn claimed_for_forward(&mut self, token: u128, now: u64) {
        if let Some(at) = self.given_up.get(&token)
            && now > at + LATE_CLAIM
        {
            let late = (now - at) / MILLI;
            let post = self.tokens[&token];
            self.fail(format!(
                "a waiter was claimed {late} ms after its origin had given up, for POST {post}, run {}",
                self.posts[post].run.number
            ));
        }
    }

    pub fn received(&mut self, post: usize, controller: usize, now: u64) {
        let Post { run, answer, receipts, .. } = &mut self.posts[post];
        *receipts += 1;
        let most = if run.redeliver { 1 + MAX_REDELIVERIES } else { 1 };
        let (run, receipts, answer) = (*run, *receipts, *answer);
        if receipts > most {
            self.fail(format!("{receipts} controllers received POST {post}, {controller} last at {now}"));
        }
        if !run.redeliver && matches!(answer, Some(Err(reason)) if reason != MissReason::Unknown) {
            self.fail(format!("POST {post} was received after its answer: {answer:?}"));
        }
        let others = self.receipts.entry(run.number).or_default();
        if run.is_named && !run.redeliver && others.iter().any(|other| *other != post) {
            let started = self.posts[post].start;
            let is_in_window =
                self.announced.get(&run.number).is_none_or(|(at, _)| started < at + CLAIM_WINDOW);
            self.stats.twice_in_window += usize::from(is_in_window);
            self.stats.twice_unheard += usize::from(!is_in_window);
        }
        others.push(post);
    }

    pub fn answered(&mut self, post: usize, now: u64, outcome: Outcome) {
        let Post { run, budget, start, answer, is_silent, receipts, node, .. } = &mut self.posts[post];
        let is_second = answer.replace(outcome).is_some();
        let (run, start, is_silent, receipts) = (*run, *start, *is_silent, *receipts);
        let late = now.saturating_sub(start + *budget);
        let was_paused = node.is_some_and(|node| self.paused[node] >= start);
        if is_second {
            self.fail(format!("POST {post} was answered twice"));
        }
        if late > SLACK && !was_paused {
            self.fail(format!("POST {post} was answered {} ms late", late / MILLI));
        }
        self.stats.hits += usize::from(outcome.is_ok());
        self.stats.unknown += usize::from(outcome == Err(MissReason::Unknown));
        match outcome {
            Ok(()) if !self.receipts.contains_key(&run.number) => {
                self.fail(format!("POST {post} is true without a receipt"));
            }
            Err(reason) if reason != MissReason::Unknown && is_silent => {
                self.fail(format!("POST {post} is {reason:?} after a silent forward"));
            }
            Err(reason) if reason != MissReason::Unknown && !run.redeliver && receipts > 0 => {
                self.fail(format!("POST {post} is {reason:?}, and a controller has received it"));
            }
            _ => {}
        }
    }
}

impl World {
    /// After a time without faults and changes, every broker knows what the others have.
    pub fn check_rows(&mut self) {
        let mut wrong = Vec::new();
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_alive) {
            for summary in node.member.directory.peers(self.local(at)) {
                let is_alive =
                    |other: &&crate::world::Node| other.is_alive && other.member.id() == summary.id;
                if summary.is_visible && !self.nodes.iter().any(|other| is_alive(&other)) {
                    wrong.push(format!("broker {at} still sees {}, which is dead", summary.name));
                }
            }
            for (of, other) in self.nodes.iter().enumerate() {
                if !other.is_alive || of == at {
                    continue;
                }
                let id = other.member.id();
                if !node.member.directory.is_visible(id) {
                    wrong.push(format!("broker {at} does not see broker {of}"));
                }
                for (pool, counts) in other.counts.iter().enumerate() {
                    let known = node.member.directory.waiters(id, self.pools[pool].1.key);
                    for (known, count) in known.into_iter().zip(*counts) {
                        let is_near = known <= 2 * count && count <= 2 * known;
                        if !is_near {
                            wrong.push(format!(
                                "broker {at} believes that pool {pool} of broker {of} has {known} waiters, not {count}"
                            ));
                        }
                    }
                }
            }
        }
        self.oracle.violations.extend(wrong);
    }

    /// No forward is on its way any more, so that every waiter of the rows can be chosen.
    pub fn check_spent(&mut self) {
        let mut wrong = Vec::new();
        for at in 0..self.nodes.len() {
            let now = self.local(at);
            let node = &mut self.nodes[at];
            if !node.is_alive {
                continue;
            }
            if !node.deliveries.is_empty() {
                wrong.push(format!("broker {at} has not ended {} deliveries", node.deliveries.len()));
            }
            let directory = &mut node.member.directory;
            let visible: Vec<_> =
                directory.peers(now).iter().filter(|peer| peer.is_visible).map(|peer| peer.id).collect();
            for (_, pool) in &self.pools {
                for (place, kind) in PayloadKind::ALL.into_iter().enumerate() {
                    let known: u32 = visible.iter().map(|&id| directory.waiters(id, pool.key)[place]).sum();
                    let mut chosen = Vec::new();
                    while let Some(candidate) = directory.choose(pool.key, kind, &[], |_| 0) {
                        chosen.push(candidate.id);
                    }
                    if chosen.len() != known as usize {
                        wrong.push(format!("broker {at} can choose {} of {known} waiters", chosen.len()));
                    }
                    for id in chosen {
                        directory.end(id, pool.key, CandidateEnd::NotTaken);
                    }
                }
            }
        }
        self.oracle.violations.extend(wrong);
    }

    /// Every POST whose broker lives was answered.
    pub fn check_answers(&mut self) {
        for post in 0..self.oracle.posts.len() {
            let Post { node, answer, .. } = &self.oracle.posts[post];
            if node.is_some_and(|node| self.nodes[node].is_alive) && answer.is_none() {
                self.oracle.fail(format!("POST {post} was not answered"));
            }
        }
    }
}
