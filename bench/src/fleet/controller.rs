//! Owns one controller: it waits, says what it received, and waits again, unless it is told to fail in some way.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use super::process::Crew;
use super::word::{Deed, Order, What};
use crate::load::peer::{Peer, poll_of, run_in};

/// The place of one controller in its process, whoever fills it.
pub(super) struct Slot {
    pub(super) place: usize,
    order: Cell<Option<Order>>,
    told: Notify,
}

impl Slot {
    pub(super) fn new(place: usize) -> Self {
        Self { place, order: Cell::new(None), told: Notify::new() }
    }

    pub(super) fn tell(&self, order: Order) {
        self.order.set(Some(order));
        self.told.notify_one();
    }

    async fn told(&self) -> Order {
        loop {
            if let Some(order) = self.order.take() {
                return order;
            }
            self.told.notified().await;
        }
    }
}

/// After a connection that failed: soon, and less soon each time.
const FIRST_REST: u64 = 50;
/// A silent controller's socket is kept for so long beyond a poll's time: the broker is to be the first to end it.
const SILENCE: Duration = Duration::from_secs(5);
/// What stands in a deaf controller's buffer is read within this time, or is not there.
const AFTERWARDS: Duration = Duration::from_millis(200);

/// How a poll ended.
enum Turn {
    /// With an answer; the connection may carry the next.
    Answered(Option<Peer>),
    /// The connection is over, or there was none.
    Over,
    /// The controller is gone silently; another one takes its place.
    Silent(Peer),
}

/// Lives in this slot for ever.
pub(super) async fn live(crew: Rc<Crew>, slot: Rc<Slot>) {
    let mut controller = crew.first() + slot.place as u64;
    let pool = slot.place % crew.options.pools;
    let mut kept = None;
    let mut failures = 0_u32;
    loop {
        let peer = match kept.take() {
            Some(peer) => Ok(peer),
            None => Peer::connect_from(crew.source(), crew.options.address).await,
        };
        match peer {
            Ok(peer) => match turn(&crew, &slot, controller, pool, peer).await {
                Turn::Answered(peer) => (kept, failures) = (peer, 0),
                Turn::Over => failures += 1,
                Turn::Silent(peer) => {
                    controller += crew.options.count as u64;
                    let time = crew.timeout() + SILENCE;
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(time).await;
                        drop(peer);
                    });
                }
            },
            Err(_) => failures += 1,
        }
        if failures > 0 {
            let rest = crew.rng.borrow_mut().u64(..FIRST_REST << failures.min(4));
            tokio::time::sleep(Duration::from_millis(rest)).await;
        }
    }
}

async fn turn(crew: &Rc<Crew>, slot: &Slot, controller: u64, pool: usize, mut peer: Peer) -> Turn {
    let number = usize::try_from(controller).unwrap_or(usize::MAX);
    let worker = format!("worker_{}", crew.options.serial);
    if peer.send(&poll_of(&worker, pool, number)).await.is_err() {
        return Turn::Over;
    }
    Crew::say(controller, What::Polls(pool));
    let (mut patience, mut leaves) = (crew.timeout(), Deed::Close);
    {
        let mut rng = crew.rng.borrow_mut();
        if rng.f64() < crew.options.silent {
            Crew::say(controller, What::Fails);
            return Turn::Silent(peer);
        }
        if rng.f64() < crew.options.aborts {
            patience = patience.mul_f64(rng.f64());
            leaves = if rng.bool() { Deed::Close } else { Deed::Reset };
        }
    }
    tokio::select! {
        biased;
        answer = answer(controller, pool, &mut peer) => match answer {
            Some(true) => Turn::Answered(None),
            Some(false) => Turn::Answered(Some(peer)),
            None => Turn::Over,
        },
        order = slot.told() => {
            obey(crew, controller, pool, peer, order).await;
            Turn::Answered(None)
        }
        () = tokio::time::sleep(patience) => {
            leave(controller, peer, leaves == Deed::Reset);
            Turn::Answered(None)
        }
    }
}

/// Reads the answer, and says so before anything else: the end of the connection is the receipt. Whether the
/// connection ends with it; none if there was no answer.
async fn answer(controller: u64, pool: usize, peer: &mut Peer) -> Option<bool> {
    let Ok(answer) = peer.answer().await else {
        Crew::say(controller, What::Cut);
        return None;
    };
    let what = match (answer.status, run_in(answer.body)) {
        (200, Some((run, of))) if of == pool => What::Received(run),
        (200, Some((run, _))) => What::Wrong(run),
        (307, _) => What::Elsewhere,
        (status, _) => What::Status(status),
    };
    Crew::say(controller, what);
    Some(answer.closes)
}

fn leave(controller: u64, peer: Peer, reset: bool) {
    Crew::say(controller, What::Leaves);
    if reset {
        // An error means that the broker was quicker.
        let _ = peer.stream().set_zero_linger();
    }
    drop(peer);
}

async fn obey(crew: &Crew, controller: u64, pool: usize, mut peer: Peer, order: Order) {
    match order.what {
        Deed::Close | Deed::Reset | Deed::End => return leave(controller, peer, order.what == Deed::Reset),
        Deed::Flinch | Deed::Slam | Deed::Freeze | Deed::Ghost => Crew::say(controller, What::Fails),
    }
    match order.what {
        Deed::Flinch => {
            let _ = tokio::time::timeout(crew.timeout(), peer.stream().readable()).await;
        }
        Deed::Slam => {
            let _ = tokio::time::timeout(crew.timeout(), answer(controller, pool, &mut peer)).await;
            return leave(controller, peer, true);
        }
        Deed::Freeze => {
            tokio::time::sleep(Duration::from_millis(order.millis)).await;
            let _ = tokio::time::timeout(AFTERWARDS, answer(controller, pool, &mut peer)).await;
        }
        Deed::Close | Deed::Reset | Deed::Ghost | Deed::End => {
            tokio::time::sleep(Duration::from_millis(order.millis)).await;
        }
    }
    leave(controller, peer, false);
}
