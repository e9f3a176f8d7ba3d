//! Owns the injection of faults: each is counted, and is over when its task ends.

use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::schedule::Fault;
use super::testbed::Testbed;
use crate::cluster::nats_address;
use crate::fleet::{Hit, Instruction, REPLACEMENT_DELAY, unix_micros};
use crate::namespace::set_partition;
use crate::oracle::Affected;
use crate::supervisors::{Dialect, SendMode};

/// After its fault a broker may need this long until it serves, is seen by the others and sees them.
const RECOVERY: Duration = Duration::from_secs(5);
/// A draining broker exits within this time, which includes its drain window.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// A broker that was continued or started accepts within this time, and after this one it is seen by the others.
const ACCEPT_RECOVERY: Duration = Duration::from_millis(1500);
const DIRECTORY_RECOVERY: Duration = Duration::from_millis(3500);

/// Injects one fault, and returns when it is over.
pub(super) async fn inject(testbed: Rc<Testbed>, fault: Fault) -> anyhow::Result<()> {
    *testbed.injected.borrow_mut().entry(fault.kind()).or_default() += 1;
    let millis = Duration::from_millis;
    match fault {
        Fault::KillBroker { broker, millis: time } => {
            restart_broker(&testbed, broker, None, millis(time)).await?;
        }
        Fault::DrainBroker { broker } => {
            restart_broker(&testbed, broker, Some(DRAIN_TIMEOUT), Duration::ZERO).await?;
        }
        Fault::PauseBroker { broker, millis: time } => pause_broker(&testbed, broker, millis(time)).await,
        Fault::CutOff { broker, millis: time } => cut_off(&testbed, broker, millis(time)).await?,
        Fault::KillNats { millis: time } => kill_nats(&testbed, millis(time)).await?,
        Fault::PauseNats { millis: time } => pause_nats(&testbed, millis(time)).await,
        Fault::StopFleet { fleet, millis: time } => {
            let Hit { serial, from } = testbed.fleets.pause(fleet, millis(time)).await;
            testbed.disturbed(Affected::Fleet(serial), from);
        }
        Fault::KillFleet { fleet } => kill_fleet(&testbed, fleet).await?,
        Fault::Misbehave { fleet, what, count, millis: time } => {
            let instruction = Instruction { action: what, count, millis: time };
            testbed.fleets.instruct(fleet, instruction);
            sleep(millis(time)).await;
        }
        Fault::PostTwice { dialect, count, millis } => post_twice(&testbed, dialect, count, millis).await,
    }
    Ok(())
}

/// Ends a broker, politely within this time or with SIGKILL, and starts it again after a pause.
async fn restart_broker(
    testbed: &Testbed,
    broker: usize,
    polite: Option<Duration>,
    pause: Duration,
) -> anyhow::Result<()> {
    let _turn = testbed.broker_locks[broker].lock().await;
    let from = unix_micros();
    let process = &testbed.cluster.brokers[broker];
    if let Some(patience) = polite {
        process.borrow().signal(Signal::TERM);
        let begun = Instant::now();
        while process.borrow_mut().is_running() && begun.elapsed() < patience {
            sleep(Duration::from_millis(20)).await;
        }
        if process.borrow_mut().is_running() {
            testbed.oracle.borrow_mut().fail("drain", "a broker did not end after SIGTERM");
        }
    }
    process.borrow_mut().kill()?;
    testbed.supervisors.broker_restarted(broker);
    sleep(pause).await;
    process.borrow_mut().restart()?;
    recover(testbed, Affected::Broker(broker), from).await;
    Ok(())
}

/// Notes the fault, and the time in which its effects may still be seen. POSTs to the broker itself are answered sooner.
async fn recover(testbed: &Testbed, affected: Affected, from: u64) {
    sleep(ACCEPT_RECOVERY).await;
    testbed.disturbed(affected, from);
    let since = unix_micros();
    sleep(DIRECTORY_RECOVERY).await;
    testbed.disturbed(Affected::Nats, since);
}

async fn pause_broker(testbed: &Testbed, broker: usize, time: Duration) {
    let _turn = testbed.broker_locks[broker].lock().await;
    let from = unix_micros();
    testbed.cluster.brokers[broker].borrow().signal(Signal::STOP);
    sleep(time).await;
    testbed.cluster.brokers[broker].borrow().signal(Signal::CONT);
    recover(testbed, Affected::Broker(broker), from).await;
}

async fn cut_off(testbed: &Testbed, broker: usize, time: Duration) -> anyhow::Result<()> {
    let _turn = testbed.cut_locks[broker].lock().await;
    let from = unix_micros();
    let nats = (nats_address(broker), testbed.cluster.nats.borrow().port());
    set_partition(nats, true)?;
    sleep(time).await;
    set_partition(nats, false)?;
    // Its packets are repeated after pauses that grow with the length of the partition.
    sleep(RECOVERY.max(time)).await;
    testbed.disturbed(Affected::Nats, from);
    Ok(())
}

async fn kill_nats(testbed: &Testbed, pause: Duration) -> anyhow::Result<()> {
    let _turn = testbed.nats_lock.lock().await;
    let from = unix_micros();
    testbed.cluster.nats.borrow_mut().kill()?;
    sleep(pause).await;
    testbed.cluster.nats.borrow_mut().restart()?;
    sleep(RECOVERY.max(pause)).await;
    testbed.disturbed(Affected::Nats, from);
    Ok(())
}

async fn pause_nats(testbed: &Testbed, time: Duration) {
    let _turn = testbed.nats_lock.lock().await;
    let from = unix_micros();
    testbed.cluster.nats.borrow().signal(Signal::STOP);
    sleep(time).await;
    testbed.cluster.nats.borrow().signal(Signal::CONT);
    sleep(RECOVERY).await;
    testbed.disturbed(Affected::Nats, from);
}

async fn kill_fleet(testbed: &Testbed, fleet: usize) -> anyhow::Result<()> {
    let Some(Hit { serial, from }) = testbed.fleets.kill(fleet) else { return Ok(()) };
    testbed.disturbed(Affected::Killed(serial), from);
    testbed.collect();
    testbed.oracle.borrow_mut().remove_fleet(serial);
    sleep(REPLACEMENT_DELAY).await;
    testbed.fleets.replace(fleet)
}

/// Posts runs to two brokers each.
async fn post_twice(testbed: &Rc<Testbed>, dialect: Dialect, count: usize, millis: u64) {
    let mut both = Vec::new();
    for _ in 0..count {
        let (run, pool, _) = testbed.supervisors.next_run();
        let (first, wait) = {
            let mut rng = testbed.supervisors.rng.borrow_mut();
            (rng.usize(..testbed.cluster.brokers.len()), rng.u64(..=millis))
        };
        for turn in 0..2 {
            let testbed = testbed.clone();
            both.push(tokio::task::spawn_local(async move {
                sleep(Duration::from_millis(wait * turn as u64)).await;
                let broker = (first + turn) % testbed.cluster.brokers.len();
                testbed.supervisors.post(&mut None, broker, (run, pool, dialect), SendMode::Whole).await;
            }));
        }
    }
    for post in both {
        let _ = post.await;
    }
}
