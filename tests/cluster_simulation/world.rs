//! Owns the simulated cluster: its virtual time, its events, and its broker processes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use pilotlight::broker::{
    AcceptedPayload, Broker, Key, Limits, MonotonicTime, Number, PayloadKind, SelectionPolicy,
};
use pilotlight::cluster::codec::{BrokerId, Waiters};
use pilotlight::cluster::digest::{Digest, PoolDigest};
use pilotlight::cluster::member::Member;
use pilotlight::model::Verdict;

use crate::Bugs;
use crate::delivery::{Delivery, Memory};
use crate::faults::Fault;
use crate::fleet::Fleet;
use crate::network::{Link, Message, Network, Subject};
use crate::oracle::Oracle;

pub const MILLI: u64 = 1000;
pub const SECOND: u64 = 1_000_000;
pub const REMEMBER_FOR: Duration = Duration::from_secs(600);
/// How often a broker ticks.
const TICK: u64 = 100 * MILLI;

/// What happens. The first group happens in a broker process: it waits while that is paused, and is void once it is dead.
#[derive(Debug, Clone)]
pub enum Event {
    Tick {
        node: usize,
    },
    TickSoon {
        node: usize,
    },
    /// A pool has changed, and what the broker announces learns of it.
    Feed {
        node: usize,
        pool: usize,
    },
    Arrival {
        node: usize,
        message: Rc<Message>,
    },
    NoResponders {
        node: usize,
        token: u128,
    },
    Timer {
        node: usize,
        delivery: u64,
        step: u32,
    },
    OfferEnd {
        node: usize,
        delivery: u64,
        poll: usize,
        verdict: Verdict,
    },
    ClaimedDue {
        node: usize,
        delivery: u64,
    },
    QuestionEnd {
        node: usize,
        run: u32,
        reply: (BrokerId, u128),
    },
    PollLeft {
        node: usize,
        poll: usize,
    },
    Post {
        node: usize,
        post: usize,
    },
    SayGoodbye {
        node: usize,
    },

    Park {
        controller: usize,
    },
    Fault(Fault),
    Heal(usize),
    Recover {
        controller: usize,
    },
    Start,
    /// A supervisor posts a run.
    Supervisor {
        post: usize,
    },
}

/// Messages and timers of a process wait for it in queues of their own, and each queue is read in order.
const QUEUES: usize = 5;

impl Event {
    fn node(&self) -> Option<(usize, usize)> {
        Some(match *self {
            Self::Arrival { node, ref message } => match message.subject {
                Subject::Directory => (node, 0),
                Subject::To(_) => (node, 1),
                Subject::Re(..) => (node, 2),
            },
            Self::NoResponders { node, .. } => (node, 2),
            Self::Tick { node }
            | Self::TickSoon { node }
            | Self::Timer { node, .. }
            | Self::ClaimedDue { node, .. }
            | Self::QuestionEnd { node, .. }
            | Self::SayGoodbye { node } => (node, 3),
            Self::Feed { node, .. }
            | Self::OfferEnd { node, .. }
            | Self::PollLeft { node, .. }
            | Self::Post { node, .. } => (node, 4),
            Self::Park { .. }
            | Self::Fault(_)
            | Self::Heal(_)
            | Self::Recover { .. }
            | Self::Start
            | Self::Supervisor { .. } => return None,
        })
    }
}

struct Scheduled {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One broker process. A restarted broker is another one.
#[expect(clippy::struct_excessive_bools, reason = "unrelated circumstances")]
pub struct Node {
    pub is_alive: bool,
    /// Its machine is off, and NATS has not noticed.
    pub is_lost: bool,
    /// It sends its waiters away,
    pub is_leaving: bool,
    /// and has none any more.
    pub has_left: bool,
    /// Its clock at the beginning of the simulation.
    epoch: u64,
    pub core: Broker<usize>,
    pub member: Member,
    /// The waiters of each pool that the core has, for each kind of payload.
    pub counts: Vec<Waiters>,
    pub link: Link,
    pub held_in: Vec<(usize, Rc<Message>)>,
    pub held_out: Vec<Rc<Message>>,
    /// Each queue is not read before this time, because of a pause.
    queues: [u64; QUEUES],
    is_tick_soon: bool,
    pub deliveries: BTreeMap<u64, Delivery>,
    /// The deliveries that wait for an answer, by its token.
    pub awaited: BTreeMap<u128, u64>,
    /// Forwards that were taken in, by their token.
    pub taken: BTreeMap<u128, u64>,
    /// Deliveries whose runs wait for a controller.
    pub waiting: Vec<u64>,
    pub memory: BTreeMap<u32, Memory>,
    /// Questions about runs that are being delivered.
    pub questions: Vec<(u32, (BrokerId, u128))>,
    /// Runs whose claims are announced with the next tick.
    pub announcing: Vec<u32>,
}

impl Node {
    pub fn is_paused(&self, now: u64) -> bool {
        self.queues.iter().any(|until| *until > now)
    }
}

pub struct World {
    pub bugs: Bugs,
    pub rng: fastrand::Rng,
    pub now: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    pub next_delivery: u64,
    pub nodes: Vec<Node>,
    pub pools: Vec<(Key, PoolDigest)>,
    pub fleet: Fleet,
    pub network: Network,
    pub has_clones: bool,
    /// When a machine was cloned last.
    pub cloned_at: u64,
    /// Whether what happens is printed.
    pub is_told: bool,
    /// All faults have ended.
    pub is_calm: bool,
    pub max_forwards: usize,
    pub oracle: Oracle,
}

impl World {
    pub fn new(seed: u64, bugs: Bugs) -> Self {
        let number = |value| Number::new(value).expect("a valid number");
        let key = |version: &str| Key {
            deployment: "deployment".into(),
            version: version.into(),
            cpu: number(0.5),
            memory: number(1.0),
        };
        let pools = ["1", "2", "3"].map(|version| {
            let key = key(version);
            let digest = PoolDigest::of(key.as_ref());
            (key, digest)
        });
        Self {
            bugs,
            rng: fastrand::Rng::with_seed(seed),
            now: 0,
            events: BinaryHeap::new(),
            order: 0,
            next_delivery: 0,
            nodes: Vec::new(),
            pools: pools.into(),
            fleet: Fleet::default(),
            network: Network::default(),
            has_clones: false,
            cloned_at: 0,
            is_told: std::env::var_os("PILOTLIGHT_SEED").is_some(),
            is_calm: false,
            max_forwards: 100,
            oracle: Oracle::default(),
        }
    }

    pub fn at(&mut self, delay: u64, event: Event) {
        self.schedule(self.now + delay, event);
    }

    pub fn schedule(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse(Scheduled { at, order: self.order, event }));
    }

    /// Prints what happens, if one seed is repeated.
    pub fn note(&self, what: impl Fn() -> String) {
        if self.is_told {
            eprintln!("{:>10} {}", self.now, what());
        }
    }

    /// Whether something with a chance of so many in 10,000 happens.
    pub fn chance(&mut self, of: u32) -> bool {
        of > 0 && self.rng.u32(..10_000) < of
    }

    /// The time of this process's own clock.
    pub fn local(&self, node: usize) -> MonotonicTime {
        MonotonicTime::from_micros(self.now + self.nodes[node].epoch)
    }

    /// Any live process that fits.
    pub fn any_node(&mut self, fits: impl Fn(&Node) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = (0..self.nodes.len())
            .filter(|&node| self.nodes[node].is_alive && fits(&self.nodes[node]))
            .collect();
        (!fitting.is_empty()).then(|| fitting[self.rng.usize(..fitting.len())])
    }

    /// Starts a broker process, under this id if it is a clone.
    pub fn start_node(&mut self, id: Option<BrokerId>) -> usize {
        let node = self.nodes.len();
        let epoch = self.rng.u64(..4000 * SECOND);
        let id = id.unwrap_or_else(|| self.rng.u128(..));
        let now = MonotonicTime::from_micros(self.now + epoch);
        let limits = Limits { waiters: 1000, waiters_per_pool: 1000, pools: 1000 };
        self.nodes.push(Node {
            is_alive: true,
            is_lost: false,
            is_leaving: false,
            has_left: false,
            epoch,
            core: Broker::new(limits, SelectionPolicy::Newest),
            member: Member::new(id, &format!("broker-{node}"), "", REMEMBER_FOR, now),
            counts: vec![[0; 2]; self.pools.len()],
            link: Link::Up,
            held_in: Vec::new(),
            held_out: Vec::new(),
            queues: [0; QUEUES],
            is_tick_soon: false,
            deliveries: BTreeMap::new(),
            awaited: BTreeMap::new(),
            taken: BTreeMap::new(),
            waiting: Vec::new(),
            memory: BTreeMap::new(),
            questions: Vec::new(),
            announcing: Vec::new(),
        });
        self.network.add_node();
        self.oracle.started.push(self.now);
        self.oracle.paused.push(0);
        self.note(|| format!("broker {node}: starts"));
        let bytes = self.nodes[node].member.greet(now);
        self.publish(node, Message { subject: Subject::Directory, reply: None, bytes });
        self.at(0, Event::Tick { node });
        node
    }

    /// Stops a process for a while; its queues are read after it, each a little later than another.
    pub fn pause(&mut self, node: usize, duration: u64) {
        let until = self.now + duration;
        self.oracle.paused[node] = until + 30 * MILLI;
        for queue in 0..QUEUES {
            self.nodes[node].queues[queue] = until + self.rng.u64(..20 * MILLI);
        }
    }

    /// Lets everything happen that is due until then.
    pub fn run_until(&mut self, end: u64) {
        while let Some(Reverse(next)) = self.events.peek()
            && next.at <= end
        {
            let Some(Reverse(Scheduled { at, event, .. })) = self.events.pop() else { return };
            self.now = self.now.max(at);
            self.oracle.events += 1;
            if let Some((node, queue)) = event.node() {
                if !self.nodes[node].is_alive {
                    continue;
                }
                let until = self.nodes[node].queues[queue];
                if until > self.now {
                    self.schedule(until, event);
                    continue;
                }
            }
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { node } => {
                self.expire(node);
                self.tick(node);
                self.at(TICK, Event::Tick { node });
            }
            Event::TickSoon { node } => {
                self.nodes[node].is_tick_soon = false;
                self.tick(node);
            }
            Event::Feed { node, pool } => self.feed(node, pool),
            Event::Arrival { node, message } => self.arrive(node, &message),
            Event::NoResponders { node, token } => self.no_responders(node, token),
            Event::Timer { node, delivery, step } => self.timer(node, delivery, step),
            Event::OfferEnd { node, delivery, poll, verdict } => {
                self.offer_end(node, delivery, poll, verdict);
            }
            Event::ClaimedDue { node, delivery } => self.claimed_due(node, delivery),
            Event::QuestionEnd { node, run, reply } => self.question_end(node, run, reply),
            Event::PollLeft { node, poll } => self.poll_left(node, poll),
            Event::Post { node, post } => self.post(node, post),
            Event::SayGoodbye { node } => self.say_goodbye(node),
            Event::Park { controller } => self.park(controller),
            Event::Fault(fault) => self.fault(fault),
            Event::Heal(node) => self.heal(node),
            Event::Recover { controller } => self.set_health(controller, crate::fleet::Health::Well),
            Event::Start => {
                self.start_node(None);
            }
            Event::Supervisor { post } => self.supervise(post),
        }
    }

    /// What the core ends by itself.
    fn expire(&mut self, node: usize) {
        if self.oracle.is_quiet {
            return;
        }
        let now = self.local(node);
        let (expired, _) = self.nodes[node].core.expire(now, 1000, 1000);
        for removed in expired {
            self.removed(node, &removed);
            self.end_poll(removed.waiter, 100 * MILLI);
        }
    }

    fn feed(&mut self, node: usize, pool: usize) {
        let now = self.local(node);
        let digest = self.pools[pool].1;
        let Node { member, counts, .. } = &mut self.nodes[node];
        member.own.set(digest, counts[pool], now);
        self.tick_soon(node);
    }

    pub fn tick_soon(&mut self, node: usize) {
        if !std::mem::replace(&mut self.nodes[node].is_tick_soon, true) {
            let delay = self.rng.u64(MILLI..5 * MILLI);
            self.at(delay, Event::TickSoon { node });
        }
    }

    fn tick(&mut self, node: usize) {
        if self.nodes[node].link == Link::Down && !self.bugs.buffers_publishes {
            return;
        }
        let now = self.local(node);
        let rng = &mut self.rng;
        let random =
            |of: Duration| Duration::from_micros(rng.u64(..=u64::try_from(of.as_micros()).unwrap_or(0)));
        let member = &mut self.nodes[node].member;
        let messages = member.tick(now, random);
        if self.bugs.keeps_silent_rows {
            member.directory.judge_silence(MonotonicTime::default());
        }
        for run in std::mem::take(&mut self.nodes[node].announcing) {
            self.oracle.announced.entry(run).or_insert((self.now, node));
        }
        for bytes in messages {
            self.publish(node, Message { subject: Subject::Directory, reply: None, bytes });
        }
    }

    fn arrive(&mut self, node: usize, message: &Message) {
        match message.subject {
            Subject::Directory => self.hear(node, &message.bytes),
            Subject::To(id) => {
                if self.nodes[node].member.id() == id
                    && let Some(reply) = message.reply
                {
                    self.take_in(node, reply, &message.bytes);
                }
            }
            Subject::Re(_, token) => self.answered(node, token, &message.bytes),
        }
    }

    fn hear(&mut self, node: usize, bytes: &[u8]) {
        let now = self.local(node);
        let heard = match self.nodes[node].member.hear(bytes, now) {
            Ok(heard) => heard,
            Err(error) => return self.oracle.fail(format!("an announcement is unreadable: {error}")),
        };
        if heard.is_cloned && !self.bugs.keeps_id {
            let id = self.rng.u128(..);
            self.note(|| format!("broker {node}: changes its id"));
            self.nodes[node].member.change_id(id, now);
            self.oracle.stats.changed_ids += 1;
            self.tick_soon(node);
        }
        if heard.is_answer_due {
            self.tick_soon(node);
        }
        if heard.is_in_reach_again {
            for (pool, kind) in
                (0..self.pools.len()).flat_map(|pool| PayloadKind::ALL.map(|kind| (pool, kind)))
            {
                self.wake(node, pool, kind, u32::MAX);
            }
        }
        for row in heard.filled {
            let pool = self.pools.iter().position(|(_, digest)| digest.key == row.pool.key);
            for (kind, count) in PayloadKind::ALL.into_iter().zip(row.waiters) {
                self.wake(node, pool.expect("only these pools exist"), kind, count);
            }
        }
    }

    /// The digest of a run's name.
    pub fn run_digest(run: u32) -> Digest {
        Digest::new(u128::from(run).to_be_bytes())
    }

    /// Whether a waiter of this pool accepts every kind, by chance.
    pub fn random_accepts(&mut self) -> AcceptedPayload {
        if self.rng.u32(..4) == 0 { AcceptedPayload::TriggerMessage } else { AcceptedPayload::Any }
    }
}
