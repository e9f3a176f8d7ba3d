//! Owns one controller: it waits, says what it received, and waits again, unless it is told to fail in some way.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use super::context::Crew;
use super::word::{Deed, Order, What};
use pilotlight_bench::client::Client;
use pilotlight_bench::requests::{poll_request_from, run_and_pool};

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
    Answered(Option<Client>),
    /// The connection is over, or there was none.
    Over,
    /// The controller is gone silently; another one takes its place.
    Silent(Client),
}

/// Lives in this slot for ever.
pub(super) async fn live(crew: Rc<Crew>, slot: Rc<Slot>) {
    let mut controller = crew.first() + slot.place as u64;
    let pool = slot.place % crew.options.pools;
    let mut kept = None;
    let mut failures = 0_u32;
    loop {
        let client = match kept.take() {
            Some(client) => Ok(client),
            None => Client::connect_from(crew.source(), crew.options.address).await,
        };
        match client {
            Ok(client) => match turn(&crew, &slot, controller, pool, client).await {
                Turn::Answered(client) => (kept, failures) = (client, 0),
                Turn::Over => failures += 1,
                Turn::Silent(client) => {
                    controller += crew.options.count as u64;
                    let time = crew.timeout() + SILENCE;
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(time).await;
                        drop(client);
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

async fn turn(crew: &Rc<Crew>, slot: &Slot, controller: u64, pool: usize, mut client: Client) -> Turn {
    let number = usize::try_from(controller).unwrap_or(usize::MAX);
    let worker = format!("worker_{}", crew.options.serial);
    if client.send(&poll_request_from(&worker, pool, number)).await.is_err() {
        return Turn::Over;
    }
    Crew::say(controller, What::Polls(pool));
    let (mut patience, mut leaves) = (crew.timeout(), Deed::Close);
    {
        let mut rng = crew.rng.borrow_mut();
        if rng.f64() < crew.options.silent {
            Crew::say(controller, What::Fails);
            return Turn::Silent(client);
        }
        if rng.f64() < crew.options.aborts {
            patience = patience.mul_f64(rng.f64());
            leaves = if rng.bool() { Deed::Close } else { Deed::Reset };
        }
    }
    tokio::select! {
        biased;
        answer = answer(controller, pool, &mut client) => match answer {
            Some(true) => Turn::Answered(None),
            Some(false) => Turn::Answered(Some(client)),
            None => Turn::Over,
        },
        order = slot.told() => {
            obey(crew, controller, pool, client, order).await;
            Turn::Answered(None)
        }
        () = tokio::time::sleep(patience) => {
            leave(controller, client, leaves == Deed::Reset);
            Turn::Answered(None)
        }
    }
}

/// Reads the answer, and says so before anything else: the end of the connection is the receipt. Whether the
/// connection ends with it; none if there was no answer.
async fn answer(controller: u64, pool: usize, client: &mut Client) -> Option<bool> {
    let Ok(answer) = client.response().await else {
        Crew::say(controller, What::Cut);
        return None;
    };
    let what = match (answer.status, run_and_pool(answer.body)) {
        (200, Some((run, of))) if of == pool => What::Received(run),
        (200, Some((run, _))) => What::Wrong(run),
        (307, _) => What::Elsewhere,
        (status, _) => What::Status(status),
    };
    Crew::say(controller, what);
    Some(answer.closes)
}

fn leave(controller: u64, client: Client, reset: bool) {
    Crew::say(controller, What::Leaves);
    if reset {
        // An error means that the broker was quicker.
        let _ = client.stream().set_zero_linger();
    }
    drop(client);
}

async fn obey(crew: &Crew, controller: u64, pool: usize, mut client: Client, order: Order) {
    match order.what {
        Deed::Close | Deed::Reset | Deed::End => return leave(controller, client, order.what == Deed::Reset),
        Deed::Flinch | Deed::Slam | Deed::Freeze | Deed::Ghost => Crew::say(controller, What::Fails),
    }
    match order.what {
        Deed::Flinch => {
            let _ = tokio::time::timeout(crew.timeout(), client.stream().readable()).await;
        }
        Deed::Slam => {
            let _ = tokio::time::timeout(crew.timeout(), answer(controller, pool, &mut client)).await;
            return leave(controller, client, true);
        }
        Deed::Freeze => {
            tokio::time::sleep(Duration::from_millis(order.millis)).await;
            let _ = tokio::time::timeout(AFTERWARDS, answer(controller, pool, &mut client)).await;
        }
        Deed::Close | Deed::Reset | Deed::Ghost | Deed::End => {
            tokio::time::sleep(Duration::from_millis(order.millis)).await;
        }
    }
    leave(controller, client, false);
}
