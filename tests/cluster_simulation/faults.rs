//! Owns what a seed makes of a cluster: its size, its runs, and what goes wrong.

use pilotlight::broker::PayloadKind;

use crate::Bugs;
use crate::delivery::Run;
use crate::fleet::{Controller, Health, Poll};
use crate::network::{Badness, Link, Message, Subject};
use crate::oracle::Oracle;
use crate::world::{Event, MILLI, Node, SECOND, World};

/// Something goes wrong, with a broker or a controller of the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A process is killed.
    Kill,
    /// A machine is off.
    Lose,
    /// A broker is drained and restarted.
    Leave,
    Pause,
    /// A process is paused for longer than clocks are remembered.
    LongPause,
    Down,
    Blackhole,
    Stall,
    /// A machine is cloned with its broker.
    Clone,
    Ill(Health),
    Move,
}

/// What goes wrong with brokers.
pub const BROKER_FAULTS: [Fault; 8] = [
    Fault::Kill,
    Fault::Lose,
    Fault::Leave,
    Fault::Pause,
    Fault::Down,
    Fault::Blackhole,
    Fault::Stall,
    Fault::Clone,
];

/// One simulation, with these faults of brokers. With all of them, every other seed has a bad network, too.
pub fn simulate(seed: u64, bugs: Bugs, faults: &[Fault]) -> Oracle {
    let mut world = World::new(seed, bugs);
    let chaos = world.prepare(seed, faults);
    world.run_until(chaos);
    world.calm_down();
    let paused = world.oracle.paused.iter().copied().max().unwrap_or(0).max(chaos);
    world.run_until(paused + 7 * SECOND);
    world.oracle.is_quiet = true;
    let quiet = world.now + 5 * SECOND;
    world.run_until(quiet);
    world.check_rows();
    world.probe();
    world.check_spent();
    world.check_answers();
    world.oracle
}

impl World {
    /// Returns the end of the time with faults.
    fn prepare(&mut self, seed: u64, faults: &[Fault]) -> u64 {
        let chaos = self.rng.u64(3 * SECOND..8 * SECOND);
        for _ in 0..self.rng.usize(2..=5) {
            let delay = self.rng.u64(..300 * MILLI);
            self.at(delay, Event::Start);
        }
        for controller in 0..self.rng.usize(2..=9) {
            let accepts = self.random_accepts();
            let pool = self.rng.usize(..self.pools.len());
            self.fleet.controllers.push(Controller { pool, accepts, health: Health::Well, poll: None });
            let delay = self.rng.u64(300 * MILLI..2 * SECOND);
            self.at(delay, Event::Park { controller });
        }
        self.prepare_runs(chaos);
        for _ in 0..self.rng.usize(..20) {
            let at = self.rng.u64(SECOND..chaos);
            self.schedule(at, Event::Fault(Fault::Move));
        }
        // Every eighth seed has no faults.
        if seed.is_multiple_of(8) {
            return chaos;
        }
        if self.rng.bool() {
            let mut often = |of: u32| if self.rng.bool() { self.rng.u32(..of) } else { 0 };
            self.network.badness = Badness {
                loss: often(200),
                doubling: often(500),
                overtaking: often(1000),
                slow: often(1000),
                false_no_responders: often(100),
            };
        }
        if self.bugs.takes_answers_twice {
            self.network.badness.doubling = 5000;
        }
        if self.rng.u32(..8) == 0 {
            self.max_forwards = 1;
        }
        if faults.contains(&Fault::Pause) && self.rng.u32(..64) == 0 {
            let at = self.rng.u64(SECOND..chaos);
            self.schedule(at, Event::Fault(Fault::LongPause));
        }
        // A few kinds of faults, so that each meets itself, too.
        let kinds: Vec<Fault> = (0..self.rng.usize(1..=3))
            .filter_map(|_| faults.get(self.rng.usize(..faults.len().max(1))).copied())
            .collect();
        self.has_clones = kinds.contains(&Fault::Clone);
        for _ in 0..if kinds.is_empty() { 0 } else { self.rng.usize(..6) } {
            let at = self.rng.u64(500 * MILLI..chaos);
            let fault = kinds[self.rng.usize(..kinds.len())];
            self.schedule(at, Event::Fault(fault));
        }
        for _ in 0..self.rng.usize(..6) {
            let at = self.rng.u64(500 * MILLI..chaos);
            let health = [Health::Dead, Health::Frozen, Health::Mute][self.rng.usize(..3)];
            self.schedule(at, Event::Fault(Fault::Ill(health)));
        }
        chaos
    }

    fn prepare_runs(&mut self, chaos: u64) {
        let posts = self.rng.usize(10..60);
        let mut number = 0;
        while self.oracle.posts.len() < posts {
            number += 1;
            let is_named = self.rng.u32(..3) > 0;
            let redeliver = !is_named || self.rng.u32(..4) == 0;
            let is_opaque = is_named && self.rng.bool();
            let kind = if is_opaque { PayloadKind::Opaque } else { PayloadKind::TriggerMessage };
            let pool = self.rng.usize(..self.pools.len());
            let is_payload_later = self.rng.u32(..8) == 0;
            let mut at = self.rng.u64(500 * MILLI..chaos);
            let times = if is_named && self.rng.u32(..3) == 0 { self.rng.usize(2..=3) } else { 1 };
            for _ in 0..times {
                let post = self.oracle.posts.len();
                let budget = self.rng.u64(600 * MILLI..2500 * MILLI);
                let wait = if self.rng.u32(..4) == 0 { self.rng.u64(..1500 * MILLI) } else { 0 };
                let run = Run { post, number, pool, kind, is_named, redeliver, is_payload_later };
                self.oracle.add_post(run, budget, wait);
                self.schedule(at, Event::Supervisor { post });
                let within = if self.rng.bool() { 30 * MILLI } else { 2 * SECOND };
                at += self.rng.u64(..within);
            }
        }
    }

    /// Posts a run to any broker whose kernel accepts.
    pub fn supervise(&mut self, post: usize) {
        match self.any_node(|_| true) {
            Some(node) => self.at(0, Event::Post { node, post }),
            None => self.at(100 * MILLI, Event::Supervisor { post }),
        }
    }

    pub fn fault(&mut self, fault: Fault) {
        let duration = self.rng.u64(50 * MILLI..3 * SECOND);
        if let Fault::Ill(health) = fault {
            let controller = self.rng.usize(..self.fleet.controllers.len());
            self.set_health(controller, health);
            return self.at(duration, Event::Recover { controller });
        }
        if fault == Fault::Move {
            let controller = self.rng.usize(..self.fleet.controllers.len());
            return self.move_controller(controller);
        }
        let is_end = matches!(fault, Fault::Kill | Fault::Lose | Fault::Leave);
        let now = self.now;
        let Some(node) = self.any_node(|node| !node.is_paused(now) && !node.is_leaving) else { return };
        self.note(|| format!("broker {node}: {fault:?}"));
        match fault {
            Fault::Kill | Fault::Lose => self.end_node(node, fault == Fault::Lose),
            Fault::Leave => {
                self.nodes[node].is_leaving = true;
                self.nodes[node].core.begin_drain();
                self.at(0, Event::SayGoodbye { node });
            }
            Fault::Pause => {
                let duration = if self.rng.bool() { duration } else { self.rng.u64(..10 * SECOND) };
                self.pause(node, duration);
            }
            Fault::LongPause => {
                let duration = self.rng.u64(65 * SECOND..100 * SECOND);
                self.pause(node, duration);
            }
            Fault::Down => self.cut(node, Link::Down, duration),
            Fault::Blackhole => self.cut(node, Link::Blackhole, duration),
            Fault::Stall => self.cut(node, Link::Stalled, duration),
            Fault::Clone => {
                self.cloned_at = self.now;
                let id = self.nodes[node].member.id();
                self.start_node(Some(id));
            }
            Fault::Ill(_) | Fault::Move => {}
        }
        if is_end {
            let delay = self.rng.u64(200 * MILLI..3 * SECOND);
            self.at(delay, Event::Start);
        }
    }

    /// Not just after a machine was cloned: if one of two clones does not hear of the other, it keeps the id, and if its changes then
    /// continue the other's numbers, some of them are taken for old ones until its pools change again.
    fn cut(&mut self, node: usize, link: Link, duration: u64) {
        if self.nodes[node].link == Link::Up && (self.cloned_at == 0 || self.now > self.cloned_at + SECOND) {
            self.nodes[node].link = link;
            self.at(duration, Event::Heal(node));
        }
    }

    /// A process ends; its controllers see that, or find it out.
    fn end_node(&mut self, node: usize, is_lost: bool) {
        self.nodes[node].is_alive = false;
        self.nodes[node].is_lost = is_lost;
        for poll in 0..self.fleet.polls.len() {
            if self.fleet.polls[poll].node == node && self.fleet.polls[poll].is_open {
                self.end_poll(poll, if is_lost { 4 * SECOND } else { SECOND });
            }
        }
    }

    /// A broker that leaves sends its waiters away, one after another, then says that it has none.
    pub fn say_goodbye(&mut self, node: usize) {
        let is_here = |poll: &Poll| poll.node == node && poll.is_open;
        let next = self.fleet.polls.iter().position(is_here);
        let delay = self.rng.u64(MILLI..30 * MILLI);
        if let Some(poll) = next {
            self.poll_left(node, poll);
            self.end_poll(poll, 20 * MILLI);
            return self.at(delay, Event::SayGoodbye { node });
        }
        if !std::mem::replace(&mut self.nodes[node].has_left, true) {
            self.nodes[node].core.stop_matching();
            let bytes = self.nodes[node].member.leave();
            self.publish(node, Message { subject: Subject::Directory, reply: None, bytes });
        } else if self.nodes[node].deliveries.is_empty() {
            let bytes = self.nodes[node].member.end();
            self.publish(node, Message { subject: Subject::Directory, reply: None, bytes });
            return self.end_node(node, false);
        }
        self.at(100 * MILLI, Event::SayGoodbye { node });
    }

    /// All faults end.
    fn calm_down(&mut self) {
        self.is_calm = true;
        self.network.badness = Badness::default();
        for node in 0..self.nodes.len() {
            self.heal(node);
            self.nodes[node].is_lost = false;
        }
        for controller in 0..self.fleet.controllers.len() {
            if self.fleet.controllers[controller].health != Health::Well {
                self.set_health(controller, Health::Well);
            }
        }
    }

    /// A run is posted to a broker without a waiter for it, while another has one: it must be delivered.
    fn probe(&mut self) {
        for pool in 0..self.pools.len() {
            let has = |node: &Node| node.is_alive && node.counts[pool][0] > 0;
            let owners = self.nodes.iter().filter(|node| has(node)).count();
            let Some(node) = self.any_node(|node| !has(node)) else { continue };
            if owners == 0 {
                continue;
            }
            let post = self.oracle.posts.len();
            let kind = PayloadKind::TriggerMessage;
            let run = Run {
                post,
                number: 1_000_000 + u32::try_from(pool).expect("few pools"),
                pool,
                kind,
                is_named: true,
                redeliver: true,
                is_payload_later: pool == 0,
            };
            self.oracle.add_post(run, 2500 * MILLI, 0);
            self.oracle.stats.probes += 1;
            self.at(0, Event::Post { node, post });
            self.run_until(self.now + 3 * SECOND);
            let answer = self.oracle.posts[post].answer;
            if answer != Some(Ok(())) {
                self.oracle.fail(format!("a run that another broker has a waiter for is {answer:?}"));
            }
        }
    }
}
