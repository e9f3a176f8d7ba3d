//! Owns the open loop: runs are due at a fixed rate, however fast the server is, and each run's time counts from when it was
//! due.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pilotlight_bench::client::Client;
use pilotlight_bench::requests::{dispatch_request, request_number, set_snapshot_number};
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::server::Server;
use tokio::sync::Notify;

use super::controller::start_controllers;
use super::measurement::Measurement;
use super::shape::LoadShape;
use super::stats::{LoadStats, Measured, check_receipts, measure_for};

/// The status with which a broker refuses a run because of load.
const TOO_MANY: u16 = 429;

/// Runs that are due and not posted yet.
#[derive(Default)]
struct Due {
    since: RefCell<VecDeque<Instant>>,
    more: Notify,
}

/// Posts `rate` runs a second.
pub(crate) fn open(server: &Server, shape: &LoadShape, rate: f64) -> anyhow::Result<Measurement> {
    let tally = LoadStats::new()?;
    block_on_local(async {
        start_controllers(server.address, shape, &tally).await;
        let due = Rc::new(Due::default());
        let posts: Vec<Vec<u8>> = (0..shape.pools).map(dispatch_request).collect();
        for number in 0..shape.supervisors {
            let (due, mut posts, tally, address) =
                (due.clone(), posts.clone(), tally.clone(), server.address);
            tokio::task::spawn_local(async move {
                let mut client = Client::connect(address).await?;
                for round in number.. {
                    let since = loop {
                        if let Some(since) = due.since.borrow_mut().pop_front() {
                            break since;
                        }
                        due.more.notified().await;
                    };
                    let which = round % posts.len();
                    set_snapshot_number(&mut posts[which], request_number(number, round));
                    let posted = Instant::now();
                    client.send(&posts[which]).await?;
                    let answer = client.response().await?;
                    if answer.status == TOO_MANY {
                        tally.borrow_mut().refused(posted);
                    } else {
                        let hit = memchr::memmem::find(answer.body, b"\"didWarmStart\":true").is_some();
                        tally.borrow_mut().answered(hit, since);
                    }
                    if answer.closes {
                        client = Client::connect(address).await?;
                    }
                    // Runs that are due and not posted yet are dropped at the end of the load.
                    if tally.borrow().over {
                        break;
                    }
                }
                anyhow::Ok(())
            });
        }
        let pace = tokio::task::spawn_local(pace(due, Duration::from_secs_f64(1.0 / rate)));
        let measured = Measured { servers: &[server], nats: None };
        let figures = measure_for(&measured, &tally, shape.seconds).await?;
        pace.abort();
        tokio::time::sleep(Duration::from_millis(300)).await;
        check_receipts(&tally)?;
        Ok(figures)
    })
}

/// Makes runs due at the interval. It spins, because a timer would be late by more than a dispatch takes.
async fn pace(due: Rc<Due>, interval: Duration) {
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        while next <= now {
            due.since.borrow_mut().push_back(next);
            due.more.notify_one();
            next += interval;
        }
        tokio::task::yield_now().await;
    }
}
