//! Owns a fleet's process: its controllers, the orders that come in, the lines that go out.

use std::cell::RefCell;
use std::io::BufRead;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pilotlight_bench::runtime::block_on_local;
use tokio::sync::mpsc;

use super::context::Crew;
use super::controller::{Slot, live};
use super::options::Options;
use super::word::{Deed, Order, What};

/// Who comes at once is asked for a sign of life at once: more than loopback's queue takes.
const AT_ONCE: usize = 8;
/// A process that was not running for so long says so.
const LATE: Duration = Duration::from_millis(150);
const PACE: Duration = Duration::from_millis(50);

/// Runs the process until it is told to end, or nobody is there to tell it.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let slots: Vec<_> = (0..options.count).map(|place| Rc::new(Slot::new(place))).collect();
    let rng = RefCell::new(fastrand::Rng::with_seed(options.seed));
    let crew = Rc::new(Crew { options, rng });
    let (tell, mut told) = mpsc::channel(64);
    // Reading blocks, so it has a thread; the process ends with its input.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if let Some(order) = Order::parse(&line)
                && tell.blocking_send(order).is_err()
            {
                return;
            }
        }
    });
    block_on_local(async {
        tokio::task::spawn_local(watch_the_clock(crew.first()));
        for slot in &slots {
            tokio::task::spawn_local(live(crew.clone(), slot.clone()));
            if slot.place % AT_ONCE == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        while let Some(order) = told.recv().await {
            if order.what == Deed::End {
                break;
            }
            carry_out(&crew, &slots, order);
        }
        Ok(())
    })
}

async fn watch_the_clock(first: u64) {
    loop {
        let begun = Instant::now();
        tokio::time::sleep(PACE).await;
        let late = begun.elapsed().saturating_sub(PACE);
        if late > LATE {
            Crew::say(first, What::Late(u64::try_from(late.as_micros()).unwrap_or(u64::MAX)));
        }
    }
}

/// Lets some controllers, chosen at random, do something.
fn carry_out(crew: &Crew, slots: &[Rc<Slot>], order: Order) {
    for _ in 0..order.count {
        let (slot, wait) = {
            let mut rng = crew.rng.borrow_mut();
            let at = rng.usize(..slots.len());
            let soon = matches!(order.what, Deed::Close | Deed::Reset);
            let wait = if soon { rng.u64(..=order.millis * 1000) } else { 0 };
            (slots[at].clone(), Duration::from_micros(wait))
        };
        tokio::task::spawn_local(async move {
            tokio::time::sleep(wait).await;
            slot.tell(order);
        });
    }
}
