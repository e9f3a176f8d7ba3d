//! Owns one waiter on a plain socket: looked at, written to, proved and sent away by whoever took it out of its pool.

use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ending::Ending;
use super::proof::{End, Patience, Proving, Sight, Step};
use super::{Connection, Delivery, Demand, Farewell, LifeSign, Run, Wire};
use crate::metrics::{Proof, Verdict};

/// A run larger than the kernel's buffers must be taken off them within this time.
const WRITE_TIME: Duration = Duration::from_millis(500);

/// A held poll, as the exchange keeps it. Dropped without an ending, it closes its connection.
pub struct Waiter {
    connection: Arc<Connection>,
    wire: &'static Wire,
    reusable: bool,
    hop: bool,
    /// Its ending is decided: from then on the connection may serve the next waiter, and is not this one's to touch.
    ended: bool,
}

impl Waiter {
    /// Makes the waiter before it is parked: from then on its taker can reach the connection. With `hop`, a proxy
    /// stands in between, so a receipt is the proxy's.
    pub fn new(connection: Arc<Connection>, wire: &'static Wire, reusable: bool, hop: bool) -> Self {
        connection.handover.begin();
        Self { connection, wire, reusable, hop, ended: false }
    }

    /// Hands over a run and proves it as far as is demanded, in time.
    ///
    /// The caller's task does the work: waking the waiter's own task would double the latency. After any verdict
    /// but a proof, the connection has been reset: nothing more of the run is sent.
    pub async fn offer(mut self, run: &Run, demand: Demand) -> Delivery {
        if self.connection.look() != End::Open {
            return Delivery::untouched(Verdict::Gone);
        }
        // Only a connection that ends after the run can show that the process read it.
        let reusable = self.reusable && demand.proof != Proof::Received;
        let mut head = Vec::with_capacity(192);
        (self.wire.head)(run, reusable, &mut head);
        let whole = head.len() + run.payload.len();
        let first = self.connection.write_now(&[IoSlice::new(&head), IoSlice::new(&run.payload)]);
        let Ok(mut sent) = first else { return Delivery::untouched(Verdict::Gone) };
        if sent < whole {
            let by = demand.until.min(Instant::now() + WRITE_TIME).into();
            // Boxed, as it is rare and large.
            let rest = tokio::time::timeout_at(by, self.write_rest(&head, run, &mut sent));
            match Box::pin(rest).await {
                Ok(true) => {}
                Ok(false) => return self.give_up(Verdict::Lost, sent, false),
                // Its kernel took some and then no more: the process does not read. Else nobody is there.
                Err(_) if self.connection.unacked() < sent => {
                    return self.give_up(Verdict::Frozen, sent, false);
                }
                Err(_) => return self.give_up(Verdict::Unacked, sent, false),
            }
        }
        let (verdict, acked) = match demand.proof {
            Proof::Written => (Verdict::Written, false),
            Proof::Acked | Proof::Received | Proof::Hop => Box::pin(self.prove(demand)).await,
        };
        match verdict.proof() {
            Some(proof) if proof >= demand.proof => {
                if reusable {
                    self.end(Ending::Reuse);
                } else if demand.proof == Proof::Received {
                    // The peer has ended its side: an ordinary close completes it.
                    self.end(Ending::Close);
                }
                let hop = self.hop && verdict == Verdict::Received;
                Delivery { verdict: if hop { Verdict::Hop } else { verdict }, untouched: false, acked }
            }
            _ => self.give_up(verdict, sent, acked),
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ended = true;
        self.connection.handover.decide(ending);
    }

    /// Sends the waiter away without a run.
    pub fn dismiss(mut self, farewell: Farewell) {
        let goodbye = (self.wire.goodbye)(farewell);
        if goodbye.answer.is_empty() || self.connection.look() != End::Open {
            return;
        }
        let written = self.connection.write_now(&[IoSlice::new(goodbye.answer)]);
        if goodbye.reusable && self.reusable && written.is_ok_and(|n| n == goodbye.answer.len()) {
            self.end(Ending::Reuse);
        }
    }

    /// Where its connection comes from.
    pub fn origin(&self) -> IpAddr {
        self.connection.origin()
    }

    /// What shows whether its machine lives, also when the waiter has been taken.
    pub fn life_sign(&self) -> LifeSign {
        LifeSign::of(&self.connection)
    }

    /// What is known of a run that was written whole, and whether all of it was seen acknowledged.
    async fn prove(&self, demand: Demand) -> (Verdict, bool) {
        let round_trip = self.connection.peer().map_or(Duration::ZERO, |peer| peer.round_trip);
        let patience = Patience::new(round_trip, demand.fin);
        let mut proving = Proving::new(demand.proof, patience, self.hop, Instant::now());
        loop {
            let sight = Sight { end: self.connection.look(), unacked: self.connection.unacked() };
            let now = Instant::now();
            let (at, readable_is_news) = match proving.see(sight, now) {
                Step::Done(verdict) => return (verdict, proving.is_acked()),
                _ if now >= demand.until => return (proving.out_of_time(), proving.is_acked()),
                Step::LookAgain(at) => (at, true),
                Step::LookLater(at) => (at, false),
            };
            let at = at.min(demand.until).into();
            let stirred = async {
                if !readable_is_news || !self.connection.stirred().await {
                    std::future::pending::<()>().await;
                }
            };
            // Whichever comes first, the next look tells.
            let _ = tokio::time::timeout_at(at, stirred).await;
        }
    }

    /// The reset comes before anything else: it stops retransmissions, so that a run which is offered again does not
    /// arrive late as well. What the peer's kernel has acknowledged already, its process may still read.
    fn give_up(&self, verdict: Verdict, sent: usize, acked: bool) -> Delivery {
        self.connection.reset();
        Delivery { verdict, untouched: sent == 0, acked }
    }

    /// Writes on as the peer reads; false if the connection broke.
    async fn write_rest(&self, head: &[u8], run: &Run, sent: &mut usize) -> bool {
        while *sent < head.len() + run.payload.len() {
            if self.connection.writable().await.is_err() {
                return false;
            }
            let head_left = &head[(*sent).min(head.len())..];
            let payload_left = &run.payload[sent.saturating_sub(head.len())..];
            match self.connection.write_now(&[IoSlice::new(head_left), IoSlice::new(payload_left)]) {
                Ok(more) => *sent += more,
                Err(_) => return false,
            }
        }
        true
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.handover.decide(Ending::Close);
            self.connection.shut();
        }
    }
}
