//! Owns a fleet's process: it runs the controllers and passes instructions on to them.

use std::cell::RefCell;
use std::io::BufRead;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pilotlight_bench::runtime::block_on_local;
use tokio::sync::mpsc;

use super::context::FleetContext;
use super::controller::run_slot;
use super::options::FleetOptions;
use super::protocol::{Action, Event, Instruction};
use super::slot::Slot;

/// How many controllers start within a millisecond. The broker probes those that arrive together at the same time, and
/// more probes than this overflow loopback's queue.
const AT_ONCE: usize = 8;
/// A process that was not scheduled for this long reports it.
const LATE: Duration = Duration::from_millis(150);
const PACE: Duration = Duration::from_millis(50);

/// Runs the process until it is instructed to exit, or its stdin is closed.
pub(crate) fn run(options: FleetOptions) -> anyhow::Result<()> {
    let slots: Vec<_> = (0..options.count).map(|place| Rc::new(Slot::new(place))).collect();
    let rng = RefCell::new(fastrand::Rng::with_seed(options.seed));
    let crew = Rc::new(FleetContext { options, rng });
    let (sender, mut receiver) = mpsc::channel(64);
    // Reading stdin blocks, so it has a thread. The process ends when stdin is closed.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if let Some(order) = Instruction::parse(&line)
                && sender.blocking_send(order).is_err()
            {
                return;
            }
        }
    });
    block_on_local(async {
        tokio::task::spawn_local(watch_scheduling(crew.first_controller()));
        for slot in &slots {
            tokio::task::spawn_local(run_slot(crew.clone(), slot.clone()));
            if slot.place % AT_ONCE == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        while let Some(order) = receiver.recv().await {
            if order.action == Action::Exit {
                break;
            }
            distribute(&crew, &slots, order);
        }
        Ok(())
    })
}

async fn watch_scheduling(first: u64) {
    loop {
        let begun = Instant::now();
        tokio::time::sleep(PACE).await;
        let late = begun.elapsed().saturating_sub(PACE);
        if late > LATE {
            FleetContext::report(
                first,
                Event::ProcessLate(u64::try_from(late.as_micros()).unwrap_or(u64::MAX)),
            );
        }
    }
}

/// Gives an instruction to random controllers.
fn distribute(crew: &FleetContext, slots: &[Rc<Slot>], order: Instruction) {
    for _ in 0..order.count {
        let (slot, wait) = {
            let mut rng = crew.rng.borrow_mut();
            let at = rng.usize(..slots.len());
            let soon = matches!(order.action, Action::Close | Action::Reset);
            let wait = if soon { rng.u64(..=order.millis * 1000) } else { 0 };
            (slots[at].clone(), Duration::from_micros(wait))
        };
        tokio::task::spawn_local(async move {
            tokio::time::sleep(wait).await;
            slot.instruct(order);
        });
    }
}
