//! Owns the simulated NATS: messages take time, may be lost, doubled or overtaken, and links break in four ways.

use std::rc::Rc;

use pilotlight::cluster::codec::BrokerId;

use crate::world::{Event, MILLI, World};

/// A broker's connection to NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Up,
    /// Both ends know that it is down.
    Down,
    /// Nobody knows: what is sent is lost.
    Blackhole,
    /// Nobody knows: what is sent arrives in order once it is up again.
    Stalled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Directory,
    To(BrokerId),
    /// Answers to one forward or question.
    Re(BrokerId, u128),
}

#[derive(Debug)]
pub struct Message {
    pub subject: Subject,
    /// Where the answer goes.
    pub reply: Option<(BrokerId, u128)>,
    pub bytes: Vec<u8>,
}

/// How bad the network is, each as a chance of 10,000.
#[derive(Debug, Clone, Copy, Default)]
pub struct Badness {
    pub loss: u32,
    pub doubling: u32,
    pub overtaking: u32,
    pub slow: u32,
    /// "No responders" although somebody listens.
    pub false_no_responders: u32,
}

/// The state of NATS.
#[derive(Debug, Default)]
pub struct Network {
    pub badness: Badness,
    /// When the last message from one process to another arrives.
    pub last: Vec<Vec<u64>>,
    /// When the last announcement of one process did not reach another in time.
    pub unheard: Vec<Vec<u64>>,
}

impl Network {
    pub fn add_node(&mut self) {
        for rows in [&mut self.last, &mut self.unheard] {
            rows.push(Vec::new());
            let len = rows.len();
            for row in rows {
                row.resize(len, 0);
            }
        }
    }
}

impl World {
    /// Returns whether the message was sent, as far as the client knows.
    pub fn publish(&mut self, from: usize, message: Message) -> bool {
        let message = Rc::new(message);
        match self.nodes[from].link {
            Link::Up => self.route(from, &message),
            Link::Blackhole => self.unheard_by_all(from, &message),
            Link::Stalled => {
                self.unheard_by_all(from, &message);
                self.nodes[from].held_out.push(message);
            }
            Link::Down => {
                self.unheard_by_all(from, &message);
                if self.bugs.buffers_publishes {
                    self.nodes[from].held_out.push(message);
                    return true;
                }
                return false;
            }
        }
        true
    }

    fn unheard_by_all(&mut self, from: usize, message: &Message) {
        if message.subject == Subject::Directory {
            self.network.unheard[from].iter_mut().for_each(|at| *at = self.now);
        }
    }

    pub fn route(&mut self, from: usize, message: &Rc<Message>) {
        match message.subject {
            Subject::Directory => {
                for to in 0..self.nodes.len() {
                    // A broker hears itself; that matters only where ids change.
                    if to != from || self.has_clones {
                        self.copy(from, to, message);
                    }
                }
            }
            Subject::To(id) => {
                let listens = |to: &usize| {
                    let node = &self.nodes[*to];
                    let is_known = node.is_alive && node.link != Link::Down || node.is_lost;
                    is_known && node.member.id() == id
                };
                let group: Vec<usize> = (0..self.nodes.len()).filter(listens).collect();
                let is_denied = self.chance(self.network.badness.false_no_responders);
                if group.is_empty() || is_denied {
                    if let Some((_, token)) = message.reply {
                        let delay = self.delay();
                        self.at(delay, Event::NoResponders { node: from, token });
                    }
                    return;
                }
                let to = group[self.rng.usize(..group.len())];
                self.copy(from, to, message);
            }
            Subject::Re(id, _) => {
                for to in 0..self.nodes.len() {
                    if self.nodes[to].member.id() == id {
                        self.copy(from, to, message);
                    }
                }
            }
        }
    }

    fn copy(&mut self, from: usize, to: usize, message: &Rc<Message>) {
        if from != to && self.nodes[from].member.id() == self.nodes[to].member.id() {
            // It takes this for its own.
            self.network.unheard[from][to] = self.now;
        }
        let node = &mut self.nodes[to];
        if !node.is_alive {
            return;
        }
        let mut is_lost = matches!(node.link, Link::Down | Link::Blackhole);
        if node.link == Link::Stalled {
            node.held_in.push((from, message.clone()));
            self.network.unheard[from][to] = self.now;
            return;
        }
        is_lost |= self.chance(self.network.badness.loss);
        if is_lost {
            self.network.unheard[from][to] = self.now;
            return;
        }
        self.carry(from, to, message);
        // NATS gives what is sent to a queue group to one member, once.
        let is_to_group = matches!(message.subject, Subject::To(_));
        if !is_to_group && self.chance(self.network.badness.doubling) {
            self.carry(from, to, message);
        }
    }

    fn carry(&mut self, from: usize, to: usize, message: &Rc<Message>) {
        let delay = self.delay();
        let mut arrival = self.now + delay;
        if !self.chance(self.network.badness.overtaking) {
            let last = &mut self.network.last[from][to];
            arrival = arrival.max(*last + 1);
            *last = arrival;
        }
        if arrival > self.now + 20 * MILLI {
            self.network.unheard[from][to] = self.now;
        }
        self.schedule(arrival, Event::Arrival { node: to, message: message.clone() });
    }

    fn delay(&mut self) -> u64 {
        if self.chance(self.network.badness.slow) {
            self.rng.u64(MILLI..40 * MILLI)
        } else {
            self.rng.u64(100..1500)
        }
    }

    pub fn heal(&mut self, node: usize) {
        let was_down = std::mem::replace(&mut self.nodes[node].link, Link::Up) == Link::Down;
        if was_down {
            let now = self.local(node);
            let bytes = self.nodes[node].member.greet(now);
            self.publish(node, Message { subject: Subject::Directory, reply: None, bytes });
        }
        let held_in = std::mem::take(&mut self.nodes[node].held_in);
        let held_out = std::mem::take(&mut self.nodes[node].held_out);
        for (from, message) in held_in {
            self.carry(from, node, &message);
        }
        for message in held_out {
            self.route(node, &message);
        }
    }
}
