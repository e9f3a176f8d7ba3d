//! Owns the controllers: where they wait, and what becomes of a run that one of them is offered.

use std::time::Duration;

use pilotlight::broker::{AcceptedPayload, HostId, ParkRequest, PayloadKind, RemovedWaiter, WaiterId};
use pilotlight::model::Verdict;

use crate::world::{Event, MILLI, SECOND, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Well,
    /// Off, without an end of its connections.
    Dead,
    /// Its processes are stopped; its kernel acknowledges.
    Frozen,
    /// It receives, but nothing that it sends arrives.
    Mute,
}

pub struct Controller {
    pub pool: usize,
    pub accepts: AcceptedPayload,
    pub health: Health,
    /// Its latest poll.
    pub poll: Option<usize>,
}

/// A held request.
pub struct Poll {
    pub controller: usize,
    pub node: usize,
    pub id: WaiterId,
    /// Whether the controller's end is open.
    pub is_open: bool,
}

#[derive(Default)]
pub struct Fleet {
    pub controllers: Vec<Controller>,
    pub polls: Vec<Poll>,
}

impl World {
    /// A controller begins to wait, at any broker.
    pub fn park(&mut self, controller: usize) {
        let Controller { pool, accepts, health, poll } = self.fleet.controllers[controller];
        let is_waiting = poll.is_some_and(|poll| self.fleet.polls[poll].is_open);
        if health != Health::Well || is_waiting {
            return;
        }
        let Some(node) = self.any_node(|node| !node.is_leaving) else {
            return self.at(100 * MILLI, Event::Park { controller });
        };
        if self.nodes[node].is_paused(self.now) {
            // Its kernel accepts; the request is read when it goes on.
            let after = self.rng.u64(MILLI..200 * MILLI);
            return self.at(after, Event::Park { controller });
        }
        let now = self.local(node);
        let timeout = if self.is_calm { 600 * SECOND } else { self.rng.u64(2 * SECOND..6 * SECOND) };
        let deadline = now.plus(Duration::from_micros(timeout));
        let offer_until = now.plus(Duration::from_micros(timeout - 250 * MILLI));
        let key = self.pools[pool].0.clone();
        let waiter = self.fleet.polls.len();
        let host = host(controller);
        let request = ParkRequest {
            key: key.as_ref(),
            accepts,
            controller: controller.to_string().into(),
            host,
            is_exclusive: true,
            offer_until,
            deadline,
            waiter,
        };
        let Ok(parked) = self.nodes[node].core.park(request, now) else { return };
        self.fleet.polls.push(Poll { controller, node, id: parked.id, is_open: true });
        self.fleet.controllers[controller].poll = Some(waiter);
        self.count(node, pool, accepts, 1);
        if let Some(replaced) = parked.replaced {
            self.count(node, pool, accepts, -1);
            self.fleet.polls[replaced.waiter].is_open = false;
        }
        for kind in PayloadKind::ALL {
            if accepts.accepts(kind) {
                self.wake(node, pool, kind, 1);
            }
        }
    }

    fn count(&mut self, node: usize, pool: usize, accepts: AcceptedPayload, change: i32) {
        for (kind, count) in PayloadKind::ALL.iter().zip(&mut self.nodes[node].counts[pool]) {
            if accepts.accepts(*kind) {
                *count = count.checked_add_signed(change).expect("counts are never negative");
            }
        }
        let delay = self.rng.u64(..5 * MILLI);
        self.at(delay, Event::Feed { node, pool });
    }

    /// The core has removed a waiter: it no longer counts.
    pub fn removed(&mut self, node: usize, removed: &RemovedWaiter<usize>) {
        let Controller { pool, accepts, .. } =
            self.fleet.controllers[self.fleet.polls[removed.waiter].controller];
        self.count(node, pool, accepts, -1);
    }

    /// The broker ends a poll; its controller polls again after a while.
    pub fn end_poll(&mut self, poll: usize, within: u64) {
        self.fleet.polls[poll].is_open = false;
        let controller = self.fleet.polls[poll].controller;
        let delay = self.rng.u64(MILLI..within);
        self.at(delay, Event::Park { controller });
    }

    /// A controller closes its poll, and polls again at once, before its broker has seen the end.
    pub fn move_controller(&mut self, controller: usize) {
        let Some(poll) = self.fleet.controllers[controller].poll else { return };
        if !self.fleet.polls[poll].is_open {
            return;
        }
        self.end_poll(poll, 30 * MILLI);
        let node = self.fleet.polls[poll].node;
        let delay = self.rng.u64(MILLI..60 * MILLI);
        self.at(delay, Event::PollLeft { node, poll });
    }

    pub fn poll_left(&mut self, node: usize, poll: usize) {
        let now = self.local(node);
        let id = self.fleet.polls[poll].id;
        if let Some(removed) = self.nodes[node].core.leave(id, now) {
            self.removed(node, &removed);
        }
    }

    /// A controller falls ill, or is well again: then its old polls have ended.
    pub fn set_health(&mut self, controller: usize, health: Health) {
        self.fleet.controllers[controller].health = health;
        if health == Health::Well {
            for poll in 0..self.fleet.polls.len() {
                if self.fleet.polls[poll].controller == controller && self.fleet.polls[poll].is_open {
                    self.fleet.polls[poll].is_open = false;
                    let node = self.fleet.polls[poll].node;
                    self.at(MILLI, Event::PollLeft { node, poll });
                }
            }
            let delay = self.rng.u64(MILLI..300 * MILLI);
            self.at(delay, Event::Park { controller });
        }
    }

    /// What an offer to this poll leads to, whether its controller gets the run, and how long the verdict takes.
    pub fn offer(&mut self, poll: usize) -> (Verdict, bool, u64) {
        let Poll { controller, is_open, .. } = self.fleet.polls[poll];
        let health = self.fleet.controllers[controller].health;
        let rare = !self.is_calm && self.rng.u32(..20) == 0;
        let quick = self.rng.u64(300..20 * MILLI);
        self.fleet.polls[poll].is_open = false;
        let is_received = is_open && (health == Health::Mute || health == Health::Well);
        if is_received || is_open && health == Health::Frozen {
            let delay = self.rng.u64(20 * MILLI..800 * MILLI);
            self.at(delay, Event::Park { controller });
        }
        match health {
            _ if !is_open && rare => (Verdict::Lost, false, quick),
            _ if !is_open => (Verdict::Gone, false, 0),
            Health::Well if rare => (Verdict::Lost, self.rng.bool(), quick),
            Health::Well => (Verdict::Received, true, quick),
            Health::Dead => (Verdict::Unacked, false, 250 * MILLI),
            Health::Mute => (Verdict::Unacked, true, 250 * MILLI),
            Health::Frozen => (Verdict::Frozen, rare, 500 * MILLI),
        }
    }
}

/// The host of a controller: each has its own.
pub fn host(controller: usize) -> HostId {
    let [high, low] = u16::try_from(controller).expect("few controllers").to_be_bytes();
    HostId { address: [10, 0, high, low].into(), name: None }
}
