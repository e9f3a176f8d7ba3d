//! Owns a fleet's process: its controllers, the orders that come in, the lines that go out.

use pilotlight_bench::stdout::print;
use std::cell::RefCell;
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::mpsc;

use super::controller::{Slot, live};
use super::word::{CONTROLLERS, Deed, Heard, Order, What, now};
use pilotlight_bench::runtime::block_on_local;

/// What a fleet is like.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    pub(crate) address: SocketAddr,
    /// Which process this is: part of its controllers' names and its address
    #[arg(long)]
    pub(crate) serial: u64,
    #[arg(long)]
    pub(crate) count: usize,
    #[arg(long)]
    pub(crate) pools: usize,
    /// Milliseconds after which a controller ends a poll, as /connect told it
    #[arg(long)]
    pub(crate) timeout: u64,
    /// The share of polls that are aborted
    #[arg(long, default_value_t = 0.0)]
    pub(crate) aborts: f64,
    /// The share of polls whose controller falls silent for ever, and is replaced
    #[arg(long, default_value_t = 0.0)]
    pub(crate) silent: f64,
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// What all controllers of the process share.
pub(super) struct Crew {
    pub(super) options: Options,
    pub(super) rng: RefCell<fastrand::Rng>,
    slots: Vec<Rc<Slot>>,
}

impl Crew {
    /// Addresses of one process: each has its own ports, and all are one machine to the broker's eyes by their name.
    pub(super) fn source(&self) -> Ipv4Addr {
        let [.., high, low] = self.options.serial.to_be_bytes();
        Ipv4Addr::new(127, 64 | (high & 15), low, self.rng.borrow_mut().u8(1..=8))
    }

    pub(super) fn say(controller: u64, what: What) {
        print(&Heard { controller, at: now(), what }.line());
    }

    pub(super) fn first(&self) -> u64 {
        self.options.serial * CONTROLLERS
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.options.timeout)
    }

    /// Lets some controllers, chosen at random, do something.
    fn carry_out(self: &Rc<Self>, order: Order) {
        for _ in 0..order.count {
            let (slot, wait) = {
                let mut rng = self.rng.borrow_mut();
                let at = rng.usize(..self.slots.len());
                let soon = matches!(order.what, Deed::Close | Deed::Reset);
                let wait = if soon { rng.u64(..=order.millis * 1000) } else { 0 };
                (self.slots[at].clone(), Duration::from_micros(wait))
            };
            tokio::task::spawn_local(async move {
                tokio::time::sleep(wait).await;
                slot.tell(order);
            });
        }
    }
}

/// Who comes at once is asked for a sign of life at once: more than loopback's queue takes.
const AT_ONCE: usize = 8;
/// A process that was not running for so long says so.
const LATE: Duration = Duration::from_millis(150);
const PACE: Duration = Duration::from_millis(50);

/// Runs the process until it is told to end, or nobody is there to tell it.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let slots = (0..options.count).map(|place| Rc::new(Slot::new(place))).collect();
    let rng = RefCell::new(fastrand::Rng::with_seed(options.seed));
    let crew = Rc::new(Crew { options, rng, slots });
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
        for slot in &crew.slots {
            tokio::task::spawn_local(live(crew.clone(), slot.clone()));
            if slot.place % AT_ONCE == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        while let Some(order) = told.recv().await {
            if order.what == Deed::End {
                break;
            }
            crew.carry_out(order);
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
