//! Owns how a simulated broker delivers one run, its own or a forwarded one: what `src/dispatch/deliver.rs` and the cluster's
//! router and owner do, without tasks.

use std::time::Duration;

use pilotlight::broker::{Claim, ClaimRequest, MonotonicTime, PayloadKind};
use pilotlight::cluster::codec::{
    Answer, BrokerId, Direct, EarlierEnd, Forward, Forwarded, NotTaken, RemoteOffer, decode, encode,
};
use pilotlight::cluster::directory::{Candidate, CandidateEnd};
use pilotlight::cluster::forward::{
    OriginEnd, OriginForward, OriginStep, PAYLOAD_WITHIN, VERDICT_SOON, first_answer_within,
};
use pilotlight::dispatch::{DeliveryPolicy, OfferEnd, Step};
use pilotlight::model::{MissReason, Proof, Verdict};

use crate::fleet::host;
use crate::network::{Message, Subject};
use crate::world::{Event, MILLI, Node, REMEMBER_FOR, World};

/// How long an acknowledged run may stay unread.
pub const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// How much later than the end of the wait the last claim may be made.
const LAST_CLAIM_DELAY: u64 = 20 * MILLI;
/// An answer that comes later than this before the deadline could not be passed on in time.
const RESERVE: u64 = 5 * MILLI;

/// A run on its way.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// The POST that it came with.
    pub post: usize,
    pub number: u32,
    pub pool: usize,
    pub kind: PayloadKind,
    /// Whether its name counts at all brokers.
    pub is_named: bool,
    pub redeliver: bool,
    pub is_payload_later: bool,
}

pub type Outcome = Result<(), MissReason>;

/// What is known of a named run.
pub enum Memory {
    /// It is being delivered; these wait for the outcome.
    Running(Vec<u64>),
    Done(Outcome),
}

pub struct Delivery {
    pub run: Run,
    pub policy: DeliveryPolicy,
    pub deadline: u64,
    pub last_offer: u64,
    pub wait_until: u64,
    pub offers: u32,
    pub is_leader: bool,
    pub is_announced: bool,
    /// The brokers that are not asked again, unless the run waits.
    pub tried: Vec<BrokerId>,
    pub arrived: u64,
    pub forwarded: Option<Taken>,
    pub state: State,
    /// Timers of earlier steps are void.
    pub step: u32,
}

pub enum State {
    /// Another POST of the run is being delivered, or a question about one is under way.
    Cached,
    /// Waits for a controller to come.
    Waiting,
    Offering,
    /// A waiter is claimed, and the payload is missing.
    Payload {
        poll: usize,
    },
    Forwarding {
        token: u128,
        to: Candidate,
        sent: u64,
        forward: OriginForward,
    },
}

/// What the owner of a forward knows of it.
pub struct Taken {
    pub reply: (BrokerId, u128),
    /// The origin gives up if no waiter is claimed by then.
    pub claim_by: u64,
    pub is_claimed_sent: bool,
    pub verdicts: Vec<u8>,
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("durations are short")
}

pub fn place<T: PartialEq>(all: &[T], value: &T) -> u8 {
    let place = all.iter().position(|one| one == value).expect("every value has a place");
    u8::try_from(place).expect("few values")
}

impl World {
    /// A POST has arrived.
    pub fn post(&mut self, node: usize, post: usize) {
        self.note(|| format!("broker {node}: POST {post} of run {}", self.oracle.posts[post].run.number));
        let (run, budget, wait) = self.oracle.begin(node, post, self.now);
        let deadline = self.now + budget;
        let policy = DeliveryPolicy::new(Proof::Received, run.redeliver);
        let reserve = micros(policy.proof_reserve(READ_TIMEOUT, Duration::from_micros(budget)));
        let last_offer = deadline - reserve;
        let wait_until = if wait == 0 { 0 } else { (self.now + wait.min(budget)).min(last_offer) };
        self.begin(node, run, policy, (deadline, last_offer, wait_until), None);
    }

    pub fn begin(
        &mut self,
        node: usize,
        run: Run,
        policy: DeliveryPolicy,
        (deadline, last_offer, wait_until): (u64, u64, u64),
        forwarded: Option<Taken>,
    ) {
        self.next_delivery += 1;
        let id = self.next_delivery;
        if let Some(taken) = &forwarded {
            self.nodes[node].taken.insert(taken.reply.1, id);
        }
        let delivery = Delivery {
            run,
            policy,
            deadline,
            last_offer,
            wait_until,
            offers: 0,
            is_leader: false,
            is_announced: false,
            tried: Vec::new(),
            arrived: self.now,
            forwarded,
            state: State::Cached,
            step: 0,
        };
        self.nodes[node].deliveries.insert(id, delivery);
        self.lead_or_follow(node, id);
    }

    /// A named run is delivered once, whoever posts it.
    fn lead_or_follow(&mut self, node: usize, id: u64) {
        let Delivery { run, deadline, forwarded, .. } = &self.nodes[node].deliveries[&id];
        let (run, deadline, is_local) = (*run, *deadline, forwarded.is_none());
        let claim_by = forwarded.as_ref().map(|taken| taken.claim_by);
        if !run.is_named {
            return self.search(node, id);
        }
        match self.nodes[node].memory.get_mut(&run.number) {
            Some(Memory::Done(outcome)) => {
                let outcome = *outcome;
                return self.finish(node, id, outcome);
            }
            Some(Memory::Running(followers)) => {
                followers.push(id);
                return self.enter(node, id, State::Cached, claim_by.unwrap_or(deadline));
            }
            None => {}
        }
        self.nodes[node].memory.insert(run.number, Memory::Running(Vec::new()));
        self.nodes[node].deliveries.get_mut(&id).expect("it has begun").is_leader = true;
        let owner = self.nodes[node].member.claims.owner(Self::run_digest(run.number));
        if let Some(owner) = owner.filter(|_| is_local) {
            return self.ask(node, id, owner);
        }
        if is_local {
            self.oracle.unaware(node, run, self.now, &self.network);
        }
        self.search(node, id);
    }

    /// Asks the broker that has claimed a waiter for the run.
    fn ask(&mut self, node: usize, id: u64, owner: BrokerId) {
        let Delivery { run, deadline, .. } = &self.nodes[node].deliveries[&id];
        let until = deadline - RESERVE;
        let earlier = Direct::Earlier {
            run: Self::run_digest(run.number),
            content: Some(1),
            within: until.saturating_sub(self.now),
            remember_for: micros(REMEMBER_FOR),
        };
        let (bytes, token) = (encode(&earlier, &[]), self.rng.u128(..));
        let reply = Some((self.nodes[node].member.id(), token));
        self.oracle.stats.questions += 1;
        if self.publish(node, Message { subject: Subject::To(owner), reply, bytes }) {
            self.nodes[node].awaited.insert(token, id);
            self.enter(node, id, State::Cached, until);
        } else {
            self.finish(node, id, Err(MissReason::Unknown));
        }
    }

    /// Goes to another state, until then at most.
    fn enter(&mut self, node: usize, id: u64, state: State, until: u64) {
        let delivery = self.nodes[node].deliveries.get_mut(&id).expect("it goes on");
        delivery.state = state;
        delivery.step += 1;
        let step = delivery.step;
        self.schedule(until.max(self.now), Event::Timer { node, delivery: id, step });
    }

    /// Finds a waiter, here or elsewhere.
    fn search(&mut self, node: usize, id: u64) {
        let now = self.local(node);
        let Delivery { run, policy, last_offer, offers, wait_until, tried, forwarded, .. } =
            &self.nodes[node].deliveries[&id];
        let (run, policy, offers, wait_until) = (*run, *policy, *offers, *wait_until);
        let is_local = forwarded.is_some();
        if self.now > last_offer + LAST_CLAIM_DELAY {
            return self.finish(node, id, Err(policy.unproven_reason()));
        }
        let tried = tried.clone();
        let (key, digest) = &self.pools[run.pool];
        let digest = *digest;
        let request = ClaimRequest { key: key.as_ref(), payload_kind: run.kind };
        let reason = match self.nodes[node].core.claim(&request, now, 1000).expect("the steps suffice") {
            Claim::Matched(removed) => {
                self.removed(node, &removed);
                return self.claimed(node, id, removed.waiter);
            }
            Claim::Miss(reason) => reason,
        };
        if !is_local {
            let rng = &mut self.rng;
            let directory = &mut self.nodes[node].member.directory;
            let to = directory.choose(digest.key, run.kind, &tried, |below| rng.usize(..below));
            if to.is_some_and(|to| self.forward(node, id, to)) {
                return;
            }
        }
        if !is_local && wait_until > self.now && reason != MissReason::Draining {
            let Node { waiting, deliveries, .. } = &mut self.nodes[node];
            waiting.push(id);
            deliveries.get_mut(&id).expect("it goes on").tried.clear();
            return self.enter(node, id, State::Waiting, wait_until);
        }
        let reason = if offers > 0 {
            policy.unproven_reason()
        } else if is_local {
            reason
        } else {
            self.nodes[node].member.directory.miss(&digest, run.kind, reason)
        };
        self.finish(node, id, Err(reason));
    }

    /// A waiter has come for the pool: here, or at another broker that has announced so many.
    pub fn wake(&mut self, node: usize, pool: usize, kind: PayloadKind, most: u32) {
        let Node { waiting, deliveries, .. } = &mut self.nodes[node];
        let mut woken = Vec::new();
        waiting.retain(|id| {
            let fits =
                deliveries.get(id).is_some_and(|found| found.run.pool == pool && found.run.kind == kind);
            let is_woken = fits && woken.len() < most as usize;
            if is_woken {
                woken.push(*id);
            }
            !is_woken
        });
        for id in woken {
            let delivery = self.nodes[node].deliveries.get_mut(&id).expect("it waits");
            delivery.step += 1;
            self.search(node, id);
        }
    }

    /// A waiter of this broker is claimed.
    fn claimed(&mut self, node: usize, id: u64, poll: usize) {
        let delivery = self.nodes[node].deliveries.get_mut(&id).expect("it has claimed");
        let run = delivery.run;
        let is_first = !std::mem::replace(&mut delivery.is_announced, true);
        let mut waits_for_payload = false;
        if let Some(taken) = &delivery.forwarded
            && is_first
        {
            self.oracle.claimed_for_forward(taken.reply.1, self.now);
            waits_for_payload = run.is_payload_later;
        }
        let is_forwarded = delivery.forwarded.is_some();
        if is_first && run.is_named {
            self.nodes[node].member.claimed(Self::run_digest(run.number));
            self.nodes[node].announcing.push(run.number);
            self.tick_soon(node);
        }
        if waits_for_payload {
            self.send_claimed(node, id);
            let until = self.now + micros(PAYLOAD_WITHIN);
            return self.enter(node, id, State::Payload { poll }, until);
        }
        if is_first && is_forwarded {
            self.at(micros(VERDICT_SOON), Event::ClaimedDue { node, delivery: id });
        }
        self.offer_to(node, id, poll);
    }

    pub fn offer_to(&mut self, node: usize, id: u64, poll: usize) {
        let controller = self.fleet.polls[poll].controller;
        let (verdict, is_received, took) = self.offer(poll);
        let Delivery { run, deadline, .. } = &self.nodes[node].deliveries[&id];
        let until = (self.now + took).min((*deadline).max(self.now));
        if is_received {
            self.oracle.received(run.post, controller, self.now);
        }
        let delivery = self.nodes[node].deliveries.get_mut(&id).expect("it is offered");
        delivery.state = State::Offering;
        delivery.step += 1;
        delivery.offers += 1;
        self.schedule(until, Event::OfferEnd { node, delivery: id, poll, verdict });
    }

    pub fn offer_end(&mut self, node: usize, id: u64, poll: usize, verdict: Verdict) {
        let now = self.local(node);
        let host = host(self.fleet.polls[poll].controller);
        let Some(delivery) = self.nodes[node].deliveries.get_mut(&id) else { return };
        let nothing_sent = verdict == Verdict::Gone;
        if let Some(taken) = &mut delivery.forwarded {
            taken.verdicts.push(place(Verdict::ALL, &verdict));
        }
        let step = delivery.policy.after(OfferEnd { verdict, nothing_sent, may_have_been_relayed: false });
        if verdict == Verdict::Received {
            self.nodes[node].core.trust(host);
        } else if matches!(verdict, Verdict::Unacked | Verdict::Lost) {
            self.nodes[node].core.suspect(host, now);
        }
        self.take_step(node, id, step);
    }

    fn take_step(&mut self, node: usize, id: u64, step: Step) {
        match step {
            Step::Delivered(_) => self.finish(node, id, Ok(())),
            Step::GiveUp(reason) => self.finish(node, id, Err(reason)),
            Step::OfferAgain => self.search(node, id),
        }
    }

    /// Sends the run to another broker. Returns whether it went on its way.
    fn forward(&mut self, node: usize, id: u64, to: Candidate) -> bool {
        let token = self.rng.u128(..);
        let sent = self.local(node).micros();
        let Delivery { run, policy, deadline, .. } = &self.nodes[node].deliveries[&id];
        let (run, left) = (*run, Duration::from_micros(deadline - self.now));
        let verdict_within = left.saturating_sub(to.round_trip);
        let first = first_answer_within(to.round_trip).min(verdict_within);
        let (key, digest) = &self.pools[run.pool];
        let digest = digest.key;
        let from = self.nodes[node].member.id();
        let name = run.number.to_string();
        let forward = Direct::Forward(Forward {
            from,
            sent,
            features: 0,
            run: &name,
            pool: digest,
            deployment: &key.deployment,
            version: &key.version,
            cpu: key.cpu.get(),
            memory: key.memory.get(),
            payload_kind: run.kind as u8,
            content_type: b"application/json",
            payload_bytes: 8,
            is_payload_later: run.is_payload_later,
            proof: place(Proof::ALL, &Proof::Received),
            redeliver: run.redeliver,
            unproven: policy.unproven(),
            answer_within: micros(first),
            budget: micros(verdict_within),
            read_timeout: micros(READ_TIMEOUT),
            remember_for: micros(REMEMBER_FOR),
            idempotency_key: run.is_named.then(|| Self::run_digest(run.number)),
            content: run.is_named.then_some(1),
            names_controller: false,
        });
        let payload = (run.post as u64).to_le_bytes();
        let bytes = encode(&forward, if run.is_payload_later { &[] } else { &payload });
        if !self.publish(node, Message { subject: Subject::To(to.id), reply: Some((from, token)), bytes }) {
            self.nodes[node].member.directory.end(to.id, digest, CandidateEnd::NotTaken);
            self.nodes[node].deliveries.get_mut(&id).expect("it goes on").tried.push(to.id);
            return false;
        }
        self.oracle.forwarded(run.post, token);
        self.nodes[node].deliveries.get_mut(&id).expect("it goes on").tried.push(to.id);
        self.nodes[node].awaited.insert(token, id);
        let forward = OriginForward::new(verdict_within, run.is_payload_later);
        let until = self.now + micros(first);
        self.enter(node, id, State::Forwarding { token, to, sent: self.now, forward }, until);
        true
    }

    /// An answer has arrived.
    pub fn answered(&mut self, node: usize, token: u128, bytes: &[u8]) {
        let answer = match decode::<Answer<'_>>(bytes) {
            Ok((answer, _)) => answer,
            Err(error) => return self.oracle.fail(format!("an answer is unreadable: {error}")),
        };
        let Some(id) = self.nodes[node].awaited.get(&token).copied() else {
            self.oracle.stats.late_answers += 1;
            return;
        };
        if let Answer::Earlier(end) = &answer {
            self.nodes[node].awaited.remove(&token);
            if !self.nodes[node].deliveries.contains_key(&id) {
                self.oracle.stats.late_answers += 1;
                return;
            }
            return match end {
                Some(EarlierEnd::Delivered { .. }) => self.finish(node, id, Ok(())),
                Some(_) => self.finish(node, id, Err(MissReason::Unknown)),
                None => self.search(node, id),
            };
        }
        let now = self.now;
        let Node { deliveries, member, .. } = &mut self.nodes[node];
        let Some(delivery) = deliveries.get_mut(&id) else { return };
        let State::Forwarding { to, sent, forward, token: current } = &mut delivery.state else {
            return;
        };
        let (to, sent, current) = (to.id, *sent, *current);
        if let Answer::Forwarded(Forwarded { handled, .. }) = &answer {
            let round_trip = Duration::from_micros((now - sent).saturating_sub(*handled));
            member.directory.answered_after(to, round_trip);
        }
        match forward.answered(answer) {
            OriginStep::Wait { sends_payload, until } => {
                delivery.step += 1;
                let (step, post) = (delivery.step, delivery.run.post as u64);
                let until = (sent + micros(until)).max(now);
                self.schedule(until, Event::Timer { node, delivery: id, step });
                if sends_payload {
                    let bytes = encode(&Direct::Payload { token }, &post.to_le_bytes());
                    let reply = Some((self.nodes[node].member.id(), token));
                    self.publish(node, Message { subject: Subject::To(to), reply, bytes });
                }
            }
            OriginStep::Ended(end) => {
                if !self.bugs.takes_answers_twice {
                    self.nodes[node].awaited.remove(&token);
                }
                self.nodes[node].awaited.remove(&current);
                if self.bugs.takes_answers_twice {
                    self.nodes[node].awaited.insert(token, id);
                }
                self.forward_end(node, id, &end);
            }
        }
    }

    /// NATS found nobody who listens.
    pub fn no_responders(&mut self, node: usize, token: u128) {
        let Some(id) = self.nodes[node].awaited.remove(&token) else { return };
        let Some(delivery) = self.nodes[node].deliveries.get(&id) else { return };
        if matches!(delivery.state, State::Forwarding { .. }) {
            self.forward_end(node, id, &OriginEnd::NoReceiver);
        } else {
            self.finish(node, id, Err(MissReason::Unknown));
        }
    }

    fn forward_end(&mut self, node: usize, id: u64, end: &OriginEnd<'_>) {
        let (now, noticed) = (self.local(node), self.now);
        let delivery = self.nodes[node].deliveries.get_mut(&id).expect("it goes on");
        let State::Forwarding { to: Candidate { id: to, .. }, sent, .. } = delivery.state else { return };
        delivery.step += 1;
        let pool = self.pools[delivery.run.pool].1.key;
        let (ended, step) = match end {
            OriginEnd::Forwarded(Forwarded { offers, unproven, result, waiters, number, .. }) => {
                delivery.offers += u32::try_from(offers.len()).expect("few offers");
                let step = match *result {
                    Ok(proof) => Step::Delivered(Proof::ALL[usize::from(proof)]),
                    Err(reason) if MissReason::ALL[usize::from(reason)] == MissReason::Unknown => {
                        Step::GiveUp(MissReason::Unknown)
                    }
                    Err(_) => delivery.policy.after_miss(*unproven),
                };
                self.oracle.stats.remote_hits += usize::from(result.is_ok());
                (CandidateEnd::Answered { waiters: *waiters, number: *number }, step)
            }
            OriginEnd::NotTaken(why) => {
                self.oracle.stats.stale += usize::from(*why == NotTaken::Stale);
                delivery.offers += u32::from(*why == NotTaken::Stale);
                (CandidateEnd::NotTaken, delivery.policy.after_miss(0))
            }
            OriginEnd::NoReceiver => {
                self.oracle.stats.no_receivers += 1;
                (CandidateEnd::NoReceiver, delivery.policy.after_miss(0))
            }
            OriginEnd::Silent => {
                delivery.offers += 1;
                let silent =
                    OfferEnd { verdict: Verdict::Silent, nothing_sent: false, may_have_been_relayed: false };
                let sent = MonotonicTime::from_micros(now.micros() - (noticed - sent));
                (CandidateEnd::Silent { sent, now }, delivery.policy.after(silent))
            }
        };
        self.nodes[node].member.directory.end(to, pool, ended);
        self.take_step(node, id, step);
    }

    /// A step has taken as long as it may.
    pub fn timer(&mut self, node: usize, id: u64, step: u32) {
        let Some(delivery) = self.nodes[node].deliveries.get_mut(&id).filter(|found| found.step == step)
        else {
            return;
        };
        match delivery.state {
            State::Forwarding { token, .. } => {
                let post = delivery.run.post;
                self.nodes[node].awaited.remove(&token);
                self.oracle.gave_up(post, token, self.now);
                self.forward_end(node, id, &OriginEnd::Silent);
            }
            State::Waiting => {
                delivery.wait_until = 0;
                self.nodes[node].waiting.retain(|other| *other != id);
                self.search(node, id);
            }
            State::Cached => self.finish(node, id, Err(MissReason::Unknown)),
            State::Payload { poll } => {
                if let Some(taken) = &mut delivery.forwarded {
                    taken.verdicts.push(place(Verdict::ALL, &Verdict::Gone));
                }
                self.end_poll(poll, 300 * MILLI);
                self.finish(node, id, Err(MissReason::Undelivered));
            }
            State::Offering => {}
        }
    }

    /// The run's delivery has ended: whoever waits for that is told.
    pub fn finish(&mut self, node: usize, id: u64, outcome: Outcome) {
        let Some(delivery) = self.nodes[node].deliveries.remove(&id) else { return };
        let run = delivery.run.number;
        let mut followers = Vec::new();
        let is_known = matches!(outcome, Ok(()) | Err(MissReason::Unknown));
        if delivery.is_leader {
            let before = if is_known {
                self.nodes[node].memory.insert(run, Memory::Done(outcome))
            } else {
                self.nodes[node].memory.remove(&run)
            };
            if let Some(Memory::Running(waiting)) = before {
                followers = waiting;
            }
        } else if let Some(Memory::Running(others)) = self.nodes[node].memory.get_mut(&run) {
            others.retain(|other| *other != id);
        }
        match delivery.forwarded {
            None => self.oracle.answered(delivery.run.post, self.now, outcome),
            Some(taken) => {
                let number = self.nodes[node].member.own.number();
                let waiters = self.nodes[node].counts[delivery.run.pool];
                let offer = |&verdict| RemoteOffer { controller: "", verdict, since: 0, took: 0 };
                let answer = Answer::Forwarded(Forwarded {
                    offers: taken.verdicts.iter().map(offer).collect(),
                    unproven: delivery.policy.unproven(),
                    result: match outcome {
                        Ok(()) => Ok(place(Proof::ALL, &Proof::Received)),
                        Err(reason) => Err(place(MissReason::ALL, &reason)),
                    },
                    controller: None,
                    handled: self.now - delivery.arrived,
                    waiters,
                    number,
                });
                self.answer(node, taken.reply, &answer);
                if !self.bugs.hides_waiter {
                    let now = self.local(node);
                    let pool = self.pools[delivery.run.pool].1;
                    self.nodes[node].member.own.told(pool.key, waiters, now);
                    self.tick_soon(node);
                }
            }
        }
        for id in followers {
            if self.nodes[node].deliveries.contains_key(&id) {
                if is_known {
                    self.finish(node, id, outcome);
                } else {
                    self.lead_or_follow(node, id);
                }
            }
        }
        if delivery.is_leader {
            let questions = std::mem::take(&mut self.nodes[node].questions);
            let (ended, others) = questions.into_iter().partition(|(other, _)| *other == run);
            self.nodes[node].questions = others;
            for (_, reply) in ended {
                self.question_ended(node, run, reply);
            }
        }
    }
}
